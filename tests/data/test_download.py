"""Download from every source: complete content of ``data/raw`` and errors."""

import gzip
import hashlib
import io
import json
import os
import resource
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atelier.core.download_settings import DownloadSettings
from atelier.core.errors import AtelierError
from atelier.core.files import NotRegularError, check_regular
from atelier.core.progress import Progress
from atelier.data.manifest import Skipped, read_manifest
from atelier.data.raw import open_raw
from atelier.data.sources.download import download


def tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture
def faces(tmp_path: Path, image_bytes: Callable[..., bytes]) -> Path:
    """Return a folder with subfolders, unusual names, links and a pipe."""
    folder = tmp_path / "faces"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "one.png").write_bytes(image_bytes(seed=1))
    (folder / "a.png").write_bytes(image_bytes(seed=2))
    (folder / "лицо 顔.png").write_bytes(image_bytes(seed=3))
    (folder / "line\nbreak.png").write_bytes(image_bytes(seed=4))
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(image_bytes(seed=5))
    (folder / "inner.png").symlink_to(folder / "a.png")
    (tmp_path / "outside.png").write_bytes(image_bytes(seed=6))
    (folder / "outer.png").symlink_to(tmp_path / "outside.png")
    (folder / "lost.png").symlink_to(folder / "nothing")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    return folder


def test_folders_become_one_zip_with_fixed_order_and_dates(
    tmp_path: Path,
    faces: Path,
    source: Callable[..., DownloadSettings],
    image_bytes: Callable[..., bytes],
) -> None:
    manifest = download(source("folder", mine=str(faces)), tmp_path / "raw", tmp_path / "scratch")
    with zipfile.ZipFile(tmp_path / "raw" / "pictures.zip") as archive:
        members = archive.infolist()
        assert archive.read("mine/b/one.png") == image_bytes(seed=1)
    assert [m.filename for m in members] == [
        "mine/a.png",
        "mine/b/one.png",
        r"mine/caf\udce9.png",
        "mine/inner.png",
        r"mine/line\nbreak.png",
        "mine/outer.png",
        "mine/лицо 顔.png",
    ]
    assert {(m.date_time, m.compress_type) for m in members} == {((1980, 1, 1, 0, 0, 0), 0)}
    assert manifest.members == 7
    assert manifest.skipped == (
        Skipped("mine/loop", "a link to a folder that contains it"),
        Skipped("mine/lost.png", "a broken link"),
        Skipped("mine/pipe.png", "not a regular file"),
    )


def test_manifest_lists_the_files_without_local_paths(
    tmp_path: Path, faces: Path, source: Callable[..., DownloadSettings]
) -> None:
    manifest = download(source("folder", mine=str(faces)), tmp_path / "raw", tmp_path / "scratch")
    written = (tmp_path / "raw" / "manifest.json").read_text()
    archive = (tmp_path / "raw" / "pictures.zip").read_bytes()
    listed_files = json.loads(written)["files"]
    digest = hashlib.sha256(archive).hexdigest()
    assert listed_files == [{"name": "pictures.zip", "size": len(archive), "sha256": digest}]
    assert str(tmp_path) not in written
    assert read_manifest(tmp_path / "raw") == manifest


