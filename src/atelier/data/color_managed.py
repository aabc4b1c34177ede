"""A picture that is to be painted, and what its painting keeps of it: colours and transparency."""

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
    # Painted edges are coloured: they would fray if colour had half of the pixels, as is usual.
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    # Lossy WebP always has half of the colour's pixels.
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
}
_MAX_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
SUFFIXES = tuple(_FORMATS)


@dataclass(frozen=True, eq=False)
class SourceImage:
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


def load_source_image(path: Path, max_megapixels: int) -> SourceImage:
    """Read a picture of any common kind, upright, with its transparency and colour profile.

    Raises:
        Unreadable: it is no picture of a known format, is damaged, cut short or too large.
        FileNotFoundError: there is no such file.
        MemoryError: the picture is within the limit, but memory is not.
    """
    with open_image(path, max_megapixels) as source:
        image = apply_exif_orientation(source)
        profile = profile_of(source, image.mode)
        alpha = None
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = np.asarray(image.getchannel("A"))
        plain = _inpaint_transparent(np.asarray(image.convert("RGB")), alpha)
        if profile is None:
            return SourceImage(plain, alpha)
        if profile.is_srgb:
            return SourceImage(plain, alpha, profile.content)
        colors = image if image.mode == "CMYK" else Image.fromarray(plain)
        pixels = np.asarray(profile.to_srgb(colors))
        if not profile.writable:
            return SourceImage(pixels, alpha)
        return SourceImage(pixels, alpha, profile.content, plain)


def pixels_of(originals: Mapping[str, SourceImage]) -> dict[str, Pixels]:
    """The pixels of pictures, by the same names."""
    return {name: original.pixels for name, original in originals.items()}


def mask_of(originals: Mapping[str, SourceImage]) -> list[Pixels]:
    """Pictures as masks, on black: where they are transparent nothing is to be painted."""
    return [
        one.pixels
        if one.alpha is None
        else (one.pixels * (one.alpha[:, :, None] / 255)).round().astype(np.uint8)
        for one in originals.values()
    ]


def reject_target(target: Path, original: SourceImage, height: int, width: int) -> None:
    """See that a painting can be written, before it is painted.

    Raises:
        AtelierError: the name's ending is of no known format, or of one that cannot hold the
            painting's size or the picture's transparency.
    """
    if target.suffix.lower() not in _FORMATS:
        raise AtelierError(
            f"{target} ends in no format that paintings are written in; choose one of"
            f" {', '.join(SUFFIXES)}."
        )
    kind, _ = _FORMATS[target.suffix.lower()]
    if kind == "JPEG" and original.transparent:
        raise AtelierError(
            f"{target} would lose the picture's transparency, which JPEG does not have; name a"
            " .png, .tif or .webp."
        )
    longest = _MAX_SIDE.get(kind)
    if longest and max(height, width) > longest:
        raise AtelierError(
            f"{target} cannot hold {width} x {height} pixels: {kind} has at most {longest} a side;"
            " name a .png or .tif."
        )


def save_stylized(pixels: Pixels, original: SourceImage, target: Path) -> None:
    """Write a painting with the colour profile and transparency of what was painted.

    Pixels that painting left as they were come out as the file had them, to the bit but for JPEG.

    Args:
        pixels: uint8 [h, w, 3], RGB in the colours of sRGB, of any size.
        original: what was painted; its transparency is scaled to the painting's size.
        target: a file in one of the formats :data:`SUFFIXES`; written whole or not at all.
    """
    kind, options = _FORMATS[target.suffix.lower()]
    image = Image.fromarray(_from_srgb(pixels, original))
    if original.alpha is not None and kind != "JPEG":
        alpha = Image.fromarray(original.alpha)
        if alpha.size != image.size:
            alpha = alpha.resize(image.size, Image.Resampling.BICUBIC)
        image.putalpha(alpha)
    with atomic_write(target) as temporary:
        image.save(temporary, format=kind, icc_profile=original.profile, **options)


def _inpaint_transparent(pixels: Pixels, alpha: Pixels | None) -> Pixels:
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


def _from_srgb(pixels: Pixels, original: SourceImage) -> Pixels:
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


def load_by_name(
    names: Sequence[str],
    folder: Path,
    max_megapixels: int,
    made: Mapping[str, Callable[[], Mapping[str, Pixels]]],
) -> dict[str, SourceImage]:
    """Gather pictures under the names that files of them may bear.

    Args:
        names: files of ``folder``, or words of ``made``.
        folder: where files are.
        max_megapixels: a larger picture is refused.
        made: words that stand for pictures made on demand, uint8 [H, W, 3] RGB by name.

    Raises:
        AtelierError: there is no such file, or it is no picture.
    """
    found: dict[str, SourceImage] = {}
    for name in names:
        if name in made:
            new = {key: SourceImage(pixels) for key, pixels in made[name]().items()}
        else:
            new = {Path(name).stem: _load(folder / name, made, max_megapixels)}
        twice = sorted(found.keys() & new.keys())
        if twice:
            raise AtelierError(
                f"two pictures are called {twice[0]}, so that their files would overwrite each"
                " other; rename one."
            )
        found |= new
    return found


def _load(file: Path, made: Collection[str], max_megapixels: int) -> SourceImage:
    try:
        with silence_pillow():
            return load_source_image(file, max_megapixels)
    except FileNotFoundError:
        choice = f", or choose {' or '.join(made)}" if made else ""
        raise AtelierError(f"there is no picture {file}; check the path{choice}.") from None
    except UnreadableError as error:
        raise AtelierError(f"{file} cannot be read ({error}).") from None
