"""Ordered map over the workers of a Dask cluster, with bounded memory.

Dask is imported only if a cluster is configured.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import PIL
from PIL import features

from atelier.core.errors import AtelierError
from atelier.data.thread_pool import ordered_map

Item = TypeVar("Item")
Result = TypeVar("Result")

# Bytes of a batch: large enough to save round trips for small items, small enough that every
# worker of a large cluster gets a batch.
_BATCH_BYTES = 2 * 2**20
# Smallest size that is counted for an item, so that the length of a batch is bounded too.
_MIN_ITEM_BYTES = 1024
_PACKAGE = "atelier"
# Seconds to wait for the scheduler.
_RESPONSE_SECONDS = 10.0
# Seconds to wait for a worker.
_NO_WORKER_SECONDS = 60.0


def map_on_cluster(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    address: str,
    size: Callable[[Item], int],
    max_bytes: int,
) -> Iterator[Result]:
    """Yield ``function(item)`` of every item, in the items' order.

    Items are sent in batches of 2 MiB through the scheduler. If a worker exits, Dask gives its
    batches to another worker.

    Args:
        function: a function that workers can import, or a ``partial`` of one.
        items: read one by one, as results are consumed.
        address: the scheduler's address, for example ``tcp://host:8786``.
        size: returns the number of bytes of an item.
        max_bytes: limit for the bytes in flight; a larger item is sent alone.

    Raises:
        AtelierError: Dask is not installed, the scheduler does not respond, the cluster has no
            workers or loses them repeatedly, or it has other versions than this machine.
    """
    with _connected(address) as client:
        # Not client.get_executor(): its futures wait forever if the connection is lost.
        batches = ordered_map(
            partial(client.submit, partial(_process_batch, function, _versions()), pure=False),
            partial(_wait_for_result, client, address),
            _batches(items, size),
            max_items=max(1, max_bytes // _BATCH_BYTES),
            size=lambda batch: sum(map(size, batch)),
            max_bytes=max_bytes,
        )
        for results in batches:
            yield from results


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Yield a Dask client whose workers have this package installed."""
    try:
        import dask
        from distributed import Client
    except ImportError:
        raise AtelierError(
            f"runtime.dask_scheduler is {address}, but Dask is not installed; install it with"
            " `pip install distributed`, or leave runtime.dask_scheduler empty to use this machine."
        ) from None
    for name in ("distributed", "distributed.client"):
        # Dask logs three tracebacks for a lost connection; AtelierError replaces them.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A single image may be larger than Dask's limit for a warning.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
        try:
            client = Client(  # type: ignore[no-untyped-call]
                address, timeout=_RESPONSE_SECONDS, set_as_default=False
            )
        except OSError:
            raise AtelierError(
                f"no Dask scheduler responds at {address} (runtime.dask_scheduler); start one"
                " there, or leave runtime.dask_scheduler empty to use this machine."
            ) from None
        with client, _cluster_errors(address):
            _require_package(client, address)
            yield client


def _require_package(client: Any, address: str) -> None:
    """Raise if the scheduler or a worker lacks this package: such a worker exits without error."""
    versions = client.get_versions(packages=[_PACKAGE])
    for name, process in {"scheduler": versions["scheduler"], **versions["workers"]}.items():
        if process["packages"][_PACKAGE] is None:
            raise AtelierError(
                f"{name} of the cluster at {address} has no {_PACKAGE} installed; install this"
                " project there, with the versions that requirements.lock pins."
            )


def _batches(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield lists of consecutive items of at most ``_BATCH_BYTES``, or of one larger item."""
    batch: list[Item] = []
    batch_size = 0
    for item in items:
        item_size = max(size(item), _MIN_ITEM_BYTES)
        if batch and batch_size + item_size > _BATCH_BYTES:
            yield batch
            batch, batch_size = [], 0
        batch.append(item)
        batch_size += item_size
    if batch:
        yield batch


def _process_batch(
    function: Callable[[Item], Result], versions: tuple[str, ...], batch: list[Item]
) -> list[Result]:
    """Process a batch on a worker.

    Raises:
        AtelierError: the worker has other versions than the client.
    """
    if _versions() != versions:
        raise AtelierError(
            f"a worker of the cluster has {_describe_versions(_versions())}, but this machine has"
            f" {_describe_versions(versions)}, and results could differ; install the same there."
        )
    return [function(item) for item in batch]


@cache
def _versions() -> tuple[str, ...]:
    """Return the versions that affect a row: a hash of this package's source, and libraries."""
    source = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        source.update(file.read_bytes())
    jpeg = features.version("libjpeg_turbo") or features.version("jpg") or "unknown"
    return source.hexdigest()[:8], PIL.__version__, jpeg, np.__version__, cv2.__version__


def _describe_versions(versions: tuple[str, ...]) -> str:
    names = ("atelier.data", "Pillow", "libjpeg", "NumPy", "OpenCV")
    return ", ".join(f"{name} {version}" for name, version in zip(names, versions, strict=True))


def _wait_for_result(client: Any, address: str, future: Any) -> Any:
    """Return a batch's results; wait as long as the cluster has workers."""
    while True:
        try:
            return future.result(timeout=_NO_WORKER_SECONDS)
        except TimeoutError:
            if future.status == "error":
                raise
        if not client.nthreads():
            raise AtelierError(
                f"the cluster at {address} has had no workers for {_NO_WORKER_SECONDS:.0f} seconds;"
                " start some, or leave runtime.dask_scheduler empty to use this machine."
            )


@contextmanager
def _cluster_errors(address: str) -> Iterator[None]:
    """Convert errors of the cluster, not of the mapped function, to ``AtelierError``."""
    from distributed import KilledWorker
    from distributed.client import ClosedClientError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except KilledWorker:
        raise AtelierError(
            f"the cluster at {address} lost several workers over the same images; check that"
            " workers have this project installed and enough memory, lower"
            " convert.max_megapixels, or leave runtime.dask_scheduler empty to use this machine."
        ) from None
    except (CancelledError, ClosedClientError, CommClosedError):
        raise AtelierError(
            f"the connection to the cluster at {address} was lost; check that its scheduler runs"
            " and run again, or leave runtime.dask_scheduler empty to use this machine."
        ) from None
