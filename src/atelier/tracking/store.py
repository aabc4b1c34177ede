"""MLflow's store: connection, deadlines for requests, file locks."""

import fcntl
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from io import IOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from atelier.core.errors import AtelierError
from atelier.tracking import mlflow_names
from atelier.tracking.database_schema import schema_problem
from atelier.tracking.experiment_page import describe_experiment
from atelier.tracking.redact import redact_urls

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from requests import Response

# Tables and columns of MLflow's database that contain paths of files.
_PATH_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
_REQUEST_SECONDS = 30.0
_MIN_BYTES_PER_SECOND = 50_000  # of an upload
_OPEN_SECONDS = 60.0
# Longer than another process may take to open a store.
_LOCK_SECONDS = 90.0
_POLL_SECONDS = 0.1
_REDIRECTS_TO_GET = (301, 302, 303)
_ADVICE = "set it to an address, e.g. http://host:5000"


class DeadlineExceededError(Exception):
    """Raised if an operation exceeds its deadline."""


class _DeadlineError(BaseException):
    """Interrupts an operation; not an ``Exception``, which a library might catch."""


def limit_requests() -> None:
    """Limit the duration of all of MLflow's requests to a tracking server in this process."""
    from mlflow.utils import rest_utils
    from requests.exceptions import Timeout

    name = "_get_http_response_with_retries"  # used by all requests
    send: Any = getattr(rest_utils, name)
    if getattr(send, "limited", False):
        return

    def limited(method: str, url: str, *_retries: Any, **options: Any) -> "Response":
        options["respect_retry_after_header"] = False
        try:
            with deadline(_allowed(options)):
                response: Response = send(method, url, 0, 0, 0, frozenset(), False, **options)
        except DeadlineExceededError as error:
            raise Timeout(str(error)) from None
        _reject_redirect(method, url, response, bool(options.get("stream")))
        return response

    limited.limited = True  # type: ignore[attr-defined]
    setattr(rest_utils, name, limited)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise :class:`DeadlineExceededError` if the body takes longer; only in the main thread.

    A signal interrupts a read that never ends, which no check between two reads can.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_number: int, _frame: Any) -> None:
        raise _DeadlineError

    # An outer deadline that ends earlier still applies.
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    seconds = min(seconds, left or seconds)
    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _DeadlineError:
        raise DeadlineExceededError(f"no complete answer within {seconds:.0f} s") from None
    finally:
        signal.signal(signal.SIGALRM, handler)
        if left:
            rest = left - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 0.001))


def _allowed(options: dict[str, Any]) -> float:
    """Return the allowed seconds for a request, from its timeout and the size of its file."""
    timeout = options.get("timeout")
    seconds = _REQUEST_SECONDS
    if isinstance(timeout, (int, float)):
        seconds = min(_REQUEST_SECONDS, 3.0 * timeout)
    data = options.get("data")
    size = os.fstat(data.fileno()).st_size if isinstance(data, IOBase) else 0
    return float(seconds + size / _MIN_BYTES_PER_SECOND)


def _reject_redirect(method: str, url: str, response: "Response", stream: bool) -> None:
    """Raise if a successful response cannot be MLflow's.

    Raises:
        requests.ConnectionError: it is a login page, an empty body, or a redirect that drops the
            request's body.
    """
    from requests.exceptions import ConnectionError as NoAnswerError

    redirects = [one for one in response.history if one.status_code in _REDIRECTS_TO_GET]
    if method.upper() != "GET" and redirects:
        address = redact_urls(redirects[0].headers.get("Location", "another address"))
        raise NoAnswerError(f"foreign answer: the server redirects to {address}")
    if 300 <= response.status_code < 400:
        raise NoAnswerError(f"foreign answer: the server redirects ({response.status_code})")
    downloads = method.upper() == "GET" and "/mlflow-artifacts/artifacts/" in url
    ours = "/mlflow/" in url or "/mlflow-artifacts/" in url
    uploads = method.upper() == "PUT" and "/mlflow-artifacts/artifacts/" in url
    if response.status_code != 200 or stream or downloads or not ours:
        return
    if uploads and not response.content:
        return  # MLflow's own response is empty, too; the caller verifies the file
    try:
        is_object = isinstance(json.loads(response.content), dict)
    except ValueError:
        is_object = False
    if not is_object:
        content = "an empty answer" if not response.content.strip() else "no JSON"
        raise NoAnswerError(f"foreign answer: {content} where MLflow sends JSON")


