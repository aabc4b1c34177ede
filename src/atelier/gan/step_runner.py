"""Runs training steps kernel by kernel or as CUDA graphs, and suggests a batch that fits."""

import traceback
from contextlib import nullcontext

import torch
from torch import Tensor

from atelier.core.device import float32_matmul_precision
from atelier.core.errors import AtelierError, is_out_of_memory
from atelier.core.events import Events
from atelier.gan.cuda_graph import GraphedStep
from atelier.gan.fused import compilation_problem
from atelier.gan.model import GAN
from atelier.gan.step import Batch, train_step
from atelier.gan.streams import RandomStreams


class StepRunner:
    """Runs training steps.

    Attributes:
        use_cuda_graphs: replay steps on a GPU as CUDA graphs; without them, the host launches each
            kernel and the results are the same.
    """

    def __init__(self, streams: RandomStreams, device: torch.device, events: Events) -> None:
        """Run steps on ``device``; ``events`` receives a warning if graphs cannot be captured."""
        self.use_cuda_graphs = True
        self._streams, self._device, self._events = streams, device, events
        self._graphs: dict[tuple[int, bool], GraphedStep] = {}  # by GAN and with_penalty

    def run(self, gan: GAN, batch: Batch) -> Tensor:
        """Do a training step and return its statistics.

        Raises:
            AtelierError: memory runs out, and the message names a batch size that fits; or the
                networks cannot be compiled.
        """
        try:
            return self._run(gan, batch)
        except (MemoryError, RuntimeError) as error:
            _report_failed_compilation(gan, error)
            # Several processes would have to try other batch sizes together.
            if gan.ranks.count > 1 or not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
        size = len(batch) // 2
        while size > 1 and not self._fits(gan, batch.first(size)):
            size //= 2
        raise AtelierError(
            f"a batch of {len(batch)} images does not fit into memory; "
            + (
                f"set train.batch_size to {size}, which fits."
                if size > 1
                else "make train.generator_channels and train.discriminator_channels smaller."
            )
        )

    def discard_graphs(self) -> None:
        """Capture again before the next step, for a GAN with other memory."""
        self._graphs = {}

    def can_graph(self, gan: GAN, batch: Batch) -> bool:
        """Return true if a CUDA graph can do the step; an epoch's smaller last batch needs none."""
        return (
            self._device.type == "cuda"
            and self.use_cuda_graphs
            and gan.ranks.count == 1
            and not gan.arch.dropout  # a graph does not capture its random stream
            and len(batch) == gan.settings.batch_size
        )

    def _run(self, gan: GAN, batch: Batch) -> Tensor:
        with float32_matmul_precision(gan.precision, self._device):
            graph = self._graph(gan, batch) if self.can_graph(gan, batch) else None
            if graph:
                return graph(batch)
            with self._streams.dropout() if gan.arch.dropout else nullcontext():
                return train_step(gan, batch)

    def _graph(self, gan: GAN, batch: Batch) -> GraphedStep | None:
        """Return the step as a CUDA graph; ``None`` from now on if it cannot be captured."""
        key = (id(gan), batch.with_penalty)
        if key not in self._graphs:
            try:
                self._graphs[key] = GraphedStep(gan, batch)
            except RuntimeError as error:
                _report_failed_compilation(gan, error)
                if is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
                self._events.warn(
                    f"steps cannot be captured as a CUDA graph on this GPU ({reason});"
                    " training continues without graphs, which is slower."
                )
                self.use_cuda_graphs, self._graphs = False, {}
                return None
        return self._graphs[key]

    def _fits(self, gan: GAN, batch: Batch) -> bool:
        """Return true if a step with this batch fits into memory; its result is discarded."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            self._run(gan, batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            return False
        return True


def _report_failed_compilation(gan: GAN, error: BaseException) -> None:
    """Raise a sentence if the error is that a fused step cannot be compiled."""
    problem = compilation_problem(error) if gan.settings.fused == "auto" else None
    if problem is not None:
        raise AtelierError(
            f"train.fused is auto, but the networks cannot be compiled here ({problem}); set it to"
            " none."
        ) from None
