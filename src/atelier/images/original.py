"""A picture that is to be painted, and what its painting keeps of it: colours and transparency."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.errors import AtelierError
from atelier.files import replacing
from atelier.images.color_profiles import parse_profile, profile_of
from atelier.images.picture import opened, upright

Pixels = NDArray[np.uint8]

_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {"compress_level": 4}),
    # Painted edges are coloured: they would fray if colour had half of the pixels, as is usual.
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    # Lossy WebP always has half of the colour's pixels.
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
}
_LONGEST = {"JPEG": 65_500, "WEBP": 16_383}
ENDINGS = tuple(_FORMATS)


@dataclass(frozen=True, eq=False)
class Original:
    """A picture, and what its painting keeps of it.

    Attributes:
        pixels: uint8 [H, W, 3], RGB in the colours of sRGB, upright. Where nothing can be seen
            stands the nearest colour that can, so that no edge is painted that nobody sees.
        alpha: uint8 [H, W], 255 where it is opaque; ``None`` where the file says nothing of it.
        profile: the ICC profile of its file, if it is one for RGB.
        stored: RGB as the file has it, where that differs from ``pixels`` because of the profile.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    profile: bytes | None = None
    stored: Pixels | None = None

    @property
    def transparent(self) -> bool:
        """Whether some of it can be seen through."""
        return self.alpha is not None and int(self.alpha.min()) < 255


def read_original(path: Path, max_megapixels: int) -> Original:
    """Read a picture of any common kind, upright, with its transparency and colour profile.

    Raises:
        Unreadable: it is no picture of a known format, is damaged, cut short or too large.
        FileNotFoundError: there is no such file.
        MemoryError: the picture is within the limit, but memory is not.
    """
    with opened(path, max_megapixels) as source:
        image = upright(source)
        profile = profile_of(source, image.mode)
        alpha = None
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = np.asarray(image.getchannel("A"))
        plain = _filled(np.asarray(image.convert("RGB")), alpha)
        if profile is None:
            return Original(plain, alpha)
        if profile.is_srgb:
            return Original(plain, alpha, profile.content)
        colors = image if image.mode == "CMYK" else Image.fromarray(plain)
        pixels = np.asarray(profile.to_srgb(colors))
        if not profile.writable:
            return Original(pixels, alpha)
        return Original(pixels, alpha, profile.content, plain)


def pixels_of(originals: Mapping[str, Original]) -> dict[str, Pixels]:
    """The pixels of pictures, by the same names."""
    return {name: original.pixels for name, original in originals.items()}


def masks_of(originals: Mapping[str, Original]) -> list[Pixels]:
    """Pictures as masks, on black: where they are transparent nothing is to be painted."""
    return [
        one.pixels
        if one.alpha is None
        else (one.pixels * (one.alpha[:, :, None] / 255)).round().astype(np.uint8)
        for one in originals.values()
    ]


def refuse_target(target: Path, original: Original, height: int, width: int) -> None:
    """See that a painting can be written, before it is painted.

    Raises:
        AtelierError: the name's ending is of no known format, or of one that cannot hold the
            painting's size or the picture's transparency.
    """
    if target.suffix.lower() not in _FORMATS:
        raise AtelierError(
            f"{target} ends in no format that paintings are written in; choose one of"
            f" {', '.join(ENDINGS)}."
        )
    kind, _ = _FORMATS[target.suffix.lower()]
    if kind == "JPEG" and original.transparent:
        raise AtelierError(
            f"{target} would lose the picture's transparency, which JPEG does not have; name a"
            " .png, .tif or .webp."
        )
    longest = _LONGEST.get(kind)
    if longest and max(height, width) > longest:
        raise AtelierError(
            f"{target} cannot hold {width} x {height} pixels: {kind} has at most {longest} a side;"
            " name a .png or .tif."
        )


def save_painting(pixels: Pixels, original: Original, target: Path) -> None:
    """Write a painting with the colour profile and transparency of what was painted.

    Pixels that painting left as they were come out as the file had them, to the bit but for JPEG.

    Args:
        pixels: uint8 [h, w, 3], RGB in the colours of sRGB, of any size.
        original: what was painted; its transparency is scaled to the painting's size.
        target: a file in one of the formats :data:`ENDINGS`; written whole or not at all.
    """
    kind, options = _FORMATS[target.suffix.lower()]
    image = Image.fromarray(_in_own_colors(pixels, original))
    if original.alpha is not None and kind != "JPEG":
        alpha = Image.fromarray(original.alpha)
        if alpha.size != image.size:
            alpha = alpha.resize(image.size, Image.Resampling.BICUBIC)
        image.putalpha(alpha)
    with replacing(target) as temporary:
        image.save(temporary, format=kind, icc_profile=original.profile, **options)


def _filled(pixels: Pixels, alpha: Pixels | None) -> Pixels:
    """Give what cannot be seen the nearest colour that can."""
    if alpha is None or alpha.min() > 0 or alpha.max() == 0:
        return pixels
    hidden = (alpha == 0).astype(np.uint8)
    # The label of a pixel is that of the nearest one that can be seen, its own where it is one.
    _, nearest = cv2.distanceTransformWithLabels(
        hidden, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colors = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    visible = hidden == 0
    colors[nearest[visible]] = pixels[visible]
    return colors[nearest]


def _in_own_colors(pixels: Pixels, original: Original) -> Pixels:
    if original.profile is None or original.stored is None:
        return pixels
    profile = parse_profile(original.profile)
    if profile is None:
        return pixels
    own = np.asarray(profile.from_srgb(Image.fromarray(pixels)))
    if pixels.shape != original.pixels.shape:
        return own
    untouched = (pixels == original.pixels).all(axis=2, keepdims=True)
    return np.where(untouched, original.stored, own)
