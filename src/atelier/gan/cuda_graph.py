"""A training step as a CUDA graph: captured once, then replayed by a single launch."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from atelier.gan.model import GAN
from atelier.gan.step import Batch, train_step

_WARM_UP_STEPS = 3


class GraphedStep:
    """The training step for one batch size, with or without penalties, as a CUDA graph.

    One launch replaces several hundred. A graph replays on the memory on which it was captured:
    batches are copied into that memory, and weights and moments change in place
    (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). It is valid until
    :meth:`atelier.gan.model.GAN.restore` gives the optimizers other memory.
    """

    def __init__(self, gan: GAN, batch: Batch) -> None:
        """Capture a step; the state of ``gan`` does not change.

        Args:
            gan: on a CUDA device, with capturable optimizers.
            batch: an example on that device, with uint8 images. Its ``with_penalty`` decides
                whether steps have gradient penalties.

        Raises:
            RuntimeError: the step cannot be captured on this device.
        """
        self._batch = replace(
            batch,
            real=batch.real.clone(),
            latents=batch.latents.clone(),
            uniforms=None if batch.uniforms is None else batch.uniforms.clone(),
        )

        def step() -> Tensor:
            return train_step(gan, self._batch)

        state = {name: tensor.clone() for name, tensor in gan.state().items()}
        side_stream = torch.cuda.Stream(batch.real.device)
        try:
            _warm_up(step, side_stream)
        finally:
            _restore_in_place(gan, state)
        self._graph = torch.cuda.CUDAGraph()
        current_stream = torch.cuda.current_stream()
        try:
            # The default mode fails if another thread pins memory for the next batch meanwhile.
            with torch.cuda.graph(
                self._graph, stream=side_stream, capture_error_mode="thread_local"
            ):
                self._statistics = step()
        finally:
            # If the capture fails, torch 2.11 leaves its own stream as the current one.
            torch.cuda.set_stream(current_stream)

    def __call__(self, batch: Batch) -> Tensor:
        """Do a training step on this batch; return its statistics."""
        for captured, tensor in zip(_tensors(self._batch), _tensors(batch), strict=True):
            captured.copy_(tensor)
        self._graph.replay()
        return self._statistics.clone()


def _tensors(batch: Batch) -> list[Tensor]:
    return [t for t in (batch.real, batch.latents, batch.uniforms) if t is not None]


def _warm_up(step: Callable[[], Tensor], side_stream: torch.cuda.Stream) -> None:
    """Do steps before the capture, so that kernels are loaded and optimizer moments exist."""
    side_stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side_stream):
            for _ in range(_WARM_UP_STEPS):
                step()
    finally:
        torch.cuda.current_stream().wait_stream(side_stream)


@torch.no_grad()
def _restore_in_place(gan: GAN, state: dict[str, Tensor]) -> None:
    """Undo steps in place; moments that are not in ``state`` become zero."""
    for name, tensor in gan.state().items():
        if name in state:
            tensor.copy_(state[name])
        else:
            tensor.zero_()
