"""Reduced decoding of JPEGs: positions and pixels equal those of full decoding."""

import runpy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from atelier.core.settings import ConvertSettings
from atelier.data.image_file import decode
from atelier.data.rows import convert_file, resize

from ..support.image_files import saved
from ..support.images import stored_pixels

SIZE = 32
Mode = Literal["crop", "stretch", "pad"]
MODES: tuple[Mode, ...] = ("crop", "stretch", "pad")


def jpeg(upright: np.ndarray, orientation: int = 1, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(stored_pixels(upright, orientation))
    return saved(stored, "JPEG", quality=95, exif=exif, **options)


def blob(width: int, height: int, x: float, y: float) -> np.ndarray:
    """Draw a white spot with its center at x, y on black."""
    square = np.square(np.arange(width) + 0.5 - x) + np.square(np.arange(height) + 0.5 - y)[:, None]
    light = 255 * np.exp(-square / (2 * 24**2))
    return np.repeat(light.round().astype(np.uint8)[:, :, None], 3, axis=2)


def center(row: np.ndarray) -> tuple[float, float]:
    weights = row[:, :, 0].astype(float)
    positions = np.arange(SIZE) + 0.5
    return (
        float((weights.sum(axis=0) * positions).sum() / weights.sum()),
        float((weights.sum(axis=1) * positions).sum() / weights.sum()),
    )


def expected(mode: Mode, width: int, height: int, x: float, y: float) -> tuple[float, float]:
    if mode == "stretch":
        return x * SIZE / width, y * SIZE / height
    if mode == "crop":
        side = min(width, height)
        return (
            (x - (width - side) // 2) * SIZE / side,
            (y - (height - side) // 2) * SIZE / side,
        )
    inner = [round(side * SIZE / max(width, height)) for side in (width, height)]
    left, top = ((SIZE - side) // 2 for side in inner)
    return left + x * inner[0] / width, top + y * inner[1] / height


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", MODES)
def test_blob_has_its_exact_position(mode: Mode, orientation: int) -> None:
    for width, height in ((514, 514), (601, 514)):
        x, y = width - 160.0, height - 110.0
        data = jpeg(blob(width, height, x, y), orientation)
        assert decode(data, "rgb", 1, 2 * SIZE).reduction == 8
        row = resize(decode(data, "rgb", 1, 2 * SIZE), SIZE, mode)
        assert center(row) == pytest.approx(expected(mode, width, height, x, y), abs=0.03)


def test_converted_rows_have_exact_positions() -> None:
    settings = ConvertSettings(
        image_size=SIZE,
        color="rgb",
        resize_mode="stretch",
        max_megapixels=1,
        validation_fraction=0.0,
        test_fraction=0.0,
    )
    name_and_file = ("a.jpg", jpeg(blob(514, 514, 380, 400)))
    row = convert_file(settings, name_and_file).rows[0].pixels
    assert center(row) == pytest.approx(expected("stretch", 514, 514, 380, 400), abs=0.03)


def test_reduced_image_has_its_full_size() -> None:
    data = jpeg(blob(515, 771, 100, 100), 6)
    decoded = decode(data, "rgb", 1, 64)
    assert decoded.image.size == (65, 97)
    assert decoded.size == (515, 771)
    # The stored image is transposed, so that its rounded sides are at other edges.
    assert decoded.box == (65 - 64.375, 0, 65, 96.375)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(129, 420),
    st.integers(129, 420),
    st.integers(1, 8),
    st.sampled_from(MODES),
    st.sampled_from([0, 1, 2, "4:1:1"]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_rows_of_reduced_and_full_decoding_are_similar(
    width: int,
    height: int,
    orientation: int,
    mode: Mode,
    sampling: Any,
    progressive: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    cells = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    upright = np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC))
    data = jpeg(upright, orientation, subsampling=sampling, progressive=progressive)
    reduced = resize(decode(data, "rgb", 1, 2 * SIZE), SIZE, mode).astype(float)
    full = resize(decode(data, "rgb", 1), SIZE, mode).astype(float)
    error = np.square(reduced - full).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 40


def test_benchmark_measures_the_accuracy() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "decoding.py"
    benchmark = runpy.run_path(str(path))
    cases = [benchmark["encode"](index, 90) for index in (4, 18)]
    result = benchmark["measure"](cases, 16)
    assert result["cases"] == 2
    assert 40 < result["lowest"] < benchmark["MAX_PSNR"]
