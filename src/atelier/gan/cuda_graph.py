"""A training step recorded once as a CUDA graph, and replayed without the host's help."""

from collections.abc import Callable

import torch
from torch import Tensor

from atelier.gan.loader import to_unit_range
from atelier.gan.model import GAN
from atelier.gan.step import train_step

_WARM_UP_STEPS = 3


class GraphedStep:
    """The step of one batch size, with or without penalties: some hundred launches become one.

    A graph replays what was recorded on the memory that it was recorded on: batches are copied
    into it, weights and moments change in place (https://docs.pytorch.org/docs/stable/notes/cuda.html
    #cuda-graphs). It is good until :meth:`atelier.gan.model.GAN.restore` gives the optimizers other
    memory.
    """

    def __init__(
        self, gan: GAN, pixels: Tensor, latents: Tensor, chances: Tensor, penalised: bool
    ) -> None:
        """Record a step, and leave ``gan`` as it was.

        Args:
            gan: on a CUDA device, its optimizers capturable.
            pixels: a batch to learn the shape from, uint8 [B, H, W, C].
            latents: likewise; see :func:`atelier.gan.step.train_step`.
            chances: likewise.
            penalised: whether the step penalises.

        Raises:
            RuntimeError: the step cannot be recorded here; ``gan`` is as it was then, too.
        """
        self._given = (pixels.clone(), latents.clone(), chances.clone())

        def step() -> Tensor:
            pixels, latents, chances = self._given
            return train_step(gan, to_unit_range(pixels), latents, 1.0, chances, penalised)

        before = {name: tensor.clone() for name, tensor in gan.state().items()}
        side = torch.cuda.Stream(pixels.device)
        try:
            _warm_up(step, side)
        finally:
            _restore_in_place(gan, before)
        self._graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()
        try:
            # Another thread may pin the next batch meanwhile, which the usual mode takes for an
            # error.
            with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
                self._statistics = step()
        finally:
            torch.cuda.set_stream(current)  # torch 2.11 stays on its own if the recording fails

    def __call__(self, *given: Tensor) -> Tensor:
        """Do a step on other pixels, latents and chances."""
        for mine, others in zip(self._given, given, strict=True):
            mine.copy_(others)
        self._graph.replay()
        return self._statistics.clone()


def _warm_up(step: Callable[[], Tensor], side: torch.cuda.Stream) -> None:
    """Libraries choose and load their kernels, and optimizers make their moments, before."""
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_STEPS):
                step()
    finally:
        torch.cuda.current_stream().wait_stream(side)


@torch.no_grad()
def _restore_in_place(gan: GAN, before: dict[str, Tensor]) -> None:
    """Undo steps in place; moments that were not there before begin at zero."""
    for name, tensor in gan.state().items():
        if name in before:
            tensor.copy_(before[name])
        else:
            tensor.zero_()
