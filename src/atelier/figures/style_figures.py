"""How paintings are shown: beside what they are made of, by their losses, and on their way."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.figures.captions import BACKGROUND
from atelier.figures.contact_sheet import SheetRow, contact_sheet, resize_to_fit, style_grid
from atelier.figures.curves import curve
from atelier.figures.gif import write_gif
from atelier.figures.grid import save_png

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_GIF_SIDE = 512
_GIF_FPS = 12  # at most
_GIF_SECONDS = 3.0  # seconds of a way at least: few frames are shown longer
_GIF_HOLD = 2.0  # seconds that the painting stays
_SQUARE = 256


def save_style_figures(
    rows: Sequence[tuple[SheetRow, SheetRow, SheetRow]],
    ways: Sequence[Mapping[int, Pixels]],
    losses: tuple[Floats, Mapping[str, Floats]],
    filmed: bool,
    folder: Path,
) -> None:
    """Write a sheet of paintings, their losses, their ways, and films of those.

    Args:
        rows: for each painting its content, its style and itself, each with its caption; its own
            is the name of its files.
        ways: for each painting its intermediates, uint8 [H, W, 3] RGB by iteration, in order.
        losses: as for :func:`save_losses`.
        filmed: whether there is a film of each way.
        folder: gets ``sheet.png``, ``losses.png``, ``NAME.gif`` and ``steps/NAME/``.
    """
    grid = style_grid(rows)
    listed = contact_sheet(("content", "style", "painting"), rows) if grid is None else grid
    save_png(listed, folder / "sheet.png")
    save_losses(*losses, folder / "losses.png")
    for ((content, _), _, (painting, name)), way in zip(rows, ways, strict=True):
        for iteration, picture in way.items():
            save_png(picture, folder / "steps" / name / f"iteration_{iteration:05d}.png")
        if filmed:
            save_gif([content, *way.values(), painting], folder / f"{name}.gif")


def save_losses(iterations: Floats, lines: Mapping[str, Floats], target: Path) -> None:
    """Draw what each term adds to the loss as a PNG file.

    Args:
        iterations: float64 [N], ascending.
        lines: for each term float64 [N]; what is not above 0 leaves a gap.
        target: the PNG file.
    """
    title = "What the loss is made of"
    curve(iterations, lines, title, "iteration", "weighted loss", target, logy=True)


def save_gif(way: Sequence[Pixels], target: Path) -> None:
    """Write a painting's way as an animated GIF that plays for ever.

    Args:
        way: uint8 [H, W, 3] RGB, in order, of any sizes; the last is the painting, which says the
            shape.
        target: the GIF file.
    """
    shape = resize_to_fit(way[-1], min(max(way[-1].shape), _GIF_SIDE)).shape
    fps = min(_GIF_FPS, len(way) / _GIF_SECONDS)
    write_gif((resize_to_fit(picture, shape) for picture in way), target, fps, _GIF_HOLD)


def square_thumbnails(pictures: Sequence[Pixels]) -> Pixels:
    """Bring pictures of any shapes to one, uint8 [N, S, S, 3], on paper."""
    side = min(max(max(picture.shape) for picture in pictures), _SQUARE)
    paper = np.full((len(pictures), side, side, 3), BACKGROUND, np.uint8)
    for square, picture in zip(paper, pictures, strict=True):
        fitted = resize_to_fit(picture, side)
        height, width = fitted.shape[:2]
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = fitted
    return paper
