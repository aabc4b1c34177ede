"""List of all raw files and their rows, ``data/images.csv``.

It has one line for each row of the data set, and one for each rejected file, in the raw images'
order. It holds names, sizes and hashes, no pixels.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, astuple, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from atelier.core.errors import AtelierError
from atelier.core.files import write_csv
from atelier.data.dataset import Split
from atelier.data.rows import ConvertedFile

IMAGE_LIST = "images.csv"

FileSet = Literal["training", "validation", "test"]
SetName = Literal["", "dropped", FileSet]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=-1)]


@dataclass(frozen=True)
class ImageEntry:
    """A row of the data set, or a rejected file.

    Attributes:
        file: name of the raw file.
        sha256: of the file's bytes (of its pixels, if the source has no files), hexadecimal; empty
            if it was not read.
        width: of the upright image in pixels; 0 if it is not readable.
        height: likewise.
        reason: why the file is rejected; empty if it is used.
        name: name of the row; empty if the file is rejected.
        set: the set that has the row; ``dropped`` if none has it, because another image of its
            group is used; empty if the file is rejected.
        index: of the row in its set; -1 if no set has it.
        group: number of the row's group of near-duplicates; -1 if it has no near-duplicate.
        side: of the part of the image that became the row, in pixels of the file: of ``stretch``,
            the shorter side; 0 if the file is rejected.
    """

    file: str
    sha256: str
    width: Count
    height: Count
    reason: str = ""
    name: str = ""
    set: SetName = ""
    index: Number = -1
    group: Number = -1
    side: Count = 0


_COLUMNS = [field.name for field in fields(ImageEntry)]
_REQUIRED = {field.name for field in fields(ImageEntry) if field.default is MISSING}
_ADAPTER = TypeAdapter(ImageEntry)


def list_images(
    files: Sequence[ConvertedFile], sets: Split, groups: NDArray[np.int64]
) -> Iterator[ImageEntry]:
    """Yield the entries of all files.

    Args:
        files: all files, in the raw images' order.
        sets: the sets of all rows.
        groups: group of near-duplicates of each row, int64 [N].
    """
    places = _places(sets)
    counts = np.bincount(groups)
    row = 0
    for file in files:
        if not file.rows:
            yield ImageEntry(file.name, file.sha256, file.width, file.height, file.reason)
        for each in file.rows:
            group = int(groups[row])
            yield ImageEntry(
                *(file.name, file.sha256, file.width, file.height),
                name=each.name,
                set=places[row][0],
                index=places[row][1],
                group=group if counts[group] > 1 else -1,
                side=each.side,
            )
            row += 1


def _places(sets: Split) -> dict[int, tuple[SetName, int]]:
    """Return the set of each row and its index there."""
    indices: dict[SetName, list[int]] = {
        "training": sets.training,
        "validation": sets.validation,
        "test": sets.test,
    }
    places: dict[int, tuple[SetName, int]] = dict.fromkeys(sets.dropped, ("dropped", -1))
    for name, rows in indices.items():
        places |= {row: (name, index) for index, row in enumerate(rows)}
    return places


def write_image_list(path: Path, entries: Iterable[ImageEntry]) -> None:
    """Write entries as CSV."""
    write_csv(path, _COLUMNS, map(astuple, entries))


def read_image_list(path: Path, name: str = "") -> list[ImageEntry]:
    """Read the entries of a list.

    Lists of other versions of the program can have more columns, which are ignored, or fewer.

    Args:
        path: a list.
        name: what messages call the list of another version of the data set.

    Raises:
        AtelierError: the file is missing or damaged.
    """
    action = "choose another version" if name else "run the convert stage again"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            if not set(lines.fieldnames or ()) >= _REQUIRED:
                raise csv.Error("a column is missing")
            entries = [_ADAPTER.validate_python(line) for line in lines]
            if any((each.index >= 0) != (each.set in get_args(FileSet)) for each in entries):
                raise csv.Error("an index without a set, or a set without an index")
            return entries
    except FileNotFoundError:
        raise AtelierError(f"{path} does not exist; run the convert stage to create it.") from None
    except (OSError, UnicodeDecodeError, csv.Error, ValidationError):
        raise AtelierError(f"{name or path} is damaged; {action}.") from None
