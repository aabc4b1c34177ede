"""Images of the compare page: samples by epoch and stylized images, within a budget."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from atelier.pages.images import (
    Format,
    PageImage,
    Pixels,
    encode,
    encode_within,
    sample_montage,
)
from atelier.tracking.compared_files import DAMAGE
from atelier.tracking.compared_run import ComparedRun
from atelier.web.compare_groups import shortened

_FORMATS = (Format(), Format(quality=60), Format(512, 50), Format(256, 40), Format(128, 30))
_MIN_POSITIONS, _MAX_POSITIONS = 6, 48  # of the slider
# Number of samples of a run, by the largest number of runs for which they have room.
_SAMPLES = ((2, 64), (4, 36), (math.inf, 16))
_PAINTING_FORMATS = (Format(256), Format(192), Format(128), Format(128, 50), Format(64, 40))
_MAX_NAME = 120  # characters
_MAX_PAINTINGS = 9  # rows of the table


@dataclass(frozen=True)
class Samples:
    """Samples of all runs under one slider.

    Attributes:
        positions: epochs of the slider, ascending.
        frames: for each run (epoch, montage) in order; none if it has no samples.
        left_out: True if the budget has no room for all epochs.
        notes: for each run, sentences on damaged samples.
    """

    positions: Sequence[int]
    frames: Sequence[Sequence[tuple[int, PageImage]]]
    left_out: bool
    notes: Sequence[Sequence[str]]


@dataclass
class _Encoder:
    """Montages of the samples of one run, each loaded once and encoded once per format.

    Attributes:
        run: the run.
        count: number of samples of a montage.
        folder: for montages, which may need more memory than there is.
        damaged: epochs whose samples cannot be read.
    """

    run: ComparedRun
    count: int
    folder: Path
    damaged: set[int] = field(default_factory=set)
    _encoded: dict[tuple[int, Format], PageImage] = field(default_factory=dict)

    def frames(self, positions: Iterable[int], format_: Format) -> list[tuple[int, PageImage]]:
        """Return the montage that each position shows, without damaged ones."""
        epochs = sorted({nearest for p in positions if (nearest := self.nearest(p)) is not None})
        found = [(epoch, self._frame(epoch, format_)) for epoch in epochs]
        return [(epoch, image) for epoch, image in found if image is not None]

    def nearest(self, position: int) -> int | None:
        """Return the last epoch up to a position; the first one if all are later."""
        epochs = [epoch for epoch in self.run.samples if epoch not in self.damaged]
        earlier = [epoch for epoch in epochs if epoch <= position]
        return max(earlier) if earlier else min(epochs, default=None)

    def _frame(self, epoch: int, format_: Format) -> PageImage | None:
        key = epoch, format_
        if key not in self._encoded:
            try:
                image = self._montage(epoch)
            except DAMAGE:
                self.damaged.add(epoch)
                return None
            text = f"Generated images of {self.run.name} after epoch {epoch}, in rows"
            self._encoded[key] = encode(image, text, format_)
        return self._encoded[key]

    def _montage(self, epoch: int) -> Pixels:
        """Return the montage of an epoch.

        Samples may be downloaded, so the montage is saved for other formats.
        """
        file = self.folder / f"{epoch}.npy"
        if file.exists():
            return np.asarray(np.load(file, allow_pickle=False))
        found = sample_montage(self.run.samples[epoch](), self.count)
        np.save(file, found, allow_pickle=False)
        return found


def encode_samples(runs: Sequence[ComparedRun], characters: int) -> Samples:
    """Return the samples of all runs with as many epochs as fit.

    The slider has evenly spread epochs of all runs, and the last one of each. If only a few fit,
    the quality of the images is reduced.

    Args:
        runs: in the order of the page.
        characters: limit of the sum of all data URIs.
    """
    with TemporaryDirectory() as folder:
        return _encode_samples(runs, characters, Path(folder))


def _encode_samples(runs: Sequence[ComparedRun], characters: int, folder: Path) -> Samples:
    """Return the samples of all runs; montages are saved in a folder."""
    count = next(samples for most, samples in _SAMPLES if len(runs) <= most)
    encoders = []
    for number, run in enumerate(runs):
        (folder / str(number)).mkdir()
        encoders.append(_Encoder(run, count, folder / str(number)))
    epochs = sorted({epoch for run in runs for epoch in run.samples})
    lasts = sorted({max(run.samples) for run in runs if run.samples})
    positions: list[int] = []
    frames: list[list[tuple[int, PageImage]]] = []
    for format_ in _FORMATS:
        number = min(_MAX_POSITIONS, len(epochs))
        while number:
            positions = sorted({*_evenly(epochs, number), *lasts})
            total = 0
            frames = []
            for encoder in encoders:  # no more is encoded than needed to see that it is too much
                frames.append(encoder.frames(positions, format_))
                total += sum(len(image.uri) for _, image in frames[-1])
                if total > characters and number > 1:
                    break
            if total <= characters or number == 1:
                break
            seen = len(frames) / len(runs)
            number = min(number - 1, max(1, int(number * seen * characters / total)))
        if len(positions) >= min(_MIN_POSITIONS, len(epochs)) and _size(frames) <= characters:
            break
    notes = [
        [f"samples of epoch {epoch} damaged" for epoch in sorted(encoder.damaged)]
        for encoder in encoders
    ]
    frames = frames or [[] for _ in runs]
    return Samples(positions, frames, len(positions) < len(epochs), notes)


def _evenly(epochs: Sequence[int], count: int) -> list[int]:
    """Return evenly spread epochs with the first and the last; only the last if ``count`` is 1."""
    places = np.linspace(len(epochs) - 1, 0, count).round().astype(int)
    return [epochs[place] for place in places[::-1]]


def _size(frames: Sequence[Sequence[tuple[int, PageImage]]]) -> int:
    return sum(len(image.uri) for each in frames for _, image in each)


@dataclass(frozen=True)
class Painting:
    """Stylized images of one content and style.

    Attributes:
        content: name of the content.
        style: name of the style.
        images: of each run; ``None`` for a run without it.
    """

    content: str
    style: str
    images: Sequence[PageImage | None]


def encode_paintings(
    runs: Sequence[ComparedRun], characters: int
) -> tuple[list[Painting], int, list[list[str]]]:
    """Return the stylized images that most runs have.

    Args:
        runs: in the order of the page.
        characters: limit of the sum of all data URIs.

    Returns:
        Rows of the table, the number of all rows, and for each run sentences on damaged images.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.shown_stylized))
    names.sort(key=lambda name: -sum(name in run.shown_stylized for run in runs))
    chosen = names[:_MAX_PAINTINGS]
    notes: list[list[str]] = [[] for _ in runs]
    cells: dict[tuple[str, int], Pixels] = {}
    for name in chosen:
        for place, run in enumerate(runs):
            if name in run.shown_stylized:
                try:
                    cells[name, place] = run.shown_stylized[name].load()
                except DAMAGE:
                    notes[place].append(f"stylized image {shortened(name, _MAX_NAME)} damaged")
    texts = [
        f"{shortened(name, _MAX_NAME)}, stylized by {runs[place].name}" for name, place in cells
    ]
    images = encode_within(list(cells.values()), texts, characters, _PAINTING_FORMATS)
    encoded = dict(zip(cells, images, strict=True))
    rows = [_painting(runs, name, encoded) for name in chosen]
    return [row for row in rows if any(row.images)], len(names), notes


def _painting(
    runs: Sequence[ComparedRun], name: str, encoded: Mapping[tuple[str, int], PageImage]
) -> Painting:
    file = next(run.shown_stylized[name] for run in runs if name in run.shown_stylized)
    images = [encoded.get((name, place)) for place in range(len(runs))]
    return Painting(file.content, file.style, images)
