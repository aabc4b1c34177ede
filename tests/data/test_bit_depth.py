"""Conversion of 16 bits per channel to 8 bits, with rounding and for all used depths."""

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atelier.data.color_managed import load_source_image
from atelier.data.image_file import UnreadableError, read_image

from ..support.image_files import chunk, png, saved

# Every 8-bit level, and the values at which rounding changes.
GRAY = np.concatenate([257 * np.arange(256), 257 * np.arange(255) + 128, [65_535]])
GRAY = np.append(GRAY, 257 * np.arange(255) + 129).astype(np.uint16).reshape(1, -1)
RGB = np.random.default_rng(1).integers(0, 65_536, (30, 40, 3), np.uint16)
RGB[0, 0] = 65_535


def rounded(values: np.ndarray, white: int = 65_535) -> np.ndarray:
    return np.floor(values.astype(float) * 255 / white + 0.5).astype(np.uint8)


def tiff(values: np.ndarray, order: str = "<", packed: bytes = b"", **tags: Any) -> bytes:
    """Encode uint16 [H, W, C] as an uncompressed TIFF of this byte order."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    data = packed or values.astype(f"{order}u2").tobytes()
    entries = {
        256: [width],
        257: [height],
        258: [16] * channels,
        259: [1],
        273: [8],
        262: [{1: 1, 3: 2, 4: 2}[channels]],
        277: [channels],
        278: [height],
        279: [len(data)],
    }
    if channels == 4:
        entries[338] = [2]
    entries |= {int(tag[1:]): value for tag, value in tags.items()}
    extra, directory = b"", struct.pack(f"{order}H", len(entries))
    extra_offset = 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, numbers in sorted(entries.items()):
        wide = tag in (273, 279)
        content = struct.pack(f"{order}{len(numbers)}{'I' if wide else 'H'}", *numbers)
        if len(content) > 4:
            offset, extra = extra_offset + len(extra), extra + content
            content = struct.pack(f"{order}I", offset)
        kind = 4 if wide else 3
        directory += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + content.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8 + len(data)) + data + directory + bytes(4) + extra


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_gray_is_rounded(tmp_path: Path, kind: str) -> None:
    data = saved(Image.fromarray(GRAY), kind)
    assert np.array_equal(read_image(data, "grey", 1)[:, :, 0], rounded(GRAY))
    (tmp_path / "image").write_bytes(data)
    pixels = load_source_image(tmp_path / "image", 1).pixels
    assert np.array_equal(pixels, np.repeat(rounded(GRAY)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_gray_tiff_of_both_byte_orders_is_rounded(order: str, compression: str | None) -> None:
    data = tiff(GRAY, order)
    if compression:
        with Image.open(io.BytesIO(data)) as image:
            data = saved(image, "TIFF", compression=compression)
    assert np.array_equal(read_image(data, "grey", 1)[:, :, 0], rounded(GRAY))


def test_white_is_zero_tiff_is_inverted() -> None:
    data = tiff(GRAY, t262=[0])
    assert np.array_equal(read_image(data, "grey", 1)[:, :, 0], 255 - rounded(GRAY))


@pytest.mark.parametrize("make", [png, tiff, lambda values: tiff(values, ">")])
def test_colors_are_rounded(tmp_path: Path, make: Any) -> None:
    data = make(RGB)
    assert np.array_equal(read_image(data, "rgb", 1), rounded(RGB))
    (tmp_path / "image").write_bytes(data)
    assert np.array_equal(load_source_image(tmp_path / "image", 1).pixels, rounded(RGB))


@pytest.mark.parametrize("make", [png, tiff, lambda values: tiff(values, ">")])
def test_transparent_colors_are_rounded(tmp_path: Path, make: Any) -> None:
    alpha = np.random.default_rng(2).integers(200, 65_536, RGB.shape[:2], np.uint16)
    alpha[0, 0] = 65_535
    (tmp_path / "image").write_bytes(make(np.dstack([RGB, alpha])))
    original = load_source_image(tmp_path / "image", 1)
    visible = rounded(alpha) > 0
    assert np.array_equal(original.pixels[visible], rounded(RGB)[visible])
    assert np.array_equal(original.alpha, rounded(alpha))


def test_transparent_gray_png_is_rounded(tmp_path: Path) -> None:
    alpha = np.full_like(GRAY, 30_000)
    (tmp_path / "image.png").write_bytes(png(np.dstack([GRAY, alpha])))
    original = load_source_image(tmp_path / "image.png", 1)
    assert np.array_equal(original.pixels[:, :, 1], rounded(GRAY))
    assert np.array_equal(original.alpha, rounded(alpha))


def test_only_the_transparent_color_is_transparent(tmp_path: Path) -> None:
    """Other colors are opaque, even if they are the same in 8 bits."""
    values = np.array([[[0x1200, 1, 2], [0x1234, 1, 2], [0x1235, 1, 2], [65_535] * 3]], np.uint16)
    hidden = chunk(b"tRNS", struct.pack(">3H", 0x1234, 1, 2))
    (tmp_path / "image.png").write_bytes(png(values, hidden))
    original = load_source_image(tmp_path / "image.png", 1)
    assert original.alpha is not None
    assert original.alpha.tolist() == [[255, 0, 255, 255]]


def test_files_of_another_writer_are_rounded(tmp_path: Path) -> None:
    for ending, options in ((".tiff", [259, 5]), (".tiff", [259, 8]), (".png", [])):
        encoded = cv2.imencode(ending, np.ascontiguousarray(RGB[:, :, ::-1]), options)[1]
        assert np.array_equal(read_image(encoded.tobytes(), "rgb", 1), rounded(RGB))
        (tmp_path / "image").write_bytes(encoded.tobytes())
        assert np.array_equal(load_source_image(tmp_path / "image", 1).pixels, rounded(RGB))


@pytest.mark.parametrize("order", ["<", ">"])
def test_separate_tiff_planes_are_rounded(order: str) -> None:
    planes = RGB.transpose(2, 0, 1).astype(f"{order}u2").tobytes()
    size = len(planes) // 3
    starts = [8, 8 + size, 8 + 2 * size]
    data = tiff(RGB, order, planes, t284=[2], t273=starts, t279=[size] * 3)
    assert np.array_equal(read_image(data, "rgb", 1), rounded(RGB))


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("make", [png, tiff])
def test_unused_bits_are_ignored(make: Any, bits: int) -> None:
    white = 2**bits - 1
    ramp = np.linspace(0, white, 300).round().astype(np.uint16).reshape(10, 30)
    assert np.array_equal(read_image(make(ramp), "grey", 1)[:, :, 0], rounded(ramp, white))
    colors = np.dstack([ramp, ramp[::-1], ramp[:, ::-1]])
    assert np.array_equal(read_image(make(colors), "rgb", 1), rounded(colors, white))


def test_alpha_is_not_scaled_with_the_colors(tmp_path: Path) -> None:
    dark = np.full((4, 4, 3), 2000, np.uint16)
    dark[0, 0] = 4095
    half = np.full((4, 4), 32_768, np.uint16)
    (tmp_path / "image.png").write_bytes(png(np.dstack([dark, half])))
    original = load_source_image(tmp_path / "image.png", 1)
    assert np.array_equal(original.pixels, rounded(dark, 4095))
    assert original.alpha is not None
    assert (original.alpha == 128).all()


@given(st.integers(0, 255))
def test_dark_images_scaled_from_8_bits_stay_dark(level: int) -> None:
    flat = np.full((3, 3), 257 * level, np.uint16)
    assert (read_image(png(flat), "grey", 1) == level).all()
    assert (read_image(png(np.dstack([flat] * 3)), "rgb", 1) == level).all()


def test_stated_depth_of_a_tiff_is_used() -> None:
    """Test 12 bits per channel, with two pixels in three bytes."""
    values = np.array([[0, 100, 900, 500]], np.uint16)
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).tolist()
    )
    data = tiff(values, packed=packed, t258=[12])
    assert np.array_equal(read_image(data, "grey", 1)[:, :, 0], rounded(values, 4095))


@pytest.mark.parametrize(
    ("value", "white", "level"),
    [(1000, 4095, 62), (250, 1023, 62), (1000, 65_535, 4), (4095, 4095, 255), (100, 257, 99)],
)
@pytest.mark.parametrize("kind", ["P2", "P5"])
def test_pgm_maximum_is_white(kind: str, value: int, white: int, level: int) -> None:
    pixels = struct.pack(">4H", *[value] * 4) if kind == "P5" else f"{value} ".encode() * 4
    read = read_image(f"{kind} 2 2 {white}\n".encode() + pixels, "grey", 1)
    assert read.ravel().tolist() == [level] * 4


@pytest.mark.parametrize("values", [[0, 1], [0, 255], [1000, 65_535], [0, 2**31 - 1], [-1, 5]])
def test_32_bit_integers_are_rejected(values: list[int]) -> None:
    with pytest.raises(UnreadableError, match="32 bits"):
        read_image(saved(Image.fromarray(np.array([values], np.int32)), "TIFF"), "grey", 1)


def test_32_bit_floats_are_rejected() -> None:
    with pytest.raises(UnreadableError, match="32 bits"):
        read_image(saved(Image.fromarray(np.zeros((3, 3), np.float32)), "TIFF"), "grey", 1)


def test_large_image_is_scaled_in_bands() -> None:
    values = np.arange(1500, dtype=np.uint16)[:, None] * np.ones((1, 1001), np.uint16) * 43
    assert np.array_equal(read_image(png(values), "grey", 2)[:, :, 0], rounded(values))
