"""A picture in parts that overlap so far that no part's border can be felt inside another.

A place of a feature map sees a square of pixels. Each part has a core, which it alone answers for,
and around it as many pixels as its outermost places see. So a feature inside a core is the whole
picture's, and so is its gradient: what is summed over all cores is what one pass would give. Where
parts end makes no difference that could show as a seam, and they need not shift to hide one.
"""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """A rectangle of pixels: ``core`` and, around it, ``seen``; top, bottom, left, right."""

    core: tuple[int, int, int, int]
    seen: tuple[int, int, int, int]

    def of(self, pictures: Tensor) -> Tensor:
        """What the part sees of whole pictures ``[B, C, H, W]``, as a view."""
        top, bottom, left, right = self.seen
        return pictures[:, :, top:bottom, left:right]

    def of_core(self, maps: Tensor, stride: int) -> Tensor:
        """The core's part of maps ``[B, C, h, w]`` of whole pictures."""
        top, bottom, left, right = (-(-edge // stride) for edge in self.core)
        return maps[:, :, top:bottom, left:right]

    def core_of(self, maps: Tensor, stride: int) -> Tensor:
        """The core's part of maps of what the part sees."""
        (top, bottom, left, right), (up, _, aside, _) = self.core, self.seen
        edges = (top - up, bottom - up, left - aside, right - aside)
        top, bottom, left, right = (-(-edge // stride) for edge in edges)
        return maps[:, :, top:bottom, left:right]


def parts(height: int, width: int, side: int | None, reach: int, step: int) -> list[Part]:
    """Divide a picture.

    Args:
        height: of the picture.
        width: of the picture.
        side: of the squares that are seen at once, at most; ``None`` for one part.
        reach: pixels that a place sees to either side, at most.
        step: pixels between two places of the coarsest feature map.
    """
    if side is None or side >= max(height, width):
        everything = (0, height, 0, width)
        return [Part(everything, everything)]
    around = -(-reach // step) * step
    core = max(step, (side - 2 * around) // step * step)
    return [
        Part((top, bottom, left, right), (up, down, before, behind))
        for top, bottom, up, down in _stretches(height, core, around)
        for left, right, before, behind in _stretches(width, core, around)
    ]


def _stretches(length: int, core: int, around: int) -> Iterator[tuple[int, int, int, int]]:
    """Begin and end of cores and of what they see, along one axis."""
    for begin in range(0, length, core):
        end = min(begin + core, length)
        yield begin, end, max(0, begin - around), min(length, end + around)
