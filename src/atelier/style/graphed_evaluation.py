"""Evaluations of one image size as a CUDA graph: captured once, then replayed by a single launch.

Off by default, because it has not run on a GPU: see docs/decisions/graphed-evaluations.md.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from atelier.core.errors import is_out_of_memory
from atelier.core.events import Events

USE_CUDA_GRAPHS = False
"""Capture evaluations on a GPU, with a padding that is faster only within a graph."""

# The loss [B], its terms and the gradient, as of ScaledProblem.loss_and_gradient.
Evaluation = tuple[Tensor, dict[str, Tensor], Tensor]
Compute = Callable[[Tensor], Evaluation]

_GRAPH_DEVICE = "cuda"
_WARM_UP_EVALUATIONS = 3


class Evaluator:
    """Loss and gradient of images of one shape: kernel by kernel, or as a CUDA graph."""

    def __init__(self, compute: Compute, events: Events) -> None:
        """Evaluate by ``compute``; ``events`` receives a warning if it cannot be captured."""
        self._compute, self._events = compute, events
        self._graph: EvaluationGraph | None = None
        self._is_first, self._use_graph = True, USE_CUDA_GRAPHS

    def __call__(self, image: Tensor) -> Evaluation:
        """Return the loss of images, its terms and the gradient."""
        # The first evaluation computes the targets, which synchronizes the device.
        if self._is_first or not self._use_graph or image.device.type != _GRAPH_DEVICE:
            self._is_first = False
            return self._compute(image)
        if self._graph is None:
            try:
                self._graph = EvaluationGraph(self._compute, image)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
                self._events.warn(
                    f"evaluations cannot be captured as a CUDA graph on this GPU ({reason});"
                    " the style transfer continues without graphs, which is slower."
                )
                self._use_graph = False
                return self._compute(image)
        return self._graph(image)


class EvaluationGraph:
    """An evaluation that replays on the memory on which it was captured."""

    def __init__(self, compute: Compute, image: Tensor) -> None:
        """Capture an evaluation of images like ``image``.

        Raises:
            RuntimeError: it cannot be captured on this device.
        """
        self._image = image.clone()
        self._replay, self._outputs = capture(compute, self._image)

    def __call__(self, image: Tensor) -> Evaluation:
        """Evaluate images; the outputs are copies, which the next replay does not overwrite."""
        self._image.copy_(image)
        self._replay()
        totals, losses, gradient = self._outputs
        # One launch instead of one for each term.
        terms = torch.stack([loss.detach() for loss in losses.values()]).unbind()
        return totals.clone(), dict(zip(losses, terms, strict=True)), gradient.clone()


def capture(compute: Compute, image: Tensor) -> tuple[Callable[[], None], Evaluation]:
    """Capture ``compute(image)``; return what replays it, and the tensors that it writes.

    Raises:
        RuntimeError: it cannot be captured on this device.
    """
    current_stream = torch.cuda.current_stream(image.device)
    side_stream = torch.cuda.Stream(image.device)
    side_stream.wait_stream(current_stream)
    with torch.cuda.stream(side_stream):
        for _ in range(_WARM_UP_EVALUATIONS):
            compute(image)
    current_stream.wait_stream(side_stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=side_stream, capture_error_mode="thread_local"):
            outputs = compute(image)
    finally:
        # If the capture fails, torch 2.11 leaves its own stream as the current one.
        torch.cuda.set_stream(current_stream)
    return graph.replay, outputs
