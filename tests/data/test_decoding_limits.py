"""Limits of JPEG decoding: size and number of scans."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.core.download_settings import DownloadSettings
from atelier.core.settings import ConvertSettings
from atelier.data.convert import convert
from atelier.data.dataset import load_images
from atelier.data.image_file import UnreadableError, decode
from atelier.data.sources.download import download

_SCAN = b"\xff\xda"


def _jpeg() -> bytes:
    stream = BytesIO()
    Image.new("RGB", (16, 16), (200, 100, 50)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _accepted(data: bytes) -> bool:
    try:
        decode(data, "rgb", 10)
    except UnreadableError as error:
        assert "scans" in str(error)
        return False
    return True


@pytest.mark.parametrize(("size", "most"), [(2**14 - 1, 500), (2**14, 501), (5 * 2**14, 505)])
def test_jpeg_scan_limit_is_500_plus_one_per_16_kib(size: int, most: int) -> None:
    """Scan markers after the image count too, because only a decoder could distinguish them."""
    image = _jpeg()
    for scans in (most, most + 1):
        data = image + _SCAN * (scans - image.count(_SCAN))
        data += bytes(size - len(data))
        assert (len(data), data.count(_SCAN)) == (size, scans)
        assert _accepted(data) == (scans == most)


def test_scan_marker_across_two_blocks_is_counted() -> None:
    image = _jpeg()
    padded = image + bytes(2**16 - 1 - len(image))
    marks = _SCAN * (504 - image.count(_SCAN))
    assert _accepted(padded + marks)
    assert not _accepted(padded + marks + _SCAN)


def test_jpeg_is_decoded_at_twice_the_final_size(
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
) -> None:
    """Decoding at the final size would average squares, which is less sharp."""
    coarse = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    image = Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC)
    folder = tmp_path / "pictures"
    folder.mkdir()
    image.save(folder / "a.jpg", quality=100, subsampling=0)
    Image.open(folder / "a.jpg").save(folder / "b.png")
    download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "scratch")
    convert(conversion(image_size=16), tmp_path / "raw", tmp_path / "images.npz")
    reduced, full = load_images(tmp_path / "images.npz").pixels.astype(float)
    assert np.sqrt(np.mean((reduced - full) ** 2)) < 4
