"""Launches and synchronizations of evaluations, counted on a simulated GPU."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from atelier.core.events import Events
from atelier.core.settings import StylizeSettings
from atelier.style import graphed_evaluation
from atelier.style.graphed_evaluation import Compute, Evaluation, Evaluator, GraphCapture
from atelier.style.objective import Style, cast_vgg
from atelier.style.optimizers import build_optimizer
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.vgg import vgg19_on_meta

from ..support.fake_cuda import CUDA, count_operations, fake_cuda
from ..support.painting import options

pytestmark = pytest.mark.usefixtures("cuda_graphs")

LAYERS = {1: 1.0, 6: 1.0, 11: 1.0, 20: 1.0, 25: 1.0}
STEPS_TO_FILL_HISTORY = 10


@pytest.fixture(autouse=True)
def _gpu() -> Iterator[None]:
    with fake_cuda():
        yield


def settings_of(**changes: Any) -> StylizeSettings:
    """Return the settings of a transfer with all style layers, in bfloat16."""
    values = {"style_layers": LAYERS, "content_layers": {21: 1.0}, "pooling": "max"}
    values |= {"padding": "replicate", "weights": "vgg19_caffe", "precision": "bf16"}
    lr = 0.02 if changes.get("optimizer") == "adam" else 1.0
    return options(**{**values, "lr": lr, "optimizer": "spectral_lbfgs", **changes})


def image(height: int = 512, width: int = 512, channels: int = 3, count: int = 1) -> Tensor:
    return torch.empty(count, channels, height, width, device=CUDA)


def problem_of(
    settings: StylizeSettings, contents: Tensor, style: Style, tile_size: int | None = None
) -> ScaledProblem:
    """Return a problem whose targets are computed."""
    network: nn.Sequential = vgg19_on_meta("max", 25, "replicate").requires_grad_(False).to(CUDA)
    vgg = cast_vgg(network, settings, CUDA)
    problem = ScaledProblem(StyleJob(contents, (style,)), settings, vgg, tile_size)
    problem.loss_and_gradient(contents, settings)
    return problem


@pytest.mark.parametrize(
    ("optimizer", "launches"), [("adam", 14), ("spectral_lbfgs", 254), ("lbfgs", 10)]
)
def test_step_does_not_wait_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, launches: int
) -> None:
    """PyTorch's L-BFGS reads its own values, and the loss once.

    The replay of the evaluation is one more launch.
    """
    monkeypatch.setattr(graphed_evaluation, "capture", _capture)
    settings = settings_of(optimizer=optimizer)
    problem = problem_of(settings, image(), Style((image(),)))
    compute = Evaluator(
        lambda images: problem.loss_and_gradient(images, settings), GraphCapture(Events())
    )

    def evaluate(images: Tensor) -> tuple[Tensor, Tensor]:
        totals, _, gradient = compute(images)
        return totals, gradient

    with count_operations():
        optimizer_of_image = build_optimizer(image(), evaluate, settings, problem.bounds)
        optimizer_of_image.advance(STEPS_TO_FILL_HISTORY + 1)
        optimizer_of_image.advance(1)  # the second evaluation of PyTorch's L-BFGS
    with count_operations() as counts:
        optimizer_of_image.advance(1)
    assert counts.total <= launches, counts.launches
    assert len(counts.syncs) == (2 if optimizer == "lbfgs" else 0), counts.syncs
    assert counts.uploads == 0


def _capture(compute: Compute, images: Tensor) -> tuple[Callable[[], None], Evaluation]:
    """Return a replay that launches no operation of its own."""
    return (lambda: None), compute(images)


@pytest.mark.parametrize(
    ("changes", "count", "launches"),
    [
        ({}, 1, 239),
        ({"precision": "fp32"}, 1, 229),
        ({"preserve_color": "luminance", "tv_weight": 1.0}, 1, 267),
        ({"style_loss": "moments", "style_strength": 0.5}, 4, 400),
        ({"styles": ["sea", "sky"], "style_masks": ["sea.png", "sky.png"]}, 1, 389),
    ],
)
def test_evaluation_does_not_wait_for_the_gpu(
    changes: dict[str, Any], count: int, launches: int
) -> None:
    settings = settings_of(**changes)
    regions = len(settings.style_masks)
    masks = tuple(image(channels=1) for _ in range(regions))
    style = Style(tuple(image() for _ in range(regions or 1)), masks=masks)
    problem = problem_of(settings, image(count=count), style)
    with count_operations() as counts:
        problem.loss_and_gradient(image(count=count), settings)
    assert (counts.syncs, counts.uploads) == ([], 0)
    assert counts.total <= launches, counts.launches


@pytest.mark.parametrize(("regions", "launches"), [(0, 1173), (2, 1803)])
def test_evaluation_in_tiles_does_not_wait_for_the_gpu(regions: int, launches: int) -> None:
    settings = settings_of()
    masks = tuple(image(64, channels=1) for _ in range(regions))
    style = Style(tuple(image(64) for _ in range(regions or 1)), masks=masks)
    problem = problem_of(settings, image(64), style, 320)
    assert len(problem._objective.tiles) == 3
    with count_operations() as counts:
        problem.loss_and_gradient(image(64), settings)
    assert (counts.syncs, counts.uploads) == ([], 0)
    assert counts.total <= launches, counts.launches


def test_preview_does_not_wait_for_the_gpu() -> None:
    settings = settings_of(preserve_color="luminance")
    problem = problem_of(settings, image(), Style((image(),)))
    problem.preview(image())
    with count_operations() as counts:
        problem.preview(image())
    assert (counts.syncs, counts.uploads) == ([], 0)
