"""Contact sheets: content, style and stylized images with captions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atelier.core.resizing import resize_image
from atelier.figures.captions import BACKGROUND, caption

Image8 = NDArray[np.uint8]
SheetRow = tuple[Image8, str]

_GAP = 16
_MIN_CELL, _MAX_CELL = 256, 512  # pixels


def contact_sheet(headings: Sequence[str], rows: Sequence[Sequence[SheetRow]]) -> Image8:
    """Lay out rows of captioned images in columns under headings.

    Images keep their aspect ratios. Each fits a square cell of the size of the largest image of
    the last column, within bounds. Smaller images are enlarged with a Lanczos filter.

    Args:
        headings: one for each column.
        rows: for each column an image, uint8 [H, W, 3] RGB of any size, and its caption.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    cell = min(max(_MIN_CELL, *(max(row[-1][0].shape[:2]) for row in rows)), _MAX_CELL)
    fitted = [[(resize_to_fit(image, cell), text) for image, text in row] for row in rows]
    widths = [max(image.shape[1] for image, _ in column) for column in zip(*fitted, strict=True)]
    widths = [max(width, _MIN_CELL // 2) for width in widths]
    lines = [
        _append_right([caption(text, width) for text, width in zip(headings, widths, strict=True)])
    ]
    for row in fitted:
        height = max(image.shape[0] for image, _ in row)
        images = [_centered(p, height, w) for (p, _), w in zip(row, widths, strict=True)]
        captions = [caption(text, w) for (_, text), w in zip(row, widths, strict=True)]
        lines += [
            _append_right(images),
            _append_right(captions),
            _blank(_GAP // 2, lines[0].shape[1]),
        ]
    return np.vstack(lines)


def style_grid(rows: Sequence[tuple[SheetRow, SheetRow, SheetRow]]) -> Image8 | None:
    """Lay out stylized images as a grid: contents down, styles across.

    Args:
        rows: for each stylized image its content, its style and itself, each with its caption.

    Returns:
        uint8 [H, W, 3] RGB; ``None`` for a single style or if a combination is missing.
    """
    contents = {text: image for (image, text), _, _ in rows}
    styles = {text: image for _, (image, text), _ in rows}
    stylized = {(content, style): image for (_, content), (_, style), (image, _) in rows}
    if len(styles) < 2 or len(stylized) < len(contents) * len(styles):
        return None
    longest = max(max(image.shape[:2]) for image in stylized.values())
    cell = min(max(_MIN_CELL, longest), _MAX_CELL)
    column = cell // 2  # contents and styles are half as large
    corner = _blank(column, column)
    heads = [_centered(resize_to_fit(image, column), column, cell) for image in styles.values()]
    names = [caption(text, cell) for text in styles]
    lines = [
        _append_right([corner, *heads]),
        _append_right([_blank(names[0].shape[0], column), *names]),
    ]
    lines.insert(0, _blank(_GAP, lines[0].shape[1]))
    for content, image in contents.items():
        cells = [resize_to_fit(stylized[content, style], cell) for style in styles]
        height = max(image.shape[0] for image in cells)
        small, text = resize_to_fit(image, column), caption(content, column)
        labeled = np.vstack([_centered(small, small.shape[0], column), text])
        first = _centered(labeled, max(height, labeled.shape[0]), column)
        cells = [_centered(image, first.shape[0], cell) for image in cells]
        lines += [_append_right([first, *cells]), _blank(_GAP, lines[0].shape[1])]
    return np.vstack(lines)


def resize_to_fit(image: Image8, box: int | tuple[int, ...]) -> Image8:
    """Scale uint8 [H, W, 3] to a height and width, or so that its longer side is ``box`` pixels."""
    height, width = image.shape[:2]
    if isinstance(box, int):
        factor = box / max(height, width)
        box = max(1, round(height * factor)), max(1, round(width * factor))
    return resize_image(image, box[0], box[1], "lanczos")


def _centered(image: Image8, height: int, width: int) -> Image8:
    cell = _blank(height, width)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    cell[top : top + image.shape[0], left : left + image.shape[1]] = image
    return cell


def _append_right(cells: Sequence[Image8]) -> Image8:
    gap = _blank(cells[0].shape[0], _GAP)
    return np.hstack([gap, *(part for cell in cells for part in (cell, gap))])


def _blank(height: int, width: int) -> Image8:
    return np.full((height, width, 3), BACKGROUND, np.uint8)
