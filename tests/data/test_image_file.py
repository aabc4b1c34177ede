"""Decoding of image files: color models, orientations, limits and damage."""

import io
import os
import socket
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atelier.data.formats.avif import coded_sizes
from atelier.data.formats.jpeg import count_scans
from atelier.data.image_file import UnreadableError, read_image, silence_pillow

from ..support.image_files import saved
from ..support.images import stored_pixels

RGB = np.random.default_rng(5).integers(0, 256, (6, 9, 3), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "TGA", "PCX"])
def test_lossless_formats_are_decoded_exactly(tmp_path: Path, kind: str) -> None:
    data = saved(Image.fromarray(RGB), kind)
    (tmp_path / "image").write_bytes(data)
    assert np.array_equal(read_image(data, "rgb", 1), RGB)
    assert np.array_equal(read_image(tmp_path / "image", "rgb", 1), RGB)


def test_gray_is_luma() -> None:
    luma = np.rint(RGB @ [0.299, 0.587, 0.114])
    gray = read_image(saved(Image.fromarray(RGB)), "grey", 1)
    assert gray.shape == (6, 9, 1)
    assert np.abs(gray[:, :, 0] - luma).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(stored_pixels(RGB, orientation))
    assert np.array_equal(read_image(saved(stored, exif=exif), "rgb", 1), RGB)


def test_damaged_exif_is_ignored() -> None:
    data = saved(Image.fromarray(RGB), exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert np.array_equal(read_image(data, "rgb", 1), RGB)


def test_transparency_is_composited_on_white() -> None:
    alpha = np.zeros((6, 9), np.uint8)
    alpha[:, 4:] = 255
    read = read_image(saved(Image.fromarray(np.dstack([RGB, alpha]))), "rgb", 1)
    assert np.array_equal(read[:, 4:], RGB[:, 4:])
    assert (read[:, :4] == 255).all()


def test_transparent_palette_and_gray_are_composited_on_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert read_image(saved(palette, transparency=1), "rgb", 1).min() == 255
    assert tuple(read_image(saved(palette, transparency=0), "rgb", 1)[0, 0]) == (0, 0, 255)
    assert read_image(saved(Image.new("LA", (4, 4), (0, 0))), "grey", 1).min() == 255
    assert read_image(saved(Image.new("L", (4, 4), 9), transparency=9), "rgb", 1).min() == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_become_eight(kind: str) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    read = read_image(saved(Image.fromarray(values), kind), "grey", 1)
    assert read[0, :, 0].tolist() == [0, 1, 128, 255]


def test_black_and_white_and_cmyk_are_converted() -> None:
    bits = Image.fromarray(RGB[:, :, 0] > 127)
    assert np.array_equal(read_image(saved(bits), "grey", 1)[:, :, 0], 255 * (RGB[:, :, 0] > 127))
    flat = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    read = read_image(saved(flat, "JPEG", quality=95), "rgb", 1)
    assert np.abs(read.astype(int) - [200, 40, 90]).max() <= 4


def test_first_frame_of_animation_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert tuple(read_image(data, "rgb", 1)[0, 0]) == (255, 0, 0)


@pytest.mark.parametrize(
    ("at_least", "shape"), [(100, (100, 150)), (101, (200, 300)), (500, (400, 600))]
)
def test_jpeg_is_decoded_at_the_smallest_sufficient_size(at_least: int, shape: Any) -> None:
    smooth = np.linspace(0, 255, 600)[None, :, None] * np.ones((400, 1, 3))
    data = saved(Image.fromarray(smooth.astype(np.uint8)), "JPEG")
    read = read_image(data, "rgb", 1, at_least)
    assert read.shape[:2] == shape
    expected = np.asarray(Image.open(io.BytesIO(data)).resize(shape[::-1], Image.Resampling.BOX))
    assert np.abs(read.astype(int) - expected).mean() < 2


def test_large_jpeg_equals_pillow(image_bytes: Callable[..., bytes]) -> None:
    data = image_bytes(700, 600, "JPEG")
    assert len(data) > 2**17
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (350, 300))
        assert np.array_equal(read_image(data, "rgb", 1, 300), np.asarray(image))


