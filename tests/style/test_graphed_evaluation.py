"""Captured evaluations, on a GPU, and with a replay on the CPU that writes into the same memory."""

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atelier.style import graphed_evaluation, objective
from atelier.style.graphed_evaluation import Compute, Evaluation, Evaluator, GraphCapture
from atelier.style.objective import Style, cast_vgg
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.painting import CPU, RecordedEvents, options, smooth, tasks

pytestmark = pytest.mark.usefixtures("cuda_graphs")

CUDA = torch.device("cuda")
SIZE = 48
EVALUATIONS = {  # settings by what evaluations differ in; with two images, or tiles of 36 pixels
    "one image": {},
    "two images": {"style_loss": "moments", "style_strength": 0.5},
    "luminance": {"preserve_color": "luminance", "tv_weight": 0.1},
    "masks": {"styles": ["a", "b"], "style_masks": ["a.png", "b.png"]},
    "tiles": {},
    "tiles and masks": {"styles": ["a", "b"], "style_masks": ["a.png", "b.png"]},
    "replicated border": {"padding": "replicate", "pooling": "max"},
    "L-BFGS of torch": {"optimizer": "lbfgs", "padding": "replicate"},
    "Adam": {"optimizer": "adam", "lr": 0.02},
}


@dataclass(eq=False)
class _Replay:
    """Computes from the captured image and overwrites the outputs, as a graph does."""

    compute: Compute
    image: Tensor
    outputs: Evaluation

    def __call__(self) -> None:
        totals, losses, gradient = self.compute(self.image)
        self.outputs[0].copy_(totals)
        self.outputs[2].copy_(gradient)
        for name, value in losses.items():
            self.outputs[1][name].detach().copy_(value.detach())


@dataclass
class Captures:
    """Captures on the CPU.

    Attributes:
        shapes: of the images of each capture.
        unfreed: number of earlier replays that existed at each capture.
    """

    shapes: list[torch.Size]
    unfreed: list[int]


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """Capture on the CPU."""
    replays: weakref.WeakSet[_Replay] = weakref.WeakSet()
    recorded = Captures([], [])

    def capture(compute: Compute, image: Tensor) -> tuple[Callable[[], None], Evaluation]:
        recorded.shapes.append(image.shape)
        recorded.unfreed.append(len(replays))
        replay = _Replay(compute, image, compute(image))
        replays.add(replay)
        return replay, replay.outputs

    monkeypatch.setattr(graphed_evaluation, "_GRAPH_DEVICE", "cpu")
    # The own padding sums gradients in another order.
    monkeypatch.setattr(objective, "with_channels_last_padding", lambda vgg: vgg)
    monkeypatch.setattr(graphed_evaluation, "capture", capture)
    return recorded


@pytest.fixture
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def _transfer(contents: int = 1, **changes: Any) -> tuple[list[Tensor], RecordedEvents]:
    """Stylize contents of 48 pixels in batches of two, in two pyramid levels."""
    events = RecordedEvents()
    settings = options(**{"iterations": 20, "pyramid_levels": 2, **changes})
    vgg = build_vgg19("random", "average", 1, 6)
    images = [F.interpolate(smooth(seed), SIZE) for seed in range(1, contents + 1)]
    job = tasks(images, smooth(8))
    return list(transfer_style(job, settings, vgg, events, batch_size=2)), events


def _evaluation(kind: str, device: torch.device, precision: str) -> tuple[Compute, list[Tensor]]:
    """Return an evaluation and four images, of which the first one computed the targets."""
    changes = {"optimizer": "spectral_lbfgs", "precision": precision, **EVALUATIONS[kind]}
    settings = options(**changes)
    vgg = build_vgg19("random", settings.pooling, 1, 6, settings.padding).to(device)
    images = [F.interpolate(smooth(seed), SIZE).to(device) for seed in range(1, 9)]
    left = torch.zeros(1, 1, SIZE, SIZE, device=device)
    left[..., :20] = 1
    masks = (left, 1 - left) if settings.style_masks else ()
    style = Style(tuple(images[6:] if masks else images[6:7]), masks=masks)
    contents = torch.cat(images[:2]) if kind == "two images" else images[0]
    tile_size = 36 if "tiles" in kind else None
    problem = ScaledProblem(
        StyleJob(contents, (style,)), settings, cast_vgg(vgg, settings, device), tile_size
    )
    assert len(problem._objective.tiles) == (4 if tile_size else 1)
    compute = partial(problem.loss_and_gradient, settings=settings)
    compute(contents)
    return compute, [image.expand_as(contents).contiguous() for image in images[2:6]]


