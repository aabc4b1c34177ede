"""Page with thumbnails of the images that differ between two versions of the data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from atelier.core.errors import AtelierError
from atelier.data.dataset import Images, load_images
from atelier.data.image_changes import File, ImageChanges, file_name, file_state
from atelier.data.image_list import ImageEntry
from atelier.pages.html import write_html
from atelier.pages.images import Format, PageImage, encode

_MAX_CARDS = 200  # of each list; the page stays small enough to be sent by mail
_MAX_ROWS = 4  # of a file
_THUMBNAIL = Format(side=96, quality=80)
_FILES = {
    "training": "data/images.npz",
    "validation": "data/validation.npz",
    "test": "data/test.npz",
}


@dataclass(frozen=True)
class Version:
    """A version of the data set.

    Attributes:
        name: for readers.
        path: returns the file that has the content of an output.
        is_committed: it is not the workspace.
    """

    name: str
    path: Callable[[str], Path]
    is_committed: bool
    _sets: dict[str, Images] = field(default_factory=dict, compare=False)

    def thumbnail(self, entry: ImageEntry) -> PageImage:
        """Return the thumbnail of a row; other rows of its set are not read.

        Raises:
            AtelierError: the set is missing, damaged, or of another version than the list.
        """
        if entry.set not in self._sets:
            path = self.path(_FILES[entry.set])
            self._sets[entry.set] = load_images(path, may_be_empty=True)
        pixels = self._sets[entry.set].pixels
        if entry.index >= len(pixels):
            action = (
                "choose another version" if self.is_committed else "run the convert stage again"
            )
            raise AtelierError(
                f"data/images.csv of {self.name} lists more images than its {_FILES[entry.set]}"
                f" has; {action}, or leave out --html."
            )
        row = np.asarray(pixels[entry.index])
        return encode(np.broadcast_to(row, (*row.shape[:2], 3)), entry.name, _THUMBNAIL)


@dataclass(frozen=True)
class Side:
    """A file in one of the versions.

    Attributes:
        label: of the version; empty if the card has one side.
        images: thumbnails of its first rows; none if the file has no row in a set.
        omitted: number of further rows.
        state: size of the file, or why it is not used.
    """

    label: str
    images: Sequence[PageImage]
    omitted: int
    state: str


@dataclass(frozen=True)
class Card:
    """A file that differs: its names, the older one first, and its thumbnails."""

    names: Sequence[str]
    sides: Sequence[Side]


@dataclass(frozen=True)
class Section:
    """Files with one kind of change; ``count`` may be more than the cards."""

    title: str
    count: int
    cards: Sequence[Card]


def write_data_diff(target: Path, versions: Sequence[Version], changes: ImageChanges) -> None:
    """Write a page that needs no other files.

    Args:
        target: the HTML file.
        versions: before and after.
        changes: between them.
    """
    before, after = versions
    cards = {
        "added": [_card(after, file) for file in changes.added[:_MAX_CARDS]],
        "removed": [_card(before, file) for file in changes.removed[:_MAX_CARDS]],
        "changed": [_changed_card(versions, pair) for pair in changes.changed[:_MAX_CARDS]],
        "renamed": [_renamed_card(after, pair) for pair in changes.renamed[:_MAX_CARDS]],
    }
    counts = changes.counts()
    sections = [Section(kind.title(), counts[kind], cards[kind]) for kind in cards]
    names = [version.name for version in versions]
    values = {"names": names, "counts": counts, "sections": sections, "factors": {}}
    write_html(target, Path(__file__).with_name("data_diff.html.j2"), values)


def _card(version: Version, file: File) -> Card:
    return Card([file_name(file)], [_side(version, file)])


def _changed_card(versions: Sequence[Version], pair: tuple[File, File]) -> Card:
    labels = ("before", "after")
    sides = [_side(*side) for side in zip(versions, pair, labels, strict=True)]
    return Card([file_name(pair[1])], sides)


def _renamed_card(version: Version, pair: tuple[File, File]) -> Card:
    return Card([file_name(file) for file in pair], [_side(version, pair[1])])


def _side(version: Version, file: File, label: str = "") -> Side:
    rows = [entry for entry in file if entry.index >= 0]
    images = [version.thumbnail(row) for row in rows[:_MAX_ROWS]]
    return Side(label, images, len(rows) - len(images), file_state(file))
