"""PostgreSQL database of an older MLflow, which a client opens without a server."""

from contextlib import closing
from pathlib import Path

import pytest
from mlflow.version import VERSION

from atelier.tracking.database_schema import _revisions
from atelier.tracking.environment import private_folder
from atelier.tracking.store import SchemaError, existing_store, open_store

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def execute(database: str, statement: str) -> None:
    with closing(psycopg.connect(database, autocommit=True)) as connection:
        connection.execute(statement)


def test_message_has_the_upgrade_command_and_no_password(
    team_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(team_database, "CREATE DATABASE older")
    server, _, _ = team_database.rpartition("/")
    database = f"{server.replace('@', ':secret@')}/older"  # PostgreSQL trusts local connections
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    private_folder(tmp_path)
    open_store(tmp_path, "atelier")
    execute(database, f"UPDATE alembic_version SET version_num = '{_revisions()[1]}'")
    with pytest.raises(SchemaError) as raised:
        existing_store(tmp_path)
    address = database.partition("@")[2]
    assert str(raised.value) == (
        f"the database postgresql://{address} was made by an older MLflow than {VERSION}, which is"
        f" installed here (its schema is {_revisions()[1]}, not {_revisions()[0]}); make a backup"
        ' of it, then type: mlflow db upgrade "$MLFLOW_TRACKING_URI"'
    )
