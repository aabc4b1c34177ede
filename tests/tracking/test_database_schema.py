"""Stores whose database has an older or a newer schema than the installed MLflow.

The older ones are real: MLflow's own migrations create them, up to an older revision.
"""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
from mlflow.tracking import MlflowClient
from mlflow.version import VERSION
from sqlalchemy import create_engine

from atelier.tracking.database_schema import _revisions, schema_problem
from atelier.tracking.delivery_worker import flush_backlog
from atelier.tracking.environment import private_folder
from atelier.tracking.links import record_links
from atelier.tracking.outbox import executions, pending, problem
from atelier.tracking.store import StoreError, client_of, existing_store, open_store

from ..support.execution import Server, assert_delivered, deliver, write_execution
from ..support.programs import run_here
from ..support.project import ROOT, Project

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow's migrations
# Of MLflow 2.9: it lacks tables, and then MLflow would upgrade it without a backup.
OLDEST = "acf3f17fdcc7"
REVISIONS = [_revisions()[1], pytest.param(OLDEST, marks=pytest.mark.slow)]
UPGRADE = (sys.executable, "-m", "mlflow", "db", "upgrade", "sqlite:///mlflow.db")


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client_of.cache_clear()
    yield
    client_of.cache_clear()


def create_tables(database: Path, revision: str) -> None:
    """Create the tables of a store as an older MLflow did."""
    engine = create_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


@pytest.fixture(scope="module", params=REVISIONS)
def old_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Database of an older MLflow with its default experiment; the migrations take a second."""
    database = tmp_path_factory.mktemp("old") / "mlflow.db"
    create_tables(database, request.param)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
            " VALUES (0, 'Default', '/elsewhere/0', 'active')"
        )
    return database


@pytest.fixture
def old(old_database: Path, tmp_path: Path) -> Path:
    """Project with an older store."""
    shutil.copy(old_database, tmp_path / "mlflow.db")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    private_folder(tmp_path)
    return tmp_path


def revision(root: Path) -> str:
    """Return the revision of a project's store."""
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def sentence(root: Path) -> str:
    """Return the expected message about a project's older store."""
    return (
        f"this project's mlflow.db was made by an older MLflow than {VERSION}, which is installed"
        f" here (its schema is {revision(root)}, not {_revisions()[0]}); make a backup of it, then"
        " type: mlflow db upgrade sqlite:///mlflow.db"
    )


def test_older_store_is_neither_opened_nor_changed(old: Path) -> None:
    before = (old / "mlflow.db").read_bytes()
    for connect in (lambda: open_store(old, "atelier"), lambda: existing_store(old)):
        with pytest.raises(StoreError) as raised:
            connect()
        assert str(raised.value) == sentence(old)
    assert (old / "mlflow.db").read_bytes() == before


def test_entries_wait_for_the_upgrade_and_are_delivered_once(old: Path) -> None:
    write_execution(old, "atelier")
    waiting = sum(each.entries for each in pending(old))
    assert flush_backlog(old) == 3, "outboxes"
    assert sum(each.entries for each in pending(old)) == waiting
    (execution,) = executions(private_folder(old))
    assert problem(execution) == sentence(old)

    run_here(UPGRADE, old)
    deliver(old, attempts=1)
    assert_delivered(Server(MlflowClient(f"sqlite:///{old / 'mlflow.db'}"), "atelier"))


@pytest.mark.parametrize("words", [("sync",), ("gc",), ("lineage", "models"), ("ui",)])
def test_commands_print_one_sentence(old: Path, words: tuple[str, ...]) -> None:
    record_links(old, private_folder(old), "0", "a")  # of a run that the older MLflow logged
    assert Project(old).atelier(*words, ok=False) == f"ERROR: {sentence(old)}\n"


def test_sync_counts_the_waiting_entries(old: Path) -> None:
    write_execution(old, "atelier")
    output = Project(old).atelier("sync", ok=False)
    assert output.startswith("ERROR: 0 entries delivered, ")
    assert f"(of train, evaluate, pipeline): {sentence(old)}; 0 rejected.\n" in output


def test_newer_store_names_the_versions(old: Path) -> None:
    with closing(sqlite3.connect(old / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fedcba987654'")
    with pytest.raises(StoreError) as raised:
        open_store(old, "atelier")
    assert str(raised.value) == (
        f"this project's mlflow.db was made by a newer MLflow than {VERSION}, which is installed"
        f" here (its schema is fedcba987654, not {_revisions()[0]}); install the version that made"
        " it"
    )


def test_store_without_a_recorded_revision_is_older(old: Path) -> None:
    with closing(sqlite3.connect(old / "mlflow.db")) as connection, connection:
        connection.execute("DROP TABLE alembic_version")
    with pytest.raises(StoreError, match=r"was made by an older MLflow .*its schema is unknown"):
        open_store(old, "atelier")


@pytest.mark.slow
def test_store_whose_creation_was_interrupted_is_completed(tmp_path: Path) -> None:
    private_folder(tmp_path)
    create_tables(tmp_path / "mlflow.db", OLDEST)
    client, experiment = open_store(tmp_path, "atelier")
    assert client.get_experiment(experiment).name == "atelier"
    assert revision(tmp_path) == _revisions()[0]


def test_address_with_a_password_is_not_printed(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite has no passwords; the query stands for that of another database.
    address = f"sqlite:///{old / 'mlflow.db'}?timeout=98765"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(StoreError) as raised:
        existing_store(tmp_path / "colleague")
    assert str(raised.value).startswith(f"the database sqlite:///{old / 'mlflow.db'} was made by")
    assert str(raised.value).endswith(' type: mlflow db upgrade "$MLFLOW_TRACKING_URI"')
    assert "98765" not in str(raised.value)
    # The command of the message upgrades it.
    run_here((*UPGRADE[:-1], address), tmp_path)
    assert existing_store(tmp_path / "colleague") is not None


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1",
        "file:///nowhere",
        "sqlite:////nowhere/mlflow.db",
        "postgresql://no:5/x",
    ],
)
def test_unreadable_database_is_left_to_mlflow(address: str) -> None:
    assert schema_problem(address, "the database", address) == ""


@pytest.mark.slow
def test_stage_finishes_with_an_older_store(tracked: Project, old_database: Path) -> None:
    shutil.copy(old_database, tracked.folder / "mlflow.db")
    shutil.rmtree(tracked.folder / "mlruns")
    tracked.set(**{"render.fps": 9})
    output = tracked.run("dvc", "repro", "render")
    assert f"MLflow has not accepted everything yet ({sentence(tracked.folder)})" in output
    assert "Traceback" not in output
    subprocess.run(UPGRADE, cwd=tracked.folder, check=True, capture_output=True)
    assert "Everything is delivered to MLflow." in tracked.run("atelier", "sync")
    client, experiment = open_store(tracked.folder, "atelier")
    tags = [run.data.tags for run in client.search_runs([experiment])]
    assert "render" in {values.get("atelier.stage") for values in tags}
