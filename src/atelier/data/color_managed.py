"""Images that keep transparency and color profile, for style transfer."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.core.files import atomic_write
from atelier.data.color_profiles import parse_profile, profile_of
from atelier.data.image_file import (
    UnreadableError,
    apply_exif_orientation,
    open_image,
    silence_pillow,
)

Pixels = NDArray[np.uint8]

_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"compress_level": 4}),
    # Chroma is not subsampled: stylized edges are colored, and subsampling would blur them.
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    # Lossy WebP always subsamples chroma.
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
}
_MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
SUFFIXES = tuple(_FORMATS)


@dataclass(frozen=True, eq=False)
class SourceImage:
    """Image with the properties that its stylized image preserves.

    Attributes:
        pixels: uint8 [H, W, 3], sRGB, upright. Transparent pixels have the color of the nearest
            visible pixel, so that style transfer adds no edge there.
        alpha: uint8 [H, W], 255 is opaque; ``None`` if the file has no transparency.
        profile: ICC profile of the file, if it is an RGB profile.
        stored: uint8 [H, W, 3], RGB values of the file, if the profile is not sRGB.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    profile: bytes | None = None
    stored: Pixels | None = None

    def is_transparent(self) -> bool:
        """Return whether some pixels are not opaque."""
        return self.alpha is not None and int(self.alpha.min()) < 255


def load_source_image(path: Path, max_megapixels: int) -> SourceImage:
    """Read an image of any supported format, upright, with transparency and color profile.

    Raises:
        UnreadableError: the file is not an image of a supported format, is damaged, truncated or
            too large.
        FileNotFoundError: the file does not exist.
        MemoryError: the image is within the limit but does not fit into memory.
    """
    with open_image(path, max_megapixels) as opened:
        image = apply_exif_orientation(opened)
        profile = profile_of(opened, image.mode)
        alpha = None
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = np.asarray(image.getchannel("A"))
        stored = _inpaint_transparent(np.asarray(image.convert("RGB")), alpha)
        if profile is None:
            return SourceImage(stored, alpha)
        if profile.is_srgb:
            return SourceImage(stored, alpha, profile.content)
        colors = image if image.mode == "CMYK" else Image.fromarray(stored)
        pixels = np.asarray(profile.to_srgb(colors))
        if not profile.writable:
            return SourceImage(pixels, alpha)
        return SourceImage(pixels, alpha, profile.content, stored)


def pixels_of(images: Mapping[str, SourceImage]) -> dict[str, Pixels]:
    """Return the pixels of images, by the same names."""
    return {name: image.pixels for name, image in images.items()}


def masks_of(images: Mapping[str, SourceImage]) -> list[Pixels]:
    """Return images as masks, uint8 [H, W, 3], composited on black: transparent means masked."""
    return [
        image.pixels
        if image.alpha is None
        else (image.pixels * (image.alpha[:, :, None] / 255)).round().astype(np.uint8)
        for image in images.values()
    ]


def reject_target(target: Path, source: SourceImage, height: int, width: int) -> None:
    """Raise if a stylized image cannot be written to ``target``.

    Raises:
        AtelierError: the suffix is not supported, or the format cannot store the stylized image's
            size or the source's transparency.
    """
    if target.suffix.lower() not in _FORMATS:
        raise AtelierError(
            f"{target} does not end in a supported format; choose one of {', '.join(SUFFIXES)}."
        )
    kind, _ = _FORMATS[target.suffix.lower()]
    if kind == "JPEG" and source.is_transparent():
        raise AtelierError(
            f"{target} would lose the image's transparency, which JPEG does not have; use"
            " .png, .tif or .webp."
        )
    max_side = _MAX_SIDE.get(kind)
    if max_side and max(height, width) > max_side:
        raise AtelierError(
            f"{target} cannot hold {width} x {height} pixels: {kind} has at most {max_side} a side;"
            " use .png or .tif."
        )


def save_stylized(pixels: Pixels, source: SourceImage, target: Path) -> None:
    """Write a stylized image with the color profile and transparency of its source.

    Unchanged pixels keep the values of the source file exactly (except in JPEG).

    Args:
        pixels: uint8 [h, w, 3], sRGB, of any size.
        source: the content image; its transparency is resized to the size of ``pixels``.
        target: a file with one of :data:`SUFFIXES`, written atomically.
    """
    kind, options = _FORMATS[target.suffix.lower()]
    image = Image.fromarray(_from_srgb(pixels, source))
    if source.alpha is not None and kind != "JPEG":
        alpha = Image.fromarray(source.alpha)
        if alpha.size != image.size:
            alpha = alpha.resize(image.size, Image.Resampling.BICUBIC)
        image.putalpha(alpha)
    with atomic_write(target) as temporary:
        image.save(temporary, format=kind, icc_profile=source.profile, **options)


def _inpaint_transparent(pixels: Pixels, alpha: Pixels | None) -> Pixels:
    """Replace the colors of transparent pixels by those of the nearest visible pixels."""
    if alpha is None or alpha.min() > 0 or alpha.max() == 0:
        return pixels
    hidden = (alpha == 0).astype(np.uint8)
    # The label of a pixel is that of the nearest visible pixel.
    _, nearest = cv2.distanceTransformWithLabels(
        hidden, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colors = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    visible = hidden == 0
    colors[nearest[visible]] = pixels[visible]
    return colors[nearest]


def _from_srgb(pixels: Pixels, source: SourceImage) -> Pixels:
    """Convert sRGB pixels to the source's profile; unchanged pixels get their stored values."""
    if source.profile is None or source.stored is None:
        return pixels
    profile = parse_profile(source.profile)
    if profile is None:
        return pixels
    converted = np.asarray(profile.from_srgb(Image.fromarray(pixels)))
    if pixels.shape != source.pixels.shape:
        return converted
    is_unchanged = (pixels == source.pixels).all(axis=2, keepdims=True)
    return np.where(is_unchanged, source.stored, converted)


def load_by_name(
    names: Sequence[str],
    folder: Path,
    max_megapixels: int,
    builtin: Mapping[str, Callable[[], Mapping[str, Pixels]]],
) -> dict[str, SourceImage]:
    """Load image files and built-in images; return them by name (a file's name without suffix).

    Args:
        names: names of files in ``folder``, or keys of ``builtin``.
        folder: the folder of the files.
        max_megapixels: limit for an image's size.
        builtin: functions that return built-in images, uint8 [H, W, 3] RGB, by name.

    Raises:
        AtelierError: a file is missing or unreadable, or two images have the same name.
    """
    found: dict[str, SourceImage] = {}
    for name in names:
        if name in builtin:
            new = {key: SourceImage(pixels) for key, pixels in builtin[name]().items()}
        else:
            new = {Path(name).stem: _load(folder / name, builtin, max_megapixels)}
        duplicates = sorted(found.keys() & new.keys())
        if duplicates:
            raise AtelierError(
                f"two images are called {duplicates[0]}, so that their files would overwrite each"
                " other; rename one."
            )
        found |= new
    return found


def _load(file: Path, builtin: Collection[str], max_megapixels: int) -> SourceImage:
    try:
        with silence_pillow():
            return load_source_image(file, max_megapixels)
    except FileNotFoundError:
        choice = f", or choose {' or '.join(builtin)}" if builtin else ""
        raise AtelierError(f"there is no image {file}; check the path{choice}.") from None
    except UnreadableError as error:
        raise AtelierError(f"{file} cannot be read ({error}).") from None
