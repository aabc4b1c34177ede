"""Conversion of color profiles and other color metadata to sRGB, equal in all stages."""

import struct
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image, ImageCms

from atelier.core.settings import ConvertSettings
from atelier.data.color_managed import load_source_image, save_stylized
from atelier.data.image_file import decode, read_image
from atelier.data.rows import convert_file

from ..support.icc import display_p3, linear_grey, scanner, warm_cmyk
from ..support.image_files import chunk, iccp, png, saved

FLAT = np.full((20, 24, 3), (229, 120, 89), np.uint8)
# sRGB colors of the same numbers in Display P3 (IEC 61966-2-1 curve).
FROM_P3 = (246, 113, 79)
ADOBE_RGB = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_CODES = bytes([12, 13, 0, 1])


def gamma(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(100_000 * value)))


def chromaticities(values: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * value) for value in values)))


def to_srgb_level(light: Any) -> Any:
    light = np.clip(light, 0, 1)
    return 255 * np.where(
        light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055
    )


def xyz_of(primaries: tuple[float, ...]) -> np.ndarray:
    """Return the matrix from RGB to XYZ of primaries and white."""
    xy = np.array(primaries).reshape(4, 2)
    columns = np.stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(axis=1)) / xy[:, 1]])
    return columns[:, 1:] * np.linalg.solve(columns[:, 1:], columns[:, 0])


def srgb_of(color: tuple[int, ...], primaries: tuple[float, ...], exponent: float) -> np.ndarray:
    light = (np.array(color) / 255) ** exponent
    return to_srgb_level(np.linalg.solve(xyz_of(SRGB), xyz_of(primaries) @ light))


def read_in_both_stages(data: bytes, folder: Path) -> np.ndarray:
    """Read an image like the convert and the stylize stage, and check that both agree."""
    (folder / "image").write_bytes(data)
    converted = read_image(data, "rgb", 1)
    source = load_source_image(folder / "image", 1)
    assert source.alpha is None
    assert np.array_equal(converted, source.pixels)
    return converted


def is_near(pixels: np.ndarray, color: Any, tolerance: float = 1.5) -> bool:
    return bool(np.abs(pixels.reshape(-1, 3) - np.asarray(color, float)).max() <= tolerance)


@pytest.mark.parametrize(
    ("chunks", "color"),
    [
        (b"", FLAT[0, 0]),
        (chunk(b"cICP", P3_CODES), FROM_P3),
        (chunk(b"cICP", bytes([1, 13, 0, 1])), FLAT[0, 0]),
        (chunk(b"cICP", bytes([2, 2, 0, 1])), FLAT[0, 0]),
        # The order of precedence of the PNG specification.
        (chunk(b"cICP", P3_CODES) + iccp(scanner()), FROM_P3),
        (chunk(b"cICP", bytes([1, 13, 0, 1])) + iccp(display_p3()), FLAT[0, 0]),
        (chunk(b"sRGB", b"\0") + gamma(1.0), FLAT[0, 0]),
        # An unusable profile does not hide other metadata.
        (iccp(b"no profile") + gamma(1.0), srgb_of((229, 120, 89), SRGB, 1)),
        (iccp(display_p3()[:200]) + gamma(1.0), srgb_of((229, 120, 89), SRGB, 1)),
        (iccp(linear_grey()) + gamma(1.0), srgb_of((229, 120, 89), SRGB, 1)),
        (iccp(b"no profile"), FLAT[0, 0]),
        # The chunks that most programs write for sRGB.
        (gamma(0.45455), FLAT[0, 0]),
        (gamma(0.45455) + chromaticities(SRGB), FLAT[0, 0]),
        (chromaticities(SRGB), FLAT[0, 0]),
        (gamma(1.0), srgb_of((229, 120, 89), SRGB, 1)),
        (gamma(1 / 1.8), srgb_of((229, 120, 89), SRGB, 1.8)),
        (gamma(0.45455) + chromaticities(ADOBE_RGB), srgb_of((229, 120, 89), ADOBE_RGB, 2.2)),
        # Impossible values are ignored.
        (gamma(0), FLAT[0, 0]),
        (chromaticities((0.3, 0, 0.6, 0.3, 0.3, 0.6, 0.1, 0.1)), FLAT[0, 0]),
        (chromaticities((0.3,) * 8) + gamma(1.0), FLAT[0, 0]),
    ],
)
def test_color_chunks_of_png_are_applied(tmp_path: Path, chunks: bytes, color: Any) -> None:
    assert is_near(read_in_both_stages(png(FLAT, chunks), tmp_path), color)


@pytest.mark.parametrize("level", [0, 1, 10, 55, 128, 254, 255])
def test_gamma_of_gray_png_is_applied(tmp_path: Path, level: int) -> None:
    data = png(np.full((4, 4), level, np.uint8), gamma(1.0))
    expected = float(to_srgb_level(level / 255))
    assert is_near(read_in_both_stages(data, tmp_path), (expected,) * 3)
    assert np.abs(read_image(data, "grey", 1) - expected).max() <= 1.5


