"""Advisory locks of PostgreSQL, which end with the connection that holds them."""

import time
import uuid
import zlib

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

# After a restart of the server, all locks are free. Their owners get this time to lock them again.
_SETTLING_SECONDS = 20
_TERMINATION_SECONDS = 5.0
# The server must not close an idle connection. Older servers lack some of these settings.
_SETTINGS = """
SELECT count(set_config(name, value, false)) FROM pg_settings JOIN (VALUES
    ('idle_session_timeout', '0'), ('statement_timeout', '0'), ('lock_timeout', '0'),
    ('tcp_keepalives_idle', '20'), ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '4')
) AS options (key, value) ON key = name
"""
_OWN_OTHERS = "FROM pg_stat_activity WHERE application_name = :name AND pid <> pg_backend_pid()"


class AdvisoryLocks:
    """Locks of one study with numbers, on one connection.

    Every method raises an error of SQLAlchemy if the connection is lost. The next call connects
    again; it holds no lock then.
    """

    def __init__(self, engine: Engine, study: str) -> None:
        """Connect at the first use.

        Args:
            engine: of a PostgreSQL database.
            study: its name.
        """
        self._engine = engine
        self._space = zlib.crc32(study.encode()) & 0x7FFFFFFF
        # The server names our connections by it, also one that it does not know to be lost.
        self._name = f"atelier-search-{uuid.uuid4().hex}"
        self._connection: Connection | None = None

    def lock(self, number: int) -> None:
        """Wait for a lock."""
        self._execute("SELECT pg_advisory_lock(:space, CAST(:number AS integer))", number=number)

    def try_lock(self, number: int) -> bool:
        """Lock if no other connection has the lock; return True then."""
        return bool(
            self._execute(
                "SELECT pg_try_advisory_lock(:space, CAST(:number AS integer))", number=number
            )
        )

    def unlock(self, number: int) -> None:
        """End a lock, which the connection may have lost."""
        if self._connection is not None:
            self._execute(
                "SELECT pg_advisory_unlock(:space, CAST(:number AS integer))", number=number
            )

    def has(self, number: int) -> bool:
        """Return True if the connection holds a lock."""
        return bool(
            self._execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid ="
                " pg_backend_pid() AND classid::bigint = :space AND objid::bigint = :number",
                number=number,
            )
        )

    def is_settled(self) -> bool:
        """Return True if the owners of locks had time to lock again after the server's start."""
        return bool(
            self._execute(
                "SELECT pg_postmaster_start_time() < now() - make_interval(secs => :seconds)",
                seconds=_SETTLING_SECONDS,
            )
        )

    def descriptor(self) -> int | None:
        """Return the open socket of the connection; ``None`` without a connection."""
        if self._connection is None:
            return None
        driver = self._connection.connection.driver_connection
        return int(driver.fileno()) if driver is not None else None

    def close(self) -> None:
        """End all locks."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _execute(self, statement: str, **values: object) -> object:
        connection = self._connection or self._connect()
        space = {"space": self._space} if ":space" in statement else {}
        try:
            return connection.execute(text(statement), values | space).scalar()
        except BaseException:  # also Ctrl-C, after which a late lock would be ours
            self._drop(connection)
            raise

    def _connect(self) -> Connection:
        # Advisory locks belong to a session, not to a transaction.
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            connection.execute(
                text("SELECT set_config('application_name', :name, false)"), {"name": self._name}
            )
            connection.execute(text(_SETTINGS))
            self._end_lost_connections(connection)
        except BaseException:
            self._drop(connection)
            raise
        self._connection = connection
        return connection

    def _end_lost_connections(self, connection: Connection) -> None:
        """Close our earlier connections, whose locks the server would keep for a minute."""
        values = {"name": self._name}
        connection.execute(text(f"SELECT count(pg_terminate_backend(pid)) {_OWN_OTHERS}"), values)
        end = time.monotonic() + _TERMINATION_SECONDS
        while connection.execute(text(f"SELECT count(*) {_OWN_OTHERS}"), values).scalar():
            if time.monotonic() >= end:
                return
            time.sleep(0.05)

    def _drop(self, connection: Connection) -> None:
        self._connection = None
        try:
            connection.invalidate()
            connection.close()
        except SQLAlchemyError:
            pass  # it is lost anyway