def test_bytes_do_not_depend_on_file_dates(
    tmp_path: Path, faces: Path, source: Callable[..., DownloadSettings]
) -> None:
    download(source("folder", mine=str(faces)), tmp_path / "one", tmp_path / "scratch")
    os.utime(faces / "a.png", (1, 1))
    download(source("folder", mine=str(faces)), tmp_path / "two", tmp_path / "scratch")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_home_folder_is_expanded(
    tmp_path: Path,
    faces: Path,
    source: Callable[..., DownloadSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    manifest = download(source("folder", mine="~/faces"), tmp_path / "raw", tmp_path / "scratch")
    assert manifest.members == 7


@pytest.mark.parametrize(
    ("folder", "sentence"), [("absent", "not a folder"), ("empty", "no files")]
)
def test_failed_download_keeps_the_previous_folder(
    tmp_path: Path, faces: Path, source: Callable[..., DownloadSettings], folder: str, sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    raw = tmp_path / "raw"
    download(source("folder", mine=str(faces)), raw, tmp_path / "scratch")
    before = tree(raw)
    with pytest.raises(AtelierError, match=sentence):
        download(source("folder", mine=str(tmp_path / folder)), raw, tmp_path / "scratch")
    assert tree(raw) == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_full_disk_keeps_the_previous_folder(
    tmp_path: Path, faces: Path, source: Callable[..., DownloadSettings]
) -> None:
    raw = tmp_path / "raw"
    download(source("folder", mine=str(faces)), raw, tmp_path / "scratch")
    before = tree(raw)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(AtelierError, match="no room to write"):
            download(source("folder", mine=str(faces)), raw, tmp_path / "scratch")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(raw) == before


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_archive_is_copied_unchanged(
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    image_bytes: Callable[..., bytes],
    ending: str,
) -> None:
    original = tmp_path / f"original.{ending}"
    members = {"z.png": image_bytes(seed=1), "a/b.png": image_bytes(seed=2)}
    write_archive(original, members)
    sha256 = hashlib.sha256(original.read_bytes()).hexdigest().upper()
    raw = tmp_path / "raw"
    manifest = download(
        source("archive", location=str(original), sha256=sha256), raw, tmp_path / "s"
    )
    assert (raw / manifest.files[0].name).read_bytes() == original.read_bytes()
    assert dict(open_raw(raw)) == members


def test_missing_or_wrong_sha256_is_rejected(
    tmp_path: Path, source: Callable[..., DownloadSettings], image_bytes: Callable[..., bytes]
) -> None:
    original = tmp_path / "original.zip"
    write_archive(original, {"a.png": image_bytes()})
    actual = hashlib.sha256(original.read_bytes()).hexdigest()
    with pytest.raises(AtelierError, match=f"sha256 is {actual}; write that into params.yaml"):
        download(source("archive", location=str(original)), tmp_path / "raw", tmp_path / "s")
    with pytest.raises(AtelierError, match=f"has sha256 {actual}, but"):
        settings = source("archive", location=str(original), sha256="0" * 64)
        download(settings, tmp_path / "raw", tmp_path / "s")
    assert not (tmp_path / "raw").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b", b"BZh9", b"PK\x03\x04cut"])
def test_non_archive_is_rejected(
    tmp_path: Path, source: Callable[..., DownloadSettings], content: bytes
) -> None:
    original = tmp_path / "original.zip"
    original.write_bytes(content)
    settings = source("archive", location=str(original), sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(AtelierError, match="neither a whole zip nor a tar"):
        download(settings, tmp_path / "raw", tmp_path / "s")


def test_tar_bomb_is_not_expanded(tmp_path: Path, source: Callable[..., DownloadSettings]) -> None:
    original = tmp_path / "bomb.tar.gz"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**27
    with gzip.open(original, "wb", 1) as stream:
        stream.write(header.tobuf())
        for _ in range(2**7):
            stream.write(bytes(2**20))
    sha256 = hashlib.sha256(original.read_bytes()).hexdigest()
    tracemalloc.start()
    with pytest.raises(AtelierError, match=f"has sha256 {sha256}"):
        settings = source("archive", location=str(original), sha256="0" * 64)
        download(settings, tmp_path / "raw", tmp_path / "s")
    # With the right sha256, the file is accepted unchanged. Only its first block is read.
    download(
        source("archive", location=str(original), sha256=sha256), tmp_path / "raw", tmp_path / "s"
    )
    with pytest.raises(AtelierError, match="header of more than 4 MiB"):
        list(open_raw(tmp_path / "raw"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_tar_without_members_is_accepted(
    tmp_path: Path, source: Callable[..., DownloadSettings], ending: str
) -> None:
    original = tmp_path / f"original.{ending}"
    write_archive(original, {})
    sha256 = hashlib.sha256(original.read_bytes()).hexdigest()
    settings = source("archive", location=str(original), sha256=sha256)
    assert download(settings, tmp_path / "raw", tmp_path / "s").format == "tar"


def test_progress_of_copy_is_in_megabytes(
    tmp_path: Path, source: Callable[..., DownloadSettings]
) -> None:
    original = tmp_path / "original.zip"
    write_archive(original, {"a": bytes(2_500_000)})
    size = original.stat().st_size
    sha256 = hashlib.sha256(original.read_bytes()).hexdigest()
    reports: list[Progress] = []
    settings = source("archive", location=str(original), sha256=sha256)
    download(settings, tmp_path / "raw", tmp_path / "s", reports.append)
    assert reports[0] == Progress(2**20, size, "1.0 of 2.5 MB")
    assert reports[-1] == Progress(size, size, "2.5 of 2.5 MB")


@pytest.mark.parametrize(
    ("name", "sentence"), [("absent.zip", "No such file"), ("", "not a regular")]
)
def test_location_must_be_a_readable_file(
    tmp_path: Path, source: Callable[..., DownloadSettings], name: str, sentence: str
) -> None:
    with pytest.raises(AtelierError, match=rf"cannot be read \(.*{sentence}.*give the path"):
        settings = source("archive", location=str(tmp_path / name))
        download(settings, tmp_path / "raw", tmp_path / "s")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has a file like this")
def test_endless_file_is_rejected(tmp_path: Path, source: Callable[..., DownloadSettings]) -> None:
    settings = source("archive", location="/proc/self/pagemap")
    with pytest.raises(NotRegularError):
        check_regular(Path("/proc/self/pagemap"))
    with pytest.raises(AtelierError, match="its size is unknown"):
        download(settings, tmp_path / "raw", tmp_path / "s")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has a file like this")
def test_disk_failure_during_copy_is_an_error(
    tmp_path: Path, source: Callable[..., DownloadSettings]
) -> None:
    # Reading the first byte of this file, an unmapped address, is a real input/output error.
    settings = source("archive", location="/proc/self/mem")
    with pytest.raises(AtelierError, match=r"a disk failed .*Input/output error.*run again"):
        download(settings, tmp_path / "raw", tmp_path / "s")
    assert not (tmp_path / "raw").exists()


def test_archive_is_downloaded_from_an_address(
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    image_bytes: Callable[..., bytes],
    site: Any,
    reply: Callable[..., Any],
) -> None:
    original = tmp_path / "original.zip"
    write_archive(original, {"a.png": image_bytes()})
    site.answer = reply(original.read_bytes())
    sha256 = hashlib.sha256(original.read_bytes()).hexdigest()
    settings = source("archive", location=f"{site.url}/x?token=sesame", sha256=sha256)
    download(settings, tmp_path / "raw", tmp_path / "s")
    assert tree(tmp_path / "raw")["pictures.zip"] == original.read_bytes()
    assert "sesame" not in (tmp_path / "raw" / "manifest.json").read_text()


def test_completed_download_is_not_repeated_after_an_interruption(
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    image_bytes: Callable[..., bytes],
    site: Any,
    reply: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    original = tmp_path / "original.zip"
    write_archive(original, {"a.png": image_bytes()})
    site.answer = reply(original.read_bytes())
    sha256 = hashlib.sha256(original.read_bytes()).hexdigest()
    settings = source("archive", location=f"{site.url}/x", sha256=sha256)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("atelier.data.sources.download.write_manifest", interrupt)
        download(settings, tmp_path / "raw", tmp_path / "s")
    assert not (tmp_path / "raw").exists()
    download(settings, tmp_path / "raw", tmp_path / "s")
    assert tree(tmp_path / "raw")["pictures.zip"] == original.read_bytes()
    assert len(site.requests) == 1
    # The cache keeps no second copy of the file.
    assert [path.suffix for path in (tmp_path / "s").iterdir()] == [".lock"]


def test_missing_or_wrong_torchvision_file_is_an_error(
    tmp_path: Path, source: Callable[..., DownloadSettings]
) -> None:
    settings = source("torchvision", root=str(tmp_path))
    with pytest.raises(AtelierError, match=r"no train-images-idx3-ubyte\.gz in"):
        download(settings, tmp_path / "raw", tmp_path / "s")
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").write_bytes(b"other")
    with pytest.raises(AtelierError, match="not the file that torchvision knows"):
        download(settings, tmp_path / "raw", tmp_path / "s")


def test_file_from_a_mirror_is_verified(
    tmp_path: Path, source: Callable[..., DownloadSettings], site: Any, reply: Callable[..., Any]
) -> None:
    site.answer = reply(b"something else")
    settings = source("torchvision", dataset="CIFAR10", mirror=f"{site.url}/mirror/")
    with pytest.raises(AtelierError, match="md5 is not c58f30108f718f92721af3b95e74349a"):
        download(settings, tmp_path / "raw", tmp_path / "s")
    assert site.requests[0]["path"] == "/mirror/cifar-10-python.tar.gz"


def test_file_is_found_through_links_and_cycles(
    tmp_path: Path, source: Callable[..., DownloadSettings]
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/train-images-idx3-ubyte.gz").write_bytes(b"other")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/MNIST").symlink_to("../disk")
    (tmp_path / "root/again").symlink_to(".")
    settings = source("torchvision", root=str(tmp_path / "root"))
    with pytest.raises(AtelierError, match="not the file that torchvision knows"):
        download(settings, tmp_path / "raw", tmp_path / "s")


def test_celeba_has_no_splits(tmp_path: Path, source: Callable[..., DownloadSettings]) -> None:
    settings = source("torchvision", dataset="CelebA", split="train", root=str(tmp_path))
    with pytest.raises(AtelierError, match="CelebA is taken whole; set it to all"):
        download(settings, tmp_path / "raw", tmp_path / "s")


@pytest.mark.shared
def test_real_mnist_from_root_and_from_mirror_is_equal(
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    shared: Path,
    site: Any,
    reply: Callable[..., Any],
) -> None:
    def answer(handler: Any) -> None:
        reply((shared / "mnist" / handler.path.rsplit("/", 1)[1]).read_bytes())(handler)

    site.answer = answer
    root = source("torchvision", split="test", root=str(shared))
    mirror = source("torchvision", split="test", mirror=site.url)
    download(root, tmp_path / "one", tmp_path / "s")
    download(mirror, tmp_path / "two", tmp_path / "s")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert sum(1 for _ in open_raw(tmp_path / "one")) == 10_000
