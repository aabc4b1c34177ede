"""Sheets, films and curves of paintings."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atelier.figures.captions import BACKGROUND
from atelier.figures.contact_sheet import contact_sheet, resize_to_fit
from atelier.figures.style_figures import save_gif, save_style_figures, square_thumbnails

HEADINGS = ("content", "style", "painting")


def _flat(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def _place(page: np.ndarray, level: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the pixels of one level."""
    found = np.argwhere((page == level).all(axis=2))
    (top, left), (bottom, right) = found.min(0), found.max(0) + 1
    return int(top), int(bottom), int(left), int(right)


sides = st.integers(1, 900)


@given(st.lists(st.tuples(sides, sides), min_size=3, max_size=3))
def test_pictures_keep_their_shapes_and_stand_in_columns_with_room_between(
    shapes: list[tuple[int, int]],
) -> None:
    levels = (10, 130, 210)
    images = [_flat(*shape, level) for shape, level in zip(shapes, levels, strict=True)]
    page = contact_sheet(HEADINGS, [[(image, "name") for image in images]])
    assert page.dtype == np.uint8
    end = 0
    for image, level in zip(images, levels, strict=True):
        top, bottom, left, right = _place(page, level)
        height, width = bottom - top, right - left
        assert 256 <= max(height, width) <= 512
        shape = max(1, round(min(image.shape[:2]) * max(height, width) / max(image.shape[:2])))
        assert min(height, width) == shape
        assert left >= end + 16
        end = right
    assert page.shape[1] >= end + 16


def test_a_sheet_has_headings_and_a_caption_under_every_picture() -> None:
    page = contact_sheet(HEADINGS, [[(_flat(300, 300, 90), "name")] * 3] * 2)
    inked = (page < 100).all(axis=2) & (page != 90).all(axis=2)
    rows = np.flatnonzero(inked.any(axis=1))
    lines = np.split(rows, np.flatnonzero(np.diff(rows) > 4) + 1)
    assert len(lines) == 3, "headings, and captions of two rows"
    for line in lines:
        across = np.flatnonzero(inked[line[0] : line[-1] + 1].any(axis=0))
        assert [bool(((across >= k * 316 + 16) & (across < k * 316 + 316)).any()) for k in range(3)]


def test_small_faces_are_enlarged_smoothly() -> None:
    step = _flat(8, 8, 0)
    step[:, 4:] = 200
    assert len(np.unique(resize_to_fit(step, 256)[128, :, 0])) > 20, "blocks would have two levels"


def test_a_film_has_every_picture_at_the_paintings_shape(tmp_path: Path) -> None:
    way = [_flat(20, 30, 0), _flat(40, 60, 100), _flat(80, 120, 200)]
    save_gif(way, tmp_path / "way.gif")
    with Image.open(tmp_path / "way.gif") as gif:
        assert gif.n_frames == 3
        assert gif.size == (120, 80)
        levels = []
        for number in range(3):
            gif.seek(number)
            levels.append(int(np.asarray(gif.convert("RGB"))[40, 60, 0]))
        assert gif.info["duration"] > 2000, "the painting stays a while"
    assert levels == pytest.approx([0, 100, 200], abs=3)


@pytest.mark.parametrize(("frames", "seconds"), [(2, 3.0), (5, 3.0), (36, 3.0), (60, 5.0)])
def test_a_way_of_few_frames_is_shown_no_shorter(
    tmp_path: Path, frames: int, seconds: float
) -> None:
    save_gif([_flat(4, 4, level) for level in range(frames)], tmp_path / "way.gif")
    with Image.open(tmp_path / "way.gif") as gif:
        shown = []
        for number in range(frames):
            gif.seek(number)
            shown.append(gif.info["duration"] / 1000)
    assert sum(shown) == pytest.approx(seconds + 2, abs=0.02), "the painting stays 2 s longer"


def test_a_large_film_is_made_smaller(tmp_path: Path) -> None:
    save_gif([_flat(60, 2000, 7)], tmp_path / "way.gif")
    with Image.open(tmp_path / "way.gif") as gif:
        assert gif.size == (512, 15)


def test_pictures_of_all_shapes_become_squares_on_paper() -> None:
    made = square_thumbnails([_flat(10, 20, 5), _flat(40, 40, 9)])
    assert made.shape == (2, 40, 40, 3)
    assert (made[0, 10:30] == 5).all()
    assert (made[0, :10] == BACKGROUND).all()
    assert (made[1] == 9).all()


def test_everything_is_written_beside_the_paintings(tmp_path: Path) -> None:
    row = ((_flat(8, 8, 1), "ann"), (_flat(8, 8, 2), "waves"), (_flat(16, 16, 3), "ann-waves"))
    way = {3: _flat(16, 16, 2), 6: _flat(16, 16, 3)}
    losses = (np.array([1.0, 2.0]), {"loss": np.array([3.0, 1.0]), "content 3": np.zeros(2)})
    save_style_figures([row], [way], losses, True, tmp_path)
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()) == [
        "ann-waves.gif",
        "losses.png",
        "sheet.png",
        "steps/ann-waves/iteration_00003.png",
        "steps/ann-waves/iteration_00006.png",
    ]
    save_style_figures([row], [{}], losses, False, tmp_path / "less")
    assert sorted(f.name for f in (tmp_path / "less").iterdir()) == ["losses.png", "sheet.png"]
