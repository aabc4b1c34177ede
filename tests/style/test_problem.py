"""Initial images, bounds and colors of a scaled problem, loss log, and checkpoints."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.random_streams import torch_generator
from atelier.core.settings import StylizeSettings
from atelier.style.batch import (
    StylizedImage,
    _mask,
    _Pair,
    _side_by_side,
    _style_size,
    _tasks,
    details,
    loss_table,
    output_names,
)
from atelier.style.checkpoint import TransferCheckpoints
from atelier.style.color_preservation import luminance, luminance_bounds, recombine_luminance
from atelier.style.inputs import StyleInputs
from atelier.style.loss_log import IterationLosses, LossLog, Preview, evaluations_per_fetch
from atelier.style.objective import Style
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.pyramid import resize
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.arrays import uniform_image
from ..support.painting import RecordedEvents, options, smooth, tasks

_VGG = build_vgg19("random", "average", 1, 6)


def _random_tensor(seed: int, height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _problem(job: StyleJob, final: ScaledProblem | None = None, **changes: Any) -> ScaledProblem:
    return ScaledProblem(job, options(**changes), _VGG, None, final)


@pytest.mark.parametrize(
    ("style_size", "size", "rows", "columns"),
    [
        ((30, 60), (30, 30), slice(0, 30), slice(15, 45)),
        ((61, 30), (30, 30), slice(15, 45), slice(0, 30)),
        ((20, 20), (20, 20), slice(0, 20), slice(0, 20)),
    ],
)
def test_initial_image_from_the_style_is_its_center(
    style_size: tuple[int, int], size: tuple[int, int], rows: slice, columns: slice
) -> None:
    image = _random_tensor(1, *style_size)
    job = StyleJob(
        torch.cat([_random_tensor(2, *size)] * 2), (Style((image, _random_tensor(3, 20, 20))),)
    )
    initial_image = _problem(job, init="style").initial_image()
    assert torch.equal(initial_image, image[:, :, rows, columns].expand(2, -1, -1, -1))


def test_small_style_is_enlarged_to_cover_the_image() -> None:
    style, content = _random_tensor(1, 8, 10), _random_tensor(2, 12, 12)
    initial_image = _problem(StyleJob(content, (Style((style,)),)), init="style").initial_image()
    assert torch.equal(initial_image, resize(style, 12, 15).clamp(0, 1)[..., 1:13])
    wide = _problem(
        StyleJob(_random_tensor(2, 8, 30), (Style((style,)),)), init="style"
    ).initial_image()
    assert torch.equal(wide, resize(style, 24, 30).clamp(0, 1)[..., 8:16, :])


def test_each_image_starts_from_its_own_style_but_from_the_same_noise() -> None:
    contents = torch.cat([_random_tensor(1, 12, 12), _random_tensor(2, 12, 12)])
    styles = (Style((_random_tensor(3, 12, 12),)), Style((_random_tensor(4, 12, 12),)))
    initial_image = _problem(StyleJob(contents, styles), init="style").initial_image()
    assert torch.equal(initial_image, torch.cat([style.images[0] for style in styles]))
    noise = torch.rand(1, 3, 12, 12, generator=torch_generator(7, "stylize.noise"))
    noise_image = _problem(StyleJob(contents, styles), init="noise", seed=7).initial_image()
    assert torch.equal(noise_image, noise.expand(2, -1, -1, -1))
    gray_problem = _problem(
        StyleJob(contents, styles), init="noise", seed=7, preserve_color="luminance"
    )
    bounds = luminance_bounds(contents)
    expected = bounds.clamp(luminance(noise).expand(2, -1, -1, -1))
    assert torch.equal(gray_problem.initial_image(), expected)
    content_problem = _problem(StyleJob(contents, styles))
    image = content_problem.initial_image()
    assert torch.equal(image, contents)
    image.zero_()
    assert torch.equal(content_problem.contents, contents)


def test_only_masked_pixels_change_and_stay_in_gamut() -> None:
    content = _random_tensor(1, 8, 8)
    masks = torch.zeros(2, 1, 1, 8, 8)
    masks[0, ..., :2], masks[1, ..., 3:5] = 0.1, 1
    style = Style((_random_tensor(2, 8, 8), _random_tensor(3, 8, 8)), (), tuple(masks))
    inside = torch.tensor([True, True, False, True, True, False, False, False])
    problem = _problem(StyleJob(content, (style,)))
    assert torch.equal(problem.bounds.low[..., ~inside], content[..., ~inside])
    assert torch.equal(problem.bounds.high[..., ~inside], content[..., ~inside])
    assert problem.bounds.low[..., inside].abs().max() == 0
    assert problem.bounds.high[..., inside].min() == 1
    result = problem.postprocess(torch.full_like(content, 1.5))
    assert torch.equal(result[..., ~inside], content[..., ~inside])
    assert result[..., inside].min() == 1
    unbounded_problem = _problem(StyleJob(content, (style,)), clamp_to_range=False)
    assert unbounded_problem.bounds.is_unbounded()
    unmasked_problem = _problem(StyleJob(content, (Style((_random_tensor(2, 8, 8),)),)))
    assert (float(unmasked_problem.bounds.low), float(unmasked_problem.bounds.high)) == (0, 1)
    assert torch.equal(unmasked_problem.postprocess(content * 2), (content * 2).clamp(0, 1))


def test_luminance_gradients_are_averaged_and_colors_are_restored() -> None:
    content, style = _random_tensor(1, 8, 8), _random_tensor(2, 8, 8)
    problem = _problem(StyleJob(content, (Style((style,)),)), preserve_color="luminance")
    assert torch.equal(problem.contents, luminance(content))
    gradient = _random_tensor(3, 8, 8)
    torch.testing.assert_close(
        problem.project_gradient(gradient), gradient.mean(1, keepdim=True).expand(1, 3, 8, 8)
    )
    gray = luminance(content) * 0.9
    assert torch.equal(problem.postprocess(gray), recombine_luminance(gray, content))
    color_problem = _problem(StyleJob(content, (Style((style,)),)))
    assert torch.equal(color_problem.project_gradient(gradient), gradient)


@pytest.mark.parametrize("start", ["content", "noise"])
def test_upscaling_adds_the_change_to_the_finer_content(start: str) -> None:
    """If the initial image is the content, only the difference from it is enlarged."""
    job = StyleJob(_random_tensor(1, 16, 16), (Style((_random_tensor(2, 16, 20),)),))
    small_job = job.resize(8, 8, 2)
    final = _problem(job, init=start)
    coarse_problem = _problem(small_job, final, init=start)
    image = 0.5 * small_job.contents + 0.2
    expected = resize(image, 16, 16)
    if start == "content":
        expected = job.contents + resize(image - small_job.contents, 16, 16)
    torch.testing.assert_close(
        final.upscale_from(image, coarse_problem.contents), expected.clamp(0, 1)
    )
    torch.testing.assert_close(coarse_problem.preview(image), expected.clamp(0, 1))
    assert torch.equal(final.preview(job.contents), job.contents)


def test_resized_job_has_proportional_styles_and_masks_of_its_size() -> None:
    mask = (_random_tensor(5, 16, 16)[:, :1] > 0.5).float()
    job = StyleJob(
        _random_tensor(1, 16, 32),
        (Style((_random_tensor(2, 40, 10), _random_tensor(3, 6, 64)), (2.0, 1.0), (mask, mask)),),
    )
    assert job.resize(16, 32, 4) is job
    small_job = job.resize(8, 16, 4)
    assert small_job.contents.shape == (1, 3, 8, 16)
    assert [style.shape[2:] for style in small_job.styles[0].images] == [(20, 5), (4, 32)]
    assert [m.shape for m in small_job.styles[0].masks] == [(1, 1, 8, 16)] * 2
    assert small_job.styles[0].weights == (2.0, 1.0)
    assert all(m.min() >= 0 and m.max() <= 1 for m in small_job.styles[0].masks)


def _loss_log(labels: tuple[str, ...] = ("ann", "bob")) -> tuple[LossLog, list[IterationLosses]]:
    delivered_losses: list[IterationLosses] = []
    events = RecordedEvents(delivered_losses)
    images = dict(enumerate(labels, start=3))
    return LossLog(images, ["style_1", "content_6"], events), delivered_losses


def test_losses_of_a_gpu_are_fetched_once_for_each_chunk() -> None:
    assert evaluations_per_fetch(torch.device("cuda")) == 25
    assert evaluations_per_fetch(torch.device("cpu")) == 10


def test_losses_are_delivered_in_blocks_of_ten_without_infinite_ones() -> None:
    log, delivered_losses = _loss_log()
    for number in range(1, 12):
        totals = torch.tensor([float(number), math.inf if number == 2 else 2.0 * number])
        log.record(totals, {"style_1": totals / 4, "content_6": totals / 8})
        assert log.recorded == number
        assert log.delivered == (0 if number < 10 else 10)
    log.deliver()
    log.deliver()
    assert log.delivered == 11
    assert [(i.image, i.iteration) for i in delivered_losses] == [
        (image, number) for number in range(1, 12) for image in (3, 4) if (image, number) != (4, 2)
    ]
    assert delivered_losses[4] == IterationLosses(4, 3, 6.0, {"style_1": 1.5, "content_6": 0.75})
    assert log.non_finite_labels(0) == log.non_finite_labels(1) == ["bob"]
    assert log.non_finite_labels(2) == log.never_finite() == []
    replayed_log, replayed_losses = _loss_log()
    replayed_log.replay(log.table(), log.level_starts)
    assert (replayed_log.delivered, replayed_log.recorded, replayed_losses) == (
        11,
        11,
        delivered_losses,
    )
    assert log.table().shape == (11, 2, 3)
    assert log.table().dtype == torch.float64


def test_failure_message_names_the_first_non_finite_loss() -> None:
    log, _ = _loss_log()
    for row in ([1.0, 1.0], [math.nan, math.inf], [2.0, math.inf]):
        log.record(torch.tensor(row), {name: torch.ones(2) for name in ("style_1", "content_6")})
    log.deliver()
    assert log.never_finite() == []
    assert log.failure_message() == "the loss of ann is nan at iteration 2"
    log.level_starts.append(1)
    assert log.never_finite() == ["bob"]
    assert log.failure_message() == "the loss of bob is inf at iteration 2"
    log.level_starts.append(2)
    assert log.failure_message() == "the loss of bob is inf at iteration 3"
    assert _loss_log()[0].failure_message() == ""


class _RecordingCheckpointer(TransferCheckpoints):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, int, bool]] = []
        self.states: list[dict[str, Tensor]] = []

    def save(self, image: int, evaluations: int, state: dict[str, Tensor], finished: bool) -> None:
        self.rows.append((image, evaluations, finished))
        self.states.append({name: tensor.clone() for name, tensor in state.items()})


class _ResumingCheckpointer(_RecordingCheckpointer):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self._state = state

    def load(self, image: int) -> dict[str, Tensor] | None:
        return (
            {name: tensor.clone() for name, tensor in self._state.items()} if image == 0 else None
        )


def _stylize(
    settings: StylizeSettings, checkpointer: TransferCheckpoints
) -> tuple[list[Tensor], list[IterationLosses], list[Preview]]:
    losses: list[IterationLosses] = []
    previews: list[Preview] = []
    contents = [_random_tensor(1, 8, 12), _random_tensor(2, 8, 12)]
    results = transfer_style(
        tasks(contents, _random_tensor(3, 12, 12)),
        settings,
        _VGG,
        RecordedEvents(losses, previews),
        checkpointer,
    )
    return list(results), losses, previews


def test_state_is_saved_every_25_evaluations_and_after_every_level() -> None:
    settings = options(optimizer="spectral_lbfgs", weights="imagenet", iterations=40)
    checkpointer = _RecordingCheckpointer()
    expected, expected_losses, previews = _stylize(settings, checkpointer)
    last_iterations = [2, 6, 31, 40]  # content weight times 10, times 3, and two chunks
    rows = [
        (image, last_iteration, last_iteration == 40)
        for image in (0, 1)
        for last_iteration in last_iterations
    ]
    assert checkpointer.rows == rows
    assert [(preview.image, preview.iteration) for preview in previews] == [row[:2] for row in rows]
    levels = [(int(state["leg"]), int(state["begun"])) for state in checkpointer.states[:4]]
    assert levels == [(0, 0), (1, 2), (2, 6), (2, 6)]
    assert [one.level for one in expected_losses if one.image == 0] == [0] * 2 + [1] * 4 + [2] * 34
    assert all(
        len(state["losses"]) == last_iteration
        for state, last_iteration in zip(checkpointer.states, last_iterations, strict=False)
    )
    for state, last_iteration in zip(checkpointer.states[1:3], last_iterations[1:], strict=False):
        resuming = _ResumingCheckpointer(state)
        images, losses, _ = _stylize(settings, resuming)
        assert all(
            torch.equal(image, expected_image)
            for image, expected_image in zip(images, expected, strict=True)
        )
        assert losses == expected_losses
        assert (
            resuming.rows == [row for row in rows if row[:2] > (0, last_iteration)]
            or state["leg"] < 2
        )


def test_strength_0_evaluates_once_and_saves_nothing() -> None:
    checkpointer = _RecordingCheckpointer()
    images, losses, _ = _stylize(options(style_strength=0.0), checkpointer)
    assert torch.equal(images[1], _random_tensor(2, 8, 12))
    assert [(iterate.image, iterate.iteration) for iterate in losses] == [(0, 1), (1, 1)]
    assert checkpointer.rows == []


def test_styles_side_by_side_have_the_largest_height() -> None:
    (first, second) = uniform_image(10, 4, 50), uniform_image(20, 6, 90)
    joined = _side_by_side([first, second])
    assert joined.shape == (20, 8 + 6, 3)
    assert (joined[:, :8] == 50).all()
    assert (joined[:, 8:] == 90).all()
    assert _side_by_side([first]) is first
    assert _side_by_side([uniform_image(100, 1, 9), uniform_image(10, 10, 9)]).shape == (
        100,
        101,
        3,
    )
    assert _side_by_side([uniform_image(1, 1, 9), uniform_image(1, 900, 9)]).shape == (1, 901, 3)


def test_masks_are_converted_and_resized_to_each_content() -> None:
    mask = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [51, 51, 51]]], np.uint8)
    assert _mask(mask).flatten().tolist() == pytest.approx([0, 1, 1 / 3, 0.2])
    settings = options(style_scale=0.5, style_weights=[1.0, 3.0], styles=["a", "b"])
    styles = {"x": uniform_image(40, 60, 9), "y": uniform_image(30, 20, 9)}
    contents = {"a": uniform_image(8, 8, 9), "b": uniform_image(8, 12, 9)}
    group = [_Pair("a", ("x", "y")), _Pair("b", ("x", "y"))]

    def styles_of(*masks: NDArray[np.uint8]) -> list[Style]:
        """Return the different styles of all tasks."""
        tasks = _tasks(group, 0, StyleInputs(contents, styles, masks), settings)
        assert [tuple(task.content.shape[2:]) for task in tasks] == [(32, 32), (32, 48)]
        return list({id(task.style): task.style for task in tasks}.values())

    (style,) = styles_of()
    assert [tuple(image.shape) for image in style.images] == [(1, 3, 16, 24), (1, 3, 24, 16)]
    assert (style.weights, style.masks) == ((1.0, 3.0), ())
    masked = styles_of(uniform_image(8, 8, 255), uniform_image(8, 8, 0))
    assert [[tuple(m.shape) for m in style.masks] for style in masked] == [
        [(1, 1, 32, 32)] * 2, [(1, 1, 32, 48)] * 2
    ]  # fmt: skip
    assert masked[0].images[0] is masked[1].images[0]
    assert [_style_size(options(style_scale=scale), 32) for scale in (0.1, 0.5, 2.0)] == [
        3,
        16,
        64,
    ]


def test_loss_table_and_summary_of_one_result() -> None:
    losses = [
        IterationLosses(0, 1, 4.0, {"style_1": 1.0}),
        IterationLosses(0, 2, 2.0, {"style_1": 0.5}),
    ]
    result = StylizedImage(
        "a",
        "b",
        uniform_image(2, 2, 9),
        uniform_image(3, 3, 9),
        uniform_image(4, 4, 9),
        tuple(losses),
    )
    assert loss_table([result]) == (
        ["painting", "iteration", "loss", "style_1"],
        [["a-b", 1, "4", "1"], ["a-b", 2, "2", "0.5"]],
    )
    assert details([result]) == {"paintings": 1, "first_loss": 4.0, "loss": 2.0}
    assert [caption for _, caption in result.row()] == ["a", "b", "a-b"]


@pytest.mark.parametrize(
    ("changes", "masks", "expected"),
    [
        ({}, 0, ["a-x", "b-x", "c-x", "a-y", "b-y", "c-y"]),
        ({"pairing": "cycle"}, 0, ["a-x", "b-y", "c-x"]),
        ({"style_weights": [1.0, 2.0]}, 0, ["a-x+y", "b-x+y", "c-x+y"]),
        ({}, 2, ["a-x+y", "b-x+y", "c-x+y"]),
    ],
)
def test_output_names_follow_pairing_weights_and_masks(
    changes: dict[str, Any], masks: int, expected: list[str]
) -> None:
    settings = options(styles=["x", "y"], **changes)
    contents, styles = (
        dict.fromkeys("abc", uniform_image(8, 8, 9)),
        dict.fromkeys("xy", uniform_image(8, 8, 9)),
    )
    inputs = StyleInputs(contents, styles, [uniform_image(8, 8, 9)] * masks)
    names = output_names(inputs, settings)
    assert ["-".join(pair) for pair in names] == expected


def test_first_evaluation_is_of_the_initial_image() -> None:
    settings = options(optimizer="spectral_lbfgs", iterations=3)
    losses: list[IterationLosses] = []
    list(transfer_style(tasks([smooth(1)], smooth(2)), settings, _VGG, RecordedEvents(losses)))
    assert losses[0].per_layer["content_6"] == 0
    assert losses[1].per_layer["content_6"] > 0
