"""Contact sheets, GIFs and loss curves of stylized images."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atelier.figures.captions import BACKGROUND
from atelier.figures.contact_sheet import contact_sheet, resize_to_fit
from atelier.figures.style_figures import (
    save_gif,
    save_sources,
    save_style_figures,
    square_thumbnails,
)

from ..support.arrays import uniform_image

HEADINGS = ("content", "style", "painting")


def _bounding_box(page: np.ndarray, level: int) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of the pixels of one level."""
    positions = np.argwhere((page == level).all(axis=2))
    (top, left), (bottom, right) = positions.min(0), positions.max(0) + 1
    return int(top), int(bottom), int(left), int(right)


sides = st.integers(1, 900)


@given(st.lists(st.tuples(sides, sides), min_size=3, max_size=3))
def test_images_preserve_aspect_ratios_and_are_in_separate_columns(
    shapes: list[tuple[int, int]],
) -> None:
    levels = (10, 130, 210)
    images = [uniform_image(*shape, level) for shape, level in zip(shapes, levels, strict=True)]
    page = contact_sheet(HEADINGS, [[(image, "name") for image in images]])
    assert page.dtype == np.uint8
    end = 0
    for image, level in zip(images, levels, strict=True):
        top, bottom, left, right = _bounding_box(page, level)
        height, width = bottom - top, right - left
        assert 256 <= max(height, width) <= 512
        shape = max(1, round(min(image.shape[:2]) * max(height, width) / max(image.shape[:2])))
        assert min(height, width) == shape
        assert left >= end + 16
        end = right
    assert page.shape[1] >= end + 16


def test_sheet_has_headings_and_a_caption_below_every_image() -> None:
    page = contact_sheet(HEADINGS, [[(uniform_image(300, 300, 90), "name")] * 3] * 2)
    dark = (page < 100).all(axis=2) & (page != 90).all(axis=2)
    rows = np.flatnonzero(dark.any(axis=1))
    lines = np.split(rows, np.flatnonzero(np.diff(rows) > 4) + 1)
    assert len(lines) == 3, "headings, and captions of two rows"
    for line in lines:
        columns = np.flatnonzero(dark[line[0] : line[-1] + 1].any(axis=0))
        assert [
            bool(((columns >= k * 316 + 16) & (columns < k * 316 + 316)).any()) for k in range(3)
        ]


def test_small_images_are_enlarged_smoothly() -> None:
    edge = uniform_image(8, 8, 0)
    edge[:, 4:] = 200
    assert len(np.unique(resize_to_fit(edge, 256)[128, :, 0])) > 20, (
        "nearest-neighbor enlargement gives two levels"
    )


def test_gif_has_every_intermediate_at_the_size_of_the_result(tmp_path: Path) -> None:
    intermediates = [
        uniform_image(20, 30, 0),
        uniform_image(40, 60, 100),
        uniform_image(80, 120, 200),
    ]
    save_gif(intermediates, tmp_path / "intermediates.gif")
    with Image.open(tmp_path / "intermediates.gif") as gif:
        assert gif.n_frames == 3
        assert gif.size == (120, 80)
        levels = []
        for number in range(3):
            gif.seek(number)
            levels.append(int(np.asarray(gif.convert("RGB"))[40, 60, 0]))
        assert gif.info["duration"] > 2000, "the last frame lasts longer"
    assert levels == pytest.approx([0, 100, 200], abs=3)


@pytest.mark.parametrize(("frames", "seconds"), [(2, 3.0), (5, 3.0), (36, 3.0), (60, 5.0)])
def test_gif_of_few_frames_lasts_as_long(tmp_path: Path, frames: int, seconds: float) -> None:
    save_gif(
        [uniform_image(4, 4, level) for level in range(frames)], tmp_path / "intermediates.gif"
    )
    with Image.open(tmp_path / "intermediates.gif") as gif:
        durations = []
        for number in range(frames):
            gif.seek(number)
            durations.append(gif.info["duration"] / 1000)
    assert sum(durations) == pytest.approx(seconds + 2, abs=0.02), "the last frame lasts 2 s longer"


def test_large_gif_is_shrunk(tmp_path: Path) -> None:
    save_gif([uniform_image(60, 2000, 7)], tmp_path / "intermediates.gif")
    with Image.open(tmp_path / "intermediates.gif") as gif:
        assert gif.size == (512, 15)


def test_thumbnails_are_square_with_background() -> None:
    thumbnails = square_thumbnails([uniform_image(10, 20, 5), uniform_image(40, 40, 9)])
    assert thumbnails.shape == (2, 40, 40, 3)
    assert (thumbnails[0, 10:30] == 5).all()
    assert (thumbnails[0, :10] == BACKGROUND).all()
    assert (thumbnails[1] == 9).all()


def test_all_figures_are_written_to_the_target_folder(tmp_path: Path) -> None:
    row = (
        (uniform_image(8, 8, 1), "ann"),
        (uniform_image(8, 8, 2), "waves"),
        (uniform_image(16, 16, 3), "ann-waves"),
    )
    intermediates = {3: uniform_image(16, 16, 2), 6: uniform_image(16, 16, 3)}
    losses = (np.array([1.0, 2.0]), {"loss": np.array([3.0, 1.0]), "content 3": np.zeros(2)})
    save_style_figures([row], [intermediates], losses, True, tmp_path)
    assert sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()) == [
        "ann-waves.gif",
        "losses.png",
        "sheet.png",
        "sources/content-ann.png",
        "sources/list.json",
        "sources/style-waves.png",
        "steps/ann-waves/iteration_00003.png",
        "steps/ann-waves/iteration_00006.png",
    ]
    save_style_figures([row], [{}], losses, False, tmp_path / "less")
    names = sorted(f.name for f in (tmp_path / "less").iterdir())
    assert names == ["losses.png", "sheet.png", "sources"]


def test_small_sources_of_every_stylized_image_are_listed(tmp_path: Path) -> None:
    content, wave, sky = (
        uniform_image(1200, 600, 10),
        uniform_image(40, 30, 90),
        uniform_image(9, 9, 0),
    )
    rows = [
        ((content, "me"), (style, name), (uniform_image(64, 32, 50), f"me-{name}"))
        for style, name in ((wave, "wave"), (sky, "sky"))
    ]
    save_sources(rows, tmp_path)
    sources = tmp_path / "sources"
    assert json.loads((sources / "list.json").read_text("utf-8")) == [
        {"content": "me", "style": "wave", "image": "me-wave"},
        {"content": "me", "style": "sky", "image": "me-sky"},
    ]
    sizes = {}
    for file in sources.glob("*.png"):
        with Image.open(file) as image:
            sizes[file.name] = image.size
    assert sizes == {
        "content-me.png": (256, 512),
        "style-wave.png": (30, 40),
        "style-sky.png": (9, 9),
    }
