"""From raw pictures of any kind to arrays of pictures of one size: to learn from, and held out."""

import hashlib
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
from atelier.images.parallel import map_in_order
from atelier.images.picture import DecodedImage, Unreadable, decode, quiet_pillow
from atelier.images.raw import RawPictures, open_raw
from atelier.images.readers.members import Payload, Refused
from atelier.images.resize import resize
from atelier.progress import Progress, Report, silent
from atelier.settings import ConvertSettings

HELD_OUT = "held_out.npz"
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
        held_out: how many of these training never sees.
        rejected: name of and reason for each that did not, in the raw pictures' order.
    """

    found: int
    accepted: int
    held_out: int
    rejected: tuple[tuple[str, str], ...]

    def metrics(self) -> dict[str, Any]:
        """Say the same as JSON can: counts first, then every rejected file."""
        return {
            "found": self.found,
            "accepted": self.accepted,
            "held_out": self.held_out,
            "rejected": len(self.rejected),
            "rejected_files": [{"name": name, "reason": reason} for name, reason in self.rejected],
        }


def convert(
    settings: ConvertSettings,
    raw: Path,
    target: Path,
    workers: int = 0,
    report: Report = silent,
    cluster: str = "",
) -> Conversion:
    """Write every readable picture of ``raw`` to one of two array files.

    The share ``held_out`` goes to ``held_out.npz`` beside ``target``, the rest to ``target``. Held
    out are the rows whose bytes have the lowest SHA-256: a choice that needs no seed, does not hang
    on names or order, and puts copies of one picture on the same side.

    Rows are in the raw pictures' order, whoever makes them. Memory holds, however
    many pictures there are: at most four files per worker, of 256 MiB together, and the next one
    (of 256 MiB at most); for each worker one picture that it is decoding, of
    ``max_megapixels`` at most and a few bytes per pixel; and the names. Rows wait on disk. With
    a cluster, files of 256 MiB together are on their way to workers or with them.

    Args:
        settings: size, colour and fit of the rows.
        raw: the folder that the download stage made.
        target: the npz file to write, see :mod:`atelier.images.dataset`; both are written, or none.
        workers: threads; 0 takes one per core.
        report: told of every picture.
        cluster: address of a Dask scheduler whose workers make the rows instead of threads; the
            bytes written are the same.

    Raises:
        AtelierError: no picture can be read, ``raw`` is damaged, a disk is full or fails, or the
            cluster cannot be used.
    """
    pictures = open_raw(raw)
    names: list[str] = []
    hashes: list[bytes] = []
    rejected: list[tuple[str, str]] = []
    with (
        disk_faults(target),
        replacing(target) as temporary,
        replacing(target.with_name(HELD_OUT)) as temporary_held_out,
        tempfile.TemporaryFile(dir=target.parent) as spool,
        quiet_pillow(),
    ):
        for name, row in _rows(settings, pictures, workers, cluster):
            if isinstance(row, Refused):
                rejected.append((name, row.reason))
            else:
                spool.write(row.data)
                hashes.append(hashlib.sha256(row.data).digest())
                names.append(name)
            done = len(names) + len(rejected)
            report(Progress(done, pictures.total, f"{len(rejected)} rejected"))
        if not names:
            raise AtelierError(_nothing_readable(rejected))
        kept, held_out = split(hashes, settings.held_out)
        for file, places in ((temporary, kept), (temporary_held_out, held_out)):
            shape = (len(places), settings.image_size, settings.image_size, settings.channels)
            save_images(file, _again(spool, shape, places), shape, [names[i] for i in places])
    return Conversion(len(names) + len(rejected), len(names), len(held_out), tuple(rejected))


def split(hashes: list[bytes], share: float) -> tuple[list[int], list[int]]:
    """Choose what is held out, at most ``share``.

    Args:
        hashes: of every row; copies have the same.
        share: from 0 to 1.

    Returns:
        The places of the rows to learn from and of those held out, each in their order.
    """
    ranked = sorted(range(len(hashes)), key=hashes.__getitem__)
    count = round(share * len(hashes))
    while 0 < count < len(ranked) and hashes[ranked[count - 1]] == hashes[ranked[count]]:
        count -= 1  # the border would part copies, of which training sees all or none
    return sorted(ranked[count:]), sorted(ranked[:count])


def _again(
    spool: IO[bytes], shape: tuple[int, int, int, int], places: list[int]
) -> Iterator[bytes]:
    """Read rows back, one at a time."""
    size = shape[1] * shape[2] * shape[3]
    for place in places:
        spool.seek(place * size)
        yield spool.read(size)


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