@pytest.mark.parametrize("kind", EVALUATIONS)
def test_replay_equals_a_plain_evaluation(captures: Captures, kind: str) -> None:
    compute, images = _evaluation(kind, CPU, "fp32")
    evaluate = Evaluator(compute, GraphCapture(RecordedEvents()))
    replayed = [evaluate(image) for image in images]
    assert len(captures.shapes) == 1
    for image, (totals, losses, gradient) in zip(images, replayed, strict=True):
        plain_totals, plain_losses, plain_gradient = compute(image)
        assert torch.equal(totals, plain_totals)
        assert torch.equal(gradient, plain_gradient)
        assert list(losses) == list(plain_losses)
        assert all(torch.equal(losses[name], plain_losses[name]) for name in losses)


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "spectral_lbfgs", "contents": 3}, {"optimizer": "lbfgs"},
     {"optimizer": "adam", "lr": 0.02}],
)  # fmt: skip
@pytest.mark.usefixtures("_no_garbage_collection")
def test_graph_is_freed_at_the_end_of_its_pyramid_level(
    request: pytest.FixtureRequest, changes: dict[str, Any]
) -> None:
    """Two graphs would need the memory of two passes. Results are those without graphs."""
    results, events = _transfer(**changes, tv_weight=0.1)
    captures = request.getfixturevalue("captures")
    replayed, replayed_events = _transfer(**changes, tv_weight=0.1)
    assert all(torch.equal(*pair) for pair in zip(replayed, results, strict=True))
    assert replayed_events.losses == events.losses
    assert replayed_events.warnings == []
    batches = 2 if "contents" in changes else 1
    assert [shape[2] for shape in captures.shapes] == [34, 48] * batches
    assert captures.unfreed == [0] * 2 * batches


def test_few_evaluations_are_not_captured(captures: Captures) -> None:
    _transfer(iterations=19, optimizer="spectral_lbfgs")
    assert [shape[2] for shape in captures.shapes] == [48], "9 evaluations, then 10"


def test_evaluation_that_cannot_be_captured_continues_plainly(
    captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def fail(_compute: Compute, _image: Tensor) -> tuple[Callable[[], None], Evaluation]:
        nonlocal attempts
        attempts += 1
        raise RuntimeError("not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graphed_evaluation, "capture", fail)
    results, events = _transfer(3, optimizer="spectral_lbfgs")
    (warning,) = events.warnings
    assert "as a CUDA graph on this GPU (not permitted); the style transfer" in warning
    assert attempts == 1, "other levels and images do not try again"
    monkeypatch.undo()
    plain, plain_events = _transfer(3, optimizer="spectral_lbfgs")
    assert all(torch.equal(*pair) for pair in zip(results, plain, strict=True))
    assert events.losses == plain_events.losses
    assert captures.shapes == []


@pytest.mark.usefixtures("captures")
def test_memory_that_is_too_small_for_a_graph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_compute: Compute, _image: Tensor) -> tuple[Callable[[], None], Evaluation]:
        try:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        finally:  # as by the end of a failed capture
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(graphed_evaluation, "capture", fail)
    compute, images = _evaluation("one image", CPU, "fp32")
    events = RecordedEvents()
    evaluate = Evaluator(compute, GraphCapture(events))
    gradients = [evaluate(image)[2] for image in images]
    (warning,) = events.warnings
    assert "on this GPU (too little memory); the style transfer continues" in warning
    for image, gradient in zip(images, gradients, strict=True):
        assert torch.equal(gradient, compute(image)[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", EVALUATIONS)
def test_replay_on_a_gpu_equals_a_plain_evaluation(
    monkeypatch: pytest.MonkeyPatch, kind: str, precision: str
) -> None:
    """PyTorch's own replicated border sums gradients in any order."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    compute, images = _evaluation(kind, CUDA, precision)
    events = RecordedEvents()
    evaluate = Evaluator(compute, GraphCapture(events))
    replayed = [evaluate(image) for image in images]
    assert events.warnings == []
    for image, (totals, losses, gradient) in zip(images, replayed, strict=True):
        plain_totals, plain_losses, plain_gradient = compute(image)
        torch.testing.assert_close(totals, plain_totals, rtol=1e-3, atol=0)
        assert (gradient - plain_gradient).norm() < 1e-2 * plain_gradient.norm()
        for name, value in plain_losses.items():
            torch.testing.assert_close(losses[name], value.detach(), rtol=1e-3, atol=1e-8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graph_on_a_gpu_has_the_losses_of_plain_evaluations(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    vgg = build_vgg19("random", "average", 1, 6, "replicate").to(CUDA)
    settings = options(optimizer="spectral_lbfgs", precision=precision, padding="replicate")
    losses = []
    for use_graphs in (False, True):
        monkeypatch.setattr(graphed_evaluation, "USE_CUDA_GRAPHS", use_graphs)
        events = RecordedEvents()
        list(transfer_style(tasks([smooth(1)], smooth(2)), settings, vgg, events))
        assert events.warnings == []
        losses.append([row.total for row in events.losses])
    assert losses[1][:3] == pytest.approx(losses[0][:3], rel=1e-2)
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_failed_capture_on_a_gpu_continues_plainly() -> None:
    compute, images = _evaluation("one image", CUDA, "fp32")

    def waiting(image: Tensor) -> Evaluation:
        evaluation = compute(image)
        if torch.cuda.is_current_stream_capturing():
            float(evaluation[0])  # no capture may wait for the device
        return evaluation

    events, stream = RecordedEvents(), torch.cuda.current_stream()
    evaluate = Evaluator(waiting, GraphCapture(events))
    found = [evaluate(image)[2] for image in images]
    (warning,) = events.warnings
    assert "cannot be captured as a CUDA graph on this GPU" in warning
    assert torch.cuda.current_stream() == stream
    for image, gradient in zip(images, found, strict=True):
        plain = compute(image)[2]
        assert (gradient - plain).norm() < 1e-2 * plain.norm()
