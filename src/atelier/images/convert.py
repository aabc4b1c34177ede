"""Conversion of raw pictures of any kind to three arrays of images of one size."""

import hashlib
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.errors import AtelierError
from atelier.files import replacing
from atelier.images.cluster import map_on_cluster
from atelier.images.dataset import save_images
from atelier.images.disk import disk_faults
from atelier.images.near_duplicates import group
from atelier.images.parallel import map_in_order
from atelier.images.picture import DecodedImage, Unreadable, decode, quiet_pillow
from atelier.images.raw import RawPictures, open_raw
from atelier.images.readers.members import Payload, Refused
from atelier.images.resize import resize
from atelier.images.split import Split, share_of, split
from atelier.progress import Progress, Report, silent
from atelier.settings import ConvertSettings

VALIDATION, TEST = "validation.npz", "test.npz"
# Decoded at twice the wanted size, a picture loses nothing that could be seen afterwards.
_DRAFT = 2
# Bytes of files, as they come, that wait for a worker or are with one.
_UNDER_WAY = 256 * 2**20


@dataclass(frozen=True)
class Conversion:
    """What became of the raw pictures: ``accepted + len(rejected) == found``.

    Attributes:
        found: how many files the raw pictures held.
        accepted: how many became a row.
        training: how many of these are in the training set.
        validation: likewise, in the validation set.
        test: likewise, in the test set.
        groups: how many groups of more than one near-duplicate there are.
        largest_group: how many images the largest of all groups has.
        rejected: name of and reason for each that did not, in the raw pictures' order.
    """

    found: int
    accepted: int
    training: int
    validation: int
    test: int
    groups: int
    largest_group: int
    rejected: tuple[tuple[str, str], ...]

    def metrics(self) -> dict[str, Any]:
        """Say the same as JSON can: counts first, then every rejected file."""
        return {
            "found": self.found,
            "accepted": self.accepted,
            "training": self.training,
            "validation": self.validation,
            "test": self.test,
            "near_duplicate_groups": self.groups,
            "rejected": len(self.rejected),
            "rejected_files": [{"name": name, "reason": reason} for name, reason in self.rejected],
        }

    def warnings(self, settings: ConvertSettings) -> list[str]:
        """Return a sentence if near-duplicates left a set less than half full."""
        shares = {"validation": settings.validation, "test": settings.test}
        small = [
            f"the {name} set has {getattr(self, name)} of {share_of(share, self.accepted)} images"
            for name, share in shares.items()
            if 2 * getattr(self, name) < share_of(share, self.accepted)
        ]
        if not small:
            return []
        return [
            f"{' and '.join(small)}, because {self.largest_group} of the {self.accepted} images"
            " are near-duplicates of one another and stay in one set; add different images."
        ]


def convert(
    settings: ConvertSettings,
    raw: Path,
    target: Path,
    workers: int = 0,
    report: Report = silent,
    cluster: str = "",
) -> Conversion:
    """Write every readable picture of ``raw`` to one of three array files.

    The shares ``validation`` and ``test`` go to ``validation.npz`` and ``test.npz`` beside
    ``target``, the rest to ``target``, see :func:`atelier.images.split.split`. Copies and
    near-duplicates of one picture are in the same file.

    Rows are in the raw pictures' order, whoever makes them. Memory holds, however
    many pictures there are: at most four files per worker, of 256 MiB together, and the next one
    (of 256 MiB at most); for each worker one picture that it is decoding, of
    ``max_megapixels`` at most and a few bytes per pixel; and for each picture its name and about
    1.2 kB to find near-duplicates. Rows wait on disk. With a cluster, files of 256 MiB together
    are on their way to workers or with them.

    Args:
        settings: size, colour and fit of the rows.
        raw: the folder that the download stage made.
        target: the npz file of the training set, see :mod:`atelier.images.dataset`; all three files
            are written, or none.
        workers: threads; 0 takes one per core.
        report: told of every picture.
        cluster: address of a Dask scheduler whose workers make the rows instead of threads; the
            bytes written are the same.

    Raises:
        AtelierError: no picture can be read, ``raw`` is damaged, a disk is full or fails, or the
            cluster cannot be used.
    """
    pictures = open_raw(raw)
    with (
        disk_faults(target),
        replacing(target) as temporary,
        replacing(target.with_name(VALIDATION)) as temporary_validation,
        replacing(target.with_name(TEST)) as temporary_test,
        tempfile.TemporaryFile(dir=target.parent) as spool,
        quiet_pillow(),
    ):
        rows = _rows(settings, pictures, workers, cluster)
        names, hashes, rejected = _spool(rows, spool, pictures.total, report)
        if not names:
            raise AtelierError(_nothing_readable(rejected))
        shape = (settings.image_size, settings.image_size, settings.channels)
        groups = group(partial(_row_at, spool, shape), hashes, workers=workers or -1)
        sets = split(groups, hashes, settings.validation, settings.test)
        for file, places in (
            (temporary, sets.training),
            (temporary_validation, sets.validation),
            (temporary_test, sets.test),
        ):
            pixels = (_row_at(spool, shape, place).tobytes() for place in places)
            save_images(file, pixels, (len(places), *shape), [names[i] for i in places])
    return _conversion(sets, groups, rejected)


