"""PostgreSQL and MLflow servers of a team.

Each server runs in a separate session, which is killed when the test ends.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_SECONDS = 90.0
# PostgreSQL refuses to run as root.
_USERS = ("postgres", "nobody")


def free_port() -> int:
    """Return an unused port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def program(*command: str, log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the body of ``with``; then kill its session."""
    with log.open("ab") as output:
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        yield running
    finally:
        stop(running)


def stop(running: subprocess.Popen[bytes]) -> None:
    """Kill a program and all processes of its session."""
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a new PostgreSQL server; yield the address of its database."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    binaries = _binaries()
    user = None if os.geteuid() else _user()
    # Not in pytest's folder, which another user cannot access.
    folder = Path(tempfile.mkdtemp(prefix="atelier-postgresql-"))
    try:
        if user:
            shutil.chown(folder, user)
        account = user or getpass.getuser()
        common: dict[str, Any] = {"user": user, "extra_groups": []} if user else {}
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            **common,
        )
        port = free_port()
        settings = ["fsync=off", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
        switches = [word for setting in settings for word in ("-c", setting)]
        log = folder / "log"
        log.touch()
        command = [str(binaries / "postgres"), "-D", str(folder / "data"), "-p", str(port)]
        with program(*command, *switches, log=log, cwd=folder, **common) as server:
            address = f"postgresql://{account}@127.0.0.1:{port}/postgres"
            _wait_for_database(address, server, log)
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mlflow_server(
    store: str,
    folder: Path,
    *options: str,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run `mlflow server` with its files below a folder; yield its address.

    Args:
        store: URL of its database.
        folder: for the artifacts and the log.
        options: further options of the command.
        port: an unused one by default.
        environment: further environment variables.
    """
    port = port or free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", store),
        *("--artifacts-destination", str(folder / "artifacts"), *options),
        # If the server closes an idle connection while the client reuses it, the request fails.
        *("--uvicorn-opts", "--timeout-keep-alive 600"),
    ]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_"))}
    changes = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "server.log"
    with program(
        *command, log=log, cwd=folder, env={**inherited, **changes, **(environment or {})}
    ) as server:
        wait_for_server(port, server, log)
        yield f"http://127.0.0.1:{port}"


def wait_for_server(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an HTTP server reports that it is healthy.

    Raises:
        AssertionError: the server has exited, or the timeout has expired.
    """
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, f"the server has exited:\n{log.read_text()}"
        with suppress(OSError), closing(HTTPConnection("127.0.0.1", port, timeout=5)) as probe:
            probe.request("GET", "/health")
            if probe.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the server does not start:\n{log.read_text()}")


def _wait_for_database(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, f"PostgreSQL has exited:\n{log.read_text()}"
        with suppress(psycopg.OperationalError), closing(psycopg.connect(address)):
            return
        time.sleep(0.05)
    raise AssertionError(f"PostgreSQL does not start:\n{log.read_text()}")


def _binaries() -> Path:
    """Return the folder of PostgreSQL's programs; Debian's is not on the search path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("initdb")
    folders += [Path(on_path).resolve().parent] if on_path else []
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("PostgreSQL is not installed")


def _user() -> str:
    import pwd

    for name in _USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("there is no user for PostgreSQL")
