"""HTTP download from a real local server that fails in typical ways."""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atelier.core.errors import AtelierError
from atelier.core.hashing import Checksum
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.data.sources.download_cache import DownloadCache
from atelier.data.sources.http import RetryPolicy
from atelier.data.sources.http import fetch as fetch_into

CONTENT = bytes(range(256)) * 4000
CHECKSUM = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())
QUICK = RetryPolicy(attempts=3, pause=0.0, timeout=(5.0, 5.0))


def fetch(
    url: str,
    folder: Path,
    checksum: Checksum,
    report: ProgressCallback = silent,
    retry: RetryPolicy | None = None,
) -> Path:
    with DownloadCache(folder) as cache:
        return fetch_into(url, cache, checksum, report, retry)


def cached_files(folder: Path) -> list[str]:
    """Return the names of the files in a download cache, without lock files."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def half_then_rest(
    reply: Callable[..., Any], honor: bool = True, etag: str = '"one"'
) -> Callable[[Any], None]:
    """Interrupt the first answer in the middle; then honor or ignore range requests."""

    def answer(handler: Any) -> None:
        requested = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if requested and honor and handler.headers["If-Range"] == etag:
            first = int(requested[1])
            content_range = f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
            reply(CONTENT[first:], 206, Content_Range=content_range, ETag=etag)(handler)
        elif requested:
            reply(CONTENT, ETag=etag)(handler)
        else:
            reply(CONTENT[: len(CONTENT) // 2], Content_Length=str(len(CONTENT)), ETag=etag)(
                handler
            )

    return answer


def test_file_is_downloaded_with_progress(
    tmp_path: Path, site: Any, reply: Callable[..., Any]
) -> None:
    site.answer = reply(CONTENT)
    reports: list[Progress] = []
    path = fetch(f"{site.url}/a.zip", tmp_path, CHECKSUM, reports.append, QUICK)
    assert path.read_bytes() == CONTENT
    assert reports[-1] == Progress(len(CONTENT), len(CONTENT), "1.0 of 1.0 MB")
    assert cached_files(tmp_path) == [path.name]


@pytest.mark.parametrize("honor", [True, False])
def test_interrupted_download_is_resumed(
    tmp_path: Path, site: Any, reply: Callable[..., Any], honor: bool
) -> None:
    site.answer = half_then_rest(reply, honor)
    assert fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK).read_bytes() == CONTENT
    assert site.requests[1]["Range"] == f"bytes={len(CONTENT) // 2}-"
    assert site.requests[1]["If-Range"] == '"one"'


def test_next_call_resumes_the_download(
    tmp_path: Path, site: Any, reply: Callable[..., Any]
) -> None:
    site.answer = half_then_rest(reply)
    once = RetryPolicy(attempts=1, pause=0.0, timeout=(5.0, 5.0))
    with pytest.raises(AtelierError, match="again later to resume the download"):
        fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=once)
    assert fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=once).read_bytes() == CONTENT
    assert "Range" in site.requests[1]


def test_download_without_a_validator_is_not_resumed(
    tmp_path: Path, site: Any, reply: Callable[..., Any]
) -> None:
    def answer(handler: Any) -> None:
        cut = len(site.requests) == 1
        body = CONTENT[:1000] if cut else CONTENT
        reply(body, Content_Length=str(len(CONTENT)))(handler)

    site.answer = answer
    assert fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK).read_bytes() == CONTENT
    assert "Range" not in site.requests[1]


def test_range_with_another_start_is_not_appended(
    tmp_path: Path, site: Any, reply: Callable[..., Any]
) -> None:
    def answer(handler: Any) -> None:
        if "Range" in handler.headers:
            content_range = f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"
            reply(CONTENT[7:], 206, Content_Range=content_range, ETag='"one"')(handler)
        elif len(site.requests) == 1:
            half_then_rest(reply)(handler)
        else:
            reply(CONTENT)(handler)

    site.answer = answer
    assert fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK).read_bytes() == CONTENT


def test_transient_server_error_is_retried(
    tmp_path: Path, site: Any, reply: Callable[..., Any]
) -> None:
    site.answer = lambda handler: reply(CONTENT, 200 if len(site.requests) > 2 else 503)(handler)
    assert fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK).read_bytes() == CONTENT


def test_wrong_content_length_is_an_error(
    tmp_path: Path, site: Any, reply: Callable[..., Any]
) -> None:
    site.answer = reply(CONTENT, Content_Length=str(len(CONTENT) + 5))
    with pytest.raises(AtelierError, match="3 attempts"):
        fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK)


def test_wrong_file_is_removed(tmp_path: Path, site: Any, reply: Callable[..., Any]) -> None:
    site.answer = reply(CONTENT + b"more")
    with pytest.raises(AtelierError, match=r"sha256 is not .* it was removed"):
        fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK)
    assert cached_files(tmp_path) == []


def test_missing_checksum_is_reported_and_file_is_cached(
    tmp_path: Path, site: Any, reply: Callable[..., Any]
) -> None:
    site.answer = reply(CONTENT)
    with pytest.raises(AtelierError, match=CHECKSUM.value):
        fetch(f"{site.url}/a", tmp_path, Checksum("sha256", ""), retry=QUICK)
    assert fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK).read_bytes() == CONTENT
    assert len(site.requests) == 1


@pytest.mark.parametrize("headers", [{"Content_Type": "text/html; charset=utf-8"}, {}])
def test_web_page_is_rejected(
    tmp_path: Path, site: Any, reply: Callable[..., Any], headers: dict[str, str]
) -> None:
    site.answer = reply(b"\n<!DOCTYPE html><title>Log in</title>", **headers)
    with pytest.raises(AtelierError, match="sent a web page instead of a file"):
        fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK)


@pytest.mark.parametrize(
    ("status", "sentence"), [(404, "with status 404"), (403, "requires a permission")]
)
def test_rejected_request_is_not_retried(
    tmp_path: Path, site: Any, reply: Callable[..., Any], status: int, sentence: str
) -> None:
    site.answer = reply(b"no", status)
    with pytest.raises(AtelierError, match=sentence):
        fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK)
    assert len(site.requests) == 1


def test_redirects_are_limited(tmp_path: Path, site: Any, reply: Callable[..., Any]) -> None:
    def answer(handler: Any) -> None:
        remaining = int(handler.path.rsplit("/", 1)[1])
        if remaining:
            reply(b"", 302, Location=f"/hop/{remaining - 1}")(handler)
        else:
            reply(CONTENT)(handler)

    site.answer = answer
    assert fetch(f"{site.url}/hop/3", tmp_path, CHECKSUM, retry=QUICK).read_bytes() == CONTENT
    with pytest.raises(AtelierError, match="more than 5 redirects"):
        fetch(f"{site.url}/hop/9", tmp_path, CHECKSUM, retry=QUICK)


@pytest.mark.parametrize("url", ["ftp://host/a", "file:///etc/passwd", "http://", "http://[", "a"])
def test_only_http_addresses_are_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(AtelierError, match="http:// or https://"):
        fetch(url, tmp_path, CHECKSUM, retry=QUICK)


@pytest.mark.parametrize("status", [200, 404, 403, 503])
def test_errors_contain_no_tokens(
    tmp_path: Path, site: Any, reply: Callable[..., Any], status: int
) -> None:
    site.answer = reply(b"wrong", status)
    url = site.url.replace("://", "://user:hunter2@") + "/a.zip?token=sesame#part"
    with pytest.raises(AtelierError) as caught:
        fetch(url, tmp_path, CHECKSUM, retry=QUICK)
    assert not re.search("hunter2|sesame|user", str(caught.value))
    assert all("sesame" not in path.name for path in Path(tmp_path).iterdir())


def test_unreachable_server_is_an_error(tmp_path: Path, site: Any) -> None:
    port = site.url.rsplit(":", 1)[1]
    site._server.server_close()
    with pytest.raises(AtelierError, match=f"127.0.0.1:{port}/a could not be fetched in 3"):
        fetch(f"{site.url}/a", tmp_path, CHECKSUM, retry=QUICK)


FETCH = """
import sys
from pathlib import Path
from atelier.core.hashing import Checksum
from atelier.data.sources.http import fetch
from atelier.data.sources.download_cache import DownloadCache

