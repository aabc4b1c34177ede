"""Storage of studies: an SQLite file or a PostgreSQL database, and waiting for it.

A search waits while its database does not respond, e.g. because PostgreSQL is restarted. Every
method of Optuna's storage that :class:`WaitingStorage` repeats has no further effect if it has
already succeeded, or leaves a trial that the search finds and continues.
"""

import re
import sqlite3
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb.models import BaseModel
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from atelier.core.errors import AtelierError, printable
from atelier.tracking.redact import redact

T = TypeVar("T")
_DRIVER = "postgresql+psycopg"
_POSTGRESQL = ("postgresql://", "postgres://", f"{_DRIVER}://")
# Keywords of libpq's other syntax, e.g. host=db password=secret, which is not a file's name.
_KEYWORDS = re.compile(r"(?:^|\s)(?:host|hostaddr|dbname|user|password|service)\s*=")
# A lost connection is noticed after about a minute, on both sides.
_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 20,
    "keepalives_interval": 10,
    "keepalives_count": 4,
    "tcp_user_timeout": 60_000,
}
# PostgreSQL reports a standby server, which is read-only, as an internal error.
_LOST = (OperationalError, InterfaceError, InternalError, StorageInternalError)
_MAX_WAIT_SECONDS = 600.0
_PAUSE_SECONDS = 1.0
_MAX_REASON = 160


@dataclass
class Retry:
    """Repetition of calls while the database does not respond.

    Attributes:
        seconds: limit on the time of each call; 0 to raise at once.
        warn: receives a sentence when a call starts to wait.
    """

    seconds: float = 0.0
    warn: Callable[[str], None] = lambda message: None

    def enable(self, warn: Callable[[str], None], seconds: float = _MAX_WAIT_SECONDS) -> None:
        """Wait for the database from now on."""
        self.seconds, self.warn = seconds, warn

    def __call__(self, call: Callable[[], T]) -> T:
        """Return the result of a call, which is repeated while the database does not respond.

        Raises:
            AtelierError: the time is over.
        """
        end, is_announced = time.monotonic() + self.seconds, False
        while True:
            try:
                return call()
            except _LOST as error:
                reason = reason_text(error)
            if time.monotonic() >= end:
                raise AtelierError(
                    f"the study's database does not respond ({reason}); type `atelier search` again"
                    " when it does."
                )
            if not is_announced:
                is_announced = True
                self.warn(
                    f"the study's database does not respond ({reason}); waiting for it, at most"
                    f" {self.seconds / 60:.0f} minutes"
                )
            time.sleep(_PAUSE_SECONDS)


class WaitingStorage(RDBStorage):
    """Optuna's storage that waits while its database does not respond."""

    def __init__(self, url: str | URL, retry: Retry, options: dict[str, Any]) -> None:
        """Connect to a database, and create its tables if there are none.

        Args:
            url: address with the password.
            retry: when to repeat calls.
            options: of SQLAlchemy's engine.
        """
        self.retry = retry
        text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
        super().__init__(text, engine_kwargs=options)


def _waiting(name: str) -> Callable[..., Any]:
    """Return a method that repeats the one of Optuna's storage."""
    method = getattr(RDBStorage, name)

    @wraps(method)
    def repeated(self: WaitingStorage, *args: Any, **kwargs: Any) -> Any:
        attempts = 0

        def call() -> Any:
            nonlocal attempts
            attempts += 1
            try:
                return method(self, *args, **kwargs)
            except UpdateFinishedTrialError:
                # The connection was lost after the first attempt had ended the trial.
                if attempts > 1 and name == "set_trial_state_values":
                    return True
                raise

        return self.retry(call)

    return repeated


# Optuna's cache calls these methods of its storage, too.
_OF_CACHE = {"_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id"}
for _name in BaseStorage.__abstractmethods__ | _OF_CACHE:
    setattr(WaitingStorage, _name, _waiting(_name))


def reason_text(error: BaseException) -> str:
    """Return the reason of a database's error on one line, without addresses and passwords."""
    cause: BaseException | None = error
    while isinstance(cause, StorageInternalError) and cause.__cause__:
        cause = cause.__cause__
    lines = [line.strip() for line in str(getattr(cause, "orig", cause)).splitlines()]
    # psycopg describes each attempt to connect; the first one is enough.
    text = next(filter(None, lines), type(cause).__name__)
    for introduction in (" failed: ", "FATAL:"):
        text = text.rpartition(introduction)[2]
    return printable(redact(text.strip()).rstrip("."), _MAX_REASON)


