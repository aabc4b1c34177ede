"""Images to stylize, their styles and masks, and conversions before the style transfer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.arrays import to_tensor
from atelier.core.resizing import Method, resize_image
from atelier.core.settings import StylizeSettings
from atelier.data.color_managed import SourceImage, load_by_name, masks_of, pixels_of
from atelier.style.demo_styles import demo_style_sources

UInt8Image = NDArray[np.uint8]


@dataclass(frozen=True)
class StyleInputs:
    """Images of style transfers, uint8 ``[H, W, 3]``, RGB, of any sizes.

    Attributes:
        contents: images to stylize, by name.
        styles: style images, by name.
        masks: one for each style, white where the style applies; empty for whole images.
    """

    contents: Mapping[str, UInt8Image]
    styles: Mapping[str, UInt8Image]
    masks: Sequence[UInt8Image] = ()


def load_inputs(
    settings: StylizeSettings,
    folder: Path,
    max_megapixels: int,
    generate: Callable[[], UInt8Image],
) -> tuple[dict[str, SourceImage], StyleInputs]:
    """Load the images that the settings name.

    Args:
        settings: ``contents``, ``styles`` and ``style_masks`` are files or built-in images.
        folder: the folder of the files.
        max_megapixels: limit for an image's size.
        generate: returns the faces of the content ``generated``, uint8 ``[N, H, W, C]``.

    Returns:
        The contents with their transparency and color profiles, and the images to process.

    Raises:
        AtelierError: a file is missing or unreadable, or two images have the same name.
    """
    # Styles are drawn twice as large as needed: downscaling smooths their strokes.
    sources = demo_style_sources(2 * settings.image_size, settings.seed)
    sources["generated"] = lambda: name_faces(generate())
    contents, styles, masks = (
        load_by_name(names, folder, max_megapixels, sources)
        for names in (settings.contents, settings.styles, settings.style_masks)
    )
    return contents, StyleInputs(pixels_of(contents), pixels_of(styles), masks_of(masks))


def resize_to_tensor(image: UInt8Image, size: int) -> Tensor:
    """Resize an image so that its shorter side has ``size`` pixels, and convert it to a tensor.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        size: pixels of the shorter side; the longer side keeps the aspect ratio, rounded.

    Returns:
        float32 ``[1, 3, h, w]``, RGB, 0 to 1.
    """
    height, width = scaled_shape(image.shape, size)
    method: Method = "area" if height < image.shape[0] else "cubic"
    # A copy, because torch warns about read-only arrays.
    pixels = torch.from_numpy(np.array(resize_image(image, height, width, method)))
    return to_tensor(pixels[None], signed=False).contiguous()


def scaled_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return height and width of an image of ``shape``, scaled to a shorter side of ``size``."""
    height, width = shape[:2]
    scale = size / min(height, width)
    return round(height * scale), round(width * scale)


def name_faces(faces: UInt8Image) -> dict[str, UInt8Image]:
    """Return generated faces as RGB images, named ``face_01``, ``face_02`` and so on.

    Args:
        faces: uint8 ``[N, H, W, C]``, grayscale (C = 1) or RGB (C = 3).

    Returns:
        uint8 ``[H, W, 3]`` by name, in order.
    """
    rgb = np.broadcast_to(faces, (*faces.shape[:3], 3))
    return {f"face_{number:02d}": face for number, face in enumerate(rgb, start=1)}