def test_white_and_black_are_unchanged_in_every_color_space(tmp_path: Path) -> None:
    ends = np.zeros((2, 4, 3), np.uint8)
    ends[:, 2:] = 255
    codes = [bytes([p, t, 0, 1]) for p in (1, 4, 5, 6, 9, 11, 12) for t in (1, 4, 5, 8, 13)]
    for chunks in [*(chunk(b"cICP", code) for code in codes), iccp(display_p3())]:
        assert (
            np.abs(read_in_both_stages(png(ends, chunks), tmp_path).astype(int) - ends).max() <= 1
        )


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.5806), (18, 0.75)])
def test_hdr_white_is_white(tmp_path: Path, transfer: int, white: float) -> None:
    levels = np.array([0, white / 2, white, 1])
    pixels = np.repeat((255 * levels).round().astype(np.uint8)[None, :, None], 3, axis=2)
    read = read_in_both_stages(png(pixels, chunk(b"cICP", bytes([9, transfer, 0, 1]))), tmp_path)[
        0, :, 0
    ]
    assert read[0] == 0
    assert 20 < read[1] < 150
    assert read[2] >= 253
    assert read[3] == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_profile_of_every_format_is_applied(tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(FLAT), kind, icc_profile=display_p3(), **options)
    read = read_in_both_stages(data, tmp_path)
    # The profile has a gamma of 2.2 instead of the curve of sRGB.
    assert is_near(read, FROM_P3, 3)
    gray = read_image(data, "grey", 1)
    assert np.abs(gray[:, :, 0] - read @ [0.299, 0.587, 0.114]).max() <= 1.5


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "LA", "1"])
def test_profile_of_every_mode_is_applied(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(FLAT)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    data = saved(image, icc_profile=display_p3())
    (tmp_path / "image.png").write_bytes(data)
    read = read_image(data, "rgb", 1)
    assert np.array_equal(read, load_source_image(tmp_path / "image.png", 1).pixels)
    if mode in ("P", "RGBA"):
        assert is_near(read, FROM_P3, 3)


@pytest.mark.parametrize("color", ["rgb", "grey"])
@pytest.mark.parametrize("side", [24, 600])
def test_rows_have_the_colors_of_the_profile(color: Literal["rgb", "grey"], side: int) -> None:
    """Test full and reduced decoding."""
    flat = Image.new("RGB", (side, side), (229, 120, 89))
    data = saved(flat, "JPEG", icc_profile=display_p3(), quality=95)
    settings = ConvertSettings(
        image_size=16,
        color=color,
        resize_mode="crop",
        max_megapixels=1,
        validation_fraction=0.0,
        test_fraction=0.0,
    )
    row = convert_file(settings, ("a.jpg", data)).rows[0].pixels
    expected = np.array(FROM_P3) if color == "rgb" else FROM_P3 @ np.array([0.299, 0.587, 0.114])
    assert np.abs(row - expected).max() <= 3
    assert decode(data, color, 1, 32).reduction == (8 if side == 600 else 1)


def test_transparent_images_are_composited_on_white_after_conversion(tmp_path: Path) -> None:
    half = np.dstack([FLAT, np.full(FLAT.shape[:2], 128, np.uint8)])
    data = png(half, chunk(b"cICP", P3_CODES))
    expected = 255 - (255 - np.array(FROM_P3)) * 128 / 255
    assert is_near(read_image(data, "rgb", 1), expected, 2)
    (tmp_path / "image.png").write_bytes(data)
    assert is_near(load_source_image(tmp_path / "image.png", 1).pixels, FROM_P3)


def test_gray_profiles_are_applied(tmp_path: Path) -> None:
    gray = Image.new("L", (4, 4), 55)
    read = read_in_both_stages(saved(gray, icc_profile=linear_grey()), tmp_path)
    assert is_near(read, (127.6,) * 3)
    assert np.abs(read_image(saved(gray, icc_profile=linear_grey()), "grey", 1) - 127.6).max() < 2
    transparent = saved(Image.new("LA", (4, 4), (55, 255)), icc_profile=linear_grey())
    assert is_near(read_image(transparent, "rgb", 1), (127.6,) * 3)


def test_cmyk_is_converted_with_and_without_profile(tmp_path: Path) -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("TIFF", "JPEG"):
        assert is_near(read_in_both_stages(saved(cyan, kind), tmp_path), (0, 255, 255), 3)
        red, _, blue = read_in_both_stages(saved(cyan, kind, icc_profile=warm_cmyk()), tmp_path)[
            0, 0
        ]
        assert red > blue, "the profile's cyan is warm"


@pytest.mark.parametrize(
    ("mode", "profile"),
    [("RGB", linear_grey()), ("P", linear_grey()), ("RGB", warm_cmyk()), ("CMYK", display_p3()),
     ("RGB", b"no profile"), ("RGB", display_p3()[:200])],
)  # fmt: skip
def test_profile_of_another_color_space_is_ignored(
    tmp_path: Path, mode: str, profile: bytes
) -> None:
    image = Image.fromarray(FLAT).convert(mode)
    data = saved(image, "TIFF", icc_profile=profile)
    assert np.array_equal(read_in_both_stages(data, tmp_path), np.asarray(image.convert("RGB")))


def test_srgb_profile_changes_no_level(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(
        read_in_both_stages(saved(Image.fromarray(levels), icc_profile=srgb), tmp_path), levels
    )
    assert np.array_equal(
        read_in_both_stages(png(levels, iccp(srgb) + gamma(1.0)), tmp_path), levels
    )


@pytest.mark.parametrize(
    ("codes", "color"),
    [((12, 13), FROM_P3), ((1, 13), FLAT[0, 0]), ((1, 1), FLAT[0, 0]), ((2, 2), FLAT[0, 0])],
)
def test_color_codes_of_avif_are_applied(
    tmp_path: Path, codes: tuple[int, int], color: Any
) -> None:
    data = saved(Image.fromarray(FLAT), "AVIF", quality=100, subsampling="4:4:4")
    offset = data.index(b"colrnclx") + 8
    data = data[:offset] + struct.pack(">HH", *codes) + data[offset + 4 :]
    assert is_near(read_in_both_stages(data, tmp_path), color, 3)


def test_embedded_profile_of_avif_precedes_its_codes(tmp_path: Path) -> None:
    image = Image.fromarray(FLAT)
    data = saved(image, "AVIF", quality=100, subsampling="4:4:4", icc_profile=linear_grey())
    assert is_near(read_in_both_stages(data, tmp_path), FLAT[0, 0], 3)
    data = saved(image, "AVIF", quality=100, subsampling="4:4:4", icc_profile=display_p3())
    assert is_near(read_in_both_stages(data, tmp_path), FROM_P3, 3)


def adobe_rgb_jpeg(color_space: int, index: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = color_space
    exif.get_ifd(0x8769)[0xA005] = {1: index}
    flat = Image.fromarray(FLAT)
    return saved(flat, "JPEG", exif=exif, quality=100, subsampling=0, **options)


@pytest.mark.parametrize(
    ("color_space", "index", "adobe"),
    [(65535, "R03", True), (65535, "R98", False), (1, "R98", False), (1, "R03", False)],
)
def test_exif_adobe_rgb_is_converted(
    tmp_path: Path, color_space: int, index: str, adobe: bool
) -> None:
    expected = srgb_of((229, 120, 89), ADOBE_RGB, 563 / 256) if adobe else FLAT[0, 0]
    assert is_near(read_in_both_stages(adobe_rgb_jpeg(color_space, index), tmp_path), expected, 3)


@pytest.mark.parametrize("profile", [b"no profile", linear_grey()])
def test_unusable_profile_does_not_hide_other_metadata(tmp_path: Path, profile: bytes) -> None:
    expected = srgb_of((229, 120, 89), ADOBE_RGB, 563 / 256)
    assert is_near(
        read_in_both_stages(adobe_rgb_jpeg(65535, "R03", icc_profile=profile), tmp_path),
        expected,
        3,
    )
    options = {"quality": 100, "subsampling": "4:4:4", "icc_profile": profile}
    data = saved(Image.fromarray(FLAT), "AVIF", **options)
    offset = data.index(b"colrnclx") + 8
    data = data[:offset] + struct.pack(">HH", 12, 13) + data[offset + 4 :]
    assert is_near(read_in_both_stages(data, tmp_path), FROM_P3, 3)


def test_lab_becomes_rgb_and_gray(tmp_path: Path) -> None:
    lab = ImageCms.profileToProfile(
        Image.fromarray(FLAT),
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    assert lab is not None
    lab.info.clear()
    data = saved(lab, "TIFF")
    assert is_near(read_in_both_stages(data, tmp_path), FLAT[0, 0], 3)
    gray = read_image(data, "grey", 1)
    assert gray.shape == (20, 24, 1)
    assert np.abs(gray - FLAT[0, 0] @ np.array([0.299, 0.587, 0.114])).max() <= 3


def test_stylized_image_has_the_profile_of_color_chunks(tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(png(FLAT, chunk(b"cICP", P3_CODES)))
    original = load_source_image(tmp_path / "in.png", 1)
    save_stylized(original.pixels, original, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert np.array_equal(np.asarray(written), FLAT)
        name = ImageCms.getProfileDescription(BytesIO(written.info["icc_profile"]))
    assert name.strip() == "Built by Atelier"
    assert is_near(read_in_both_stages((tmp_path / "out.png").read_bytes(), tmp_path), FROM_P3)


def test_threads_convert_concurrently() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (60, 60, 3), np.uint8) for _ in range(40)]
    files = [saved(Image.fromarray(pixels), icc_profile=display_p3()) for pixels in images]
    sequential = [read_image(data, "rgb", 1) for data in files]
    with ThreadPoolExecutor(4) as pool:
        concurrent = list(pool.map(lambda data: read_image(data, "rgb", 1), files))
    assert all(map(np.array_equal, sequential, concurrent))
