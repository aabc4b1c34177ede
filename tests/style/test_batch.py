"""Style transfer of several contents in several styles: names, losses, progress, errors."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atelier.core.arrays import to_uint8
from atelier.core.errors import AtelierError
from atelier.core.progress import Progress
from atelier.core.settings import StylizeSettings
from atelier.style.batch import (
    StylizedImage,
    check_memory,
    details,
    load_vgg,
    loss_table,
    mean_relative_losses,
    metrics,
    output_names,
    stylize,
)
from atelier.style.inputs import StyleInputs, resize_to_tensor, scaled_shape
from atelier.style.loss_log import IterationLosses, Preview, StyleEvents
from atelier.style.memory import tile_size_for_memory
from atelier.style.objective import cast_vgg
from atelier.style.vgg import build_vgg19

from ..support.arrays import random_image
from ..support.painting import RecordedEvents
from ..support.painting import options as default_options

CPU = torch.device("cpu")
WEIGHTS = Path("data/weights")
Images = dict[str, NDArray[np.uint8]]


def options(**changes: object) -> StylizeSettings:
    fast = {"style_layers": {1: 1.0}, "content_layers": {3: 0.1}, "iterations": 7}
    return default_options(**{**fast, **changes})


def _stylize(
    settings: StylizeSettings,
    contents: Images,
    styles: Images,
    masks: Sequence[NDArray[np.uint8]] = (),
    events: StyleEvents | None = None,
) -> Iterator[StylizedImage]:
    vgg = load_vgg(settings, WEIGHTS)
    return stylize(StyleInputs(contents, styles, masks), settings, vgg, events)


def _stylized_image(name: str, *totals: float) -> StylizedImage:
    iterates = tuple(
        IterationLosses(0, number, total, {"style_1": total / 3, "content_3": 0.5})
        for number, total in enumerate(totals, start=1)
    )
    return StylizedImage(
        *name.split("-"), random_image(1), random_image(2), random_image(3), iterates
    )


def test_relative_losses_do_not_jump_between_levels_and_keep_the_last_of_one_that_ended() -> None:
    """The second level's losses, 100 times as large, continue at the share of the first's last."""
    losses = [
        IterationLosses(0, number, total, {}, level)
        for number, (total, level) in enumerate(
            [(8.0, 0), (4.0, 0), (400.0, 1), (100.0, 1)], start=1
        )
    ]
    scaled = StylizedImage(
        "ann", "sea", random_image(1), random_image(2), random_image(3), tuple(losses)
    )
    assert scaled.relative_losses() == [1.0, 0.5, 0.5, 0.125]
    short = _stylized_image("bob-sea", 2.0, 1.0)
    assert mean_relative_losses([scaled, short]) == {1: 1.0, 2: 0.5, 3: 0.5, 4: 0.3125}
    assert _stylized_image("ann-sea", 0.0, 0.0).relative_losses() == [1.0, 1.0]


def test_every_content_is_stylized_in_every_style() -> None:
    contents = {"ann": random_image(1), "bob": random_image(2, width=12)}
    styles = {"waves": random_image(3), "stars": random_image(4)}
    results = list(_stylize(options(), contents, styles))
    assert [result.name for result in results] == [
        "ann-waves",
        "bob-waves",
        "ann-stars",
        "bob-stars",
    ]
    assert [result.pixels.shape for result in results] == [(32, 32, 3), (32, 48, 3)] * 2
    for result in results:
        content, style = result.name.split("-")
        assert result.content is contents[content]
        assert result.style is styles[style]


def test_results_do_not_depend_on_other_contents() -> None:
    contents = {"ann": random_image(1), "bob": random_image(2, width=12)}
    styles = {"waves": random_image(3), "stars": random_image(4)}
    last = list(_stylize(options(), contents, styles))[-1]
    (single,) = _stylize(options(), {"bob": contents["bob"]}, {"stars": styles["stars"]})
    assert np.array_equal(last.pixels, single.pixels)
    losses = [(iterate.iteration, iterate.total, iterate.per_layer) for iterate in last.losses]
    assert losses == [
        (iterate.iteration, iterate.total, iterate.per_layer) for iterate in single.losses
    ]


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("lbfgs", 1.0), ("adam", 0.02), ("spectral_lbfgs", 1.0)]
)
@pytest.mark.parametrize("iterations", [1, 7, 12])
def test_progress_increases_up_to_its_total(optimizer: str, lr: float, iterations: int) -> None:
    reported: list[Progress] = []
    settings = options(optimizer=optimizer, lr=lr, iterations=iterations)
    contents, styles = (
        {"a": random_image(1), "b": random_image(2)},
        {"c": random_image(3), "d": random_image(4)},
    )
    list(_stylize(settings, contents, styles, events=RecordedEvents(progress=reported)))
    done = [progress.done for progress in reported]
    assert done == sorted(done)
    assert done[0] == 1
    assert done[-1] == 4 * iterations
    assert {progress.total for progress in reported} == {4 * iterations}


def test_pairing_cycle_uses_styles_in_turn() -> None:
    contents = {"ann": random_image(1), "bob": random_image(2), "cec": random_image(5)}
    styles = {"waves": random_image(3), "stars": random_image(4)}
    results = list(_stylize(options(pairing="cycle"), contents, styles))
    assert [result.name for result in results] == ["ann-waves", "bob-stars", "cec-waves"]
    assert [result.style is styles[result.name[4:]] for result in results] == [True] * 3


def test_style_weights_mix_all_styles() -> None:
    contents = {"ann": random_image(1)}
    styles = {"waves": random_image(3), "stars": random_image(4, height=16)}
    mixed = [
        list(_stylize(options(styles=["a", "b"], style_weights=weights), contents, styles))
        for weights in ([1.0, 0.0], [1.0, 1.0], [2.0, 2.0])
    ]
    assert [[result.name for result in results] for results in mixed] == [["ann-waves+stars"]] * 3
    first, second, third = (results[0].pixels for results in mixed)
    assert not np.array_equal(first, second)
    assert np.array_equal(second, third), "only the weights' proportion counts"
    assert mixed[0][0].style.shape == (16, 16 + 8, 3)


def test_masks_are_resized_and_limit_changes() -> None:
    content = random_image(1, 32, 32)
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[:, :2] = 255
    (result,) = _stylize(options(), {"ann": content}, {"waves": random_image(3)}, (mask,))
    assert np.array_equal(result.pixels[:, 12:], content[:, 12:])
    assert not np.array_equal(result.pixels[:, :6], content[:, :6])


@pytest.mark.parametrize(
    ("shape", "accepted"),
    [((48, 64), True), ((480, 640), True), ((6, 8), True), ((24, 33), True), ((64, 48), False),
     ((64, 64), False), ((48, 60), False)],
)  # fmt: skip
def test_mask_of_other_aspect_ratio_is_rejected(shape: tuple[int, int], accepted: bool) -> None:
    contents, styles = {"ann": random_image(1, 48, 64)}, {"waves": random_image(3)}
    masks = [np.full((*shape, 3), 255, np.uint8)]
    if accepted:
        assert output_names(StyleInputs(contents, styles, masks), options()) == [("ann", "waves")]
        return
    sentence = (
        f"mask of {shape[1]} x {shape[0]} pixels differs in aspect ratio from ann,"
        " which has 64 x 48;"
    )
    with pytest.raises(AtelierError, match=sentence):
        output_names(StyleInputs(contents, styles, masks), options())


def test_number_of_style_weights_must_equal_number_of_styles() -> None:
    """The settings cannot count the styles of `generated`."""
    settings = options(styles=["generated"], style_weights=[1.0])
    styles = {"face_1": random_image(3), "face_2": random_image(4)}
    with pytest.raises(AtelierError, match="style_weights is a list of 1, but the number of"):
        list(_stylize(settings, {"ann": random_image(1)}, styles))


def test_style_scale_changes_the_result() -> None:
    contents, style = {"ann": random_image(1)}, random_image(3, 16, 16)
    half = list(_stylize(options(style_scale=0.5), contents, {"s": style}))
    whole = list(_stylize(options(), contents, {"s": style}))
    assert not np.array_equal(half[0].pixels, whole[0].pixels)


def test_error_names_the_stylized_image() -> None:
    contents, styles = (
        {"ann": random_image(1), "bob": random_image(2)},
        {"waves": random_image(3)},
    )
    settings = options(style_layers={1: 1e39})
    with pytest.raises(AtelierError, match=r"the loss of ann-waves is (nan|inf) at iteration 1;"):
        list(_stylize(settings, contents, styles))


def test_previews_have_the_index_of_their_result() -> None:
    contents = {"ann": random_image(1), "bob": random_image(2)}
    styles = {"waves": random_image(3), "stars": random_image(4)}
    previews: list[Preview] = []
    results = list(
        _stylize(
            options(optimizer="spectral_lbfgs"),
            contents,
            styles,
            events=RecordedEvents(previews=previews),
        )
    )
    assert [preview.image for preview in previews] == [0, 1, 2, 3]
    for preview, result in zip(previews, results, strict=True):
        assert np.array_equal(to_uint8(preview.pixels, signed=False)[0].numpy(), result.pixels)


def test_losses_have_the_index_of_their_result() -> None:
    contents = {"ann": random_image(1), "bob": random_image(2)}
    styles = {"waves": random_image(3), "stars": random_image(4)}
    events = RecordedEvents()
    results = list(_stylize(options(), contents, styles, events=events))
    for index, result in enumerate(results):
        assert result.losses == tuple(one for one in events.losses if one.image == index)
    assert events.warnings == []


def test_equal_output_names_are_rejected_before_work_starts() -> None:
    contents = {"a": random_image(1), "a-b": random_image(2)}
    styles = {"b-c": random_image(3), "c": random_image(4)}
    reported: list[Progress] = []
    sentence = "named a-b-c: a in the style of b-c, and a-b in the style of c; rename one"
    with pytest.raises(AtelierError, match=sentence):
        list(_stylize(options(), contents, styles, events=RecordedEvents(progress=reported)))
    assert reported == []


def test_loss_table_has_a_row_for_every_evaluation() -> None:
    header, rows = loss_table(
        [_stylized_image("a-c", 6.0, 1.5), _stylized_image("b-c", 0.123456789)]
    )
    assert header == ["painting", "iteration", "loss", "style_1", "content_3"]
    assert rows == [
        ["a-c", 1, "6", "2", "0.5"],
        ["a-c", 2, "1.5", "0.5", "0.5"],
        ["b-c", 1, "0.123457", "0.0411523", "0.5"],
    ]


def test_details_average_first_and_last_losses() -> None:
    images = [_stylized_image("a-c", 6.0, 3.0, 1.0), _stylized_image("b-c", 4.0, 2.0)]
    assert list(details(images).values()) == [2, 5.0, 1.5]
    assert metrics(images) == {"style_loss": 1.5}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("scale", "weights"), [(1.0, []), (0.37, []), (1.5, [1.0, 1.0])])
def test_suggested_size_is_the_largest_that_fits(
    precision: str, scale: float, weights: list[float]
) -> None:
    """The suggested size fits for all images and styles, and one more pixel does not."""
    changes = {"style_layers": {1: 1.0, 20: 1.0}, "style_scale": scale, "style_weights": weights}
    changes |= {"memory_gb": 4.0, "optimizer": "spectral_lbfgs", "precision": precision}
    all_shapes = [(3001, 4003), (16, 1999), (2000, 2000)], [(777, 2345), (3000, 1000)]
    contents, styles = ({str(s): np.broadcast_to(random_image(1)[:1, :1], (*s, 3)) for s in sizes}
                        for sizes in all_shapes)  # fmt: skip

    def check(size: int) -> None:
        settings = options(**changes, styles=["a", "b"], image_size=size)
        check_memory(StyleInputs(contents, styles), settings, CPU)
        vgg = cast_vgg(build_vgg19("random", "average", 1, 20), settings, CPU)
        style_shapes = [
            resize_to_tensor(style, max(1, round(size * scale))).shape[2:]
            for style in styles.values()
        ]
        for shape in all_shapes[0]:
            for styles_in_memory in (
                [style_shapes] if weights else [[style_shape] for style_shape in style_shapes]
            ):
                tile_size_for_memory(*scaled_shape(shape, size), settings, vgg, styles_in_memory)

    with pytest.raises(AtelierError, match=r"\(4\); lower stylize.image_size to") as error:
        check(2500)
    suggested = int(str(error.value).split("image_size to ")[1].split(",")[0])
    check(suggested)
    with pytest.raises(AtelierError, match=f"lower stylize.image_size to {suggested},"):
        check(suggested + 1)


def test_too_large_content_is_rejected_before_work_starts() -> None:
    reported: list[Progress] = []
    contents = {"ann": random_image(1), "long": random_image(2, 1, 1000)}
    styles, events = {"waves": random_image(3)}, RecordedEvents(progress=reported)
    with pytest.raises(AtelierError, match="a stylized image of 32000 x 32 pixels needs more"):
        next(_stylize(options(memory_gb=0.02), contents, styles, events=events))
    assert reported == []
