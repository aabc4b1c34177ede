"""Conversion on a Dask cluster: equal rows, lost workers and errors."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import LocalCluster

from atelier.core.download_settings import DownloadSettings
from atelier.core.errors import AtelierError
from atelier.core.hashing import file_digest
from atelier.core.settings import ConvertSettings, Settings
from atelier.data import dask_executor as module
from atelier.data.convert import convert
from atelier.data.dask_executor import map_on_cluster
from atelier.data.sources.download import download

from ..support.drawn_group import drawn_group


def local_cluster(workers: int) -> LocalCluster:
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs="CRITICAL",
    )


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return the address of a cluster of two worker processes."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        local_cluster(2) as running,
    ):
        yield running.scheduler_address


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 4096)


def negative(number: int) -> int:
    return -number


def process(_: int) -> int:
    return os.getpid()


def kill_worker_once(marker: Path, number: int) -> int:
    if number == 20 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def kill_worker(number: int) -> int:
    if number == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_cluster_and_threads_write_same_bytes(
    tmp_path: Path,
    address: str,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
    image_bytes: Callable[..., bytes],
) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(40):
        kind = ("PNG", "JPEG", "GIF")[i % 3]
        (folder / f"{i:02d}.{kind.lower()}").write_bytes(image_bytes(20 + i, 60 - i, kind, i))
    (folder / "05_half.jpeg").write_bytes(image_bytes(90, 90, "JPEG")[:3000])
    (folder / "07_page.jpg").write_bytes(b"<html>")
    (folder / "09_large.png").write_bytes(image_bytes(1100, 1000))
    download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
    from_threads = convert(conversion(), tmp_path / "raw", tmp_path / "here.npz")
    from_cluster = convert(
        conversion(), tmp_path / "raw", tmp_path / "there.npz", dask_scheduler=address
    )
    assert from_threads == from_cluster
    assert (from_cluster.found, from_cluster.accepted) == (43, 40)
    assert file_digest(tmp_path / "here.npz") == file_digest(tmp_path / "there.npz")


def test_cluster_and_threads_find_the_same_faces(
    tmp_path: Path,
    address: str,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
) -> None:
    folder = tmp_path / "groups"
    folder.mkdir()
    for i in range(4):
        group = drawn_group((240, 160), [(10 * i, 5, 90), (150, 20 + i, 80)][: i % 3])
        group.save(folder / f"{i}.png")
    download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
    settings = conversion(faces="align")
    here = convert(settings, tmp_path / "raw", tmp_path / "here.npz", 2)
    there = convert(settings, tmp_path / "raw", tmp_path / "there.npz", dask_scheduler=address)
    assert here == there
    assert (here.found, here.accepted) == (4, 3)
    assert file_digest(tmp_path / "here.npz") == file_digest(tmp_path / "there.npz")


def test_arrays_can_be_sent(address: str) -> None:
    digits = [np.full((28, 28), i, np.uint8) for i in range(30)]
    sums = map_on_cluster(np.sum, digits, address, lambda digit: digit.nbytes, 10_000)
    assert [int(total) for total in sums] == [28 * 28 * i for i in range(30)]


def test_results_are_ordered_bounded_and_from_all_workers(address: str) -> None:
    items_read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            items_read.append(number)
            yield number

    results = []
    for result in map_on_cluster(negative, items(), address, lambda _: 1000, 20_000):
        # A batch has four items: five batches are in flight, one waits, one is being filled.
        assert len(items_read) - len(results) <= 20 + 4 + 4
        results.append(result)
    assert results == [-number for number in range(100)]
    workers = set(map_on_cluster(process, range(400), address, lambda _: 1000, 100_000))
    assert len(workers) == 2
    assert os.getpid() not in workers


def test_batch_of_a_killed_worker_is_repeated(tmp_path: Path, address: str) -> None:
    work = partial(kill_worker_once, tmp_path / "died")
    assert list(map_on_cluster(work, range(40), address, lambda _: 1000, 20_000)) == [*range(40)]
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_item_that_kills_every_worker_is_an_error() -> None:
    # A separate cluster: restarting workers would disturb other tests.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        local_cluster(2) as running,
        pytest.raises(AtelierError, match="lost several workers over the same images"),
    ):
        list(
            map_on_cluster(
                kill_worker, range(40), running.scheduler_address, lambda _: 1000, 20_000
            )
        )


def test_exception_of_the_function_is_raised_unchanged(address: str) -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_on_cluster(partial(divmod, 1), [1, 0], address, lambda _: 1, 100))


def test_worker_with_other_versions_is_an_error() -> None:
    other = ("00000000", "11.0.0", "3.0", "2.0.0", "5.0.0")
    with pytest.raises(AtelierError, match=r"this machine has atelier\.data 00000000, Pillow 11\."):
        module._process_batch(negative, other, [1])


def test_cluster_without_the_package_is_an_error(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PACKAGE", "no-such-project")
    with pytest.raises(AtelierError, match="has no no-such-project installed; install this"):
        list(map_on_cluster(negative, [1], address, lambda _: 1, 100))


def test_cluster_without_workers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NO_WORKER_SECONDS", 0.2)
    with local_cluster(0) as empty, pytest.raises(AtelierError, match="has had no workers for"):
        list(map_on_cluster(negative, range(3), empty.scheduler_address, lambda _: 1, 100))


@pytest.mark.slow
def test_lost_connection_is_an_error() -> None:
    with local_cluster(1) as running:

        def items() -> Iterator[int]:
            for number in range(100):
                if number == 50:
                    running.close()
                yield number

        with pytest.raises(
            AtelierError, match=r"the connection to the cluster at tcp://.* was lost"
        ):
            list(
                map_on_cluster(negative, items(), running.scheduler_address, lambda _: 1000, 20_000)
            )


@pytest.mark.parametrize("address", ["", "tcp://10.0.0.7:8786", "tls://dask.lan:8786"])
def test_valid_addresses_are_accepted(make_settings: Callable[..., Settings], address: str) -> None:
    assert make_settings(runtime={"dask_scheduler": address}).runtime.dask_scheduler == address


@pytest.mark.parametrize("address", ["dask.lan:8786", "tcp://dask.lan", "tcp://me:secret@lan:1"])
def test_invalid_addresses_are_rejected(
    make_settings: Callable[..., Settings], address: str
) -> None:
    with pytest.raises(AtelierError, match="it should be empty, or a Dask scheduler's address"):
        make_settings(runtime={"dask_scheduler": address})


def test_unreachable_scheduler_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RESPONSE_SECONDS", 0.5)
    with pytest.raises(AtelierError, match="no Dask scheduler responds at tcp:"):
        list(map_on_cluster(negative, [1], "tcp://127.0.0.1:1", lambda _: 1, 100))


def test_missing_dask_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(AtelierError, match="Dask is not installed; install it with"):
        list(map_on_cluster(negative, [1], "tcp://127.0.0.1:1", lambda _: 1, 100))
