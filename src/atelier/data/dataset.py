"""``images.npz``, ``validation.npz`` and ``test.npz``: images as one array, with their names.

They hold the training, the validation and the test set. Each is an ordinary NumPy archive
(``arr_0`` uint8 [N, H, W, C] and ``names``), stored uncompressed, so that the pixels can be mapped
into memory where they lie.
"""

import hashlib
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atelier.core.array_headers import read_header
from atelier.core.errors import AtelierError
from atelier.core.files import NotRegularError, open_regular

_PIXELS, _NAMES = "arr_0.npy", "names.npy"
# NumPy makes every name as wide as the longest: four bytes per character and picture.
_LONGEST_NAME = 120
# Deflate shrinks nothing further.
_MOST_EXPANSION = 1100
_READ_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, NotImplementedError, OverflowError, RuntimeError),
    *(NotRegularError, struct.error, zlib.error, zipfile.BadZipFile),
)
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True)
class Images:
    """Pictures of one size, and where they come from.

    Attributes:
        pixels: uint8 [N, H, W, C] in 0..255, C is 1 or 3. Mapped from the file where possible,
            copy-on-write: nothing written to it reaches the file.
        names: N names, unicode, shortened as :func:`save_images` says.
    """

    pixels: NDArray[np.uint8]
    names: NDArray[np.str_]

    def classes(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Tell the classes of the pictures, and of which each picture is.

        A picture's class is the last folder in its name: ``5`` of ``train/5/00000``.

        Returns:
            The classes' names, numbers first and in their order, and the place of every
            picture's class among them, int64 [N].

        Raises:
            AtelierError: a picture lies in no folder.
        """
        folders = [name.rpartition("/")[0].rpartition("/")[2] for name in self.names.tolist()]
        if "" in folders:
            raise AtelierError(
                f"{self.names[folders.index('')]} lies in no folder, but a picture's class is the"
                " last folder in its name, as in cats/001.jpg; sort the pictures into folders."
            )
        names = sorted(set(folders), key=_number_first)
        place = {name: index for index, name in enumerate(names)}
        return tuple(names), np.array([place[folder] for folder in folders], np.int64)


def _number_first(name: str) -> tuple[bool, int, str]:
    number = name.isdecimal()
    return not number, int(name) if number else 0, name


def load_images(path: Path, may_be_empty: bool = False) -> Images:
    """Open an array of pictures; pixels stay on disk until they are looked at.

    Args:
        path: the file.
        may_be_empty: no picture at all is no fault.

    Raises:
        AtelierError: the file is missing, damaged, or holds something else.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            pixels = _map_pixels(path, archive)
            names = _read_member(path, archive, archive.getinfo(_NAMES))
    except FileNotFoundError:
        raise AtelierError(f"{path} is not there; run the convert stage to make it.") from None
    except MemoryError:
        raise AtelierError(
            f"{path} claims more pictures than the memory holds; run the convert stage again, which"
            " writes them so that they stay on disk."
        ) from None
    except _READ_ERRORS as error:
        reason = getattr(error, "reason", str(error)).partition("\n")[0]
        raise AtelierError(
            f"{path} is not a readable array of pictures ({reason}); run the convert stage again."
        ) from None
    _check(path, pixels, names, 0 if may_be_empty else 1)
    return Images(pixels, names)


def save_images(
    path: Path, pixels: Iterable[bytes], shape: tuple[int, int, int, int], names: Sequence[str]
) -> None:
    """Write an array of pictures from raw pixels that need not fit into memory.

    Args:
        path: where to write.
        pixels: N·H·W·C bytes in C order, in pieces of any size.
        shape: (N, H, W, C).
        names: N names. Of one longer than 120 characters the last 120 are kept, after an
            ellipsis: the array is as wide as its longest name, for every picture.
    """
    short = [name if len(name) <= _LONGEST_NAME else f"…{name[-_LONGEST_NAME:]}" for name in names]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo(_PIXELS), "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for piece in pixels:
                member.write(piece)
        with archive.open(zipfile.ZipInfo(_NAMES), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.array(short, np.str_), allow_pickle=False)


def _map_pixels(path: Path, archive: zipfile.ZipFile) -> NDArray[Any]:
    member = archive.getinfo(_PIXELS)
    if member.compress_type != zipfile.ZIP_STORED:
        return _read_member(path, archive, member)
    with archive.open(member) as stream:
        shape, column_major, dtype = read_header(stream, member.file_size)
        header = stream.tell()
    if 0 in shape:  # nothing to map
        return np.zeros(shape, dtype)
    with path.open("rb") as file:
        file.seek(member.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = member.header_offset + _LOCAL_HEADER.size + name + extra + header
    if signature != b"PK\x03\x04" or start + member.file_size - header > path.stat().st_size:
        raise ValueError("it was cut short")
    return np.memmap(path, dtype, "c", start, shape, "F" if column_major else "C")


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Read an array whose header fits the member, and whose member fits the file."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is packed by another method than NumPy's")
    if member.file_size > _MOST_EXPANSION * path.stat().st_size:
        raise ValueError(f"{member.filename} claims more than the file can hold")
    with archive.open(member) as stream:
        read_header(stream, member.file_size)
    with archive.open(member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _check(path: Path, pixels: NDArray[Any], names: NDArray[Any], fewest: int) -> None:
    wanted = (
        pixels.dtype == np.uint8
        and pixels.ndim == 4
        and pixels.shape[0] >= fewest
        and min(pixels.shape[1:3]) > 0
        and pixels.shape[3] in (1, 3)
    )
    if not wanted:
        raise AtelierError(
            f"{path} holds {pixels.dtype} {list(pixels.shape)}, but pictures are uint8"
            f" [N, H, W, C] with 1 or 3 channels and N at least {fewest}; run the convert stage"
            " again."
        )
    if names.shape != (len(pixels),) or names.dtype.kind != "U":
        raise AtelierError(
            f"{path} holds {len(pixels)} pictures but names of shape {list(names.shape)}; run the"
            " convert stage again."
        )


@dataclass(frozen=True)
class Split:
    """Places of the images of each set, each in increasing order."""

    training: list[int]
    validation: list[int]
    test: list[int]


def count_for_fraction(share: float, count: int) -> int:
    """Return a share of so many images, rounded down.

    The share is taken as it is written, not as a float holds it: 0.29 of 100 images is 29.
    """
    return int(Fraction(str(share)) * count)


def split(
    groups: NDArray[np.int64], hashes: Sequence[bytes], validation: float, test: float
) -> Split:
    """Choose a validation and a test set of at most these shares; the rest is for training.

    Groups are taken in the order of their hash, a SHA-256 of the hashes of their images: the
    choice needs no seed and does not depend on names or order. A group that is larger than the
    room left in a set is skipped. The test set is chosen first, so that it does not depend on
    ``validation``.

    Args:
        groups: of each image, int64 [N].
        hashes: of each image's bytes.
        validation: from 0 to 1.
        test: from 0 to 1; both together less than 1.
    """
    members = defaultdict(list)
    for place, number in enumerate(groups.tolist()):
        members[number].append(place)
    ranked = sorted(members.values(), key=lambda places: _hash_of_name([hashes[i] for i in places]))
    chosen: list[list[int]] = []
    for share in (test, validation):
        room = min(
            count_for_fraction(share, len(groups)), sum(map(len, ranked)) - 1
        )  # one for training
        taken, rest = [], []
        for places in ranked:
            if len(places) <= room:
                room -= len(places)
                taken += places
            else:
                rest.append(places)
        ranked = rest
        chosen.append(sorted(taken))
    return Split(sorted(place for places in ranked for place in places), chosen[1], chosen[0])


def _hash_of_name(hashes: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"".join(sorted(set(hashes)))).digest()
