"""Files of the training, validation and test set, and the split of images into these sets.

``images.npz``, ``validation.npz`` and ``test.npz`` are NumPy archives with ``arr_0``, uint8
[N, H, W, C], and ``names``. They are not compressed, so that pixels can be mapped into memory.
"""

import hashlib
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atelier.core.array_headers import read_header
from atelier.core.errors import AtelierError
from atelier.core.files import NotRegularError, open_regular

_PIXELS, _NAMES = "arr_0.npy", "names.npy"
# NumPy pads every name to the longest, with four bytes per character.
_MAX_NAME = 120
_MAX_FOLDER = 60  # characters of the last folder's name, which is the class
# Largest ratio of expanded to compressed size that Deflate reaches.
_MAX_EXPANSION = 1100
_READ_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, NotImplementedError, OverflowError, RuntimeError),
    *(NotRegularError, struct.error, zlib.error, zipfile.BadZipFile),
)
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True)
class Images:
    """Images of one size, and their names.

    Attributes:
        pixels: uint8 [N, H, W, C], C is 1 or 3. Uncompressed pixels are mapped into memory,
            copy-on-write: writing to the array does not change the file.
        names: unicode [N], shortened by :func:`save_images`.
    """

    pixels: NDArray[np.uint8]
    names: NDArray[np.str_]

    def classes(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Return the names of the classes, and the class of every image.

        The class of an image is the last folder in its name: ``5`` in ``train/5/00000``.

        Returns:
            Names of the classes, with numbers first in numerical order, and for every image the
            index of its class, int64 [N].

        Raises:
            AtelierError: an image is in no folder.
        """
        folders = [name.rpartition("/")[0].rpartition("/")[2] for name in self.names.tolist()]
        if "" in folders:
            raise AtelierError(
                f"{self.names[folders.index('')]} is in no folder, but an image's class is the"
                " last folder in its name, as in cats/001.jpg; sort the images into folders."
            )
        names = sorted(set(folders), key=_number_first)
        index_of = {name: index for index, name in enumerate(names)}
        return tuple(names), np.array([index_of[folder] for folder in folders], np.int64)


def _number_first(name: str) -> tuple[bool, int, str]:
    is_number = name.isdecimal()
    return not is_number, int(name) if is_number else 0, name


def load_images(path: Path, may_be_empty: bool = False) -> Images:
    """Open an npz file of images; pixels are read from disk when they are accessed.

    Args:
        path: the file.
        may_be_empty: accept a file of zero images.

    Raises:
        AtelierError: the file is missing, damaged, or has other arrays.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            pixels = _map_pixels(path, archive)
            names = _read_member(path, archive, archive.getinfo(_NAMES))
    except FileNotFoundError:
        raise AtelierError(f"{path} does not exist; run the convert stage to create it.") from None
    except MemoryError:
        raise AtelierError(
            f"{path} claims more images than fit into memory; run the convert stage again, which"
            " writes them so that they can be mapped from disk."
        ) from None
    except _READ_ERRORS as error:
        reason = getattr(error, "reason", str(error)).partition("\n")[0]
        raise AtelierError(
            f"{path} is not a readable array of images ({reason}); run the convert stage again."
        ) from None
    _check(path, pixels, names, 0 if may_be_empty else 1)
    return Images(pixels, names)


def save_images(
    path: Path, pixels: Iterable[bytes], shape: tuple[int, int, int, int], names: Sequence[str]
) -> None:
    """Write an npz file of images from raw pixels that may exceed the memory.

    Args:
        path: the file to write.
        pixels: N·H·W·C bytes in C order, in pieces of any size.
        shape: (N, H, W, C).
        names: N names. A name of more than 120 characters is shortened, because NumPy pads all
            names to the longest. Its last folder, which is the class, and its end remain.
    """
    short = [name if len(name) <= _MAX_NAME else _shortened(name) for name in names]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo(_PIXELS), "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for piece in pixels:
                member.write(piece)
        with archive.open(zipfile.ZipInfo(_NAMES), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.array(short, np.str_), allow_pickle=False)


def _shortened(name: str) -> str:
    """Return an ellipsis and the last 120 characters of a name, or else its folder and its end."""
    end = name[-_MAX_NAME:]
    folders, _, file = name.rpartition("/")
    if not folders or end.count("/") > 1:  # there is no folder, or all of it is in the end
        return f"…{end}"
    folder = folders.rpartition("/")[2]
    if len(folder) > _MAX_FOLDER:
        folder = f"…{folder[1 - _MAX_FOLDER :]}"
    free = _MAX_NAME - len(folder) - 1
    return f"{folder}/{file}" if len(file) <= free else f"{folder}/…{file[1 - free :]}"


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
    """Read an array into memory after its claimed size is checked against the file's size."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed by another method than NumPy's")
    if member.file_size > _MAX_EXPANSION * path.stat().st_size:
        raise ValueError(f"{member.filename} claims more than the file can hold")
    with archive.open(member) as stream:
        read_header(stream, member.file_size)
    with archive.open(member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _check(path: Path, pixels: NDArray[Any], names: NDArray[Any], min_count: int) -> None:
    is_valid = (
        pixels.dtype == np.uint8
        and pixels.ndim == 4
        and pixels.shape[0] >= min_count
        and min(pixels.shape[1:3]) > 0
        and pixels.shape[3] in (1, 3)
    )
    if not is_valid:
        raise AtelierError(
            f"{path} holds {pixels.dtype} {list(pixels.shape)}, but images are uint8"
            f" [N, H, W, C] with 1 or 3 channels and N at least {min_count}; run the convert stage"
            " again."
        )
    if names.shape != (len(pixels),) or names.dtype.kind != "U":
        raise AtelierError(
            f"{path} holds {len(pixels)} images but names of shape {list(names.shape)}; run the"
            " convert stage again."
        )


@dataclass(frozen=True)
class Split:
    """Indices of the images in each set, and of images that no set has, in increasing order."""

    training: list[int]
    validation: list[int]
    test: list[int]
    dropped: list[int] = field(default_factory=list)


def count_for_fraction(fraction: float, count: int) -> int:
    """Return a fraction of ``count`` images, rounded down.

    The fraction is computed from its decimal notation, without rounding: 0.29 of 100 is 29.
    """
    return int(Fraction(str(fraction)) * count)


def redundant_images(groups: NDArray[np.int64], keys: Sequence[Any]) -> list[int]:
    """Return the indices of all images except the one with the smallest key in each group.

    Args:
        groups: group of each image, int64 [N].
        keys: a key of each image that can be compared.
    """
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    _, firsts = np.unique(groups[order], return_index=True)
    return sorted(set(range(len(keys))) - set(order[firsts].tolist()))


def split(
    groups: NDArray[np.int64],
    hashes: Sequence[bytes],
    validation_fraction: float,
    test_fraction: float,
    dropped: Sequence[int] = (),
) -> Split:
    """Choose a validation and a test set of at most these fractions; the rest is for training.

    All images of a group are in one set. Groups are assigned in the order of their hash, a
    SHA-256 of the hashes of their images. Thus the split needs no seed and does not depend on
    names or order. A group that exceeds the remaining size of a set is skipped. The test set is
    chosen first, so that it does not depend on ``validation_fraction``.

    Args:
        groups: group of each image, int64 [N].
        hashes: hash of each image's bytes.
        validation_fraction: from 0 to 1.
        test_fraction: from 0 to 1; the sum of both is less than 1.
        dropped: indices of images that are in no set, and not counted.
    """
    members = defaultdict(list)
    used = sorted(set(range(len(groups))) - set(dropped))
    for index in used:
        members[int(groups[index])].append(index)
    remaining = sorted(
        members.values(), key=lambda indices: _group_hash([hashes[i] for i in indices])
    )
    held_out: list[list[int]] = []
    for fraction in (test_fraction, validation_fraction):
        # At least one image remains for training.
        free = min(count_for_fraction(fraction, len(used)), sum(map(len, remaining)) - 1)
        selected, skipped = [], []
        for indices in remaining:
            if len(indices) <= free:
                free -= len(indices)
                selected += indices
            else:
                skipped.append(indices)
        remaining = skipped
        held_out.append(sorted(selected))
    test, validation = held_out
    training = sorted(index for indices in remaining for index in indices)
    return Split(training, validation, test, sorted(dropped))


def _group_hash(hashes: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"".join(sorted(set(hashes)))).digest()
