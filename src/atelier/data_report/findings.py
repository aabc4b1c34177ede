"""Findings about a data set: rejected files, near-duplicates, outliers, low quality."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from atelier.data.image_list import ImageEntry
from atelier.data_report.outliers import FAR, outlier_scores
from atelier.data_report.quality import Quality, measure_quality

MAX_MEASURED = 20_000
"""Number of images whose pixels are read; of more images, an evenly spread part is measured."""
SETS = ("training", "validation", "test")

_Item = TypeVar("_Item")

Extract = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Function that returns features, [N, D] and not negative, of images, uint8 [N, H, W, C]."""
Measured = Sequence[tuple[ImageEntry, float]]
"""Images with a measure, the most extreme first."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Rows of all sets, and the list of all files.

    Attributes:
        entries: the list.
        pixels: uint8 [N, H, W, C] by the name of the set.
    """

    entries: Sequence[ImageEntry]
    pixels: Mapping[str, NDArray[np.uint8]]

    @property
    def rows(self) -> list[ImageEntry]:
        """Images that are in a set."""
        return [entry for entry in self.entries if entry.set in SETS]

    @property
    def side(self) -> int:
        """Height and width of rows in pixels."""
        return int(self.pixels["training"].shape[1])

    def row(self, entry: ImageEntry) -> NDArray[np.uint8]:
        """Return the pixels of an image of :attr:`rows`, uint8 [H, W, C]."""
        return np.asarray(self.pixels[entry.set][entry.index])


@dataclass(frozen=True, eq=False)
class Findings:
    """Findings about a data set.

    Attributes:
        found: number of files.
        used: number of files that have a row.
        rows: number of rows.
        sets: number of rows by set.
        rejected: rejected files by reason, the most frequent reason first.
        dropped: near-duplicates that are in no set.
        groups: images of each group of near-duplicates, the largest group first.
        enlarged: images made from fewer pixels than the row has, with the side of that part of the
            original, the smallest first.
        measured: number of images whose pixels were measured.
        blurred: with their sharpness.
        dark: with their 95th percentile of brightness.
        bright: with their 5th percentile of brightness.
        flat: with their contrast.
        searched: number of images that were searched for outliers.
        outliers: with their distance relative to the median; all images that were searched.
        average: mean of the measured images, uint8 [H, W, C].
        classes: number of images by class, empty unless there are two folders.
        sizes: width and height of all readable files.
        by_side: all rows, from the smallest part of an original to the largest, with its side.
    """

    found: int
    used: int
    rows: int
    sets: Mapping[str, int]
    rejected: Mapping[str, Sequence[ImageEntry]]
    dropped: Sequence[ImageEntry]
    groups: Sequence[Sequence[ImageEntry]]
    enlarged: Measured
    measured: int
    blurred: Measured
    dark: Measured
    bright: Measured
    flat: Measured
    searched: int
    outliers: Measured
    average: NDArray[np.uint8]
    classes: Mapping[str, int]
    sizes: Sequence[tuple[int, int]]
    by_side: Measured

    @property
    def far(self) -> Measured:
        """Outliers that are farther from the others than usual."""
        return [(entry, score) for entry, score in self.outliers if score > FAR]

    @property
    def copies(self) -> int:
        """Number of images in sets that repeat another one, so that one of each group remains."""
        in_sets = (sum(entry.set in SETS for entry in group) for group in self.groups)
        return sum(max(0, count - 1) for count in in_sets)

    def counts(self) -> dict[str, int]:
        """Return the counts that are logged."""
        return {
            "files": self.found,
            "used_files": self.used,
            "rejected_files": sum(map(len, self.rejected.values())),
            "images": self.rows,
            "near_duplicate_groups": len(self.groups),
            "near_duplicates": self.copies,
            "dropped": len(self.dropped),
            "enlarged": len(self.enlarged),
            "measured": self.measured,
            "blurred": len(self.blurred),
            "dark": len(self.dark),
            "bright": len(self.bright),
            "flat": len(self.flat),
            "searched_for_outliers": self.searched,
            "outliers": len(self.far),
        }


