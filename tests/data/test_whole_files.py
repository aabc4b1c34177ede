"""Files that Pillow alone rejects: long metadata, missing end markers, HEIC."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.data.color_managed import load_source_image
from atelier.data.formats.png import prepare_png
from atelier.data.image_file import UnreadableError, read_image

from ..support.icc import display_p3
from ..support.image_files import MAGIC, chunk, iccp, png, saved

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (40, 56, 3), np.uint8)
LONG = b"workflow " * 300_000
PADDED = RNG.bytes(1_300_000)
# Long or damaged metadata of an intact image.
METADATA = {
    "text": chunk(b"tEXt", b"workflow\0" + LONG),
    "compressed text": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG)),
    "international text": chunk(b"iTXt", b"workflow\0\0\0\0\0" + LONG),
    "compressed international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LONG)),
    "many texts": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(900_000))) * 80,
    "text of an unknown compression": chunk(b"zTXt", b"workflow\0\7damaged"),
    "text without a key": chunk(b"zTXt", b""),
    "damaged text": chunk(b"zTXt", b"workflow\0\0damaged"),
    "wrong checksum": chunk(b"tEXt", b"workflow\0text", 1),
    "unknown chunk with a wrong checksum": chunk(b"abCd", b"text", 1),
    "short gamma": chunk(b"gAMA", b"\0\0"),
    "short chromaticities": chunk(b"cHRM", bytes(31)),
    "short rendering intent": chunk(b"sRGB", b""),
    "short resolution": chunk(b"pHYs", bytes(5)),
    "short transparency": chunk(b"tRNS", bytes(3)),
    "profile of an unknown compression": chunk(b"iCCP", b"profile\0\7damaged"),
    "profile without a name": chunk(b"iCCP", b"damaged"),
    "damaged profile": chunk(b"iCCP", b"profile\0\0damaged"),
    "empty profile": iccp(b""),
    "large profile without colors": iccp(PADDED),
    "short codes": chunk(b"cICP", b"\1"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_never_makes_an_image_unreadable(tmp_path: Path, name: str) -> None:
    files = [png(RGB, METADATA[name])]
    if METADATA[name][4:8] not in (b"iCCP", b"tRNS"):
        files.append(png(RGB, after=METADATA[name]))
    for data in files:
        assert np.array_equal(read_image(data, "rgb", 1), RGB)
        (tmp_path / "image.png").write_bytes(data)
        assert np.array_equal(load_source_image(tmp_path / "image.png", 1).pixels, RGB)


def test_orientation_is_read_from_exif_after_long_text() -> None:
    exif = b"MM\0\x2a\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    data = png(RGB, METADATA["compressed text"] + chunk(b"eXIf", exif))
    assert np.array_equal(read_image(data, "rgb", 1), np.rot90(RGB, -1))


def test_large_profile_is_used() -> None:
    profile = display_p3() + PADDED
    padded = struct.pack(">I", len(profile)) + profile[4:]
    flat = np.full((4, 4, 3), (229, 120, 89), np.uint8)
    read = read_image(png(flat, iccp(padded)), "rgb", 1)
    assert np.abs(read.astype(int) - (246, 113, 79)).max() <= 3


def test_png_without_bad_metadata_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(png(RGB, chunk(b"tEXt", b"Software\0camera")))
    with (tmp_path / "image.png").open("rb") as stream:
        prepared, colors = prepare_png(stream)
        assert prepared is stream
        assert stream.tell() == 0
    assert colors.profile is None
    assert colors.cicp is None


def compress_with_wrong_checksum(content: bytes) -> bytes:
    packed = zlib.compress(content, 9)
    return packed[:-1] + bytes([packed[-1] ^ 1])


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_decompression_of_metadata_is_limited(
    kind: bytes, damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged metadata of a tiny image must not take seconds."""
    produced = 0
    decompressobj = zlib.decompressobj

    class CountingDecompressor:
        def __init__(self) -> None:
            self.inner = decompressobj()

        @property
        def eof(self) -> bool:
            return self.inner.eof

        def decompress(self, data: bytes, length: int) -> bytes:
            nonlocal produced
            try:
                part = self.inner.decompress(data, length)
            except zlib.error:
                produced += min(length, 1032 * len(data))  # at most
                raise
            produced += len(part)
            return part

    content = bytes(10 * 2**20 if kind == b"iCCP" else 1_000_000)
    packed = compress_with_wrong_checksum(content) if damaged else zlib.compress(content, 9)
    head = b"name\0\1\0\0\0" if kind == b"iTXt" else b"name\0\0"
    data = png(RGB, chunk(kind, head + packed) * 100)
    monkeypatch.setattr("atelier.data.formats.png.zlib.decompressobj", CountingDecompressor)
    stream, _ = prepare_png(io.BytesIO(data))
    assert produced <= 34 * 2**20
    if damaged or kind == b"iCCP":
        assert kind not in stream.read()


def test_damaged_profile_does_not_hide_a_valid_one(tmp_path: Path) -> None:
    damaged = chunk(b"iCCP", b"profile\0\0" + compress_with_wrong_checksum(display_p3()))
    _, colors = prepare_png(io.BytesIO(png(RGB, damaged)))
    assert colors.profile is None
    _, colors = prepare_png(io.BytesIO(png(RGB, damaged + iccp(display_p3()))))
    assert colors.profile == display_p3()


