"""Work on many items by a Dask cluster, in order and in bounded memory.

Dask is imported only where a cluster is asked for.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from PIL import features

from atelier.core.errors import AtelierError
from atelier.data.thread_pool import ordered_map

Given = TypeVar("Given")
Made = TypeVar("Made")

# Bytes that travel together: so many that small items do not each cost a round trip, so few that
# every worker of a large cluster has some.
_BATCH_BYTES = 2 * 2**20
# What an item counts at least, however small it is.
_MIN_ITEM_BYTES = 1024
_PACKAGE = "atelier"
# Seconds in which a scheduler answers, and for which a cluster may be without workers.
_RESPONSE_SECONDS = 10.0
_NO_WORKER_SECONDS = 60.0


def map_on_cluster(
    work: Callable[[Given], Made],
    items: Iterable[Given],
    address: str,
    size: Callable[[Given], int],
    most: int,
) -> Iterator[Made]:
    """Yield ``work(item)`` of every item, in the items' order.

    Items travel in pieces of some megabytes, through the scheduler. What a worker had when it
    died, another one does.

    Args:
        work: a function that workers can import, or a ``partial`` of one.
        items: read one by one, as results are taken.
        address: of the cluster's scheduler, such as ``tcp://host:8786``.
        size: how many bytes an item holds.
        most: bytes that may be under way, but for one item alone that is larger.

    Raises:
        AtelierError: Dask is not installed, the cluster does not answer, has no workers or loses
            them over and over, or has other versions than this machine.
    """
    with _connected(address) as client:
        do = partial(_process_batch, work, _versions())

        def start(piece: list[Given]) -> Callable[[], list[Made]]:
            with _responding_client(address):
                future = client.submit(do, piece, pure=False)
            return partial(_wait_for_result, client, future, address)

        pieces = ordered_map(
            start,
            _batches(items, size),
            max(1, most // _BATCH_BYTES),
            lambda piece: sum(map(size, piece)),
            most,
        )
        for made in pieces:
            yield from made


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise AtelierError(
            f"runtime.dask_scheduler is {address}, but Dask is not installed; install it with"
            " `pip install distributed`, or empty runtime.dask_scheduler to work on this machine."
        ) from None
    for name in ("distributed", "distributed.client"):
        # Of a lost connection Dask logs three tracebacks; one sentence says the same.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A single picture may be larger than what Dask warns of.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
        try:
            client = Client(  # type: ignore[no-untyped-call]
                address, timeout=_RESPONSE_SECONDS, set_as_default=False
            )
        except OSError:
            raise AtelierError(
                f"no Dask scheduler answers at {address}, which runtime.dask_scheduler names; start one"
                " there, or empty runtime.dask_scheduler to work on this machine."
            ) from None
        with client:
            _require_dask(client, address)
            yield client


def _require_dask(client: Any, address: str) -> None:
    """A worker that cannot import what it is sent dies over it, without a word."""
    with _responding_client(address):
        versions = client.get_versions(packages=[_PACKAGE])
    for name, there in {"scheduler": versions["scheduler"], **versions["workers"]}.items():
        if there["packages"][_PACKAGE] is None:
            raise AtelierError(
                f"{name} of the cluster at {address} has no {_PACKAGE} installed; install this"
                " project there, with the versions that requirements.lock pins."
            )


def _batches(items: Iterable[Given], size: Callable[[Given], int]) -> Iterator[list[Given]]:
    """Put items together until they have some megabytes."""
    piece: list[Given] = []
    held = 0
    for item in items:
        more = max(size(item), _MIN_ITEM_BYTES)
        if piece and held + more > _BATCH_BYTES:
            yield piece
            piece, held = [], 0
        piece.append(item)
        held += more
    if piece:
        yield piece


def _process_batch(
    work: Callable[[Given], Made], versions: tuple[str, ...], piece: list[Given]
) -> list[Made]:
    """Work on a piece; this is what workers do."""
    if _versions() != versions:
        raise AtelierError(
            f"a worker of the cluster has {_describe_versions(_versions())}, but here it is"
            f" {_describe_versions(versions)}, and results could differ; install the same there."
        )
    return [work(item) for item in piece]


@cache
def _versions() -> tuple[str, ...]:
    """What shapes a row: this package's source, and the libraries that decode and resize."""
    source = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        source.update(file.read_bytes())
    jpeg = features.version("libjpeg_turbo") or features.version("jpg") or "unknown"
    return source.hexdigest()[:8], PIL.__version__, jpeg, np.__version__


def _describe_versions(versions: tuple[str, ...]) -> str:
    names = ("atelier.images", "Pillow", "libjpeg", "NumPy")
    return ", ".join(f"{name} {version}" for name, version in zip(names, versions, strict=True))


def _wait_for_result(client: Any, future: Any, address: str) -> Any:
    """Wait for a piece as long as there is somebody to make it."""
    from distributed import KilledWorker

    while True:
        try:
            with _responding_client(address):
                return future.result(timeout=_NO_WORKER_SECONDS)
        except KilledWorker:
            raise AtelierError(
                f"the cluster at {address} lost several workers over the same pictures; see that"
                " workers have this project installed and memory enough, lower"
                " convert.max_megapixels, or empty runtime.dask_scheduler to work on this machine."
            ) from None
        except TimeoutError:
            if future.status == "error":
                raise
        with _responding_client(address):
            workers = client.nthreads()
        if not workers:
            raise AtelierError(
                f"the cluster at {address} has had no workers for {_NO_WORKER_SECONDS:.0f} seconds; start"
                " some, or empty runtime.dask_scheduler to work on this machine."
            )


@contextmanager
def _responding_client(address: str) -> Iterator[None]:
    """Say in a sentence that the scheduler went away while the body talks to it."""
    from distributed.client import ClosedClientError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (CancelledError, ClosedClientError, CommClosedError):
        raise AtelierError(
            f"the connection to the cluster at {address} was lost; see that its scheduler is alive"
            " and run again, or empty runtime.dask_scheduler to work on this machine."
        ) from None