@given(st.lists(st.sampled_from([b"\xff", b"\xda", b"\xff\xda", bytes(65_533)]), max_size=12))
def test_scans_are_counted_across_blocks(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert count_scans(data) == data.count(b"\xff\xda")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"<!DOCTYPE html><p>404", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"%PDF-1.4\n", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not an image"),
    ],
)
def test_non_images_are_rejected_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=f"^{reason}$"):
        read_image(content, "rgb", 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF"])
def test_truncated_image_is_rejected(image_bytes: Callable[..., bytes], kind: str) -> None:
    data = image_bytes(200, 200, kind)
    with pytest.raises(UnreadableError, match=r"truncated|damaged|not an image"):
        read_image(data[: len(data) // 2], "rgb", 1)


def bomb(side: int) -> bytes:
    """Return a PNG of a few bytes that claims side × side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks
    )


@pytest.mark.parametrize(
    ("side", "reason"),
    [(2_000, "4.0 megapixels, the limit is 3"), (10_000, "100.0 megapixels, the limit is 3"),
     (60_000, "more megapixels than Pillow opens")],
)  # fmt: skip
def test_pixel_bomb_is_rejected_before_decoding(side: int, reason: str) -> None:
    with silence_pillow(), pytest.raises(UnreadableError, match=reason):
        read_image(bomb(side), "rgb", 3)


def test_pillow_warnings_are_silenced() -> None:
    with warnings.catch_warnings(), pytest.raises(UnreadableError, match="megapixels"):
        warnings.simplefilter("error")
        read_image(bomb(10_000), "rgb", 200)


def test_missing_file_is_not_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "absent.png", "rgb", 1)


JPEG = saved(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)), "JPEG"
)
START = len(JPEG) // 8


@given(st.binary(min_size=1, max_size=30), st.integers(0, len(JPEG) - 1))
def test_damaged_jpeg_gives_image_or_reason(noise: bytes, offset: int) -> None:
    damaged = JPEG[:offset] + noise + JPEG[offset + len(noise) :]
    with silence_pillow():
        try:
            read = read_image(damaged, "rgb", 1, 8)
        except UnreadableError as error:
            assert 0 < len(str(error)) < 80
        else:
            assert read.dtype == np.uint8
            assert read.shape[2] == 3


def test_random_bytes_are_rejected() -> None:
    with pytest.raises(UnreadableError):
        read_image(os.urandom(5000), "grey", 1)


READ_WITH_LIMITED_MEMORY = """
import resource, sys
from pathlib import Path
from atelier.data.formats.avif import coded_sizes
from atelier.data.image_file import read_image

read_image(Path(sys.argv[1]), "rgb", 200, 8)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60 * 2**20, resource.RLIM_INFINITY))
try:
    read_image(Path(sys.argv[2]), "rgb", 200, 8)
except MemoryError:
    print("no memory")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited on Linux only")
def test_memory_error_is_not_unreadable(tmp_path: Path) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "small.png")
    Image.new("L", (10_000, 10_000)).save(tmp_path / "large.png", compress_level=1)
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            READ_WITH_LIMITED_MEMORY,
            tmp_path / "small.png",
            tmp_path / "large.png",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    assert result.stdout == b"no memory\n"


def with_claimed_size(data: bytes, width: int, height: int) -> bytes:
    """Return an AVIF whose container claims another size for all its images."""
    start = data.index(b"ispe") + 8
    changed = bytearray(data)
    while start > 7:
        changed[start : start + 8] = struct.pack(">II", width, height)
        start = data.find(b"ispe", start) + 8
    return bytes(changed)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_coded_size_of_an_avif_is_limited(mode: str) -> None:
    large = saved(Image.new(mode, (1200, 1000)), "AVIF", speed=10)
    with pytest.raises(UnreadableError, match=r"1\.2 megapixels, the limit is 1"):
        read_image(with_claimed_size(large, 16, 16), "rgb", 1)
    assert read_image(large, "rgb", 2).shape == (1000, 1200, 3)
    with pytest.raises(UnreadableError, match="claims another size"):
        read_image(with_claimed_size(large, 16, 16), "rgb", 2)
    small = saved(Image.new(mode, (16, 16)), "AVIF", speed=10)
    with pytest.raises(UnreadableError, match="claims another size"):
        read_image(with_claimed_size(small, 900, 900), "rgb", 1)