def examine(
    data: DataSet,
    outlier_images: int = 0,
    extract: Extract | None = None,
) -> Findings:
    """Examine a data set.

    Memory holds the list, one row at a time, and the rows that are searched for outliers.

    Args:
        data: the rows and the list.
        outlier_images: number of images to search for outliers; of more images, an evenly spread
            part is searched.
        extract: returns features; without it, outliers are not searched.
    """
    rows, files = data.rows, _files(data.entries)
    measured = spread(rows, MAX_MEASURED)
    total = np.zeros(data.pixels["training"].shape[1:], np.float64)

    def summed(entry: ImageEntry) -> NDArray[np.uint8]:
        row = data.row(entry)
        np.add(total, row, out=total)
        return row

    quality = measure_quality(map(summed, measured), data.side)
    searched = spread(rows, outlier_images) if extract else []
    groups = _groups(data.entries)
    return Findings(
        found=len(files),
        used=len(_files(rows)),
        rows=len(rows),
        sets=Counter(entry.set for entry in rows),
        rejected=_by_reason(data.entries),
        dropped=[e for e in data.entries if not e.reason and e.set not in SETS],
        groups=groups,
        enlarged=_enlarged(rows, data.side),
        measured=len(measured),
        **_low_quality(measured, quality),
        searched=len(searched),
        outliers=_by_score(data, searched, extract) if extract and searched else [],
        average=(total / len(measured)).round().astype(np.uint8),
        classes=_classes(rows),
        sizes=[(file.width, file.height) for file in files if file.width],
        by_side=[(e, float(e.side)) for e in sorted(rows, key=lambda entry: entry.side)],
    )


def spread(entries: Sequence[_Item], count: int) -> list[_Item]:
    """Return at most ``count`` evenly spread entries."""
    places = np.linspace(0, len(entries) - 1, min(count, len(entries))).round()
    return [entries[int(place)] for place in places]


def _files(entries: Sequence[ImageEntry]) -> list[ImageEntry]:
    """Return the first entry of each file; a file can have several rows, one after another."""
    previous = [None, *entries[:-1]]
    return [
        entry
        for entry, before in zip(entries, previous, strict=True)
        if before is None or (entry.file, entry.sha256) != (before.file, before.sha256)
    ]


def _by_reason(entries: Sequence[ImageEntry]) -> dict[str, list[ImageEntry]]:
    found = defaultdict(list)
    for entry in entries:
        if entry.reason:
            found[entry.reason].append(entry)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _groups(entries: Sequence[ImageEntry]) -> list[list[ImageEntry]]:
    found = defaultdict(list)
    for entry in entries:
        if entry.group >= 0:
            found[entry.group].append(entry)
    return sorted(found.values(), key=lambda group: -len(group))


def _enlarged(rows: Sequence[ImageEntry], side: int) -> list[tuple[ImageEntry, float]]:
    small = [(entry, float(entry.side)) for entry in rows if 0 < entry.side < side]
    return sorted(small, key=lambda pair: pair[1])


def _low_quality(entries: Sequence[ImageEntry], quality: Quality) -> dict[str, Measured]:
    def ordered(
        selected: NDArray[np.bool_], values: NDArray[np.float64]
    ) -> list[tuple[ImageEntry, float]]:
        places = np.flatnonzero(selected)
        places = places[np.argsort(values[places], kind="stable")]
        return [(entries[place], float(values[place])) for place in places.tolist()]

    return {
        "blurred": ordered(quality.is_blurred, quality.sharpness),
        "dark": ordered(quality.is_dark, quality.high),
        "bright": ordered(quality.is_bright, quality.low)[::-1],
        "flat": ordered(quality.is_flat, quality.high - quality.low),
    }


def _by_score(
    data: DataSet, searched: Sequence[ImageEntry], extract: Extract
) -> list[tuple[ImageEntry, float]]:
    scores = outlier_scores(extract(np.stack([data.row(entry) for entry in searched])))
    order = np.argsort(-scores, kind="stable").tolist()
    return [(searched[place], float(scores[place])) for place in order]


def _classes(rows: Sequence[ImageEntry]) -> dict[str, int]:
    """Return the number of images in each last folder of a name, the largest first."""
    folders = Counter(entry.name.rpartition("/")[0].rpartition("/")[2] for entry in rows)
    return dict(folders.most_common()) if len(folders) > 1 else {}
