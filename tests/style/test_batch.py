"""Style transfer of several contents in several styles: names, losses, progress, errors."""

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
    loss_table,
    output_names,
    stylize,
    summary,
)
from atelier.style.inputs import resize_to_tensor, scaled_shape
from atelier.style.loss_log import IterationLosses, Preview
from atelier.style.memory import tile_size_for_memory
from atelier.style.objective import cast_vgg
from atelier.style.vgg import build_vgg19

from ..support.painting import options as painted_with

CPU = torch.device("cpu")
WEIGHTS = Path("data/weights")


def options(**changes: object) -> StylizeSettings:
    fewer = {"style_layers": {1: 1.0}, "content_layers": {3: 0.1}, "iterations": 7}
    return painted_with(**{**fewer, **changes})


def _pixels(seed: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _painting(name: str, *totals: float) -> StylizedImage:
    iterates = tuple(
        IterationLosses(0, number, total, {"style_1": total / 3, "content_3": 0.5})
        for number, total in enumerate(totals, start=1)
    )
    return StylizedImage(*name.split("-"), _pixels(1), _pixels(2), _pixels(3), iterates)


def test_every_content_is_stylized_in_every_style() -> None:
    contents = {"ann": _pixels(1), "bob": _pixels(2, width=12)}
    styles = {"waves": _pixels(3), "stars": _pixels(4)}
    paintings = list(stylize(options(), contents, styles, (), WEIGHTS, CPU))
    assert [painting.name for painting in paintings] == [
        "ann-waves",
        "bob-waves",
        "ann-stars",
        "bob-stars",
    ]
    assert [painting.pixels.shape for painting in paintings] == [(32, 32, 3), (32, 48, 3)] * 2
    for painting in paintings:
        content, style = painting.name.split("-")
        assert painting.content is contents[content]
        assert painting.style is styles[style]


def test_results_do_not_depend_on_other_contents() -> None:
    contents = {"ann": _pixels(1), "bob": _pixels(2, width=12)}
    styles = {"waves": _pixels(3), "stars": _pixels(4)}
    last = list(stylize(options(), contents, styles, (), WEIGHTS, CPU))[-1]
    (alone,) = stylize(
        options(), {"bob": contents["bob"]}, {"stars": styles["stars"]}, (), WEIGHTS, CPU
    )
    assert np.array_equal(last.pixels, alone.pixels)
    losses = [(step.iteration, step.total, step.per_layer) for step in last.losses]
    assert losses == [(step.iteration, step.total, step.per_layer) for step in alone.losses]


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("lbfgs", 1.0), ("adam", 0.02), ("spectral_lbfgs", 1.0)]
)
@pytest.mark.parametrize("iterations", [1, 7, 12])
def test_progress_increases_up_to_its_total(optimizer: str, lr: float, iterations: int) -> None:
    told: list[Progress] = []
    settings = options(optimizer=optimizer, lr=lr, iterations=iterations)
    contents, styles = {"a": _pixels(1), "b": _pixels(2)}, {"c": _pixels(3), "d": _pixels(4)}
    list(stylize(settings, contents, styles, (), WEIGHTS, CPU, told.append))
    done = [progress.done for progress in told]
    assert done == sorted(done)
    assert done[0] == 1
    assert done[-1] == 4 * iterations
    assert {progress.total for progress in told} == {4 * iterations}


def test_pairing_cycle_uses_styles_in_turn() -> None:
    contents = {"ann": _pixels(1), "bob": _pixels(2), "cec": _pixels(5)}
    styles = {"waves": _pixels(3), "stars": _pixels(4)}
    paintings = list(stylize(options(pairing="cycle"), contents, styles, (), WEIGHTS, CPU))
    assert [painting.name for painting in paintings] == ["ann-waves", "bob-stars", "cec-waves"]
    assert [painting.style is styles[painting.name[4:]] for painting in paintings] == [True] * 3


def test_style_weights_mix_all_styles() -> None:
    contents = {"ann": _pixels(1)}
    styles = {"waves": _pixels(3), "stars": _pixels(4, height=16)}
    mixed = [
        list(
            stylize(
                options(styles=["a", "b"], style_weights=weights),
                contents,
                styles,
                (),
                WEIGHTS,
                CPU,
            )
        )
        for weights in ([1.0, 0.0], [1.0, 1.0], [2.0, 2.0])
    ]
    assert [[painting.name for painting in one] for one in mixed] == [["ann-waves+stars"]] * 3
    first, second, third = (one[0].pixels for one in mixed)
    assert not np.array_equal(first, second)
    assert np.array_equal(second, third), "only the weights' proportion counts"
    assert mixed[0][0].style.shape == (16, 16 + 8, 3)


def test_masks_are_resized_and_limit_changes() -> None:
    content = _pixels(1, 32, 32)
    mask = np.zeros((8, 8, 3), np.uint8)
    mask[:, :2] = 255
    (painting,) = stylize(options(), {"ann": content}, {"waves": _pixels(3)}, (mask,), WEIGHTS, CPU)
    assert np.array_equal(painting.pixels[:, 12:], content[:, 12:])
    assert not np.array_equal(painting.pixels[:, :6], content[:, :6])


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((48, 64), True), ((480, 640), True), ((6, 8), True), ((24, 33), True), ((64, 48), False),
     ((64, 64), False), ((48, 60), False)],
)  # fmt: skip
def test_mask_of_other_aspect_ratio_is_rejected(shape: tuple[int, int], fits: bool) -> None:
    contents, styles = {"ann": _pixels(1, 48, 64)}, {"waves": _pixels(3)}
    masks = [np.full((*shape, 3), 255, np.uint8)]
    if fits:
        assert output_names(options(), contents, styles, masks) == [("ann", "waves")]
        return
    sentence = (
        f"mask of {shape[1]} x {shape[0]} pixels differs in aspect ratio from ann,"
        " which has 64 x 48;"
    )
    with pytest.raises(AtelierError, match=sentence):
        output_names(options(), contents, styles, masks)