class StoreError(AtelierError):
    """Raised if no MLflow store can be opened where the settings say; nothing was sent."""


class SchemaError(StoreError):
    """Raised if the store's database has another schema than the installed MLflow."""


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a file lock while the body runs; yield True if it was acquired.

    The operating system releases the lock when the process exits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


@contextmanager
def locked_soon(path: Path, seconds: float) -> Iterator[bool]:
    """Hold a file lock while the body runs; yield True if it was acquired in time."""
    end = time.monotonic() + seconds
    while True:
        with locked(path, wait=False) as is_locked:
            if is_locked or time.monotonic() >= end:
                yield is_locked
                return
        time.sleep(_POLL_SECONDS)


@contextmanager
def _store_locked(root: Path) -> Iterator[None]:
    """Prevent other processes of this project from opening a store while the body runs.

    Two processes that create the tables or the experiment at the same time both fail.

    Raises:
        StoreError: another process holds the lock for too long.
    """
    path = root / ".atelier" / "store.lock"
    with locked_soon(path, _LOCK_SECONDS) as is_locked:
        if not is_locked:
            raise StoreError(
                f"another process has been opening the MLflow store for {_LOCK_SECONDS:g} s and"
                f" holds {path}; end it (`fuser {path}` names it), or try again later"
            )
        yield


def quiet_environment() -> None:
    """Turn off MLflow's telemetry and logging, and shorten timeouts, unless the user set them."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A failed request would print long tracebacks; its error is reported in one sentence.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Delivery has its own retries: MLflow would repeat requests that create runs.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    if not _remote_uri():
        # A pooled connection that was opened read-only would stay read-only.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")


def relocate_artifacts(database: Path) -> None:
    """Update paths of artifacts in the database of a project that was moved or copied.

    MLflow stores absolute paths. Without the update it would list no artifacts, and write new ones
    to the old folder.
    """
    here = str(database.parent / "mlruns")
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        known = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        columns = [(table, column) for table, column in _PATH_COLUMNS if table in known]
        if ("experiments", "artifact_location") not in columns:
            return
        for (location,) in connection.execute("SELECT artifact_location FROM experiments"):
            # E.g. file:///home/me/project/mlruns/atelier; addresses of a server do not change.
            old, slash, _ = unquote(urlsplit(location or "").path).rpartition("/")
            local = urlsplit(location or "").scheme in ("", "file")
            if not (local and slash and old.endswith("/mlruns")) or old == here:
                continue
            if Path(old).exists() and not Path(old).with_name("mlflow.db").exists():
                continue  # a folder that the user chose, not the project's old one
            for before, after in ((Path(old).as_uri(), Path(here).as_uri()), (old, here)):
                for table, column in columns:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608
                        f" WHERE substr({column}, 1, ?) = ?",
                        (after, len(before) + 1, len(before) + 1, f"{before}/"),
                    )


def open_store(root: Path, experiment: str) -> "tuple[MlflowClient, str]":
    """Connect to MLflow, and return a client and the experiment's id.

    ``MLFLOW_TRACKING_URI`` is the store's address if it is set. Otherwise the store is
    ``mlflow.db`` in ``root`` with artifacts in ``mlruns/``, as ``mlflow ui`` expects. Both paths
    are absolute, so that temporary copies of the project use the main project's store.

    Raises:
        StoreError: the address is wrong, no store responds, or another process opens it too long.
    """
    experiment = mlflow_names.experiment_name(experiment)
    location = None if _remote_uri() else (root / "mlruns" / experiment).as_uri()
    with _store_locked(root), _bounded():
        client = _client(root)
        number = _experiment(client, experiment, location)
        describe_experiment(client, number)
        return client, number


@cache
def client_of(root: Path, experiment: str) -> "tuple[MlflowClient, str]":
    """Return :func:`open_store`'s client and experiment id; the store is opened once."""
    return open_store(root, experiment)


@contextmanager
def _bounded() -> Iterator[None]:
    """Limit the time to open a remote store; MLflow retries a lost database for minutes."""
    if _remote_uri() is None:
        yield
        return
    try:
        with deadline(_OPEN_SECONDS):
            yield
    except DeadlineExceededError as error:
        raise StoreError(f"no answer from {redact_urls(_remote_uri())} ({error})") from None


