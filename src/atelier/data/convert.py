"""Conversion of raw images to square arrays: training, validation and test set."""

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
from atelier.data.raw import RawImages, open_raw
from atelier.data.thread_pool import ordered_thread_map

VALIDATION, TEST = "validation.npz", "test.npz"

# Bicubic with antialiasing, recommended for the evaluation of GANs by Parmar et al. 2022, "On
# Aliased Resizing and Surprising Subtleties in GAN Evaluation".
_FILTER = Image.Resampling.BICUBIC
# Much larger images are first averaged to this multiple of the size. This is much faster, and the
# difference is not visible.
_REDUCING_GAP = 3.0
# A JPEG is decoded at no less than this multiple of the row's size; the loss is not visible.
_MIN_DECODED = 2
# Bytes of encoded files that wait for a worker or are being decoded.
_BYTES_IN_FLIGHT = 256 * 2**20


@dataclass(frozen=True)
class ConversionReport:
    """Numbers of converted and rejected files: ``accepted + len(rejected) == found``.

    Attributes:
        found: number of raw files.
        accepted: number of files that became a row.
        training: number of rows in the training set.
        validation: number of rows in the validation set.
        test: number of rows in the test set.
        groups: number of groups of at least two near-duplicates.
        largest_group: number of images in the largest group.
        rejected: name and reason of each rejected file, in the raw images' order.
    """

    found: int
    accepted: int
    training: int
    validation: int
    test: int
    groups: int
    largest_group: int
    rejected: tuple[tuple[str, str], ...]

    def metrics(self) -> dict[str, float]:
        """Return the metrics that runs are compared by."""
        return {"images": self.accepted}

    def details(self) -> dict[str, Any]:
        """Return values for JSON: counts first, then every rejected file."""
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
        fractions = {"validation": settings.validation_fraction, "test": settings.test_fraction}
        expected = {
            name: count_for_fraction(fraction, self.accepted)
            for name, fraction in fractions.items()
        }
        small = [
            f"the {name} set has {getattr(self, name)} of {count} images"
            for name, count in expected.items()
            if 2 * getattr(self, name) < count
        ]
        if not small:
            return []
        return [
            f"{' and '.join(small)}, because {self.largest_group} of the {self.accepted} images"
            " are near-duplicates of one another and stay in one set; add different images."
        ]


def resize(
    image: DecodedImage | Image.Image | NDArray[np.uint8],
    size: int,
    mode: Literal["crop", "stretch", "pad"],
) -> NDArray[np.uint8]:
    """Resize an image of any shape to uint8 [size, size] or [size, size, 3].

    Args:
        image: an image of mode L or RGB, or uint8 [H, W] or [H, W, C] where C is 1 or 3.
        size: height and width in pixels.
        mode: ``crop`` fills the square and cuts equally on both sides; ``stretch`` changes the
            aspect ratio; ``pad`` centers the whole image on black, which a GAN learns more
            easily than a color that differs between images.
    """
    decoded = _as_decoded(image)
    width, height = decoded.size
    if mode == "pad":
        return np.asarray(_padded(decoded, size))
    if mode == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return np.asarray(_resized(decoded, (left, top, left + side, top + side), (size, size)))
    return np.asarray(_resized(decoded, (0, 0, width, height), (size, size)))


def _as_decoded(image: DecodedImage | Image.Image | NDArray[np.uint8]) -> DecodedImage:
    if isinstance(image, DecodedImage):
        return image
    if isinstance(image, Image.Image):
        return DecodedImage.whole(image)
    pixels = image[:, :, 0] if image.shape[2:] == (1,) else image
    return DecodedImage.whole(Image.fromarray(pixels))


def _resized(
    decoded: DecodedImage, part: tuple[int, int, int, int], size: tuple[int, int]
) -> Image.Image:
    """Resize a part of an image, given in pixels of its full size."""
    x, y = decoded.box[:2]
    left, top, right, bottom = (
        origin + side / decoded.reduction for origin, side in zip((x, y, x, y), part, strict=True)
    )
    # Crop first: the filter would include pixels outside the part.
    start = math.floor(left), math.floor(top)
    end = math.ceil(right), math.ceil(bottom)
    image = decoded.image
    if start != (0, 0) or end != image.size:
        image = image.crop((*start, *end))
    box = (left - start[0], top - start[1], right - start[0], bottom - start[1])
    return image.resize(size, _FILTER, box, _REDUCING_GAP)


def _padded(decoded: DecodedImage, size: int) -> Image.Image:
    """Resize an image to fit into a black square."""
    width, height = decoded.size
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = Image.new(decoded.image.mode, (size, size))
    resized = _resized(decoded, (0, 0, width, height), inner)
    square.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return square


