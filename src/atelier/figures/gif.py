"""Animated GIFs."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image

from atelier.core.files import atomic_write
from atelier.core.progress import Progress, ProgressCallback, silent

MAX_TICKS = 65_535  # hundredths of a second: the longest frame of a GIF


def write_gif(
    frames: Iterable[NDArray[np.uint8]],
    target: Path,
    fps: float,
    hold_last: float = 0.0,
    report: ProgressCallback = silent,
) -> None:
    """Write an animated GIF that loops forever, with one frame in memory at a time.

    Equal frames stay separate frames. Pillow's own writer merges them and keeps all frames in
    memory until the end.

    Args:
        frames: uint8 [H, W, 3], RGB, all of one shape, sides at most 65,535 pixels.
        target: the GIF file.
        fps: frames per second, at most 100. GIFs count hundredths of a second, so the lengths of
            frames alternate if necessary, and the total is exact.
        hold_last: additional seconds of the last frame.
        report: receives the number of frames written.

    Raises:
        ValueError: there is no frame, or the shapes of frames differ.
    """
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        shape = None
        for number, (frame, last) in enumerate(_including_last(frames)):
            shape = shape or frame.shape
            if frame.shape != shape:
                raise ValueError(f"frame {number} is {frame.shape}, the first one {shape}")
            ticks = round(100 * (number + 1) / fps) - round(100 * number / fps)
            ticks += round(100 * hold_last) if last else 0
            _write_frame(file, frame, min(ticks, MAX_TICKS), first=number == 0)
            report(Progress(number + 1))
        if shape is None:
            raise ValueError("a GIF needs at least one frame")
        file.write(b";")


def _including_last(
    frames: Iterable[NDArray[np.uint8]],
) -> Iterator[tuple[NDArray[np.uint8], bool]]:
    """Yield each frame, and True for the last one."""
    previous = None
    for frame in frames:
        if previous is not None:
            yield previous, False
        previous = frame
    if previous is not None:
        yield previous, True


def _write_frame(file: BinaryIO, frame: NDArray[np.uint8], ticks: int, first: bool) -> None:
    """Append a frame with its own palette; write the file header before the first frame."""
    rgb = Image.fromarray(frame)
    # The octree finds good colors fast but assigns them coarsely, which flickers from frame to
    # frame. Assigning the nearest of its colors avoids that. Dithering would flicker more.
    palette = rgb.quantize(256, method=Image.Quantize.FASTOCTREE)
    indexed = rgb.quantize(palette=palette, dither=Image.Dither.NONE)
    if first:
        header, _ = GifImagePlugin.getheader(indexed.copy(), info={"loop": 0})
        file.writelines(header)
    data = GifImagePlugin.getdata(indexed, duration=10 * ticks, include_color_table=True)
    file.writelines(data)
    data.clear()  # Pillow keeps this list alive in a cycle of references
