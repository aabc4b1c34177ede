"""Evaluations of one image size as a CUDA graph: captured once, then replayed by a single launch.

See docs/decisions/graphed-evaluations.md.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from atelier.core.errors import is_out_of_memory
from atelier.core.events import Events

USE_CUDA_GRAPHS = False
"""Capture evaluations on a GPU, with a padding that is faster only within a graph.

Off until the tests of all variants have run on a GPU.
"""

# The loss [B], its terms and the gradient, as of ScaledProblem.loss_and_gradient.
Evaluation = tuple[Tensor, dict[str, Tensor], Tensor]
Compute = Callable[[Tensor], Evaluation]

# A capture takes the time of four evaluations, of which a replay saves half or more.
LEAST_EVALUATIONS = 10

_GRAPH_DEVICE = "cuda"
_WARM_UP_EVALUATIONS = 3


def uses_graphs(device: torch.device) -> bool:
    """Return whether evaluations on this device are captured."""
    return USE_CUDA_GRAPHS and device.type == _GRAPH_DEVICE


class GraphCapture:
    """Captures evaluations until a capture fails.

    All images and pyramid levels of a style transfer share it, so that a failure causes one
    warning.
    """

    def __init__(self, events: Events) -> None:
        """Capture evaluations; ``events`` receives a warning if one cannot be captured."""
        self._events, self._has_failed = events, False

    def capture(self, compute: Compute, image: Tensor) -> "EvaluationGraph | None":
        """Return a graph of ``compute`` for images like ``image``; ``None`` without graphs."""
        if self._has_failed or not uses_graphs(image.device):
            return None
        try:
            return EvaluationGraph(compute, image)
        except RuntimeError as error:
            reason = _reason(error)
        # Outside the handler, which would keep the failed capture's tensors in memory.
        self._has_failed = True
        self._events.warn(
            f"evaluations cannot be captured as a CUDA graph on this GPU ({reason});"
            " the style transfer continues without graphs, which is slower."
        )
        return None


class Evaluator:
    """Loss and gradient of images of one shape: kernel by kernel, or as a CUDA graph."""

    def __init__(self, compute: Compute, graphs: GraphCapture | None) -> None:
        """Evaluate by ``compute``; without ``graphs``, kernel by kernel."""
        self._compute, self._graphs = compute, graphs
        self._graph: EvaluationGraph | None = None
        self._is_first = True

    def __call__(self, image: Tensor) -> Evaluation:
        """Return the loss of images, its terms and the gradient."""
        # The first evaluation computes the targets, which synchronizes the device.
        if self._graph is None and self._graphs is not None and not self._is_first:
            self._graph = self._graphs.capture(self._compute, image)
        self._is_first = False
        return self._graph(image) if self._graph else self._compute(image)


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
    with torch.cuda.device(image.device):
        current_stream = torch.cuda.current_stream()
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(current_stream)
        try:
            with torch.cuda.stream(side_stream):
                for _ in range(_WARM_UP_EVALUATIONS):
                    compute(image)
        finally:
            current_stream.wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=side_stream, capture_error_mode="thread_local"):
                outputs = compute(image)
        finally:
            # If the capture fails, torch 2.11 leaves its own stream as the current one.
            torch.cuda.set_stream(current_stream)
    return graph.replay, outputs


def _reason(error: RuntimeError) -> str:
    """Return the first line of the error that made a capture fail."""
    # The end of the failed capture raises another error, which gives no reason.
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return "too little memory" if is_out_of_memory(error) else str(error).partition("\n")[0]
