"""Exact limits of archives, rejected names, and arrays of images."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from atelier.core.errors import AtelierError
from atelier.data.archives import _too_large
from atelier.data.dataset import Images, load_images, save_images
from atelier.data.members import (
    Budget,
    Rejected,
    reject_nested_archive,
    too_large,
    unsafe_name_reason,
)
from atelier.data.mnist import read_mnist
from atelier.data.thread_pool import ordered_map

MIB = 2**20


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "pictures.tar").write_bytes(b"x" * 1000)
    return tmp_path / "pictures.tar"


@pytest.mark.parametrize(("size", "fits"), [(0, True), (1, False)])
def test_archive_expansion_limit_is_64_mib_plus_200_times_its_size(
    archive: Path, size: int, fits: bool
) -> None:
    budget = Budget(archive)
    budget.spend(64 * MIB)
    budget.spend(200 * 1000)
    if fits:
        budget.spend(size)
        return
    with pytest.raises(AtelierError, match=r"the archive pictures\.tar expands to more than 200"):
        budget.spend(size)


def test_archive_member_limit_is_ten_million(archive: Path) -> None:
    budget = Budget(archive)
    budget._members -= 9_999_999
    budget.count_member()
    with pytest.raises(AtelierError, match=r"pictures\.tar has more than 10,000,000 members"):
        budget.count_member()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cats/1.png", ""),
        ("a..b/c.png", ""),
        ("cats:1.png", ""),
        ("x;y.png", ""),
        ("a9.png", ""),
        ("/etc/passwd", "an absolute path"),
        ("\\\\host\\share", "an absolute path"),
        ("c:/windows", "an absolute path"),
        ("c:1.png", "an absolute path"),
        ("../1.png", "a path out of the archive"),
        ("cats\\..\\..\\1.png", "a path out of the archive"),
        ("cats/..", "a path out of the archive"),
    ],
)
def test_names_out_of_the_archive_are_rejected(name: str, reason: str) -> None:
    assert unsafe_name_reason(name) == reason


@pytest.mark.parametrize(
    ("begin", "kind"),
    [(b"PK\x03\x04", 0), (b"\x1f\x8b", 0), (b"BZh", 0), (b"\xfd7zXZ\x00", 0),
     (b"7z\xbc\xaf\x27\x1c", 0), (b"Rar!\x1a\x07", 0), (b"\x28\xb5\x2f\xfd", 0), (b"ustar", 257)],
)  # fmt: skip
def test_nested_archive_is_rejected_by_its_first_bytes(begin: bytes, kind: int) -> None:
    assert reject_nested_archive(bytes(kind) + begin + b"...") == Rejected(
        "an archive inside the archive"
    )
    other = bytes(kind + 1) + begin + b"..."
    assert reject_nested_archive(other) == other
    assert reject_nested_archive(bytes(kind) + begin[:-1]) == bytes(kind) + begin[:-1]


def test_rejection_of_a_large_member_has_both_sizes() -> None:
    assert too_large(1234 * MIB) == Rejected("1,234 MiB, the limit is 256")


@pytest.mark.parametrize(
    ("size", "packed", "reason"),
    [
        (256 * MIB, 2 * MIB, None),
        (256 * MIB + 1, 256 * MIB, "256 MiB, the limit is 256"),
        (16 * MIB, 1, None),
        (20 * MIB, 20 * MIB // 200 + 1, None),
        (20 * MIB, 20 * MIB // 200 - 1, "it would expand 200 times"),
        (100 * MIB, 0, "it would expand 104,857,600 times"),
    ],
)
def test_zip_member_is_rejected_by_its_stated_size(
    size: int, packed: int, reason: str | None
) -> None:
    member = zipfile.ZipInfo("a.png")
    member.file_size, member.compress_size = size, packed
    found = _too_large(member)
    assert (found.reason if found else None) == reason


def _mnist(
    folder: Path, part: str, height: int, width: int, labels: bytes, more: bytes = b""
) -> list[Path]:
    count = len(labels)
    pixels = bytes(number % 251 for number in range(count * height * width))
    images = struct.pack(">4I", 2051, count, height, width) + pixels + more
    files = {
        f"{part}-images.gz": images,
        f"{part}-labels.gz": struct.pack(">2I", 2049, count) + labels,
    }
    for name, data in files.items():
        (folder / name).write_bytes(gzip.compress(data))
    return [folder / name for name in files]


def test_digits_are_named_by_split_label_and_index(tmp_path: Path) -> None:
    files = _mnist(tmp_path, "train", 2, 3, bytes([7, 0])) + _mnist(
        tmp_path, "t10k", 1, 2, bytes([9])
    )
    found = {name: digit.tolist() for name, digit in read_mnist(files)}  # type: ignore[union-attr]
    assert found == {
        "train/7/00000": [[0, 1, 2], [3, 4, 5]],
        "train/0/00001": [[6, 7, 8], [9, 10, 11]],
        "test/9/00000": [[0, 1]],
    }


@pytest.mark.parametrize(
    ("height", "width", "fits"), [(1024, 1024, True), (1024, 1025, False), (0, 5, False)]
)
def test_digit_size_is_limited(tmp_path: Path, height: int, width: int, fits: bool) -> None:
    files = _mnist(tmp_path, "train", height, width, b"\x01")
    if fits:
        ((_, digit),) = read_mnist(files)
        assert digit.shape == (height, width)  # type: ignore[union-attr]
        return
    with pytest.raises(AtelierError, match=f"claims images of {width}x{height}"):
        list(read_mnist(files))


def test_byte_after_the_last_digit_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="holds more than it claims"):
        list(read_mnist(_mnist(tmp_path, "train", 2, 2, b"\x01", more=b"x")))


def _saved(path: Path, pixels: np.ndarray, names: np.ndarray) -> Path:
    np.savez(path, pixels, names=names)
    return path


@pytest.mark.parametrize(
    ("shape", "dtype", "fits"),
    [
        ((2, 1, 1, 1), np.uint8, True),
        ((2, 4, 5, 3), np.uint8, True),
        ((2, 4, 5, 3), np.int8, False),
        ((2, 4, 5), np.uint8, False),
        ((2, 4, 5, 3, 1), np.uint8, False),
        ((2, 0, 5, 3), np.uint8, False),
        ((2, 4, 0, 3), np.uint8, False),
        ((2, 4, 5, 2), np.uint8, False),
        ((2, 4, 5, 4), np.uint8, False),
        ((0, 4, 5, 3), np.uint8, False),
    ],
)
def test_only_images_of_one_or_three_channels_are_accepted(
    tmp_path: Path, shape: tuple[int, ...], dtype: type, fits: bool
) -> None:
    path = _saved(tmp_path / "images.npz", np.zeros(shape, dtype), np.array(["a"] * shape[0], "U1"))
    if fits:
        assert load_images(path).pixels.shape == shape
        return
    with pytest.raises(AtelierError, match="images are uint8"):
        load_images(path)


def test_empty_array_is_accepted_if_allowed(tmp_path: Path) -> None:
    path = tmp_path / "held_out.npz"
    save_images(path, [], (0, 4, 5, 3), [])
    assert load_images(path, may_be_empty=True).pixels.shape == (0, 4, 5, 3)
    with pytest.raises(AtelierError, match="N at least 1"):
        load_images(path)


@pytest.mark.parametrize(
    "names", [np.array(["a"]), np.array([["a", "b"]]), np.array([b"a", b"b"]), np.array([1, 2])]
)
def test_every_image_needs_a_text_name(tmp_path: Path, names: np.ndarray) -> None:
    path = _saved(tmp_path / "images.npz", np.zeros((2, 4, 5, 3), np.uint8), names)
    with pytest.raises(AtelierError, match="2 images but names of shape"):
        load_images(path)


def test_names_are_shortened_to_120_characters(tmp_path: Path) -> None:
    names = ["n" * 119, "x" + "n" * 119, "y" + "n" * 120]
    save_images(tmp_path / "images.npz", [bytes(3)], (3, 1, 1, 1), names)
    assert load_images(tmp_path / "images.npz").names.tolist() == [*names[:2], "…" + "n" * 120]


def test_compressed_array_expansion_is_limited_to_1100(
    tmp_path: Path,
) -> None:
    """Deflate compresses at most about 1,000 zeros into a byte."""
    path = tmp_path / "images.npz"
    np.savez_compressed(path, np.zeros((1000, 32, 32, 3), np.uint8), names=np.array(["a"] * 1000))
    assert load_images(path).pixels.sum() == 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, array in (
            ("arr_0", np.zeros((5, 8, 8, 3), np.uint8)),
            ("names", np.array(["a"] * 5)),
        ):
            stream = io.BytesIO()
            np.save(stream, array)
            archive.writestr(f"{name}.npy", stream.getvalue())
    with pytest.raises(AtelierError, match="compressed by another method than NumPy's"):
        load_images(path)


def test_classes_are_ordered_with_numbers_first_by_value() -> None:
    names = [f"all/{folder}/1.png" for folder in ("b", "10", "a", "9", "-1", "2")]
    classes, indices = Images(np.zeros((6, 1, 1, 1), np.uint8), np.array(names)).classes()
    assert classes == ("2", "9", "10", "-1", "a", "b")
    assert indices.tolist() == [5, 2, 4, 1, 3, 0]
    assert indices.dtype == np.int64


def test_ordered_map_submits_up_to_its_limits() -> None:
    """At most 3 items and 10 bytes are in flight; a larger item is processed alone."""
    events: list[str] = []

    def start(item: int) -> Callable[[], int]:
        events.append(f"start {item}")
        return lambda: item

    sizes = [4, 6, 1, 1, 1, 20, 2]
    items = range(len(sizes))
    for result in ordered_map(start, lambda wait: wait(), items, 3, lambda item: sizes[item], 10):
        events.append(f"end {result}")
    assert events == [
        *("start 0", "start 1", "end 0", "start 2", "start 3", "end 1", "start 4"),
        *("end 2", "end 3", "end 4", "start 5", "end 5", "start 6", "end 6"),
    ]