def test_png_with_too_many_chunks_is_rejected() -> None:
    data = MAGIC + chunk(b"tEXt", b"a\0b") * 200_000
    with pytest.raises(UnreadableError, match="more chunks than any program writes"):
        read_image(data, "rgb", 1)


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "without subsampling": {"subsampling": 0},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 1},
    "restarts of rows": {"restart_marker_rows": 1},
}
MODES = ("RGB", "L", "CMYK")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_without_end_marker_is_read(tmp_path: Path, kind: str, mode: str) -> None:
    data = saved(Image.fromarray(RGB).convert(mode), "JPEG", quality=90, **JPEGS[kind])
    for at_least in (None, 10):
        expected = read_image(data, "rgb", 1, at_least)
        for cut in (data[:-1], data[:-2], data[:-2] + bytes(50)):
            assert np.array_equal(read_image(cut, "rgb", 1, at_least), expected)
    (tmp_path / "image.jpg").write_bytes(data[:-2])
    pixels = load_source_image(tmp_path / "image.jpg", 1).pixels
    assert np.array_equal(pixels, read_image(data, "rgb", 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", JPEGS)
def test_truncated_jpeg_is_rejected(kind: str, mode: str) -> None:
    data = saved(Image.fromarray(RGB).convert(mode), "JPEG", quality=90, **JPEGS[kind])
    scans = data.index(b"\xff\xda") + 20
    restarts = [
        offset for offset in range(scans, len(data)) if data[offset : offset + 1] == b"\xff"
    ]
    ends = {len(data) - missing for missing in (4, 5, 8, 20, 100, 300)} | set(restarts[:-1:7])
    for end in sorted(end for end in ends if end > scans):
        for at_least in (None, 10):
            with pytest.raises(UnreadableError, match=r"^(truncated|damaged)$"):
                read_image(data[:end], "rgb", 1, at_least)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [kind for kind in JPEGS if kind != "progressive"])
def test_truncated_jpeg_with_end_marker_is_rejected(tmp_path: Path, kind: str, mode: str) -> None:
    data = saved(Image.fromarray(RGB).convert(mode), "JPEG", quality=90, **JPEGS[kind])
    scan = data.index(b"\xff\xda") + 20
    for part in (0.1, 0.5, 0.9):
        cut = data[: scan + int(part * (len(data) - scan))].rstrip(b"\xff") + b"\xff\xd9"
        for end in (b"", b"film"):
            for at_least in (None, 10):
                with pytest.raises(UnreadableError, match=r"^truncated$"):
                    read_image(cut + end, "rgb", 1, at_least)
    (tmp_path / "image.jpg").write_bytes(cut)
    with pytest.raises(UnreadableError, match=r"^truncated$"):
        load_source_image(tmp_path / "image.jpg", 1)


def test_progressive_jpeg_truncated_in_its_first_scan_is_rejected() -> None:
    data = saved(Image.fromarray(RGB), "JPEG", quality=90, progressive=True)
    scan = data.index(b"\xff\xda")
    end = data.index(b"\xff", scan + 14)
    with pytest.raises(UnreadableError, match=r"^truncated$"):
        read_image(data[: (scan + end) // 2] + b"\xff\xd9", "rgb", 1)


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("end", [b"", b"f", b"film", b"\xff\xd8\xff\xd9"])
def test_gray_jpeg_is_read(kind: str, end: bytes) -> None:
    """The image has the level that decoders use for missing blocks."""
    data = saved(Image.new("RGB", (50, 40), (128, 128, 128)), "JPEG", **JPEGS[kind]) + end
    assert (read_image(data, "rgb", 1) == 128).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_other_formats_without_end_marker_are_read(kind: str) -> None:
    image = Image.fromarray(RGB).quantize(16)
    data = saved(image, kind)
    cut = data[: -12 if kind == "PNG" else -1]
    assert np.array_equal(read_image(cut, "rgb", 1), read_image(data, "rgb", 1))


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not supported; export as JPEG or install"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC is not supported; export as JPEG or install"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0msf1hevc", "HEIC is not supported; export as JPEG or install"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL is not supported; export as JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not supported; export as JPEG or PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 is not supported; export as JPEG or PNG"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000 is not supported; export as JPEG or PNG"),
        (b"8BPS\0\1", "Photoshop is not supported; export as JPEG or PNG"),
    ],
)
def test_unsupported_formats_are_named(
    start: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)  # as if not installed
    with pytest.raises(UnreadableError, match=f"^{reason}"):
        read_image(start + bytes(2000), "rgb", 1)


def test_heic_is_read_if_pillow_heif_is_installed(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    exif = Image.Exif()
    exif[0x0112] = 6
    flat = Image.new("RGB", (64, 48), (229, 120, 89))
    file = heif.from_pillow(flat)
    file.info.update(exif=exif.tobytes(), icc_profile=display_p3(), icc_profile_type="prof")
    file.save(tmp_path / "image.heic", quality=95)
    data = (tmp_path / "image.heic").read_bytes()
    read = read_image(data, "rgb", 1)
    assert read.shape == (64, 48, 3)
    assert np.abs(read.astype(int) - (246, 113, 79)).max() <= 6
    assert np.array_equal(load_source_image(tmp_path / "image.heic", 1).pixels, read)
    with pytest.raises(UnreadableError):
        read_image(data[: len(data) // 2], "rgb", 1)
    # The claimed size differs from the decoded size.
    offset = data.index(b"ispe") + 8
    with pytest.raises(UnreadableError):
        read_image(data[:offset] + struct.pack(">II", 16, 16) + data[offset + 8 :], "rgb", 1)
