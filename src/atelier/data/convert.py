"""Conversion of raw images to square arrays: training, validation and test set."""

import hashlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError, count_text, os_errors_as_sentences
from atelier.core.files import atomic_write
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.settings import ConvertSettings
from atelier.data.dask_executor import map_on_cluster
from atelier.data.dataset import Split, count_for_fraction, redundant_images, save_images, split
from atelier.data.face_duplicates import group_faces, pair_faces
from atelier.data.image_file import silence_pillow
from atelier.data.image_list import IMAGE_LIST, list_images, write_image_list
from atelier.data.members import Payload, Rejected
from atelier.data.near_duplicates import group_near_duplicates, join_groups, join_pairs
from atelier.data.raw import RawImages, open_raw
from atelier.data.rows import NO_FACE, OVERVIEW_SIDE, ConvertedFile, convert_file
from atelier.data.thread_pool import ordered_thread_map

VALIDATION, TEST = "validation.npz", "test.npz"
# Near-duplicates made from at least this share of the pixels of the largest one's side are of about
# one size: boxes of the face detector differ that much.
_EQUAL_SIDES = 0.9
# Bytes of encoded files that wait for a worker or are being decoded.
_BYTES_IN_FLIGHT = 256 * 2**20


@dataclass(frozen=True)
class ConversionReport:
    """Numbers of rows, and of converted and rejected files.

    ``accepted + len(dropped) + len(rejected) == found`` unless rows are faces.

    Attributes:
        found: number of raw files.
        accepted: number of rows in all sets.
        training: number of rows in the training set.
        validation: number of rows in the validation set.
        test: number of rows in the test set.
        groups: number of groups of at least two near-duplicates.
        largest_group: number of rows in the largest group that stays in one set.
        rejected: name and reason of each rejected file, in the raw images' order.
        has_faces: whether a row is a face instead of a whole image.
        dropped: name of each row that is left out, and of its near-duplicate that is used.
        photographs: number of files that have a row in a set.
    """

    found: int
    accepted: int
    training: int
    validation: int
    test: int
    groups: int
    largest_group: int
    rejected: tuple[tuple[str, str], ...]
    has_faces: bool = False
    dropped: tuple[tuple[str, str], ...] = ()
    photographs: int = 0

    @property
    def used(self) -> int:
        """Number of files with rows, also with dropped ones."""
        return self.found - len(self.rejected)

    @property
    def without_face(self) -> int:
        """Number of files that were rejected because they show no face."""
        return sum(reason == NO_FACE for _, reason in self.rejected)

    @property
    def noun(self) -> str:
        """The rows in words, to follow their number."""
        return f"faces in {count_text(self.photographs, 'image')}" if self.has_faces else "images"

    def metrics(self) -> dict[str, float]:
        """Return the metrics that runs are compared by."""
        return {"images": self.accepted}

    def details(self) -> dict[str, Any]:
        """Return values for JSON: counts first, then every dropped and rejected file."""
        faces = {"images_with_faces": self.used, "images_without_face": self.without_face}
        return {
            "found": self.found,
            "accepted": self.accepted,
            **(faces if self.has_faces else {}),
            "training": self.training,
            "validation": self.validation,
            "test": self.test,
            "near_duplicate_groups": self.groups,
            "near_duplicates_dropped": len(self.dropped),
            "rejected": len(self.rejected),
            "dropped_files": [{"name": name, "used": used} for name, used in self.dropped],
            "rejected_files": [{"name": name, "reason": reason} for name, reason in self.rejected],
        }

    def warnings(self, settings: ConvertSettings) -> list[str]:
        """Return a sentence if a set is less than half full, and one if few images have a face."""
        return [*self._warn_of_small_sets(settings), *self._warn_of_images_without_face()]

    def _warn_of_small_sets(self, settings: ConvertSettings) -> list[str]:
        fractions = {"validation": settings.validation_fraction, "test": settings.test_fraction}
        expected = {
            name: count_for_fraction(fraction, self.accepted)
            for name, fraction in fractions.items()
        }
        noun = "faces" if self.has_faces else "images"
        small = [
            f"the {name} set has {getattr(self, name)} of {count} {noun}"
            for name, count in expected.items()
            if 2 * getattr(self, name) < count
        ]
        if not small:
            return []
        reason, action = (
            ("of one photograph, its copies or others with its faces", "photographs")
            if self.has_faces
            else ("near-duplicates of one another", "images")
        )
        return [
            f"{' and '.join(small)}, because {self.largest_group} of the {self.accepted} {noun}"
            f" are {reason} and stay in one set; add different {action}."
        ]

    def _warn_of_images_without_face(self) -> list[str]:
        if self.without_face <= self.used:
            return []
        return [
            f"no face was found in {self.without_face:,} of {self.used + self.without_face:,}"
            " images; look at some of them, and lower convert.smallest_face, or"
            " convert.face_confidence to 0.7, or set convert.faces to none to use whole images."
        ]


