"""Figures of style transfers: contact sheet, loss curves, intermediate images and GIFs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.core.files import write_json
from atelier.figures.captions import BACKGROUND
from atelier.figures.contact_sheet import SheetRow, contact_sheet, resize_to_fit, style_grid
from atelier.figures.curves import curve
from atelier.figures.gif import write_gif
from atelier.figures.montage import limit_size, save_png

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_GIF_SIDE = 512
_GIF_FPS = 12  # at most
_GIF_SECONDS = 3.0  # at least; few frames last longer
_GIF_HOLD = 2.0  # seconds of the last frame
_MAX_THUMBNAIL = 256
_SOURCE_SIDE = 512  # of the copies of contents and styles


def save_style_figures(
    rows: Sequence[tuple[SheetRow, SheetRow, SheetRow]],
    intermediates: Sequence[Mapping[int, Pixels]],
    losses: tuple[Floats, Mapping[str, Floats]],
    gif: bool,
    folder: Path,
) -> None:
    """Write a contact sheet, loss curves, intermediate images and GIFs of stylized images.

    Args:
        rows: for each stylized image its content, its style and itself, each with its caption.
            The last caption is the name of its files.
        intermediates: for each stylized image, uint8 [H, W, 3] RGB by iteration, ascending.
        losses: arguments of :func:`save_losses`.
        gif: True to write a GIF of the intermediate images.
        folder: gets ``sheet.png``, ``losses.png``, ``NAME.gif``, ``steps/NAME/``, and the files of
            :func:`save_sources`.
    """
    grid = style_grid(rows)
    sheet = contact_sheet(("content", "style", "stylized"), rows) if grid is None else grid
    save_png(sheet, folder / "sheet.png")
    save_losses(*losses, folder / "losses.png")
    save_sources(rows, folder)
    for ((content, _), _, (stylized, name)), images in zip(rows, intermediates, strict=True):
        for iteration, image in images.items():
            save_png(image, folder / "steps" / name / f"iteration_{iteration:05d}.png")
        if gif:
            save_gif([content, *images.values(), stylized], folder / f"{name}.gif")


def save_sources(rows: Sequence[tuple[SheetRow, SheetRow, SheetRow]], folder: Path) -> None:
    """Write small copies of contents and styles, and a list of those of each stylized image.

    Args:
        rows: as for :func:`save_style_figures`.
        folder: gets ``sources/content-NAME.png``, ``sources/style-NAME.png`` and
            ``sources/list.json``, whose entries have the names of ``content``, ``style`` and
            ``image``.
    """
    sources = {f"content-{name}": image for (image, name), _, _ in rows}
    sources |= {f"style-{name}": image for _, (image, name), _ in rows}
    for name, image in sources.items():
        save_png(limit_size(image, _SOURCE_SIDE), folder / "sources" / f"{name}.png")
    names = [
        {"content": content, "style": style, "image": image}
        for (_, content), (_, style), (_, image) in rows
    ]
    write_json(folder / "sources" / "list.json", names)


def save_losses(iterations: Floats, lines: Mapping[str, Floats], target: Path) -> None:
    """Plot the weighted terms of the loss as a PNG file.

    Args:
        iterations: float64 [N], ascending.
        lines: for each term float64 [N]; values that are not positive leave a gap.
        target: the PNG file.
    """
    title = "Loss by term"
    curve(iterations, lines, title, "iteration", "weighted loss", target, logy=True)


def save_gif(frames: Sequence[Pixels], target: Path) -> None:
    """Write an animated GIF that loops forever.

    Args:
        frames: uint8 [H, W, 3] RGB, in order, of any sizes. All are resized to the last one.
        target: the GIF file.
    """
    shape = resize_to_fit(frames[-1], min(max(frames[-1].shape), _GIF_SIDE)).shape
    fps = min(_GIF_FPS, len(frames) / _GIF_SECONDS)
    write_gif((resize_to_fit(frame, shape) for frame in frames), target, fps, _GIF_HOLD)


def square_thumbnails(images: Sequence[Pixels]) -> Pixels:
    """Fit images of any shapes into squares on the background color, uint8 [N, S, S, 3]."""
    side = min(max(max(image.shape) for image in images), _MAX_THUMBNAIL)
    squares = np.full((len(images), side, side, 3), BACKGROUND, np.uint8)
    for square, image in zip(squares, images, strict=True):
        fitted = resize_to_fit(image, side)
        height, width = fitted.shape[:2]
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = fitted
    return squares
