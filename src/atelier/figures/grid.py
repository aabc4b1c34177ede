"""Many pictures as one: montages, and real pictures beside generated ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from imutils import build_montages
from numpy.typing import NDArray
from PIL import Image

from atelier.core.files import atomic_write
from atelier.figures.captions import BACKGROUND, CAPTION_HEIGHT, caption, text_width

Pictures = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]


def montage(pictures: Pictures, columns: int, tile: int) -> NDArray[np.uint8]:
    """Lay pictures out in rows, left to right and top to bottom.

    Args:
        pictures: uint8 [N, H, W, C] or N of [H, W, C], with H = W and C 1 (grey) or 3 (RGB).
        columns: pictures in a row.
        tile: height and width of each picture in the montage, in pixels.

    Returns:
        uint8 [rows * tile, columns * tile, 3], RGB, with ``rows = ceil(N / columns)``. Cells
        that are left over have the colour of paper, not black, which could be a picture.

    Raises:
        ValueError: there is no picture, or one is not square uint8 with 1 or 3 channels.
    """
    if len(pictures) == 0:
        raise ValueError("a montage needs at least one picture")
    rows = -(-len(pictures) // columns)
    cells = [_cell(picture, tile) for picture in pictures]
    cells += [_background(tile, tile)] * (rows * columns - len(cells))
    laid: list[NDArray[np.uint8]] = build_montages(cells, (tile, tile), (columns, rows))
    return laid[0]


def labeled_rows(picture: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
    """Put the name of every row to the left of a montage.

    Args:
        picture: uint8 [rows * tile, W, 3], as :func:`montage` gives it.
        names: as many as there are rows.

    Returns:
        uint8 [rows * tile, more than W, 3], RGB.
    """
    tile, width = len(picture) // len(names), text_width(names)
    return np.hstack([np.vstack([caption(name, width, tile) for name in names]), picture])


def side_by_side(
    left: Pictures, right: Pictures, titles: tuple[str, str], columns: int, tile: int
) -> NDArray[np.uint8]:
    """Lay two montages side by side, each under its title.

    Args:
        left: pictures as for :func:`montage`.
        right: pictures as for :func:`montage`, of any number and size.
        titles: a line above the left and one above the right montage.
        columns: pictures in a row of each montage.
        tile: height and width of each picture in the montages, in pixels.

    Returns:
        uint8 [STRIP + rows * tile, 2 * columns * tile + tile // 2, 3], RGB, where ``rows`` is
        that of the higher montage.

    Raises:
        ValueError: as for :func:`montage`.
    """
    halves = [montage(pictures, columns, tile) for pictures in (left, right)]
    height = max(half.shape[0] for half in halves)
    width = columns * tile
    titled = [
        np.vstack([caption(title, width), half, _background(height - half.shape[0], width)])
        for title, half in zip(titles, halves, strict=True)
    ]
    return np.hstack([titled[0], _background(CAPTION_HEIGHT + height, tile // 2), titled[1]])


def limit_size(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Make a picture as small as need be for its longer side to be at most ``side`` pixels.

    Args:
        picture: uint8 [H, W, 3].
        side: in pixels.

    Returns:
        uint8 [h, w, 3] with the proportions of ``picture``, or ``picture`` itself if it fits.
    """
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer <= side:
        return picture
    size = (max(1, width * side // longer), max(1, height * side // longer))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def save_png(picture: NDArray[np.uint8], target: Path) -> None:
    """Write uint8 [H, W, 3] as a PNG file, whole or not at all."""
    with atomic_write(target) as temporary:
        # Level 4 takes a third of the default's time, for files of the same size.
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=4)


def _cell(picture: NDArray[np.uint8], tile: int) -> NDArray[np.uint8]:
    """Bring one picture to tile size and three channels."""
    shape = picture.shape
    if picture.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"a picture must be uint8 [H, W, 1 or 3], not {picture.dtype} {shape}")
    if shape[0] != shape[1]:
        raise ValueError(f"a picture must be square, not {shape[0]} x {shape[1]}")
    # Whole-number enlargement shows the very pixels that the generator made. Otherwise
    # nearest would make some pixels wider than others; Lanczos does not.
    whole = tile % shape[0] == 0
    filter_ = Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
    rgb = Image.fromarray(np.repeat(picture, 3, axis=2) if shape[2] == 1 else picture)
    return np.asarray(rgb.resize((tile, tile), filter_))


def _background(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
