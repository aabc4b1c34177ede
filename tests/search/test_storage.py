"""Addresses of storages, and waiting for a database that does not respond."""

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError

from atelier.core.errors import AtelierError
from atelier.search import storage
from atelier.search.settings import SearchSettings
from atelier.search.storage import Retry, lock_engine, open_storage, require_address, shown
from atelier.search.study import open_study

from ..support.servers import free_port

SECRET = "pa55-word"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (f"postgresql://anna:{SECRET}@db.example.org:5433/studies", "db.example.org:5433/studies"),
        (f"postgres://anna:{SECRET}/a@db/studies", "db/studies"),
        (f"postgresql://anna@db/studies?password={SECRET}", "db/studies"),
        (f"postgresql+psycopg://anna:{SECRET}@db/studies", "db/studies"),
    ],
)
def test_messages_name_database_without_user_and_password(address: str, text: str) -> None:
    require_address(address, may_create=False)
    assert shown(address) == f"postgresql://{text}"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (f"postgresql://anna:{SECRET}@x@db/studies", "percent-encoding"),
        (f"postgresql://anna:1@db:{SECRET}/studies", "percent-encoding"),
        (f"mysql://anna:{SECRET}@db/studies", "neither a file nor the address"),
        (f"host=db user=anna password={SECRET}", "neither a file nor the address"),
    ],
)
def test_invalid_address_is_rejected_without_its_password(
    address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AtelierError, match=message) as error:
        require_address(address, may_create=True)
    assert SECRET not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def search() -> SearchSettings:
    space = {"train.lr": {"low": 0.1, "high": 0.2}}
    return SearchSettings.model_validate({"study": "study", "settings": space})


def test_database_that_does_not_respond_is_one_sentence(tmp_path: Path) -> None:
    address = f"postgresql://anna:{SECRET}@127.0.0.1:{free_port()}/studies"
    with pytest.raises(AtelierError) as error:
        open_study(search(), {}, tmp_path, address)
    message = str(error.value)
    assert message.startswith("the study's storage postgresql://127.0.0.1:")
    assert "cannot be opened (Connection refused" in message
    assert SECRET not in message
    assert "anna" not in message
    with pytest.raises(AtelierError, match=r"cannot be opened \(Connection refused"):
        open_storage(address, Retry())


def test_missing_driver_names_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for call in (lock_engine, lambda address: open_storage(address, Retry())):
        with pytest.raises(AtelierError, match=r"psycopg; type: pip install -e '.\[postgresql\]'"):
            call("postgresql://anna@127.0.0.1/studies")


def test_lost_connections_are_noticed_unless_address_sets_options() -> None:
    address = "postgresql://anna@127.0.0.1/studies?connect_timeout=3"
    options = storage._connection(storage._address(address))
    assert "connect_timeout" not in options
    assert options["tcp_user_timeout"] == 60_000
    assert storage._connection(storage._address("postgresql://db/x"))["connect_timeout"] == 10


def test_call_is_repeated_until_database_responds(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/later/file.db")
    attempts, messages = [], []

    def connect() -> str:
        attempts.append(1)
        if len(attempts) == 3:
            (tmp_path / "later").mkdir()
        with engine.connect():
            return "connected"

    retry = Retry()
    with pytest.raises(AtelierError, match=r"does not respond \(unable to open database file\)"):
        retry(connect)
    retry.enable(messages.append)
    assert retry(connect) == "connected"
    assert len(attempts) == 3
    assert messages == [
        "the study's database does not respond (unable to open database file); waiting for it, at"
        " most 10 minutes"
    ]
    engine.dispose()


def test_other_errors_are_not_repeated() -> None:
    retry, attempts = Retry(), []
    retry.enable(lambda message: None)

    def fail() -> None:
        attempts.append(1)
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        retry(fail)
    assert len(attempts) == 1


class Losses:
    """Connections that are lost before the next statements, or after a commit."""

    def __init__(self, opened: Any) -> None:
        self.before = self.after = 0
        event.listen(opened.engine, "before_cursor_execute", self._execute)
        event.listen(opened.engine, "commit", self._commit)

    def _execute(self, *arguments: Any) -> None:
        if self.before:
            self.before -= 1
            raise OperationalError("SELECT 1", {}, Exception("server closed the connection"))

    def _commit(self, connection: Any) -> None:
        if self.after:
            self.after -= 1
            connection.connection.driver_connection.commit()
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))


def test_study_continues_after_lost_connections(tmp_path: Path) -> None:
    retry, messages = Retry(), []
    opened = open_storage(str(tmp_path / "studies.db"), retry)
    losses = Losses(opened)
    study = optuna.create_study(study_name="study", storage=opened)
    retry.enable(messages.append)
    losses.before = 2
    trial = study.ask()
    losses.before = 1
    lr = trial.suggest_float("train.lr", 0.1, 0.2)
    losses.after = 1
    trial.report(3.0, 1)
    losses.before = 1
    trial.set_user_attr("experiments", ["a"])
    losses.after = 1
    study.tell(trial, 2.0)
    assert losses.before == losses.after == 0
    assert len(messages) == 5
    (ended,) = study.get_trials()
    assert ended.state == TrialState.COMPLETE
    assert ended.value == 2.0
    assert ended.params == {"train.lr": lr}
    assert ended.intermediate_values == {1: 3.0}
    assert ended.user_attrs == {"experiments": ["a"]}
    with pytest.raises(UpdateFinishedTrialError):
        opened.set_trial_state_values(trial._trial_id, TrialState.FAIL)
