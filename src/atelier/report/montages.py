"""Montages of the report page, and the frames of its slider."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from atelier.figures.montage import labeled_rows, limit_size, montage
from atelier.gan.sample_files import load_samples
from atelier.pages.images import MAX_SIDE, MONTAGE_FORMATS, Format, PageImage, Pixels, encode

_MIN_FRAMES, _MAX_FRAMES = 4, 32  # of the slider


@dataclass(frozen=True)
class Layout:
    """Arrangement of samples in montages.

    Attributes:
        columns: images in a row.
        classes: names of the samples' classes; each gets a row with its name.
        tile_pixels: side of an image next to a name; other montages have the samples' own pixels.
    """

    columns: int
    classes: Sequence[str] = ()
    tile_pixels: int = 64

    def montage(self, images: Pixels) -> Pixels:
        """Return the montage of images, uint8 [N, H, W, C]."""
        if not self.classes:
            return limit_size(montage(images, self.columns, images.shape[1]), MAX_SIDE)
        rows = montage(images, len(images) // len(self.classes), self.tile_pixels)
        return limit_size(labeled_rows(rows, self.classes), MAX_SIDE)


def frames(
    files: Mapping[int, Path], layout: Layout, characters: int
) -> list[tuple[int, PageImage]]:
    """Return the montages of evenly spread epochs, including the first and the last.

    Their number follows from their sizes. If not even a few fit, their quality is reduced.

    Args:
        files: of samples, by epoch.
        layout: of the montages.
        characters: limit of the sum of all data URIs.
    """
    found: list[tuple[int, PageImage]] = []
    for format_ in MONTAGE_FORMATS:
        found = _frames_within(files, layout, characters, format_)
        if len(found) >= min(_MIN_FRAMES, len(files)):
            break
    return found


def _frames_within(
    files: Mapping[int, Path], layout: Layout, characters: int, format_: Format
) -> list[tuple[int, PageImage]]:
    """Return as many evenly spread frames of this format as fit; at least the last one."""

    @cache
    def encoded(epoch: int) -> PageImage:
        text = f"Generated images after epoch {epoch}, in rows"
        return encode(layout.montage(load_samples(files[epoch])), text, format_)

    epochs = list(files)
    # Epochs differ in size: images of a collapsed generator are much smaller than noise.
    largest = max(len(encoded(epoch).uri) for epoch in _evenly(epochs, 3))
    count = max(1, min(_MAX_FRAMES, len(epochs), characters // largest))
    while True:
        found = [(epoch, encoded(epoch)) for epoch in _evenly(epochs, count)]
        total = sum(len(image.uri) for _, image in found)
        if total <= characters or count == 1:
            return found
        count = max(1, min(count - 1, count * characters // total))


def _evenly(epochs: Sequence[int], count: int) -> list[int]:
    """Return evenly spread epochs with the first and the last; only the last if ``count`` is 1."""
    positions = np.linspace(len(epochs) - 1, 0, min(count, len(epochs))).round().astype(int)
    return [epochs[position] for position in positions[::-1]]
