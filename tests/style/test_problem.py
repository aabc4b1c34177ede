"""Initial images, bounds and colors of a scaled problem, loss log, and checkpoints."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier.core.random_streams import torch_generator
from atelier.core.settings import StylizeSettings
from atelier.style.batch import (
    StylizedImage,
    _Group,
    _mask,
    _side_by_side,
    _style_size,
    _styles,
    loss_table,
    output_names,
    summary,
)
from atelier.style.color_preservation import luminance, luminance_bounds, recombine_luminance
from atelier.style.loss_log import Checkpointer, IterationLosses, LossLog, Preview
from atelier.style.objective import Style
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.pyramid import resize
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.painting import CPU, options, smooth

_VGG = build_vgg19("random", "average", 1, 6)


def _image(seed: int, height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _scene(subject: StyleJob, whole: ScaledProblem | None = None, **changes: Any) -> ScaledProblem:
    return ScaledProblem(subject, options(**changes), _VGG, None, whole)


@pytest.mark.parametrize(
    ("style", "canvas", "rows", "columns"),
    [
        ((30, 60), (30, 30), slice(0, 30), slice(15, 45)),
        ((61, 30), (30, 30), slice(15, 45), slice(0, 30)),
        ((20, 20), (20, 20), slice(0, 20), slice(0, 20)),
    ],
)
def test_initial_image_from_the_style_is_its_center(
    style: tuple[int, int], canvas: tuple[int, int], rows: slice, columns: slice
) -> None:
    image = _image(1, *style)
    subject = StyleJob(torch.cat([_image(2, *canvas)] * 2), (Style((image, _image(3, 20, 20))),))
    found = _scene(subject, init="style").initial_image()
    assert torch.equal(found, image[:, :, rows, columns].expand(2, -1, -1, -1))


def test_small_style_is_enlarged_to_cover_the_image() -> None:
    style, content = _image(1, 8, 10), _image(2, 12, 12)
    found = _scene(StyleJob(content, (Style((style,)),)), init="style").initial_image()
    assert torch.equal(found, resize(style, 12, 15).clamp(0, 1)[..., 1:13])
    wide = _scene(StyleJob(_image(2, 8, 30), (Style((style,)),)), init="style").initial_image()
    assert torch.equal(wide, resize(style, 24, 30).clamp(0, 1)[..., 8:16, :])


def test_each_image_starts_from_its_own_style_but_from_the_same_noise() -> None:
    contents = torch.cat([_image(1, 12, 12), _image(2, 12, 12)])
    looks = (Style((_image(3, 12, 12),)), Style((_image(4, 12, 12),)))
    found = _scene(StyleJob(contents, looks), init="style").initial_image()
    assert torch.equal(found, torch.cat([look.images[0] for look in looks]))
    drawn = torch.rand(1, 3, 12, 12, generator=torch_generator(7, "stylize.noise"))
    noise = _scene(StyleJob(contents, looks), init="noise", seed=7).initial_image()
    assert torch.equal(noise, drawn.expand(2, -1, -1, -1))
    grey = _scene(StyleJob(contents, looks), init="noise", seed=7, preserve_color="luminance")
    room = luminance_bounds(contents)
    expected = room.clamp(luminance(drawn).expand(2, -1, -1, -1))
    assert torch.equal(grey.initial_image(), expected)
    start = _scene(StyleJob(contents, looks))
    canvas = start.initial_image()
    assert torch.equal(canvas, contents)
    canvas.zero_()
    assert torch.equal(start.contents, contents)


def test_only_masked_pixels_change_and_stay_in_gamut() -> None:
    content = _image(1, 8, 8)
    masks = torch.zeros(2, 1, 1, 8, 8)
    masks[0, ..., :2], masks[1, ..., 3:5] = 0.1, 1
    look = Style((_image(2, 8, 8), _image(3, 8, 8)), (), tuple(masks))
    inside = torch.tensor([True, True, False, True, True, False, False, False])
    scene = _scene(StyleJob(content, (look,)))
    assert torch.equal(scene.bounds.low[..., ~inside], content[..., ~inside])
    assert torch.equal(scene.bounds.high[..., ~inside], content[..., ~inside])
    assert scene.bounds.low[..., inside].abs().max() == 0
    assert scene.bounds.high[..., inside].min() == 1
    painted = scene.postprocess(torch.full_like(content, 1.5))
    assert torch.equal(painted[..., ~inside], content[..., ~inside])
    assert painted[..., inside].min() == 1
    free = _scene(StyleJob(content, (look,)), clamp_to_range=False)
    assert free.bounds.is_unbounded
    plain = _scene(StyleJob(content, (Style((_image(2, 8, 8),)),)))
    assert (float(plain.bounds.low), float(plain.bounds.high)) == (0, 1)
    assert torch.equal(plain.postprocess(content * 2), (content * 2).clamp(0, 1))


def test_luminance_gradients_are_averaged_and_colors_are_restored() -> None:
    content, style = _image(1, 8, 8), _image(2, 8, 8)
    scene = _scene(StyleJob(content, (Style((style,)),)), preserve_color="luminance")
    assert torch.equal(scene.contents, luminance(content))
    gradient = _image(3, 8, 8)
    torch.testing.assert_close(
        scene.project_gradient(gradient), gradient.mean(1, keepdim=True).expand(1, 3, 8, 8)
    )
    grey = luminance(content) * 0.9
    assert torch.equal(scene.postprocess(grey), recombine_luminance(grey, content))
    plain = _scene(StyleJob(content, (Style((style,)),)))
    assert torch.equal(plain.project_gradient(gradient), gradient)


@pytest.mark.parametrize("start", ["content", "noise"])
def test_upscaling_adds_the_change_to_the_finer_content(start: str) -> None:
    """Of a painting that starts from its content the difference is enlarged, not the content."""
    subject = StyleJob(_image(1, 16, 16), (Style((_image(2, 16, 20),)),))
    small = subject.resize(8, 8, 2)
    whole = _scene(subject, init=start)
    coarse = _scene(small, whole, init=start)
    canvas = 0.5 * small.contents + 0.2
    expected = resize(canvas, 16, 16)
    if start == "content":
        expected = subject.contents + resize(canvas - small.contents, 16, 16)
    torch.testing.assert_close(whole.upscale_from(canvas, coarse.contents), expected.clamp(0, 1))
    torch.testing.assert_close(coarse.preview(canvas), expected.clamp(0, 1))
    assert torch.equal(whole.preview(subject.contents), subject.contents)


def test_resized_job_has_proportional_styles_and_masks_of_its_size() -> None:
    mask = (_image(5, 16, 16)[:, :1] > 0.5).float()
    subject = StyleJob(
        _image(1, 16, 32), (Style((_image(2, 40, 10), _image(3, 6, 64)), (2.0, 1.0), (mask, mask)),)
    )
    assert subject.resize(16, 32, 4) is subject
    small = subject.resize(8, 16, 4)
    assert small.contents.shape == (1, 3, 8, 16)
    assert [style.shape[2:] for style in small.styles[0].images] == [(20, 5), (4, 32)]
    assert [one.shape for one in small.styles[0].masks] == [(1, 1, 8, 16)] * 2
    assert small.styles[0].weights == (2.0, 1.0)
    assert all(one.min() >= 0 and one.max() <= 1 for one in small.styles[0].masks)


def _journal(called: tuple[str, ...] = ("ann", "bob")) -> tuple[LossLog, list[IterationLosses]]:
    found: list[IterationLosses] = []
    return LossLog(3, called, ["style_1", "content_6"], found.append), found


def test_losses_are_delivered_in_blocks_of_ten_without_infinite_ones() -> None:
    journal, found = _journal()
    for number in range(1, 12):
        totals = torch.tensor([float(number), math.inf if number == 2 else 2.0 * number])
        journal.record(totals, {"style_1": totals / 4, "content_6": totals / 8})
        assert journal.recorded == number
        assert journal.delivered == (0 if number < 10 else 10)
    journal.deliver()
    journal.deliver()
    assert journal.delivered == 11
    assert [(i.image, i.iteration) for i in found] == [
        (picture, number)
        for number in range(1, 12)
        for picture in (3, 4)
        if (picture, number) != (4, 2)
    ]
    assert found[4] == IterationLosses(4, 3, 6.0, {"style_1": 1.5, "content_6": 0.75})
    assert journal.non_finite_labels(0) == journal.non_finite_labels(1) == ["bob"]
    assert journal.non_finite_labels(2) == journal.never_finite() == []
    again, replayed = _journal()
    again.replay(journal.table())
    assert (again.delivered, again.recorded, replayed) == (11, 11, found)
    assert journal.table().shape == (11, 2, 3)
    assert journal.table().dtype == torch.float64


def test_failure_message_names_the_first_non_finite_loss() -> None:
    journal, _ = _journal()
    for row in ([1.0, 1.0], [math.nan, math.inf], [2.0, math.inf]):
        journal.record(
            torch.tensor(row), {name: torch.ones(2) for name in ("style_1", "content_6")}
        )
    journal.deliver()
    assert journal.never_finite() == []
    assert journal.failure_message() == "the loss of ann is nan at iteration 2"
    journal.level_start = 1
    assert journal.never_finite() == ["bob"]
    assert journal.failure_message() == "the loss of bob is inf at iteration 2"
    journal.level_start = 2
    assert journal.failure_message() == "the loss of bob is inf at iteration 3"
    assert _journal()[0].failure_message() == ""


class _Keeper(Checkpointer):
    def __init__(self) -> None:
        self.rows: list[tuple[int, int, bool]] = []
        self.states: list[dict[str, Tensor]] = []

    def save(
        self, picture: int, evaluations: int, state: dict[str, Tensor], finished: bool
    ) -> None:
        self.rows.append((picture, evaluations, finished))
        self.states.append({name: tensor.clone() for name, tensor in state.items()})


class _Resumed(_Keeper):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self._state = state

    def load(self, picture: int) -> dict[str, Tensor] | None:
        return (
            {name: tensor.clone() for name, tensor in self._state.items()} if picture == 0 else None
        )


def _painted(
    settings: StylizeSettings, keeper: Checkpointer
) -> tuple[list[Tensor], list[IterationLosses], list[Preview]]:
    found: list[IterationLosses] = []
    seen: list[Preview] = []
    contents = [_image(1, 8, 12), _image(2, 8, 12)]
    made = transfer_style(
        contents, _image(3, 12, 12), settings, _VGG, CPU, found.append, keeper, None, seen.append
    )
    return list(made), found, seen


def test_state_is_saved_every_25_evaluations_and_after_every_level() -> None:
    settings = options(optimizer="spectral_lbfgs", weights="imagenet", iterations=40)
    keeper = _Keeper()
    whole, found, seen = _painted(settings, keeper)
    ends = [2, 6, 31, 40]  # a tenfold, a threefold weight of the content, and two parts
    rows = [(picture, end, end == 40) for picture in (0, 1) for end in ends]
    assert keeper.rows == rows
    assert [(one.image, one.iteration) for one in seen] == [row[:2] for row in rows]
    legs = [(int(state["leg"]), int(state["begun"])) for state in keeper.states[:4]]
    assert legs == [(0, 0), (1, 2), (2, 6), (2, 6)]
    assert all(len(state["losses"]) == end for state, end in zip(keeper.states, ends, strict=False))
    for state, end in zip(keeper.states[1:3], ends[1:], strict=False):
        resumed = _Resumed(state)
        images, losses, _ = _painted(settings, resumed)
        assert all(torch.equal(one, other) for one, other in zip(images, whole, strict=True))
        assert losses == found
        assert resumed.rows == [row for row in rows if row[:2] > (0, end)] or state["leg"] < 2


def test_strength_0_evaluates_once_and_saves_nothing() -> None:
    keeper = _Keeper()
    images, found, _ = _painted(options(style_strength=0.0), keeper)
    assert torch.equal(images[1], _image(2, 8, 12))
    assert [(one.image, one.iteration) for one in found] == [(0, 1), (1, 1)]
    assert keeper.rows == []


def _pixels(height: int, width: int, level: int = 9) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_styles_side_by_side_have_the_height_of_the_highest() -> None:
    (one, other) = _pixels(10, 4, 50), _pixels(20, 6, 90)
    both = _side_by_side([one, other])
    assert both.shape == (20, 8 + 6, 3)
    assert (both[:, :8] == 50).all()
    assert (both[:, 8:] == 90).all()
    assert _side_by_side([one]) is one
    assert _side_by_side([_pixels(100, 1), _pixels(10, 10)]).shape == (100, 101, 3)
    assert _side_by_side([_pixels(1, 1), _pixels(1, 900)]).shape == (1, 901, 3)


def test_masks_are_converted_and_resized_to_each_content() -> None:
    mask = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [51, 51, 51]]], np.uint8)
    assert _mask(mask).flatten().tolist() == pytest.approx([0, 1, 1 / 3, 0.2])
    settings = options(style_scale=0.5, style_weights=[1.0, 3.0], styles=["a", "b"])
    styles = (_pixels(40, 60), _pixels(30, 20))
    contents = [_pixels(8, 8), _pixels(8, 12)]
    group = _Group([("a", "x"), ("b", "x")], contents, [styles, styles])
    prepared = [_image(1, 32, 32), _image(1, 32, 48)]
    (look,) = _styles(settings, group, prepared, [])
    assert [tuple(style.shape) for style in look.images] == [(1, 3, 16, 24), (1, 3, 24, 16)]
    assert (look.weights, look.masks) == ((1.0, 3.0), ())
    masked = _styles(settings, group, prepared, [_pixels(8, 8, 255), _pixels(8, 8, 0)])
    assert [[tuple(m.shape) for m in one.masks] for one in masked] == [
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
    painting = StylizedImage("a", "b", _pixels(2, 2), _pixels(3, 3), _pixels(4, 4), tuple(losses))
    assert loss_table([painting]) == (
        ["painting", "iteration", "loss", "style_1"],
        [["a-b", 1, "4", "1"], ["a-b", 2, "2", "0.5"]],
    )
    assert summary([painting]) == {"paintings": 1, "first_loss": 4.0, "loss": 2.0}
    assert painting.curves() == (["loss/a-b", "style_1/a-b"], {1: [4.0, 1.0], 2: [2.0, 0.5]})
    assert [caption for _, caption in painting.row()] == ["a", "b", "a-b"]


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
    contents, styles = dict.fromkeys("abc", _pixels(8, 8)), dict.fromkeys("xy", _pixels(8, 8))
    found = output_names(settings, contents, styles, [_pixels(8, 8)] * masks)
    assert ["-".join(pair) for pair in found] == expected


def test_total_of_the_first_evaluation_is_that_of_the_content() -> None:
    """The first iterate is of the canvas itself, whatever the optimizer does next."""
    settings = options(optimizer="spectral_lbfgs", iterations=3)
    found: list[IterationLosses] = []
    list(transfer_style([smooth(1)], smooth(2), settings, _VGG, CPU, found.append))
    assert found[0].per_layer["content_6"] == 0
    assert found[1].per_layer["content_6"] > 0
