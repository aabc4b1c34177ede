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
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.core.errors import AtelierError, os_errors_as_sentences
from atelier.core.files import atomic_write
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.settings import ConvertSettings
from atelier.data.dask_executor import map_on_cluster
from atelier.data.dataset import Split, count_for_fraction, save_images, split
from atelier.data.image_file import DecodedImage, UnreadableError, decode, silence_pillow
from atelier.data.members import Payload, Rejected
from atelier.data.near_duplicates import group_near_duplicates
from atelier.data.raw import RawPictures, open_raw
from atelier.data.thread_pool import ordered_thread_map

# Bicubic with antialiasing, as Parmar et al. 2022, "On Aliased Resizing and Surprising
# Subtleties in GAN Evaluation", recommend for data that a GAN is judged against.
_FILTER = Image.Resampling.BICUBIC
# Far larger pictures are first averaged down to this many times the size: much faster, and
# the difference cannot be seen.
_GAP = 3.0


def resize(
    picture: DecodedImage | Image.Image | NDArray[np.uint8],
    size: int,
    fit: Literal["crop", "stretch", "pad"],
) -> NDArray[np.uint8]:
    """Resize a picture of any shape to uint8 [size, size] or [size, size, 3].

    Args:
        picture: an image of mode L or RGB, or uint8 [H, W] or [H, W, C] where C is 1 or 3.
        size: pixels, height and width.
        fit: ``crop`` fills the square and cuts off what stands over, evenly on both sides;
            ``stretch`` distorts; ``pad`` shows the whole picture on black, which is the same in
            every picture and so learnt once, where a colour of the picture's own would be
            one more thing to learn.
    """
    decoded = _decoded(picture)
    width, height = decoded.size
    if fit == "pad":
        return np.asarray(_padded(decoded, size))
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return np.asarray(_resized(decoded, (left, top, left + side, top + side), (size, size)))
    return np.asarray(_resized(decoded, (0, 0, width, height), (size, size)))


def _decoded(picture: DecodedImage | Image.Image | NDArray[np.uint8]) -> DecodedImage:
    if isinstance(picture, DecodedImage):
        return picture
    if isinstance(picture, Image.Image):
        return DecodedImage.whole(picture)
    pixels = picture[:, :, 0] if picture.shape[2:] == (1,) else picture
    return DecodedImage.whole(Image.fromarray(pixels))


def _resized(
    decoded: DecodedImage, part: tuple[int, int, int, int], size: tuple[int, int]
) -> Image.Image:
    """Resize a part of a picture, in pixels of its full size."""
    x, y = decoded.box[:2]
    left, top, right, bottom = (
        origin + side / decoded.reduction for origin, side in zip((x, y, x, y), part, strict=True)
    )
    # Without what lies outside of the part, which the filter would reach.
    start = math.floor(left), math.floor(top)
    end = math.ceil(right), math.ceil(bottom)
    image = decoded.image
    if start != (0, 0) or end != image.size:
        image = image.crop((*start, *end))
    box = (left - start[0], top - start[1], right - start[0], bottom - start[1])
    return image.resize(size, _FILTER, box, _GAP)


def _padded(decoded: DecodedImage, size: int) -> Image.Image:
    width, height = decoded.size
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = Image.new(decoded.image.mode, (size, size))
    resized = _resized(decoded, (0, 0, width, height), inner)
    square.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return square


VALIDATION, TEST = "validation.npz", "test.npz"
# Decoded at twice the wanted size, a picture loses nothing that could be seen afterwards.
_REDUCED = 2
# Bytes of files, as they come, that wait for a worker or are with one.
_BYTES_IN_FLIGHT = 256 * 2**20