def test_number_of_style_weights_must_equal_number_of_styles() -> None:
    """The word generated stands for several, which settings cannot count."""
    settings = options(styles=["generated"], style_weights=[1.0])
    styles = {"face_1": _pixels(3), "face_2": _pixels(4)}
    with pytest.raises(AtelierError, match="style_weights is a list of 1, but the number of"):
        list(stylize(settings, {"ann": _pixels(1)}, styles, (), WEIGHTS, CPU))


def test_style_scale_changes_the_result() -> None:
    contents, style = {"ann": _pixels(1)}, _pixels(3, 16, 16)
    half = list(stylize(options(style_scale=0.5), contents, {"s": style}, (), WEIGHTS, CPU))
    whole = list(stylize(options(), contents, {"s": style}, (), WEIGHTS, CPU))
    assert not np.array_equal(half[0].pixels, whole[0].pixels)


def test_error_names_the_stylized_image() -> None:
    contents, styles = {"ann": _pixels(1), "bob": _pixels(2)}, {"waves": _pixels(3)}
    settings = options(style_layers={1: 1e39})
    with pytest.raises(AtelierError, match=r"the loss of ann-waves is (nan|inf) at iteration 1;"):
        list(stylize(settings, contents, styles, (), WEIGHTS, CPU))


def test_previews_have_the_index_of_their_result() -> None:
    contents = {"ann": _pixels(1), "bob": _pixels(2)}
    styles = {"waves": _pixels(3), "stars": _pixels(4)}
    seen: list[Preview] = []
    paintings = list(
        stylize(
            options(optimizer="spectral_lbfgs"),
            contents,
            styles,
            (),
            WEIGHTS,
            CPU,
            on_preview=seen.append,
        )
    )
    assert [glimpse.image for glimpse in seen] == [0, 1, 2, 3]
    for glimpse, painting in zip(seen, paintings, strict=True):
        assert np.array_equal(to_uint8(glimpse.pixels, signed=False)[0].numpy(), painting.pixels)


def test_equal_output_names_are_rejected_before_work_starts() -> None:
    contents = {"a": _pixels(1), "a-b": _pixels(2)}
    styles = {"b-c": _pixels(3), "c": _pixels(4)}
    told: list[Progress] = []
    sentence = "named a-b-c: a in the style of b-c, and a-b in the style of c; rename one"
    with pytest.raises(AtelierError, match=sentence):
        list(stylize(options(), contents, styles, (), WEIGHTS, CPU, told.append))
    assert told == []


def test_loss_table_has_a_row_for_every_evaluation() -> None:
    header, rows = loss_table([_painting("a-c", 6.0, 1.5), _painting("b-c", 0.123456789)])
    assert header == ["painting", "iteration", "loss", "style_1", "content_3"]
    assert rows == [
        ["a-c", 1, "6", "2", "0.5"],
        ["a-c", 2, "1.5", "0.5", "0.5"],
        ["b-c", 1, "0.123457", "0.0411523", "0.5"],
    ]


def test_summary_averages_first_and_last_losses() -> None:
    found = summary([_painting("a-c", 6.0, 3.0, 1.0), _painting("b-c", 4.0, 2.0)])
    assert list(found.values()) == [2, 5.0, 1.5]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("scale", "weights"), [(1.0, []), (0.37, []), (1.5, [1.0, 1.0])])
def test_suggested_size_is_the_largest_that_fits(
    precision: str, scale: float, weights: list[float]
) -> None:
    """For all pictures, with the styles that are held beside them; and it is the largest."""
    changes = {"style_layers": {1: 1.0, 20: 1.0}, "style_scale": scale, "style_weights": weights}
    changes |= {"memory_gb": 4.0, "optimizer": "spectral_lbfgs", "precision": precision}
    given = [(3001, 4003), (16, 1999), (2000, 2000)], [(777, 2345), (3000, 1000)]
    contents, styles = ({str(s): np.broadcast_to(_pixels(1)[:1, :1], (*s, 3)) for s in shapes}
                        for shapes in given)  # fmt: skip

    def check(size: int) -> None:
        settings = options(**changes, styles=["a", "b"], image_size=size)
        check_memory(settings, contents, styles, (), CPU)
        vgg = cast_vgg(build_vgg19("random", "average", 1, 20), settings, CPU)
        looks = [
            resize_to_tensor(style, max(1, round(size * scale))).shape[2:]
            for style in styles.values()
        ]
        for shape in given[0]:
            for look in [looks] if weights else [[one] for one in looks]:
                tile_size_for_memory(*scaled_shape(shape, size), settings, vgg, look)

    with pytest.raises(AtelierError, match=r"\(4\); lower stylize.image_size to") as told:
        check(2500)
    advised = int(str(told.value).split("image_size to ")[1].split(",")[0])
    check(advised)
    with pytest.raises(AtelierError, match=f"lower stylize.image_size to {advised},"):
        check(advised + 1)


def test_too_large_content_is_rejected_before_work_starts() -> None:
    told: list[Progress] = []
    contents = {"ann": _pixels(1), "long": _pixels(2, 1, 1000)}
    given = (contents, {"waves": _pixels(3)}, (), WEIGHTS, CPU, told.append)
    with pytest.raises(AtelierError, match="a stylized image of 32000 x 32 pixels needs more"):
        next(stylize(options(memory_gb=0.02), *given))
    assert told == []
