"""A training step as a CUDA graph: captured once, then replayed by a single launch."""

from collections.abc import Callable

import torch
from torch import Tensor

from atelier.core.arrays import to_tensor
from atelier.gan.model import GAN
from atelier.gan.step import train_step

_WARM_UP_STEPS = 3


class GraphedStep:
    """The training step for one batch size, with or without penalties, as a CUDA graph.

    One launch replaces several hundred. A graph replays on the memory on which it was captured:
    batches are copied into that memory, and weights and moments change in place
    (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). It is valid until
    :meth:`atelier.gan.model.GAN.restore` gives the optimizers other memory.
    """

    def __init__(
        self, gan: GAN, pixels: Tensor, latents: Tensor, uniforms: Tensor, with_penalty: bool
    ) -> None:
        """Capture a step; the state of ``gan`` does not change.

        Args:
            gan: on a CUDA device, with capturable optimizers.
            pixels: an example batch, uint8 [B, H, W, C].
            latents: an example; see :func:`atelier.gan.step.train_step`.
            uniforms: an example; see :func:`atelier.gan.step.train_step`.
            with_penalty: true to capture the step with gradient penalties.

        Raises:
            RuntimeError: the step cannot be captured on this device.
        """
        self._inputs = (pixels.clone(), latents.clone(), uniforms.clone())

        def step() -> Tensor:
            pixels, latents, uniforms = self._inputs
            real = to_tensor(pixels, signed=True)
            return train_step(gan, real, latents, 1.0, uniforms, with_penalty)

        state = {name: tensor.clone() for name, tensor in gan.state().items()}
        side_stream = torch.cuda.Stream(pixels.device)
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

    def __call__(self, pixels: Tensor, latents: Tensor, uniforms: Tensor) -> Tensor:
        """Do a training step on this batch; return its statistics."""
        for captured, batch in zip(self._inputs, (pixels, latents, uniforms), strict=True):
            captured.copy_(batch)
        self._graph.replay()
        return self._statistics.clone()


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
