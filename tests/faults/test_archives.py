"""Damaged archives and faulty servers never leave an incomplete ``data/raw``."""

import io
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from atelier.core.download_settings import DownloadSettings
from atelier.core.errors import AtelierError
from atelier.core.files import atomic_replace_dir
from atelier.core.hashing import Checksum
from atelier.core.settings import ConvertSettings
from atelier.data.archives import read_tar, read_zip
from atelier.data.convert import convert
from atelier.data.dataset import load_images
from atelier.data.members import Rejected
from atelier.data.sources.download import download
from atelier.data.sources.download_cache import DownloadCache
from atelier.data.sources.http import RetryPolicy, fetch

from ..support.image_files import saved

CONVERT = ConvertSettings(
    image_size=16,
    color="rgb",
    resize_mode="crop",
    max_megapixels=1,
    validation_fraction=0.0,
    test_fraction=0.0,
)


def from_archive(location: Path | str, digest: str) -> DownloadSettings:
    sections: dict[str, Any] = {
        "sample": {"count": 16, "seed": 1},
        "folders": {},
        "archive": {"location": str(location), "sha256": digest},
        "kaggle": {"handle": "owner/faces"},
        "torchvision": {"dataset": "MNIST", "split": "all", "root": "", "mirror": ""},
    }
    return DownloadSettings(source="archive", **sections)


def gray_image(level: int) -> bytes:
    return saved(Image.new("L", (16, 16), level))


def archive_of(ending: str, names: list[str], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive with an image under each name; the first is the darkest."""
    stream = io.BytesIO()
    if ending == "zip":
        with zipfile.ZipFile(stream, "w", method) as archive:
            for level, name in enumerate(names):
                archive.writestr(zipfile.ZipInfo(name), gray_image(level), method)
        return stream.getvalue()
    mode: Any = f"w:{ending[4:]}"
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for level, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = len(gray_image(level))
            tar.addfile(member, io.BytesIO(gray_image(level)))
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_members_with_equal_names_are_separate_images(tmp_path: Path, ending: str) -> None:
    names = ["a.png", "a.png", "A.png", "a.PNG", "é.png", "e\u0301.png", "a.png/b.png"]
    archive = tmp_path / f"input.{ending}"
    archive.write_bytes(archive_of(ending, names))
    digest = sha256(archive.read_bytes()).hexdigest()
    download(from_archive(archive, digest), tmp_path / "raw", tmp_path / "s")
    done = convert(CONVERT, tmp_path / "raw", tmp_path / "images.npz")
    images = load_images(tmp_path / "images.npz")
    assert (done.found, done.accepted) == (7, 7)
    assert images.names.tolist() == names
    assert images.pixels.mean(axis=(1, 2, 3)).tolist() == list(range(7))


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_device_in_a_zip_is_rejected(tmp_path: Path, kind: int) -> None:
    member = zipfile.ZipInfo("device")
    member.external_attr = (kind | 0o666) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, b"")
    assert list(read_zip(tmp_path / "a.zip")) == [("device", Rejected("not a regular file"))]


@pytest.mark.parametrize("kind", [tarfile.BLKTYPE, tarfile.FIFOTYPE, b"?"])
def test_device_in_a_tar_is_rejected(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("device")
    member.type = kind
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(member)
    assert list(read_tar(tmp_path / "a.tar")) == [("device", Rejected("not a regular file"))]


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize(
    ("ending", "method"),
    [*(("zip", method) for method in METHODS), *((f"tar.{e}", 0) for e in ("", "gz", "bz2", "xz"))],
)
def test_damaged_archive_is_an_error_or_rejected_files(
    tmp_path: Path, ending: str, method: int
) -> None:
    rng = random.Random(method)
    whole = archive_of(ending, [f"{i}.png" for i in range(4)], method)
    path = tmp_path / "archive"
    read: Callable[[Path], Iterator[Any]] = read_zip if ending == "zip" else read_tar
    outcomes = set()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)
        try:
            payloads = [payload for _, payload in read(path)]
        except AtelierError as error:
            assert "archive" in str(error)
            outcomes.add("error")
        else:
            assert all(p.reason if isinstance(p, Rejected) else True for p in payloads)
            outcomes.add("read")
    assert "error" in outcomes


def test_member_before_the_archive_is_damaged(tmp_path: Path) -> None:
    data = bytearray(archive_of("zip", ["a.png", "b.png"]))
    end = data.index(b"PK\x05\x06")
    # A larger offset of the directory moves all members, the first one to before the file.
    (start,) = struct.unpack_from("<I", data, end + 16)
    struct.pack_into("<I", data, end + 16, start + 5)
    (tmp_path / "a.zip").write_bytes(data)
    read = dict(read_zip(tmp_path / "a.zip"))
    assert read["a.png"] == Rejected("damaged inside the archive")


Answer = Callable[[socket.socket, bytes], None]


@contextmanager
def server(answer: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """Call ``answer(connection, request)`` for each connection; yield the URL and the requests."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    requests.append(connection.recv(65536))
                    answer(connection, requests[-1])

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/a.zip", requests
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]).encode()


def stall(connection: socket.socket) -> None:
    """Send nothing more until the client closes the connection."""
    while connection.recv(65536):
        pass