def convert(
    settings: ConvertSettings,
    raw: Path,
    target: Path,
    workers: int = 0,
    report: ProgressCallback = silent,
    dask_scheduler: str = "",
) -> ConversionReport:
    """Write every readable image of ``raw`` to one of three npz files.

    The fractions ``validation_fraction`` and ``test_fraction`` go to ``validation.npz`` and
    ``test.npz`` in the folder of ``target``, the rest to ``target``, see
    :func:`atelier.data.dataset.split`. Near-duplicates are in the same file. Rows are in the raw
    images' order, and the bytes do not depend on the number or kind of workers.

    Memory is bounded. It holds at most four encoded files per worker, 256 MiB together, and one
    more of up to 256 MiB. Each worker holds one decoded image of up to ``max_megapixels``. Each
    image adds its name and about 1.2 kB for the search of near-duplicates. Rows are on disk. With
    a cluster, up to 256 MiB of files are in flight or on workers.

    Args:
        settings: size, color, resize mode and fractions.
        raw: the folder that the download stage wrote.
        target: the npz file of the training set, see :mod:`atelier.data.dataset`; all three files
            are written, or none.
        workers: number of threads; 0 for one per core.
        report: called after every image.
        dask_scheduler: address of a Dask scheduler whose workers compute the rows instead of
            threads, or an empty string.

    Raises:
        AtelierError: no image can be read, ``raw`` is damaged, a disk is full or fails, or the
            cluster cannot be used.
    """
    images = open_raw(raw)
    with (
        os_errors_as_sentences(target),
        atomic_write(target) as temporary,
        atomic_write(target.with_name(VALIDATION)) as temporary_validation,
        atomic_write(target.with_name(TEST)) as temporary_test,
        tempfile.TemporaryFile(dir=target.parent) as spool,
        silence_pillow(),
    ):
        rows = _rows(settings, images, workers, dask_scheduler)
        names, hashes, rejected = _write_pixels(rows, spool, images.total, report)
        if not names:
            raise AtelierError(_no_image_message(rejected))
        shape = (settings.image_size, settings.image_size, settings.channels)
        groups = group_near_duplicates(
            partial(_row_at, spool, shape), hashes, workers=workers or -1
        )
        sets = split(groups, hashes, settings.validation_fraction, settings.test_fraction)
        for file, indices in (
            (temporary, sets.training),
            (temporary_validation, sets.validation),
            (temporary_test, sets.test),
        ):
            _save_rows(file, spool, shape, indices, names)
    return _conversion_report(sets, groups, rejected)


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


def _write_pixels(
    rows: Iterator[tuple[str, NDArray[np.uint8] | Rejected]],
    spool: IO[bytes],
    total: int | None,
    report: ProgressCallback,
) -> tuple[list[str], list[bytes], list[tuple[str, str]]]:
    """Write all rows to ``spool``; return their names, their SHA-256, and the rejected files."""
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


def _conversion_report(
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


def _row_at(spool: IO[bytes], shape: tuple[int, int, int], index: int) -> NDArray[np.uint8]:
    """Read a row from ``spool``, uint8 [H, W, C]."""
    size = math.prod(shape)
    spool.seek(index * size)
    return np.frombuffer(spool.read(size), np.uint8).reshape(shape)


def _rows(
    settings: ConvertSettings, images: RawImages, workers: int, dask_scheduler: str
) -> Iterator[tuple[str, NDArray[np.uint8] | Rejected]]:
    convert_member = partial(_named_row, settings)
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


def _named_row(
    settings: ConvertSettings, member: tuple[str, Payload]
) -> tuple[str, NDArray[np.uint8] | Rejected]:
    name, payload = member
    return name, _row(settings, payload)


def _row(settings: ConvertSettings, payload: Payload) -> NDArray[np.uint8] | Rejected:
    """Return a payload as uint8 [image_size, image_size, C], or a rejection."""
    if isinstance(payload, Rejected):
        return payload
    try:
        if isinstance(payload, bytes):
            image = decode(
                payload, settings.color, settings.max_megapixels, _MIN_DECODED * settings.image_size
            )
        else:
            mode = "RGB" if settings.color == "rgb" else "L"
            image = DecodedImage.whole(Image.fromarray(payload).convert(mode))
    except UnreadableError as error:
        return Rejected(str(error))
    row = resize(image, settings.image_size, settings.resize_mode)
    return row.reshape(*row.shape[:2], settings.channels)


def _payload_bytes(member: tuple[str, Payload]) -> int:
    _, payload = member
    if isinstance(payload, Rejected):
        return 0
    return len(payload) if isinstance(payload, bytes) else payload.nbytes


def _no_image_message(rejected: list[tuple[str, str]]) -> str:
    if not rejected:
        return "data/raw holds no file; choose a download source that has images."
    reasons = Counter(reason for _, reason in rejected).most_common(3)
    listed = ", ".join(f"{reason} ({count})" for reason, count in reasons)
    return (
        f"none of the {len(rejected)} files found is a readable image: {listed}; choose a download"
        " source that has images."
    )
