"""Claims of several processes in real PostgreSQL."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from atelier.core.errors import AtelierError
from atelier.search.advisory_locks import AdvisoryLocks
from atelier.search.claims import Claims
from atelier.search.storage import Retry, lock_engine

from ..support.servers import postgresql
from ..support.team import until

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
pytestmark = pytest.mark.slow
Open = Callable[[str], Claims]
CONNECTIONS = "FROM pg_stat_activity WHERE application_name LIKE 'atelier-search-%'"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql() as address:
        yield address


@pytest.fixture
def machine(database: str, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens the claims of a machine by its name."""
    opened = []

    def open_claims(name: str) -> Claims:
        retry = Retry(seconds=60.0)
        locks = AdvisoryLocks(lock_engine(database), "study")
        opened.append(Claims(tmp_path / name, "study", locks, retry))
        return opened[-1]

    yield open_claims
    for claims in opened:
        claims.close()


def ask(database: str, statement: str) -> int:
    with closing(psycopg.connect(database, autocommit=True)) as connection:
        row = connection.execute(statement).fetchone()
        assert row
        return int(row[0])


def test_trial_has_one_owner_until_its_release(machine: Open) -> None:
    anna, ben = machine("anna"), machine("ben")
    assert anna.claim(3)
    assert not ben.claim(3)
    assert ben.claim(4)
    assert anna.is_claimed(3)
    assert not ben.is_claimed(3)
    anna.release(3)
    assert not anna.is_claimed(3)
    assert ben.claim(3)


def test_closed_claims_are_free(machine: Open) -> None:
    anna, ben = machine("anna"), machine("ben")
    assert anna.claim(0)
    anna.close()
    assert ben.claim(0)


def test_lost_connection_claims_again(machine: Open, database: str) -> None:
    anna, ben = machine("anna"), machine("ben")
    assert anna.claim(0)
    ask(database, f"SELECT count(pg_terminate_backend(pid)) {CONNECTIONS}")
    assert anna.is_claimed(0)
    assert not ben.claim(0)


def test_lost_claim_of_other_worker_is_noticed(machine: Open, database: str) -> None:
    anna, ben = machine("anna"), machine("ben")
    assert anna.claim(0)
    ask(database, f"SELECT count(pg_terminate_backend(pid)) {CONNECTIONS}")
    until(lambda: ben.claim(0))
    assert not anna.is_claimed(0)
    anna.release(0)
    assert ben.is_claimed(0)


def test_connection_that_server_believes_alive_is_ended(machine: Open, database: str) -> None:
    """After a network partition, the server still has the old connection and its lock."""
    anna = machine("anna")
    assert anna.claim(0)
    assert anna._locks
    old, anna._locks._connection = anna._locks._connection, None
    assert anna.is_claimed(0)
    assert ask(database, f"SELECT count(*) {CONNECTIONS}") == 1
    assert old
    old.invalidate()
    old.close()


def test_one_machine_creates_trials(machine: Open) -> None:
    anna, ben = machine("anna"), machine("ben")
    assert anna._locks
    assert ben._locks
    with anna.asking():
        assert not ben._locks.try_lock(-1)
    assert ben._locks.try_lock(-1)


def test_owners_claim_first_after_start_of_server(machine: Open, database: str) -> None:
    seconds = "extract(epoch FROM now() - pg_postmaster_start_time())::integer"
    before = ask(database, f"SELECT {seconds}")
    allowed = machine("anna").allows_takeover()
    assert not allowed if ask(database, f"SELECT {seconds}") < 19 else allowed or before < 21


OWNER = """
import subprocess, sys
from pathlib import Path
from atelier.search.advisory_locks import AdvisoryLocks
from atelier.search.claims import Claims
from atelier.search.storage import Retry, lock_engine
locks = AdvisoryLocks(lock_engine(sys.argv[1]), "study")
claims = Claims(Path(sys.argv[2]), "study", locks, Retry())
assert claims.claim(0)
command = subprocess.Popen(["cat"], pass_fds=claims.descriptors(0))
print(command.pid, flush=True)
sys.stdin.read()
"""


def test_command_of_killed_owner_keeps_claim(machine: Open, database: str, tmp_path: Path) -> None:
    ben = machine("ben")
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, database,
         str(tmp_path / "anna")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:  # fmt: skip
        assert owner.stdin
        assert owner.stdout
        owner.stdout.readline()
        owner.kill()
        owner.wait()
        assert not ben.claim(0)
        owner.stdin.close()  # `cat` ends
        until(lambda: ben.claim(0))


def test_database_that_does_not_respond_is_an_error(machine: Open, database: str) -> None:
    address = f"{database.removesuffix('/postgres')}/absent"
    locks = AdvisoryLocks(lock_engine(address), "study")
    claims = Claims(Path(machine("anna")._folder), "study", locks, Retry())
    with pytest.raises(AtelierError, match=r'\(database "absent" does not exist\); type'):
        claims.claim(0)
