"""A table of pictures on paper: what was painted, in which style, and what came of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.figures.captions import BACKGROUND, caption

Pixels = NDArray[np.uint8]
SheetRow = tuple[Pixels, str]

_GAP = 16
_LEAST, _MOST = 256, 512  # pixels of a cell's side


def contact_sheet(headings: Sequence[str], rows: Sequence[Sequence[SheetRow]]) -> Pixels:
    """Lay out rows of pictures, each over its caption, in columns under headings.

    Pictures keep their shapes. Each fits a square cell as large as the largest picture of the last
    column, within bounds; what is far smaller than that is enlarged smoothly.

    Args:
        headings: one for each column.
        rows: for each column a picture, uint8 [H, W, 3] RGB of any size, and its caption.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    cell = min(max(_LEAST, *(max(row[-1][0].shape[:2]) for row in rows)), _MOST)
    fitted = [[(resize_to_fit(picture, cell), words) for picture, words in row] for row in rows]
    widths = [
        max(picture.shape[1] for picture, _ in column) for column in zip(*fitted, strict=True)
    ]
    widths = [max(width, _LEAST // 2) for width in widths]
    lines = [
        _append_right([caption(text, width) for text, width in zip(headings, widths, strict=True)])
    ]
    for row in fitted:
        height = max(picture.shape[0] for picture, _ in row)
        pictures = [_centred(p, height, w) for (p, _), w in zip(row, widths, strict=True)]
        captions = [caption(words, w) for (_, words), w in zip(row, widths, strict=True)]
        lines += [
            _append_right(pictures),
            _append_right(captions),
            _blank(_GAP // 2, lines[0].shape[1]),
        ]
    return np.vstack(lines)


def style_grid(rows: Sequence[tuple[SheetRow, SheetRow, SheetRow]]) -> Pixels | None:
    """Lay out stylized images as a grid: contents down, styles across.

    Args:
        rows: for each stylized image its content, its style and itself, each with its caption.

    Returns:
        uint8 [H, W, 3] RGB; ``None`` for a single style or if a combination is missing.
    """
    contents = {words: picture for (picture, words), _, _ in rows}
    styles = {words: picture for _, (picture, words), _ in rows}
    painted = {(content, style): picture for (_, content), (_, style), (picture, _) in rows}
    if len(styles) < 2 or len(painted) < len(contents) * len(styles):
        return None
    longest = max(max(picture.shape[:2]) for picture in painted.values())
    cell = min(max(_LEAST, longest), _MOST)
    column = _LEAST // 2 if cell == _LEAST else cell // 2  # contents and styles are half as large
    corner = _blank(column, column)
    heads = [_centred(resize_to_fit(picture, column), column, cell) for picture in styles.values()]
    names = [caption(words, cell) for words in styles]
    lines = [
        _append_right([corner, *heads]),
        _append_right([_blank(names[0].shape[0], column), *names]),
    ]
    lines.insert(0, _blank(_GAP, lines[0].shape[1]))
    for content, picture in contents.items():
        cells = [resize_to_fit(painted[content, style], cell) for style in styles]
        height = max(image.shape[0] for image in cells)
        small, words = resize_to_fit(picture, column), caption(content, column)
        labelled = np.vstack([_centred(small, small.shape[0], column), words])
        first = _centred(labelled, max(height, labelled.shape[0]), column)
        cells = [_centred(image, first.shape[0], cell) for image in cells]
        lines += [_append_right([first, *cells]), _blank(_GAP, lines[0].shape[1])]
    return np.vstack(lines)


def resize_to_fit(picture: Pixels, box: int | tuple[int, ...]) -> Pixels:
    """Scale uint8 [H, W, 3] to a height and width, or so that its longer side is ``box`` pixels."""
    height, width = picture.shape[:2]
    if isinstance(box, int):
        factor = box / max(height, width)
        box = max(1, round(height * factor)), max(1, round(width * factor))
    if box[:2] == (height, width):
        return picture
    size = (box[1], box[0])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _centred(picture: Pixels, height: int, width: int) -> Pixels:
    cell = _blank(height, width)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return cell


def _append_right(cells: Sequence[Pixels]) -> Pixels:
    gap = _blank(cells[0].shape[0], _GAP)
    return np.hstack([gap, *(part for cell in cells for part in (cell, gap))])


def _blank(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), BACKGROUND, np.uint8)