url, folder, sha256, target = sys.argv[1:]
with DownloadCache(Path(folder)) as cache:
    path = fetch(url, cache, Checksum("sha256", sha256), lambda progress: print(progress.note))
    cache.link_into(path, Path(target), print)
    if target.endswith("first"):
        cache.clear()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("names", "requests"), [(("one", "two"), 1), (("first", "two"), None)])
def test_concurrent_downloads_of_one_file_are_serialized(
    tmp_path: Path, site: Any, names: tuple[str, ...], requests: int | None
) -> None:
    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        for first in range(0, len(CONTENT), len(CONTENT) // 16):
            handler.wfile.write(CONTENT[first : first + len(CONTENT) // 16])
            time.sleep(0.03)

    site.answer = answer
    arguments = [f"{site.url}/a", str(tmp_path / "cache"), CHECKSUM.value]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH, *arguments, str(tmp_path / name)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name in names
    ]
    for process, name in zip(processes, names, strict=True):
        assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
        assert (tmp_path / name).read_bytes() == CONTENT
    # The second process uses the file that the first one has completed.
    assert requests is None or len(site.requests) == requests


def test_waiting_for_another_process_is_reported(tmp_path: Path) -> None:
    reports: list[Progress] = []
    script = (
        "import fcntl, sys; lock = open(sys.argv[1], 'wb'); fcntl.flock(lock, fcntl.LOCK_EX);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "a.lock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as other,
        DownloadCache(tmp_path) as cache,
    ):
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"

        def report(progress: Progress) -> None:
            reports.append(progress)
            other.stdin.close()

        assert cache.lock("a", report) == tmp_path / "a"
        assert cache.lock("a", report) == tmp_path / "a"
    assert [progress.note for progress in reports] == [
        "waiting for another process that fetches this file"
    ]


def test_linked_file_stays_cached_until_clear(tmp_path: Path) -> None:
    reports: list[Progress] = []
    with DownloadCache(tmp_path / "cache") as cache:
        path = cache.lock("a")
        path.write_bytes(CONTENT)
        cache.link_into(path, tmp_path / "linked", reports.append)
        assert (tmp_path / "linked").samefile(path)
        (tmp_path / "copied").touch()  # an existing name cannot become a link
        cache.link_into(path, tmp_path / "copied", reports.append)
        assert path.exists()
        cache.clear()
        assert not path.exists()
    assert (tmp_path / "linked").read_bytes() == (tmp_path / "copied").read_bytes() == CONTENT
    assert reports[-1] == Progress(len(CONTENT), len(CONTENT), "1.0 of 1.0 MB")