def is_server(where: str) -> bool:
    """Return True for the address of a PostgreSQL database, False for an SQLite file."""
    return where.startswith(_POSTGRESQL)


def shown(where: str) -> str:
    """Return a storage's name for messages: a file, or an address without user and password."""
    if not is_server(where):
        return where
    url = _address(where)
    port = f":{url.port}" if url.port else ""
    return f"postgresql://{url.host or ''}{port}/{url.database or ''}"


def require_address(where: str, may_create: bool) -> None:
    """Raise unless a storage is the address of a PostgreSQL database, or a file of studies.

    Args:
        where: address or file.
        may_create: False if the file must exist.

    Raises:
        AtelierError: it is something else. The message contains no password.
    """
    if is_server(where):
        _address(where)
    elif "://" in where or _KEYWORDS.search(where):
        raise AtelierError(
            "the study's storage is neither a file nor the address of a PostgreSQL database; an"
            " address is, for example, postgresql://user@host/database."
        )
    else:
        _require_file(Path(where), may_create)


def open_storage(where: str, retry: Retry) -> RDBStorage:
    """Open a storage that :func:`require_address` accepts.

    Args:
        where: SQLite file, or address of a PostgreSQL database.
        retry: when to repeat calls; connecting is not repeated.

    Raises:
        AtelierError: it cannot be opened, or it is no database of studies.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if is_server(where):
        url: str | URL = _address(where)
        options["connect_args"] = _connection(_address(where))
    else:
        url = f"sqlite:///{Path(where).resolve()}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return WaitingStorage(url, retry, options)
    except ImportError:
        raise missing_driver() from None
    except RuntimeError as error:  # of Optuna: tables of another version
        raise AtelierError(
            f"{shown(where)} was made by another version of Optuna; `optuna storage upgrade"
            f" --storage` updates it ({printable(str(error), 80)})."
        ) from None
    except SQLAlchemyError as error:
        raise cannot_open(where, error) from None


def cannot_open(where: str, error: SQLAlchemyError) -> AtelierError:
    """Return the error of a storage that cannot be opened."""
    return AtelierError(
        f"the study's storage {shown(where)} cannot be opened ({reason_text(error)}); check that it"
        " exists, responds and can be written."
    )


def missing_driver() -> AtelierError:
    """Return the error of a missing package."""
    return AtelierError(
        "PostgreSQL needs the package psycopg; type: pip install -e '.[postgresql]'"
    )


def lock_engine(where: str) -> Engine:
    """Return an engine for connections that hold locks of a PostgreSQL database.

    Raises:
        AtelierError: the package psycopg is not installed.
    """
    url = _address(where)
    try:
        return create_engine(url, poolclass=NullPool, connect_args=_connection(url))
    except ImportError:
        raise missing_driver() from None


def _address(where: str) -> URL:
    """Return an address for SQLAlchemy.

    Raises:
        AtelierError: it is invalid; the message does not repeat it, since it may have a password.
    """
    try:
        url = make_url(f"{_DRIVER}://{where.partition('://')[2]}")
    except (SQLAlchemyError, ValueError):
        url = None
    if url is None or "@" in (url.host or ""):
        raise AtelierError(
            "the address of the PostgreSQL database is invalid; it is postgresql://user@host/"
            "database, and special characters of a password need percent-encoding, e.g. %40 for @."
        )
    return url


def _connection(url: URL) -> dict[str, Any]:
    """Return options of a connection that its address does not set."""
    return {name: value for name, value in _CONNECTION.items() if name not in url.query}


def _require_file(file: Path, may_create: bool) -> None:
    """Raise unless a file is a database of studies, or can be created."""
    if file.is_dir() or (not file.exists() and not may_create):
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise AtelierError(f"{file} {problem}; name the study's SQLite file with --storage.")
    if file.exists():
        _require_studies(file)
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AtelierError(f"{file} cannot be created ({error.strerror}).") from None


def _require_studies(file: Path) -> None:
    """Raise if a file is no SQLite database, or one of another program, e.g. of MLflow."""
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {row[0] for row in rows.fetchall()}
    except sqlite3.Error:
        raise AtelierError(
            f"{file} is no study file (no SQLite database); name another one with --storage."
        ) from None
    # A search that was killed while it created the tables leaves some of them.
    if tables - {*BaseModel.metadata.tables, "alembic_version"}:
        raise AtelierError(
            f"{file} is the database of another program; name another file with --storage."
        )
