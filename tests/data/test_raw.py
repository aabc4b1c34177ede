"""Readers of raw images: hostile and damaged archives, MNIST and CIFAR-10."""

import gzip
import io
import os
import pickle
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from atelier.core.download_settings import DownloadSettings
from atelier.core.errors import AtelierError
from atelier.data import members as limits
from atelier.data.archives import count_members, read_tar, read_zip
from atelier.data.manifest import Manifest, Skipped, raw_file, write_manifest
from atelier.data.members import Rejected
from atelier.data.raw import FOREIGN_ARCHIVES, open_raw

from ..support.selection import slow_after


@pytest.fixture
def raw_of(tmp_path: Path) -> Callable[..., Path]:
    """Return a factory of raw folders, e.g. ``raw_of("tar", {"pictures.tar": bytes})``."""

    def make(kind: Any, files: dict[str, bytes], **values: Any) -> Path:
        folder = tmp_path / "raw"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        raw_files = tuple(raw_file(folder / name) for name in files)
        write_manifest(folder, Manifest("archive", kind, raw_files, **values))
        return folder

    return make


def tar_of(*members: tuple[tarfile.TarInfo, bytes], mode: Any = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def tar_member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            archive.writestr(member, data)
    return stream.getvalue()


def test_tar_members_are_read_in_order_or_rejected(raw_of: Callable[..., Path]) -> None:
    archive = tar_of(
        (tar_member("d", tarfile.DIRTYPE), b""),
        (tar_member("d/z.jpg"), b"one"),
        (tar_member("a.jpg"), b"two"),
        (tar_member("../../up.jpg"), b"three"),
        (tar_member("/root.jpg"), b"four"),
        (tar_member("soft", tarfile.SYMTYPE), b""),
        (tar_member("hard", tarfile.LNKTYPE), b""),
        (tar_member("null", tarfile.CHRTYPE), b""),
        (tar_member("in.zip"), zip_of(("a", b"b"))),
        (tar_member("last.jpg"), b"five"),
    )
    assert list(open_raw(raw_of("tar", {"pictures.tar": archive}))) == [
        ("d/z.jpg", b"one"),
        ("a.jpg", b"two"),
        ("../../up.jpg", Rejected("a path out of the archive")),
        ("/root.jpg", Rejected("an absolute path")),
        ("soft", Rejected("a link")),
        ("hard", Rejected("a link")),
        ("null", Rejected("not a regular file")),
        ("in.zip", Rejected("an archive inside the archive")),
        ("last.jpg", b"five"),
    ]


def test_zip_members_are_read_in_order_or_rejected(raw_of: Callable[..., Path]) -> None:
    link = zipfile.ZipInfo("soft")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = zip_of(
        ("d/", b""),
        ("d/z.jpg", b"one"),
        ("../up.jpg", b"two"),
        (r"..\windows.jpg", b"three"),
        ("C:/x.jpg", b"four"),
        (link, b"/etc/passwd"),
        ("in.gz", gzip.compress(b"five")),
        ("a.jpg", b"six"),
    )
    assert list(open_raw(raw_of("zip", {"pictures.zip": archive}))) == [
        ("d/z.jpg", b"one"),
        ("../up.jpg", Rejected("a path out of the archive")),
        ("../windows.jpg", Rejected("a path out of the archive")),
        ("C:/x.jpg", Rejected("an absolute path")),
        ("soft", Rejected("a link")),
        ("in.gz", Rejected("an archive inside the archive")),
        ("a.jpg", b"six"),
    ]


def old_zip_of(*names: bytes) -> bytes:
    """Return a zip of unchanged names without the UTF-8 flag, as written for DOS."""
    placeholders = [b"%08d" % number + b"x" * (len(name) - 8) for number, name in enumerate(names)]
    members = [zipfile.ZipInfo(placeholder.decode()) for placeholder in placeholders]
    for member in members:
        member.create_system = 0
    archive = zip_of(*((member, b"data") for member in members))
    for placeholder, name in zip(placeholders, names, strict=True):
        archive = archive.replace(placeholder, name)
    return archive


def test_windows_folders_in_a_zip_are_recognized(raw_of: Callable[..., Path]) -> None:
    marked = zipfile.ZipInfo("faces\\marked")
    marked.external_attr = 0x10
    archive = zip_of(
        ("faces\\", b""),
        ("faces\\men\\", b""),
        (marked, b""),
        (r"faces\men\1.jpg", b"one"),
        (r".\faces\\women\2.jpg", b"two"),
        (r"faces/women\3.jpg", b"three"),
        (r"faces\.thumbs\4.jpg", b"four"),
        (r"faces\Thumbs.db", b"five"),
        (r"faces\..\..\6.jpg", b"six"),
        (r"\\server\share\7.jpg", b"seven"),
        (r"\8.jpg", b"eight"),
        (r"d:\faces\9.jpg", b"nine"),
        (r"d:10.jpg", b"ten"),
        ("4:3.jpg", b"eleven"),
    )
    folder = raw_of("zip", {"pictures.zip": archive})
    assert list(open_raw(folder)) == [
        ("faces/men/1.jpg", b"one"),
        ("faces/women/2.jpg", b"two"),
        ("faces/women/3.jpg", b"three"),
        ("faces/.thumbs", Rejected("a hidden folder")),
        ("faces/Thumbs.db", Rejected("a system file")),
        ("faces/../../6.jpg", Rejected("a path out of the archive")),
        ("//server/share/7.jpg", Rejected("an absolute path")),
        ("/8.jpg", Rejected("an absolute path")),
        ("d:/faces/9.jpg", Rejected("an absolute path")),
        ("d:10.jpg", Rejected("an absolute path")),
        ("4:3.jpg", b"eleven"),
    ]
    assert count_members(folder / "pictures.zip") == 11


def test_names_of_old_zips_are_decoded(raw_of: Callable[..., Path]) -> None:
    archive = old_zip_of(
        "café et thé/1.jpg".encode("cp437"),
        "café et thé\\2.jpg".encode("cp437"),
        "лицо 顔/3.jpg".encode(),
        "лицо 顔\\4.jpg".encode(),
        b"plain\\men\\5.jpg",
    )
    assert [name for name, _ in open_raw(raw_of("zip", {"pictures.zip": archive}))] == [
        "café et thé/1.jpg",
        "café et thé/2.jpg",
        "лицо 顔/3.jpg",
        "лицо 顔/4.jpg",
        "plain/men/5.jpg",
    ]


def test_windows_folders_in_a_tar_are_recognized(raw_of: Callable[..., Path]) -> None:
    archive = tar_of(
        (tar_member(r"faces\men\1.jpg"), b"one"),
        (tar_member(r"./faces//women/a\2.jpg"), b"two"),
        (tar_member(r"..\3.jpg"), b"three"),
        (tar_member(r"c:\4.jpg"), b"four"),
    )
    assert list(open_raw(raw_of("tar", {"pictures.tar": archive}))) == [
        ("faces/men/1.jpg", b"one"),
        (r"faces/women/a\2.jpg", b"two"),
        ("../3.jpg", Rejected("a path out of the archive")),
        ("c:/4.jpg", Rejected("an absolute path")),
    ]


def test_hidden_tar_member_counts_for_the_limits(raw_of: Callable[..., Path]) -> None:
    archive = tar_of((tar_member(".git/bomb"), bytes(90 * 2**20)), mode="w:gz")
    with pytest.raises(AtelierError, match="expands to more than 200 times"):
        list(open_raw(raw_of("tar", {"pictures.tar": archive})))


def test_encrypted_and_damaged_members_are_rejected_alone(raw_of: Callable[..., Path]) -> None:
    archive = bytearray(zip_of(("a", b"secret"), ("b", b"b" * 50), ("c", b"fine")))
    entries = zipfile.ZipFile(io.BytesIO(archive)).infolist()
    directory = archive.index(b"PK\x01\x02")
    archive[directory + 8] |= 1
    archive[entries[1].header_offset + 31 + 2] ^= 0xFF
    read = dict(open_raw(raw_of("zip", {"pictures.zip": bytes(archive)})))
    assert read["a"] == Rejected("encrypted")
    assert read["b"] == Rejected("damaged inside the archive")
    assert read["c"] == b"fine"


def test_zip_bomb_is_not_expanded(raw_of: Callable[..., Path]) -> None:
    archive = zip_of(("bomb.png", bytes(60 * 2**20)), ("a.png", b"fine"))
    folder = raw_of("zip", {"pictures.zip": archive})
    tracemalloc.start()
    read = dict(open_raw(folder))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(read["bomb.png"], Rejected)
    assert "expand" in read["bomb.png"].reason
    assert read["a.png"] == b"fine"
    assert peak < 10 * 2**20


def overlapping_zip(size: int, count: int) -> bytes:
    """Return a zip whose directory lists one member's bytes several times."""
    archive = zip_of(("member.png", bytes(size)))
    start, end = archive.index(b"PK\x01\x02"), archive.index(b"PK\x05\x06")
    directory = archive[start:end] * count
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    return archive[:start] + directory + tail


def test_total_expansion_of_a_zip_is_limited(
    raw_of: Callable[..., Path],
) -> None:
    archive = overlapping_zip(15 * 2**20, 2000)
    assert len(archive) < 200_000
    folder = raw_of("zip", {"pictures.zip": archive})
    with pytest.raises(AtelierError, match=r"pictures\.zip expands to more than 200 times"):
        next(iter(open_raw(folder)))
    with pytest.raises(AtelierError, match="expands to more than 200 times"):
        count_members(folder / "pictures.zip")


def test_overlapping_members_are_read_once(raw_of: Callable[..., Path]) -> None:
    read = list(open_raw(raw_of("zip", {"pictures.zip": overlapping_zip(2**20, 50)})))
    assert read[0] == ("member.png", bytes(2**20))
    assert read[1:] == [("member.png", Rejected("it shares its bytes with another member"))] * 49


@pytest.mark.parametrize(
    "method", slow_after(1, [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
)
def test_member_larger_than_stated_is_not_expanded(
    raw_of: Callable[..., Path], method: int
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("bomb.png", bytes(120 * 2**20))
    claimed = stream.getvalue().replace(struct.pack("<I", 120 * 2**20), struct.pack("<I", 100))
    folder = raw_of("zip", {"pictures.zip": claimed})
    tracemalloc.start()
    read = dict(open_raw(folder))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == {"bomb.png": Rejected("damaged inside the archive")}
    assert peak < 100 * 2**20


@pytest.mark.parametrize("method", [0, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_member_of_any_compression_is_read(tmp_path: Path, method: int) -> None:
    data = os.urandom(2**20 + 7) + bytes(2**20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a", data)
        archive.writestr("empty", b"")
    assert list(read_zip(tmp_path / "a.zip")) == [("a", data), ("empty", b"")]


def test_archive_with_too_many_members_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_MAX_MEMBERS", 3)
    names = ["a", "b", "c", "d"]
    zipped = zip_of(*((name, b"data") for name in names))
    tarred = tar_of(*((tar_member(name), b"data") for name in names))
    for read, data in ((read_zip, zipped), (read_tar, tarred)):
        (tmp_path / "archive").write_bytes(data)
        with pytest.raises(AtelierError, match="more than 3 members; split it"):
            list(read(tmp_path / "archive"))


def test_mnist_bomb_is_rejected(raw_of: Callable[..., Path]) -> None:
    digits = gzip.compress(struct.pack(">4I", 2051, 10**6, 1000, 1000) + bytes(90 * 2**20))
    labels = gzip.compress(struct.pack(">2I", 2049, 10**6) + bytes(1000))
    files = {"train-images-idx3-ubyte.gz": digits, "train-labels-idx1-ubyte.gz": labels}
    with pytest.raises(AtelierError, match="expands to more than 200 times"):
        for _ in open_raw(raw_of("mnist", files)):
            pass


def test_tar_bomb_is_rejected(raw_of: Callable[..., Path]) -> None:
    archive = tar_of((tar_member("bomb.png"), bytes(90 * 2**20)), mode="w:gz")
    with pytest.raises(AtelierError, match="expands to more than 200 times"):
        list(open_raw(raw_of("tar", {"pictures.tar": archive})))


def test_long_tar_header_is_rejected(raw_of: Callable[..., Path]) -> None:
    header = tar_member("pax", tarfile.XHDTYPE)
    archive = gzip.compress(tar_of((header, os.urandom(2**20) * 6)), 1)
    with pytest.raises(AtelierError, match="header of more than 4 MiB"):
        list(open_raw(raw_of("tar", {"pictures.tar": archive})))


def test_member_over_the_limit_is_rejected(
    raw_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("archives", "members"):
        monkeypatch.setattr(f"atelier.data.{module}.MEMBER_LIMIT", 2**20)
    big = os.urandom(2**20 + 1)
    archive = tar_of((tar_member("big"), big), (tar_member("small"), b"fine"))
    read = list(open_raw(raw_of("tar", {"pictures.tar": archive})))
    assert read == [("big", limits.too_large(len(big))), ("small", b"fine")]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_truncated_tar_is_an_error(raw_of: Callable[..., Path], mode: str) -> None:
    archive = tar_of(*((tar_member(f"{i}.jpg"), os.urandom(700)) for i in range(6)), mode=mode)
    # Bytes after the end mark are padding.
    end = 6 * 1536 + 511 if mode == "w" else len(archive) - 1
    folder = raw_of("tar", {"pictures.tar": archive})
    for length in range(1, end, max(1, end // 40)):
        (folder / "pictures.tar").write_bytes(archive[:length])
        write_manifest(folder, Manifest("a", "tar", (raw_file(folder / "pictures.tar"),)))
        with pytest.raises(AtelierError, match="damaged or was cut short"):
            list(open_raw(folder))


def test_flipped_bit_in_a_compressed_tar_is_an_error(raw_of: Callable[..., Path]) -> None:
    archive = bytearray(gzip.compress(tar_of((tar_member("a"), bytes(2000))), 0))
    archive[700] ^= 1
    with pytest.raises(AtelierError, match="damaged"):
        list(open_raw(raw_of("tar", {"pictures.tar": bytes(archive)})))


def test_truncated_zip_is_an_error(raw_of: Callable[..., Path]) -> None:
    archive = zip_of(("a", b"b" * 500))[:-10]
    with pytest.raises(AtelierError, match=r"pictures\.zip is damaged or was cut short"):
        list(open_raw(raw_of("zip", {"pictures.zip": archive})))


def test_skipped_files_come_first_and_are_counted(raw_of: Callable[..., Path]) -> None:
    skipped = (Skipped("b", "a link"),)
    archive = zip_of(("a", b"data"))
    folder = raw_of("zip", {"pictures.zip": archive}, members=1, skipped=skipped)
    images = open_raw(folder)
    assert list(images) == [("b", Rejected("a link")), ("a", b"data")]
    assert images.total == 2


def test_changed_raw_files_are_an_error(raw_of: Callable[..., Path]) -> None:
    folder = raw_of("zip", {"pictures.zip": zip_of(("a", b"b"))})
    (folder / "pictures.zip").write_bytes(b"other")
    with pytest.raises(AtelierError, match="another size"):
        open_raw(folder)
    (folder / "manifest.json").write_text('{"format": "zip", "files": []}')
    with pytest.raises(AtelierError, match="damaged"):
        open_raw(folder)


def idx(count: int, *shape: int, seed: int = 0) -> tuple[bytes, np.ndarray]:
    values = np.random.default_rng(seed).integers(0, 10, (count, *shape), np.uint8)
    header = struct.pack(f">{2 + len(shape)}I", 0x801 + 2 * bool(shape), count, *shape)
    return gzip.compress(header + values.tobytes()), values


def test_mnist_digits_have_their_labels(raw_of: Callable[..., Path]) -> None:
    images, pixels = idx(3, 28, 28)
    labels, classes = idx(3)
    files = {"t10k-images-idx3-ubyte.gz": images, "t10k-labels-idx1-ubyte.gz": labels}
    read = list(open_raw(raw_of("mnist", files)))
    assert [name for name, _ in read] == [f"test/{classes[i]}/{i:05d}" for i in range(3)]
    assert all(np.array_equal(a, b) for (_, a), b in zip(read, pixels, strict=True))


@pytest.mark.parametrize("damage", ["cut", "count", "magic"])
def test_damaged_mnist_is_an_error(raw_of: Callable[..., Path], damage: Any) -> None:
    images, labels = idx(3, 28, 28)[0], idx(2 if damage == "count" else 3)[0]
    files = {
        "train-images-idx3-ubyte.gz": images[: -100 if damage == "cut" else None],
        "train-labels-idx1-ubyte.gz": images if damage == "magic" else labels,
    }
    with pytest.raises(AtelierError, match="idx3-ubyte"):
        list(open_raw(raw_of("mnist", files)))


def cifar(batches: dict[str, Any], protocol: int = 2) -> bytes:
    return tar_of(
        *(
            (tar_member(f"cifar-10-batches-py/{name}"), pickle.dumps(batch, protocol))
            for name, batch in batches.items()
        ),
        mode="w:gz",
    )


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_cifar10_images_have_their_labels(raw_of: Callable[..., Path], split: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    batch = {b"data": pixels, b"labels": [7, 3], b"batch_label": b"x", b"filenames": [b"a", b"b"]}
    archive = cifar({"data_batch_2": batch, "test_batch": batch, "batches.meta": {}})
    read = list(open_raw(raw_of("cifar10", {"cifar.tar.gz": archive}, split=split)))
    names = {
        "train": ["train/7/10000", "train/3/10001"],
        "test": ["test/7/00000", "test/3/00001"],
    }
    assert [n for n, _ in read] == names.get(split, names["train"] + names["test"])
    first = read[0][1]
    assert isinstance(first, np.ndarray)
    assert first.shape == (32, 32, 3)
    assert np.array_equal(first[0, 1], pixels[0].reshape(3, 32, 32)[:, 0, 1])


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_hostile_pickle_is_not_executed(raw_of: Callable[..., Path], tmp_path: Path) -> None:
    archive = cifar({"data_batch_1": {b"data": Hostile(tmp_path / "ran"), b"labels": []}})
    with pytest.raises(AtelierError, match=r"asks for (posix|os)\.mkdir"):
        list(open_raw(raw_of("cifar10", {"cifar.tar.gz": archive})))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": np.array([object()]), b"labels": [1]},
        {b"data": np.zeros((1, 3072), np.float32), b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"labels": [1]},
        [],
    ],
)
def test_batch_of_other_objects_is_rejected(raw_of: Callable[..., Path], batch: Any) -> None:
    archive = cifar({"data_batch_1": batch})
    with pytest.raises(AtelierError, match="not CIFAR-10's"):
        list(open_raw(raw_of("cifar10", {"cifar.tar.gz": archive})))


def test_every_source_is_foreign_or_written_here() -> None:
    """A new source has to decide: a backslash separates folders in foreign zips only."""
    sources = set(get_args(DownloadSettings.model_fields["source"].annotation))
    assert sources - set(FOREIGN_ARCHIVES) == {"sample", "folder", "kaggle"}
