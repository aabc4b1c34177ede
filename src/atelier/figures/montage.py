"""Grids of images: montages, labeled rows and side-by-side comparisons."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from imutils import build_montages
from numpy.typing import NDArray
from PIL import Image

from atelier.core.files import atomic_write
from atelier.core.resizing import resize_image
from atelier.figures.captions import BACKGROUND, CAPTION_HEIGHT, caption, text_width

_SHARP_TILE = 64

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


def montage(images: Images, columns: int, tile: int) -> NDArray[np.uint8]:
    """Lay out images in rows, left to right and top to bottom.

    Args:
        images: uint8 [N, H, W, C] or N of [H, W, C], with H = W and C 1 (grey) or 3 (RGB).
        columns: images per row.
        tile: height and width of each image in the montage, in pixels.

    Returns:
        uint8 [rows * tile, columns * tile, 3], RGB, with ``rows = ceil(N / columns)``. Empty
        cells have the background color.

    Raises:
        ValueError: there is no image, or one is not square uint8 with 1 or 3 channels.
    """
    if len(images) == 0:
        raise ValueError("a montage needs at least one image")
    rows = -(-len(images) // columns)
    cells = [_cell(image, tile) for image in images]
    cells += [_background(tile, tile)] * (rows * columns - len(cells))
    grids: list[NDArray[np.uint8]] = build_montages(cells, (tile, tile), (columns, rows))
    return grids[0]


def labeled_rows(image: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
    """Prepend the name of every row to a montage.

    Args:
        image: uint8 [rows * tile, W, 3], as :func:`montage` gives it.
        names: one for each row.

    Returns:
        uint8 [rows * tile, more than W, 3], RGB.
    """
    tile, width = len(image) // len(names), text_width(names)
    return np.hstack([np.vstack([caption(name, width, tile) for name in names]), image])


def side_by_side(
    left: Images, right: Images, titles: tuple[str, str], columns: int, tile: int
) -> NDArray[np.uint8]:
    """Lay out two montages next to each other, each under its title.

    Args:
        left: images as for :func:`montage`.
        right: images as for :func:`montage`, of any number and size.
        titles: of the left and the right montage.
        columns: images per row of each montage.
        tile: height and width of each image in the montages, in pixels.

    Returns:
        uint8 [CAPTION_HEIGHT + rows * tile, 2 * columns * tile + tile // 2, 3], RGB, where
        ``rows`` is the number of rows of the higher montage.

    Raises:
        ValueError: as for :func:`montage`.
    """
    halves = [montage(images, columns, tile) for images in (left, right)]
    height = max(half.shape[0] for half in halves)
    width = columns * tile
    titled = [
        np.vstack([caption(title, width), half, _background(height - half.shape[0], width)])
        for title, half in zip(titles, halves, strict=True)
    ]
    return np.hstack([titled[0], _background(CAPTION_HEIGHT + height, tile // 2), titled[1]])


def split_sides(image: NDArray[np.uint8], tile: int) -> list[tuple[NDArray[np.uint8], ...]]:
    """Return the pairs of images at the same position of both montages of :func:`side_by_side`.

    Args:
        image: uint8 [H, W, 3], as :func:`side_by_side` gives it.
        tile: height and width of each image in the montages, in pixels.

    Raises:
        ValueError: the image is not of whole tiles.
    """
    rows, columns = image.shape[0] - CAPTION_HEIGHT, (image.shape[1] - tile // 2) // 2
    if rows < tile or columns < tile or rows % tile or columns % tile:
        raise ValueError(f"{image.shape[1]} x {image.shape[0]} pixels are not of tiles of {tile}")
    right = image.shape[1] - columns
    return [
        (image[y : y + tile, x : x + tile], image[y : y + tile, right + x : right + x + tile])
        for y in range(CAPTION_HEIGHT, image.shape[0], tile)
        for x in range(0, columns, tile)
    ]


def whole_tile(side: int) -> int:
    """Return the side of tiles that show images of ``side`` pixels sharply.

    Smaller images are enlarged by a whole factor to at most 64 pixels, and larger ones are limited
    to 128.
    """
    return _SHARP_TILE // side * side if side < _SHARP_TILE else min(side, 2 * _SHARP_TILE)


def limit_size(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Downscale an image if its longer side exceeds ``side`` pixels.

    Args:
        image: uint8 [H, W, 3].
        side: in pixels.

    Returns:
        uint8 [h, w, 3] with the same aspect ratio, or the image itself if it fits.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= side:
        return image
    size = (max(1, width * side // longer), max(1, height * side // longer))
    return resize_image(image, size[1], size[0], "lanczos")


def save_png(image: NDArray[np.uint8], target: Path) -> None:
    """Write uint8 [H, W, 3] as a PNG file, whole or not at all."""
    with atomic_write(target) as temporary:
        # Level 4 takes a third of the default's time, for files of the same size.
        Image.fromarray(image).save(temporary, format="PNG", compress_level=4)


def _cell(image: NDArray[np.uint8], tile: int) -> NDArray[np.uint8]:
    """Resize an image to tile size and three channels."""
    shape = image.shape
    if image.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"an image must be uint8 [H, W, 1 or 3], not {image.dtype} {shape}")
    if shape[0] != shape[1]:
        raise ValueError(f"an image must be square, not {shape[0]} x {shape[1]}")
    # Nearest neighbor keeps the generator's pixels if the factor is an integer. Otherwise it would
    # make some pixels wider than others.
    is_multiple = tile % shape[0] == 0
    rgb = np.repeat(image, 3, axis=2) if shape[2] == 1 else image
    return resize_image(rgb, tile, tile, "nearest" if is_multiple else "lanczos")


def _background(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