@dataclass(frozen=True)
class ConversionReport:
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
        shares = {"validation": settings.validation_fraction, "test": settings.test_fraction}
        small = [
            f"the {name} set has {getattr(self, name)} of {count_for_fraction(share, self.accepted)} images"
            for name, share in shares.items()
            if 2 * getattr(self, name) < count_for_fraction(share, self.accepted)
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
    report: ProgressCallback = silent,
    cluster: str = "",
) -> ConversionReport:
    """Write every readable picture of ``raw`` to one of three array files.

    The shares ``validation`` and ``test`` go to ``validation.npz`` and ``test.npz`` beside
    ``target``, the rest to ``target``, see :func:`atelier.data.dataset.split`. Copies and
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
        target: the npz file of the training set, see :mod:`atelier.data.dataset`; all three files
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
        os_errors_as_sentences(target),
        atomic_write(target) as temporary,
        atomic_write(target.with_name(VALIDATION)) as temporary_validation,
        atomic_write(target.with_name(TEST)) as temporary_test,
        tempfile.TemporaryFile(dir=target.parent) as spool,
        silence_pillow(),
    ):
        rows = _rows(settings, pictures, workers, cluster)
        names, hashes, rejected = _write_pixels(rows, spool, pictures.total, report)
        if not names:
            raise AtelierError(_nothing_readable(rejected))
        shape = (settings.image_size, settings.image_size, settings.channels)
        groups = group_near_duplicates(
            partial(_row_at, spool, shape), hashes, workers=workers or -1
        )
        sets = split(groups, hashes, settings.validation_fraction, settings.test_fraction)
        for file, places in (
            (temporary, sets.training),
            (temporary_validation, sets.validation),
            (temporary_test, sets.test),
        ):
            pixels = (_row_at(spool, shape, place).tobytes() for place in places)
            save_images(file, pixels, (len(places), *shape), [names[i] for i in places])
    return _conversion(sets, groups, rejected)


def _write_pixels(
    rows: Iterator[tuple[str, NDArray[np.uint8] | Rejected]],
    spool: IO[bytes],
    total: int | None,
    report: ProgressCallback,
) -> tuple[list[str], list[bytes], list[tuple[str, str]]]:
    """Write all rows to ``spool``; return names, SHA-256 of the rows, and rejected files."""
    names: list[str] = []
    hashes: list[bytes] = []
    rejected: list[tuple[str, str]] = []
    for name, row in rows:
        if isinstance(row, Rejected):
            rejected.append((name, row.reason))
        else:
            spool.write(row.data)
            hashes.append(hashlib.sha256(row.data).digest())
            names.append(name)
        report(Progress(len(names) + len(rejected), total, f"{len(rejected)} rejected"))
    return names, hashes, rejected


def _conversion(
    sets: Split, groups: NDArray[np.int64], rejected: list[tuple[str, str]]
) -> ConversionReport:
    sizes = np.bincount(groups)
    return ConversionReport(
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
) -> Iterator[tuple[str, NDArray[np.uint8] | Rejected]]:
    make = partial(_named_row, settings)
    if cluster:
        return map_on_cluster(make, pictures, cluster, _size, _BYTES_IN_FLIGHT)
    return ordered_thread_map(
        make, pictures, workers or os.cpu_count() or 1, _size, _BYTES_IN_FLIGHT
    )


def _named_row(
    settings: ConvertSettings, member: tuple[str, Payload]
) -> tuple[str, NDArray[np.uint8] | Rejected]:
    name, payload = member
    return name, _row(settings, payload)


def _row(settings: ConvertSettings, payload: Payload) -> NDArray[np.uint8] | Rejected:
    """Turn a payload into uint8 [image_size, image_size, C], or say why that cannot be."""
    if isinstance(payload, Rejected):
        return payload
    try:
        if isinstance(payload, bytes):
            picture = decode(
                payload, settings.color, settings.max_megapixels, _REDUCED * settings.image_size
            )
        else:
            mode = "RGB" if settings.color == "rgb" else "L"
            picture = DecodedImage.whole(Image.fromarray(payload).convert(mode))
    except UnreadableError as error:
        return Rejected(str(error))
    row = resize(picture, settings.image_size, settings.resize_mode)
    return row.reshape(*row.shape[:2], settings.channels)


def _size(member: tuple[str, Payload]) -> int:
    """Count the bytes that a member holds in memory."""
    payload = member[1]
    if isinstance(payload, Rejected):
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