def _spool(
    rows: Iterator[tuple[str, NDArray[np.uint8] | Refused]],
    spool: IO[bytes],
    total: int | None,
    report: Report,
) -> tuple[list[str], list[bytes], list[tuple[str, str]]]:
    """Write all rows to ``spool``; return names, SHA-256 of the rows, and rejected files."""
    names: list[str] = []
    hashes: list[bytes] = []
    rejected: list[tuple[str, str]] = []
    for name, row in rows:
        if isinstance(row, Refused):
            rejected.append((name, row.reason))
        else:
            spool.write(row.data)
            hashes.append(hashlib.sha256(row.data).digest())
            names.append(name)
        report(Progress(len(names) + len(rejected), total, f"{len(rejected)} rejected"))
    return names, hashes, rejected


def _conversion(
    sets: Split, groups: NDArray[np.int64], rejected: list[tuple[str, str]]
) -> Conversion:
    sizes = np.bincount(groups)
    return Conversion(
        found=len(groups) + len(rejected),
        accepted=len(groups),
        training=len(sets.training),
        validation=len(sets.validation),
        test=len(sets.test),
        groups=int((sizes > 1).sum()),
        largest_group=int(sizes.max()),
        rejected=tuple(rejected),
    )


def _row_at(spool: IO[bytes], shape: tuple[int, int, int], place: int) -> NDArray[np.uint8]:
    """Read a row back, uint8 of the shape [H, W, C]."""
    size = math.prod(shape)
    spool.seek(place * size)
    return np.frombuffer(spool.read(size), np.uint8).reshape(shape)


def _rows(
    settings: ConvertSettings, pictures: RawPictures, workers: int, cluster: str
) -> Iterator[tuple[str, NDArray[np.uint8] | Refused]]:
    make = partial(_named_row, settings)
    if cluster:
        return map_on_cluster(make, pictures, cluster, _size, _UNDER_WAY)
    return map_in_order(make, pictures, workers or os.cpu_count() or 1, _size, _UNDER_WAY)


def _named_row(
    settings: ConvertSettings, member: tuple[str, Payload]
) -> tuple[str, NDArray[np.uint8] | Refused]:
    name, payload = member
    return name, _row(settings, payload)


def _row(settings: ConvertSettings, payload: Payload) -> NDArray[np.uint8] | Refused:
    """Turn a payload into uint8 [image_size, image_size, C], or say why that cannot be."""
    if isinstance(payload, Refused):
        return payload
    try:
        if isinstance(payload, bytes):
            picture = decode(
                payload, settings.color, settings.max_megapixels, _DRAFT * settings.image_size
            )
        else:
            mode = "RGB" if settings.color == "rgb" else "L"
            picture = DecodedImage.whole(Image.fromarray(payload).convert(mode))
    except Unreadable as error:
        return Refused(str(error))
    row = resize(picture, settings.image_size, settings.fit)
    return row.reshape(*row.shape[:2], settings.channels)


def _size(member: tuple[str, Payload]) -> int:
    """Count the bytes that a member holds in memory."""
    payload = member[1]
    if isinstance(payload, Refused):
        return 0
    return len(payload) if isinstance(payload, bytes) else payload.nbytes


def _nothing_readable(rejected: list[tuple[str, str]]) -> str:
    if not rejected:
        return "no file was found among the raw pictures; point download at a source with pictures."
    reasons = Counter(reason for _, reason in rejected).most_common(3)
    listed = ", ".join(f"{reason} ({count})" for reason, count in reasons)
    return (
        f"none of the {len(rejected)} files found is a readable picture: {listed}; point download"
        " at a source with pictures."
    )