def _experiment(client: "MlflowClient", name: str, location: str | None) -> str:
    """Return the id of an experiment, which is created or restored from the trash if necessary.

    If creating it fails, it is looked up again: another user may have created it at the same time,
    or the response may have been lost.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return _checked_id(client.create_experiment(name, artifact_location=location))
        except StoreError:
            raise
        except Exception:  # it exists already, or the response was lost
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    number = _checked_id(found.experiment_id)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(number)
    return number


def _checked_id(number: str) -> str:
    if not number:
        where = redact_urls(_remote_uri() or "the store")
        raise StoreError(f"{where} answers, but not as an MLflow server; check the address")
    return str(number)


@contextmanager
def as_default_store(client: "MlflowClient") -> Iterator[None]:
    """Make a client's store the default of MLflow's functions while the body runs.

    MLflow stores the address in the environment, so the previous value is restored.
    """
    import mlflow

    before = _remote_uri()
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None unsets it


def short_message(error: Exception) -> str:
    """Return an error of MLflow as one short sentence."""
    lines = str(error).splitlines() or [""]
    # The database's own message may follow SQLAlchemy's.
    first = next((line for line in lines if line.startswith("(sqlite3.")), lines[0])
    address = redact_urls(_remote_uri() or "it")
    if "foreign answer: " in first:
        return f"{address} does not answer as an MLflow server: {first.split('answer: ')[1]}"[:200]
    if "failed with timeout exception" in first:
        return f"no answer from {address} in time"
    if "Max retries exceeded" in first or "failed with exception" in first:
        return f"no answer from {address}"
    first = redact_urls(first)  # a server's message may contain an address with a password
    return first if isinstance(error, AtelierError) else f"{type(error).__name__}: {first}"[:200]


def has_store(root: Path) -> bool:
    """Return True if an address is set, or the project has a database."""
    return bool(_remote_uri()) or (root / "mlflow.db").exists()


def existing_store(root: Path) -> "MlflowClient | None":
    """Connect to MLflow if there is a store; return ``None`` otherwise."""
    if not has_store(root):
        return None
    with _store_locked(root), _bounded():
        return _client(root)


def _remote_uri() -> str | None:
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or None


def is_remote() -> bool:
    """Return True if the store is a server that is reached by HTTP."""
    return (_remote_uri() or "").lower().startswith(("http://", "https://"))


def _client(root: Path) -> "MlflowClient":
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    database, address = root / "mlflow.db", _remote_uri()
    if address is None:
        if database.exists():
            relocate_artifacts(database)
        require_schema(root)
        return MlflowClient(tracking_uri=_local_address(root))
    if is_remote():
        limit_requests()
        if not urlsplit(address).hostname:
            raise StoreError(f"MLFLOW_TRACKING_URI={redact_urls(address)} names no host; {_ADVICE}")
    require_schema(root)
    try:
        return MlflowClient(tracking_uri=address)
    except MlflowException as error:
        reason = redact_urls(str(error).splitlines()[0][:200].rstrip("."))
        raise StoreError(
            f"MLFLOW_TRACKING_URI={redact_urls(address)} names no MLflow store ({reason});"
            f" {_ADVICE}"
        ) from None


def _local_address(root: Path) -> str:
    """Return the address of the project's own store.

    For ``sqlite:`` without a driver, MLflow would create the parent folders by their
    percent-encoded names.
    """
    from mlflow.utils.file_utils import path_to_local_sqlite_uri

    address = path_to_local_sqlite_uri(str(root / "mlflow.db"))
    return str(address).replace("sqlite:", "sqlite+pysqlite:", 1)


def require_schema(root: Path) -> None:
    """Raise if the installed MLflow is older or newer than the store's database.

    Raises:
        SchemaError: the message has the command that upgrades the database.
    """
    if uri := _remote_uri():
        # The shell inserts the address, so that the message needs no password.
        address, name, argument = uri, f"the database {redact_urls(uri)}", '"$MLFLOW_TRACKING_URI"'
    else:
        address, name = _local_address(root), "this project's mlflow.db"
        argument = "sqlite:///mlflow.db"
        if not (root / "mlflow.db").exists():
            return
    if problem := schema_problem(address, name, argument):
        raise SchemaError(problem)