def convert(
    settings: ConvertSettings,
    raw: Path,
    target: Path,
    workers: int = 0,
    report: ProgressCallback = silent,
    dask_scheduler: str = "",
    face_weights: bytes = b"",
) -> ConversionReport:
    """Write every readable image of ``raw`` to one of three npz files, and a list of all files.

    A row is a whole image, or a face of it if ``settings.faces`` is not ``none``.
    ``validation_fraction`` and ``test_fraction`` of them go to ``validation.npz`` and ``test.npz``
    in the folder of ``target``, the rest to ``target``, see :func:`atelier.data.dataset.split`.
    Near-duplicates are in the same file, and all faces of a photograph and of its near-duplicates.
    If ``duplicates`` is ``drop``, only the best of near-duplicates is used. Rows are in the raw
    images' order, and the bytes do not depend on the number or kind of workers.
    ``images.csv`` lists every file, see :mod:`atelier.data.image_list`.

    Memory is bounded. It holds at most four encoded files per worker, 256 MiB together, and one
    more of up to 256 MiB. Each worker holds one decoded image of up to ``max_megapixels``, and one
    more while it searches faces. Each image adds its name and about 2.3 kB for the list and for
    near-duplicates. With a cluster, up to 256 MiB of files are in flight or on workers.

    Args:
        settings: size, color, resize mode, faces and fractions.
        raw: the folder that the download stage wrote.
        target: the npz file of the training set; all four files are written, or none.
        workers: number of threads; 0 for one per core.
        report: called after every image.
        dask_scheduler: address of a Dask scheduler to use instead of threads, or empty.
        face_weights: content of the face detector's file if the detector is ``yunet``.

    Raises:
        AtelierError: no image can be read, no image has a face, ``raw`` is damaged, a disk is full
            or fails, or the cluster cannot be used.
    """
    images = open_raw(raw)
    with (
        os_errors_as_sentences(target),
        atomic_write(target) as temporary,
        atomic_write(target.with_name(VALIDATION)) as temporary_validation,
        atomic_write(target.with_name(TEST)) as temporary_test,
        atomic_write(target.with_name(IMAGE_LIST)) as temporary_list,
        tempfile.TemporaryFile(dir=target.parent) as spool,
        tempfile.TemporaryFile(dir=target.parent) as overviews,
        silence_pillow(),
    ):
        convert_one = partial(convert_file, settings, face_weights=face_weights)
        files = _converted_files(convert_one, images, workers, dask_scheduler)
        spooled = _write_pixels(files, spool, overviews, images.total, report)
        if not spooled.hashes:
            raise AtelierError(_no_image_message(spooled.rejected()))
        groups = _group_rows(settings, spooled, spool, overviews, workers)
        sets = _split_groups(settings, spooled, groups)
        write_image_list(temporary_list, list_images(spooled.files, sets, groups.rows))
        targets, names = (temporary, temporary_validation, temporary_test), spooled.names()
        for file, indices in zip(targets, (sets.training, sets.validation, sets.test), strict=True):
            _save_rows(file, spool, _row_shape(settings), indices, names)
    return _conversion_report(settings, sets, groups, spooled)


def _row_shape(settings: ConvertSettings) -> tuple[int, int, int]:
    return settings.image_size, settings.image_size, settings.channels


@dataclass(frozen=True, eq=False)
class _Groups:
    """Groups of rows.

    Attributes:
        rows: group of near-duplicates of each row, int64 [N].
        together: group of each row that stays in one set, int64 [N].
    """

    rows: NDArray[np.int64]
    together: NDArray[np.int64]


def _group_rows(
    settings: ConvertSettings,
    spooled: "_Spooled",
    spool: IO[bytes],
    overviews: IO[bytes],
    workers: int,
) -> _Groups:
    threads = workers or -1
    read = partial(_row_at, spool, _row_shape(settings))
    if settings.faces == "none":
        groups = group_near_duplicates(read, spooled.hashes, threads)
        return _Groups(groups, groups)
    read_overview = partial(_row_at, overviews, (OVERVIEW_SIDE, OVERVIEW_SIDE, 3))
    photographs = group_near_duplicates(read_overview, spooled.overview_hashes, threads)
    files = [file for file in spooled.files if file.rows]
    pairs = list(pair_faces(files, photographs, read_overview, read))
    faces = join_pairs(group_faces(read, spooled.hashes, threads), pairs)
    of_photographs = np.repeat(photographs, [len(file.rows) for file in files])
    return _Groups(faces, join_groups(faces, of_photographs))


def _split_groups(settings: ConvertSettings, spooled: "_Spooled", groups: _Groups) -> Split:
    dropped = _redundant_rows(spooled, groups.rows) if settings.duplicates == "drop" else []
    fractions = settings.validation_fraction, settings.test_fraction
    return split(groups.together, spooled.hashes, *fractions, dropped)


def _save_rows(
    file: Path,
    spool: IO[bytes],
    shape: tuple[int, int, int],
    indices: list[int],
    names: list[str],
) -> None:
    """Copy the rows of one set from ``spool`` to an npz file."""
    pixels = (_row_at(spool, shape, index).tobytes() for index in indices)
    save_images(file, pixels, (len(indices), *shape), [names[i] for i in indices])