def reset(connection: socket.socket) -> None:
    """Reset the connection, as after a crash of the server."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


CONTENT = archive_of("zip", ["a.png", "b.png"])
DIGEST = sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("fault", [stall, reset])
@pytest.mark.parametrize("sent", [0, 100])
def test_interrupted_download_requests_the_remaining_bytes(
    tmp_path: Path, fault: Callable[[socket.socket], None], sent: int
) -> None:
    received: list[bytes] = []

    def answer(connection: socket.socket, request: bytes) -> None:
        received.append(request)
        if len(received) == 1:
            if sent:
                headers = head("200 OK", f"Content-Length: {len(CONTENT)}", 'ETag: "one"')
                connection.sendall(headers + CONTENT[:sent])
            return fault(connection)
        first = sent if f"bytes={sent}-".encode() in request else 0
        length = f"Content-Length: {len(CONTENT) - first}"
        content_range = f"Content-Range: bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
        status = "206 Partial Content" if first else "200 OK"
        return connection.sendall(head(status, length, content_range) + CONTENT[first:])

    policy = RetryPolicy(attempts=3, pause=0.0, timeout=(5.0, 0.5))
    with server(answer) as (url, requests), DownloadCache(tmp_path) as cache:
        path = fetch(url, cache, Checksum("sha256", DIGEST), retry=policy)
        assert path.read_bytes() == CONTENT
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("length", "error"),
    [
        ("9" * 5000, "sha256 is not"),
        ("-5", "sha256 is not"),
        ("1e9", "sha256 is not"),
        (str(len(CONTENT)), "sha256 is not"),
        ("5, 7", "InvalidHeader"),
    ],
)
def test_wrong_file_is_rejected_for_any_content_length(
    tmp_path: Path, length: str, error: str
) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        other = CONTENT[:-1] + b"?"
        connection.sendall(head("200 OK", f"Content-Length: {length}") + other + b"and more")

    policy = RetryPolicy(attempts=2, pause=0.0, timeout=(5.0, 5.0))
    with (
        server(answer) as (url, _),
        DownloadCache(tmp_path) as cache,
        pytest.raises(AtelierError, match=error),
    ):
        fetch(url, cache, Checksum("sha256", DIGEST), retry=policy)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (head("302 Found", "Location: /a.zip", "Content-Length: 0"), "more than 5 redirects"),
        (head("302 Found", "Location: file:///etc/passwd", "Content-Length: 0"), "InvalidSchema"),
        (head("200 OK") + b"<html>Log in", "sent a web page"),
        (head("404 Not Found"), "responded with status 404"),
        (head("200 OK", "Content-Length: 3") + b"abc", "sha256 is not"),
    ],
)
def test_failed_download_keeps_the_old_images(tmp_path: Path, answer: bytes, error: str) -> None:
    (tmp_path / "input.zip").write_bytes(CONTENT)
    raw = tmp_path / "raw"
    download(from_archive(tmp_path / "input.zip", DIGEST), raw, tmp_path / "s")
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    with (
        server(lambda connection, _: connection.sendall(answer)) as (url, _),
        pytest.raises(AtelierError, match=error),
    ):
        download(from_archive(url, DIGEST), raw, tmp_path / "s")
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# Kills a fork of its process at the n-th file operation, for n = 1, 2, ...
KILLED = """
import json, os, signal, sys
from pathlib import Path
from atelier.data.sources.download import download
from atelier.core.download_settings import DownloadSettings

folder, settings = Path(sys.argv[1]), DownloadSettings(**json.loads(sys.argv[2]))
number = int(sys.argv[3])
download(settings, folder / "warm", folder / "s")
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link")
while True:
    child = os.fork()
    if not child:
        left = number
        def count(event, arguments):
            global left
            if event.startswith(EVENTS) or event.startswith(("tempfile", "shutil")):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        download(settings, folder / "raw", folder / "s")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.stdin.readline()
    number += 1
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_download_killed_at_any_file_operation_loses_no_data(tmp_path: Path) -> None:
    archives = [archive_of("zip", names) for names in (["old.png"], ["new.png", "more.png"])]
    for name, data in zip(("old", "new"), archives, strict=True):
        (tmp_path / f"{name}.zip").write_bytes(data)
        settings = from_archive(tmp_path / f"{name}.zip", sha256(data).hexdigest())
        download(settings, tmp_path / "work" / name, tmp_path / "s")
    old, new = (contents(tmp_path / "work" / name) for name in ("old", "new"))
    raw = tmp_path / "work" / "raw"
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "work"), settings.model_dump_json()]
    with subprocess.Popen(
        [*arguments, "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        after_kills = []
        os.rename(tmp_path / "work" / "old", raw)
        while int(process.stdout.readline()) != 0:
            with suppress(KeyboardInterrupt), atomic_replace_dir(raw):
                # The next download starts like this. It restores the folder that a kill between
                # the two renames left under its temporary name.
                raise KeyboardInterrupt
            after_kills.append(contents(raw))
            if after_kills[-1] != old:
                break
            process.stdin.write("\n")
            process.stdin.flush()
        process.kill()
    assert len(after_kills) > 10
    assert all(content == old for content in after_kills[:-1])
    assert after_kills[-1] in (old, new)