def test_avif_with_a_larger_alpha_layer_is_rejected() -> None:
    data = saved(Image.new("RGBA", (16, 16), (0, 0, 0, 9)), "AVIF", speed=10)
    large = saved(Image.new("RGBA", (1200, 1000), (0, 0, 0, 9)), "AVIF", speed=10)
    # The layer itself claims the size of the small image.
    first = large.index(b"ispe") + 8
    mixed = large[:first] + data[data.index(b"ispe") + 8 :][:8] + large[first + 8 :]
    with pytest.raises(UnreadableError):
        read_image(mixed, "rgb", 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_first_frame_of_an_animated_avif_is_read(mode: str) -> None:
    frames = [Image.new(mode, (40, 30), color) for color in ("red", "blue", "blue")]
    data = saved(frames[0], "AVIF", speed=10, save_all=True, append_images=frames[1:])
    read = read_image(data, "rgb", 1)
    assert read.shape == (30, 40, 3)
    assert read[..., 0].min() > 200
    large = [Image.new(mode, (1200, 1000), color) for color in ("red", "blue")]
    data = saved(large[0], "AVIF", speed=10, save_all=True, append_images=large[1:])
    with pytest.raises(UnreadableError, match=r"1\.2 megapixels"):
        read_image(data, "rgb", 1)


def locations(count: int, extents: int) -> bytes:
    """Return an iloc box of items that contain the whole file several times."""
    item = struct.pack(">HHH", 1, 0, extents) + bytes(8 * extents)
    content = bytes([0, 0, 0, 0, 0x44, 0x00]) + struct.pack(">H", count) + item * count
    return struct.pack(">I4s", 8 + len(content), b"iloc") + content


def test_avif_locations_outside_meta_are_ignored() -> None:
    data = saved(Image.new("RGB", (16, 16)), "AVIF", speed=10)
    padded = data + locations(1, 19_000) + struct.pack(">I4s", 2**20, b"free") + bytes(2**20 - 8)
    tracemalloc.start()
    try:
        assert coded_sizes(padded) == coded_sizes(data)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(padded)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("count", "extents"), [(1, 19_000), (1, 2), (6000, 2)])
def test_avif_with_items_longer_than_the_file_is_rejected(count: int, extents: int) -> None:
    data = saved(Image.new("RGB", (16, 16)), "AVIF", speed=10)
    offset = data.index(b"iloc") - 4
    (length,) = struct.unpack_from(">I", data, offset)
    new = locations(count, extents)
    start = data.index(b"meta") - 4
    (meta,) = struct.unpack_from(">I", data, start)
    changed = bytearray(data[:offset] + new + data[offset + length :])
    struct.pack_into(">I", changed, start, meta + len(new) - length)
    with pytest.raises(ValueError, match="longer than the file"):
        coded_sizes(bytes(changed))
    doubled = bytearray(data[: offset + length] + data[offset:])
    struct.pack_into(">I", doubled, start, meta + length)
    with pytest.raises(ValueError, match="more than one iloc"):
        coded_sizes(bytes(doubled))


AVIF = saved(Image.fromarray(RGB).resize((40, 30)).convert("RGBA"), "AVIF", speed=10)


@given(st.integers(0, len(AVIF) - 1), st.integers(0, 255), st.integers(0, len(AVIF)))
def test_damaged_avif_gives_image_or_reason(position: int, value: int, end: int) -> None:
    data = bytearray(AVIF)
    data[position] = value
    for damaged in (bytes(data), AVIF[:end]):
        try:
            sizes = coded_sizes(damaged)[1]
        except ValueError:
            sizes = []
        try:
            assert read_image(damaged, "rgb", 1).shape[:2][::-1] in [*sizes, (30, 40)]
        except UnreadableError as error:
            assert 0 < len(str(error)) < 80


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "empty", "huge", "proc"])
def test_special_files_are_rejected_without_blocking(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "p"
    reasons = {
        "pipe": "it is a pipe, not a regular file",
        "socket": "it is a socket",
        "device": "it is a device",
        "folder": "it is a folder",
        "empty": "it is empty",
        "huge": "the limit is 1,024",
        "proc": "it is empty",
    }
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind in ("device", "proc"):
        path.symlink_to("/dev/zero" if kind == "device" else "/proc/self/pagemap")
    else:
        path.touch()
        os.truncate(path, 2**40 if kind == "huge" else 0)
    with pytest.raises(UnreadableError, match=reasons[kind]):
        read_image(path, "rgb", 1)
