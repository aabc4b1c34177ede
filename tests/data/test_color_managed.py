"""Reading and writing of images with transparency and color profiles."""

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from atelier.core.errors import AtelierError
from atelier.data.color_managed import (
    SUFFIXES,
    SourceImage,
    load_source_image,
    reject_target,
    save_stylized,
)
from atelier.data.image_file import UnreadableError, silence_pillow

from ..support.icc import display_p3, linear_grey, scanner, warm_cmyk
from ..support.images import stored_pixels

HEIGHT, WIDTH = 6, 9
RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
GRAY = RNG.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
ALPHA = np.tile(np.linspace(1, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
STYLIZED = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def _palette() -> Image.Image:
    return Image.fromarray(RGB).quantize(8)


KINDS: dict[str, tuple[Image.Image, np.ndarray, np.ndarray | None, dict[str, Any]]] = {
    "RGB": (Image.fromarray(RGB), RGB, None, {}),
    "RGBA": (Image.fromarray(np.dstack([RGB, ALPHA])), RGB, ALPHA, {}),
    "L": (Image.fromarray(GRAY), np.dstack([GRAY] * 3), None, {}),
    "LA": (Image.fromarray(np.dstack([GRAY, ALPHA])), np.dstack([GRAY] * 3), ALPHA, {}),
    "P": (_palette(), np.asarray(_palette().convert("RGB")), None, {}),
    "P, one colour transparent by half": (
        _palette(),
        np.asarray(_palette().convert("RGB")),
        np.where(np.asarray(_palette()) == 3, 128, 255).astype(np.uint8),
        {"transparency": bytes([255, 255, 255, 128])},
    ),
    "I;16": (
        Image.fromarray(GRAY.astype(np.uint16) * 257),
        np.dstack([GRAY] * 3),
        None,
        {},
    ),
    "1": (Image.fromarray(GRAY > 127), np.dstack([255 * (GRAY > 127)] * 3), None, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_is_read_as_rgb_and_keeps_transparency(tmp_path: Path, kind: str) -> None:
    image, pixels, alpha, options = KINDS[kind]
    image.save(tmp_path / "in.png", **options)
    original = load_source_image(tmp_path / "in.png", 1)
    assert original.pixels.dtype == np.uint8
    assert np.array_equal(original.pixels, pixels)
    save_stylized(STYLIZED, original, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert written.mode == ("RGB" if alpha is None else "RGBA")
        assert np.array_equal(np.asarray(written)[:, :, :3], STYLIZED)
        if alpha is not None:
            assert np.array_equal(np.asarray(written)[:, :, 3], alpha)


def test_transparent_16_bit_gray_stays_transparent(tmp_path: Path) -> None:
    """Other gray levels that are equal in 8 bits are opaque."""
    values = np.array([[0x1200, 0x1234, 0x12FF, 0xFFFF]], np.uint16)
    Image.fromarray(values).save(tmp_path / "in.png", transparency=0x1234)
    original = load_source_image(tmp_path / "in.png", 1)
    assert original.alpha is not None
    assert original.alpha.tolist() == [[255, 0, 255, 255]]


def test_cmyk_is_read_as_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK").save(tmp_path / "in.jpg", quality=95)
    original = load_source_image(tmp_path / "in.jpg", 1)
    assert np.abs(original.pixels.astype(int) - [200, 40, 90]).max() <= 4
    save_stylized(original.pixels, original, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as written:
        assert written.mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = stored_pixels(np.dstack([RGB, ALPHA]), orientation)
    Image.fromarray(stored).save(tmp_path / "in.png", exif=exif)
    original = load_source_image(tmp_path / "in.png", 1)
    assert np.array_equal(original.pixels, RGB)
    save_stylized(STYLIZED, original, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert not written.getexif()
        assert np.array_equal(np.asarray(written), np.dstack([STYLIZED, ALPHA]))


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp"])
def test_lossless_formats_keep_every_bit(tmp_path: Path, ending: str) -> None:
    colors = np.random.default_rng(1).integers(0, 256, (30, 40, 4), np.uint8)
    save_stylized(
        colors[..., :3], SourceImage(colors[..., :3], colors[..., 3]), tmp_path / f"a{ending}"
    )
    with Image.open(tmp_path / f"a{ending}") as written:
        assert np.array_equal(np.asarray(written), colors)


@pytest.mark.parametrize("ending", SUFFIXES)
def test_every_format_keeps_size_and_profile(tmp_path: Path, ending: str) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(60))[:, :, None] + np.array([10, 60, 110])
    original = SourceImage(smooth.astype(np.uint8), None, display_p3(), smooth.astype(np.uint8) + 1)
    target = tmp_path / f"out{ending}"
    save_stylized(original.pixels, original, target)
    with Image.open(target) as written:
        assert written.size == (60, 40)
        assert written.info["icc_profile"] == display_p3()
        lost = np.abs(np.asarray(written.convert("RGB")).astype(int) - original.stored).max()
    assert lost <= (0 if ending in (".png", ".tif", ".tiff") else 6)


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp"])
def test_formats_with_transparency_keep_it(tmp_path: Path, ending: str) -> None:
    save_stylized(STYLIZED, SourceImage(RGB, ALPHA), tmp_path / f"out{ending}")
    with Image.open(tmp_path / f"out{ending}") as written:
        assert np.array_equal(np.asarray(written.getchannel("A")), ALPHA)


def test_wide_profile_is_converted_to_srgb_and_back(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2, 3), (200, 100, 100), np.uint8)).save(
        tmp_path / "in.png", icc_profile=display_p3()
    )
    original = load_source_image(tmp_path / "in.png", 1)
    red, green, _ = (int(level) for level in original.pixels[0, 0])
    assert red > 210, "equal values are more red in the wider color space"
    assert green < 100
    # One pixel is changed and keeps its new color; the other pixels keep their stored values.
    stylized = original.pixels.copy()
    stylized[0, 0] = (90, 120, 150)
    save_stylized(stylized, original, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert written.info["icc_profile"] == display_p3()
        assert (np.asarray(written).reshape(4, 3)[1:] == (200, 100, 100)).all()
    reread = load_source_image(tmp_path / "out.png", 1)
    assert np.abs(reread.pixels[0, 0].astype(int) - (90, 120, 150)).max() <= 1


def test_srgb_profile_is_kept_without_conversion(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RGB).save(tmp_path / "in.png", icc_profile=srgb)
    original = load_source_image(tmp_path / "in.png", 1)
    assert np.array_equal(original.pixels, RGB)
    save_stylized(STYLIZED, original, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        assert written.info["icc_profile"] == srgb
        assert np.array_equal(np.asarray(written), STYLIZED)


def test_gray_and_cmyk_profiles_are_read_but_not_written(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 55).save(tmp_path / "grey.png", icc_profile=linear_grey())
    gray = load_source_image(tmp_path / "grey.png", 1)
    assert np.abs(gray.pixels.astype(int) - 128).max() <= 2, "20 % of the light is middle gray"
    inks = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    inks.save(tmp_path / "inks.tif", icc_profile=warm_cmyk())
    red, _, blue = (
        int(level) for level in load_source_image(tmp_path / "inks.tif", 1).pixels[0, 0]
    )
    assert red > blue, "the profile's cyan is warm"
    assert gray.profile is None
    assert load_source_image(tmp_path / "inks.tif", 1).profile is None


def test_profile_without_inverse_is_read_but_not_written(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "in.png", icc_profile=scanner())
    original = load_source_image(tmp_path / "in.png", 1)
    red, green, _ = (int(level) for level in original.pixels[0, 0])
    assert green < red < 255, "the profile's red has a third of white's lightness"
    assert original.profile is None
    save_stylized(original.pixels, original, tmp_path / "out.png")
    assert np.array_equal(load_source_image(tmp_path / "out.png", 1).pixels, original.pixels)


@given(
    st.sampled_from([display_p3(), linear_grey(), scanner()]),
    st.binary(min_size=1),
    st.floats(0, 1),
)
@example(display_p3(), b"\x80", 18.5 / len(display_p3()))  # an unknown color space
def test_damaged_profile_is_ignored(profile: bytes, noise: bytes, position: float) -> None:
    offset = int(position * len(profile))
    damaged = profile[:offset] + noise + profile[offset + len(noise) :]
    with silence_pillow(), tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "picture.png")
        Image.fromarray(RGB).save(target, icc_profile=damaged)
        original = load_source_image(target, 1)
        assert original.pixels.shape == RGB.shape
        save_stylized(STYLIZED, original, target)
        assert load_source_image(target, 1).pixels.shape == RGB.shape


@pytest.mark.parametrize("profile", [b"no profile", display_p3()[:200], warm_cmyk()])
def test_unusable_profile_is_not_written(tmp_path: Path, profile: bytes) -> None:
    Image.fromarray(RGB).save(tmp_path / "in.png", icc_profile=profile)
    original = load_source_image(tmp_path / "in.png", 1)
    assert np.array_equal(original.pixels, RGB)
    assert original.profile is None


def test_transparent_pixels_get_the_nearest_visible_color(tmp_path: Path) -> None:
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[2, 3], alpha[4, 8] = 9, 255
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "in.png")
    original = load_source_image(tmp_path / "in.png", 1)
    assert np.array_equal(original.alpha, alpha)
    assert np.array_equal(original.pixels[0, 0], RGB[2, 3])
    assert np.array_equal(original.pixels[5, 8], RGB[4, 8])
    assert len(np.unique(original.pixels.reshape(-1, 3), axis=0)) == 2


def test_fully_transparent_image_is_unchanged(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([RGB, np.zeros_like(GRAY)])).save(tmp_path / "in.png")
    assert np.array_equal(load_source_image(tmp_path / "in.png", 1).pixels, RGB)


def test_transparency_is_resized_to_the_stylized_image(tmp_path: Path) -> None:
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 4:] = 255
    stylized = np.zeros((32, 32, 3), np.uint8)
    save_stylized(stylized, SourceImage(np.zeros((8, 8, 3), np.uint8), alpha), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as written:
        large = np.asarray(written.getchannel("A"))
    assert large.shape == (32, 32)
    assert (large[:, :12] == 0).all()
    assert (large[:, 20:] == 255).all()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("out.gif", r"choose one of \.png, \.jpg"),
        ("out", "does not end in a supported format"),
        ("out.jpg", "lose the image's transparency"),
        ("out.webp", "WEBP has at most 16383 a side"),
    ],
)
def test_unsupported_target_is_rejected(name: str, sentence: str) -> None:
    with pytest.raises(AtelierError, match=sentence):
        reject_target(Path(name), SourceImage(RGB, ALPHA), 100, 20_000)


def test_opaque_image_can_be_saved_as_jpeg(tmp_path: Path) -> None:
    original = SourceImage(RGB, np.full_like(GRAY, 255))
    reject_target(tmp_path / "out.JPG", original, HEIGHT, WIDTH)
    save_stylized(STYLIZED, original, tmp_path / "out.JPG")
    with Image.open(tmp_path / "out.JPG") as written:
        assert written.mode == "RGB"


def test_failed_save_keeps_the_previous_file(tmp_path: Path) -> None:
    target = tmp_path / "out.jpg"
    target.write_bytes(b"before")
    too_wide = np.zeros((1, 70_000, 3), np.uint8)
    with pytest.raises(OSError, match="data stream"):
        save_stylized(too_wide, SourceImage(too_wide), target)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"before"


def test_broken_images_are_unreadable(tmp_path: Path) -> None:
    stream = BytesIO()
    Image.fromarray(np.tile(RGB, (40, 40, 1))).save(stream, "PNG")
    (tmp_path / "half.png").write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    with pytest.raises(UnreadableError, match=r"truncated|damaged"):
        load_source_image(tmp_path / "half.png", 1)
    (tmp_path / "note.txt").write_text("words")
    with pytest.raises(UnreadableError, match="not an image"):
        load_source_image(tmp_path / "note.txt", 1)
    with pytest.raises(FileNotFoundError):
        load_source_image(tmp_path / "absent.png", 1)


def _png() -> bytes:
    stream = BytesIO()
    Image.fromarray(np.dstack([RGB, ALPHA])).save(stream, "PNG", icc_profile=display_p3())
    return stream.getvalue()


def _jpeg() -> bytes:
    stream = BytesIO()
    Image.fromarray(RGB).convert("CMYK").save(stream, "JPEG", icc_profile=warm_cmyk())
    return stream.getvalue()


@given(st.sampled_from([_png(), _jpeg()]), st.binary(min_size=1, max_size=30), st.floats(0, 1))
def test_damaged_file_gives_image_or_reason(content: bytes, noise: bytes, position: float) -> None:
    offset = int(position * len(content))
    with silence_pillow(), tempfile.NamedTemporaryFile() as file:
        file.write(content[:offset] + noise + content[offset + len(noise) :])
        file.flush()
        try:
            original = load_source_image(Path(file.name), 1)
        except UnreadableError as error:
            assert 0 < len(str(error)) < 80
        else:
            assert original.pixels.dtype == np.uint8
            assert original.pixels.shape[2] == 3
