"""A training as an animated GIF."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image

from atelier.core.files import atomic_write
from atelier.core.progress import Progress, ProgressCallback, silent

MAX_FRAMES = 65_535  # hundredths of a second: what a GIF can say


def write_gif(
    frames: Iterable[NDArray[np.uint8]],
    target: Path,
    fps: float,
    hold_last: float = 0.0,
    report: ProgressCallback = silent,
) -> None:
    """Write an animated GIF that plays for ever, holding one frame in memory at a time.

    Every frame given is a frame of the file, also where two are alike: Pillow's own
    writer of animations merges those, and keeps all frames in memory until the end.

    Args:
        frames: uint8 [H, W, 3], RGB, all of one shape, sides at most 65,535 pixels.
        target: the GIF file.
        fps: frames a second, at most 100; GIFs count hundredths of a second, so frame
            lengths alternate where need be, and the whole keeps its time.
        hold_last: how much longer the last frame stays, in seconds.
        report: told the number of frames written.

    Raises:
        ValueError: there is no frame, or frames differ in shape.
    """
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        shape = None
        for number, (frame, last) in enumerate(_including_last(frames)):
            shape = shape or frame.shape
            if frame.shape != shape:
                raise ValueError(f"frame {number} is {frame.shape}, the first one {shape}")
            ticks = round(100 * (number + 1) / fps) - round(100 * number / fps)
            ticks += round(100 * hold_last) if last else 0
            _write_frame(file, frame, min(ticks, MAX_FRAMES), first=number == 0)
            report(Progress(number + 1))
        if shape is None:
            raise ValueError("a film needs at least one frame")
        file.write(b";")


def _including_last(
    frames: Iterable[NDArray[np.uint8]],
) -> Iterator[tuple[NDArray[np.uint8], bool]]:
    """Pair each frame with whether it is the last."""
    previous = None
    for frame in frames:
        if previous is not None:
            yield previous, False
        previous = frame
    if previous is not None:
        yield previous, True


def _write_frame(file: BinaryIO, frame: NDArray[np.uint8], ticks: int, first: bool) -> None:
    """Append a frame with a palette of its own, and before the first the file's header."""
    rgb = Image.fromarray(frame)
    # The octree finds good colours fast, but assigns them coarsely: it leaves speckles that
    # flicker from frame to frame. Taking the nearest of its colours mends that. Dithering
    # would flicker more.
    palette = rgb.quantize(256, method=Image.Quantize.FASTOCTREE)
    indexed = rgb.quantize(palette=palette, dither=Image.Dither.NONE)
    if first:
        header, _ = GifImagePlugin.getheader(indexed.copy(), info={"loop": 0})
        file.writelines(header)
    data = GifImagePlugin.getdata(indexed, duration=10 * ticks, include_color_table=True)
    file.writelines(data)
    data.clear()  # Pillow keeps this list alive in a cycle of references