@dataclass(frozen=True)
class _Spooled:
    """All files without their pixels, and the SHA-256 of each row and overview that is on disk."""

    files: list[ConvertedFile]
    hashes: list[bytes]
    overview_hashes: list[bytes]

    def rejected(self) -> tuple[tuple[str, str], ...]:
        """Return name and reason of each rejected file."""
        return tuple((file.name, file.reason) for file in self.files if file.reason)

    def names(self) -> list[str]:
        """Return the names of the rows."""
        return [row.name for file in self.files for row in file.rows]


def _write_pixels(
    files: Iterator[ConvertedFile],
    spool: IO[bytes],
    overviews: IO[bytes],
    total: int | None,
    report: ProgressCallback,
) -> _Spooled:
    """Write pixels of rows to ``spool`` and of photographs to ``overviews``; return the rest."""
    spooled, rejected = _Spooled([], [], []), 0
    for file in files:
        for row in file.rows:
            spool.write(row.pixels.data)
            spooled.hashes.append(hashlib.sha256(row.pixels.data).digest())
        if file.overview.size:
            overviews.write(file.overview.data)
            spooled.overview_hashes.append(hashlib.sha256(file.overview.data).digest())
        spooled.files.append(file.without_pixels())
        rejected += bool(file.reason)
        report(Progress(len(spooled.files), total, f"{rejected} rejected"))
    return spooled


def _redundant_rows(spooled: _Spooled, groups: NDArray[np.int64]) -> list[int]:
    """Return the rows to leave out: all of each group but the best one.

    This is one of the rows made from about the most pixels. Of these, it is the row of the largest
    image, then of the file with the most bytes, which is compressed the least. Hashes decide
    between equal ones, so that the choice does not depend on the order. Names decide between files
    with equal bytes.
    """
    rows = [(file, row) for file in spooled.files for row in file.rows]
    sides = np.array([row.side for _, row in rows])
    largest = np.zeros(int(groups.max()) + 1, np.int64)
    np.maximum.at(largest, groups, sides)
    are_small = (sides < _EQUAL_SIDES * largest[groups]).tolist()
    keys = [
        (is_small, -file.width * file.height, -file.size, file.sha256, row_hash, row.name)
        for is_small, (file, row), row_hash in zip(are_small, rows, spooled.hashes, strict=True)
    ]
    return redundant_images(groups, keys)


def _conversion_report(
    settings: ConvertSettings, sets: Split, groups: _Groups, spooled: _Spooled
) -> ConversionReport:
    sizes, names = np.bincount(groups.rows), spooled.names()
    owners = [number for number, file in enumerate(spooled.files) for _ in file.rows]
    rows = [*sets.training, *sets.validation, *sets.test]
    used = {int(groups.rows[row]): names[row] for row in rows}
    return ConversionReport(
        found=len(spooled.files),
        accepted=len(rows),
        training=len(sets.training),
        validation=len(sets.validation),
        test=len(sets.test),
        groups=int((sizes > 1).sum()),
        largest_group=int(np.bincount(groups.together[rows]).max()),
        rejected=spooled.rejected(),
        has_faces=settings.faces != "none",
        dropped=tuple((names[row], used[int(groups.rows[row])]) for row in sets.dropped),
        photographs=len({owners[row] for row in rows}),
    )


def _row_at(spool: IO[bytes], shape: tuple[int, int, int], index: int) -> NDArray[np.uint8]:
    """Read a row from ``spool``, uint8 [H, W, C]."""
    size = math.prod(shape)
    spool.seek(index * size)
    return np.frombuffer(spool.read(size), np.uint8).reshape(shape)


def _converted_files(
    convert_member: Callable[[tuple[str, Payload]], ConvertedFile],
    images: RawImages,
    workers: int,
    dask_scheduler: str,
) -> Iterator[ConvertedFile]:
    if dask_scheduler:
        return map_on_cluster(
            convert_member, images, dask_scheduler, size=_payload_bytes, max_bytes=_BYTES_IN_FLIGHT
        )
    return ordered_thread_map(
        convert_member,
        images,
        workers or os.cpu_count() or 1,
        size=_payload_bytes,
        max_bytes=_BYTES_IN_FLIGHT,
    )


def _payload_bytes(member: tuple[str, Payload]) -> int:
    _, payload = member
    if isinstance(payload, Rejected):
        return 0
    return len(payload) if isinstance(payload, bytes) else payload.nbytes


def _no_image_message(rejected: Sequence[tuple[str, str]]) -> str:
    if not rejected:
        return "data/raw holds no file; choose a download source that has images."
    without_face = sum(reason == NO_FACE for _, reason in rejected)
    if without_face:
        return (
            f"no face was found in {count_text(without_face, 'image')}; lower"
            " convert.smallest_face, or convert.face_confidence to 0.7, or set convert.faces to"
            " none."
        )
    reasons = Counter(reason for _, reason in rejected).most_common(3)
    listed = ", ".join(f"{reason} ({count})" for reason, count in reasons)
    return (
        f"none of the {len(rejected)} files found is a readable image: {listed}; choose a download"
        " source that has images."
    )
