"""Searches on two machines with real PostgreSQL, MLflow, git and DVC remotes."""

import json
import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from atelier.tracking.experiments import experiment_metrics, find_experiment

from ..support.project import Project, clone
from ..support.servers import mlflow_server, postgresql
from ..support.team import SEARCH, STUDY, Team, make_team, texts, until, write_search

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
optuna = pytest.importorskip("optuna")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
PASSWORD = uuid.uuid4().hex  # not in a file of the clones
TRIALS = SEARCH["trials"]
NAMES = [f"{STUDY}-trial-{number:03d}" for number in range(TRIALS)]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Start PostgreSQL and yield an address with a password."""
    with postgresql() as address:
        user, _, rest = address.removeprefix("postgresql://").partition("@")
        yield f"postgresql://{user}:{PASSWORD}@{rest}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Project in which only the training and later stages have not run."""
    project = clone(tmp_path_factory.mktemp("source"))
    # It names outputs of other settings, which are not in the cache.
    (project.folder / "dvc.lock").unlink()
    project.repro("convert")
    return project


@pytest.fixture
def team(database: str, source: Project, tmp_path: Path) -> Iterator[Team]:
    """Two clones with a database of their own."""
    server, _, _ = database.rpartition("/")
    with closing(psycopg.connect(database, autocommit=True)) as connection:
        for name in ("studies", "runs"):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(f"{server}/runs", tmp_path / "mlflow") as address:
        yield make_team(source, tmp_path, f"{server}/studies", address)


def finished(team: Team) -> dict[int, float]:
    """Return the values of all trials by number; all have finished."""
    url = team.environment["ATELIER_SEARCH_STORAGE"].replace("://", "+psycopg://", 1)
    storage = optuna.storages.RDBStorage(url)
    trials = optuna.load_study(study_name=STUDY, storage=storage).get_trials(deepcopy=False)
    storage.remove_session()
    storage.engine.dispose()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * len(trials)
    return {trial.number: trial.value for trial in trials}


def require_all(team: Team) -> dict[int, float]:
    """Require that Optuna, git and MLflow have each trial once; return the values."""
    for project in (team.anna, team.ben):
        project.run("atelier", "sync", **team.environment)
    values = finished(team)
    assert sorted(values) == list(range(len(NAMES)))
    assert team.experiments() == NAMES
    runs = team.pipelines()
    assert sorted(run.data.tags["dvc.experiment"] for run in runs) == NAMES
    logged = {run.data.tags["dvc.experiment"]: run.data.metrics for run in runs}
    assert [logged[name]["quality/validation_kid"] for name in NAMES] == pytest.approx(
        [values[number] for number in sorted(values)]
    )
    return values


@pytest.mark.parametrize("is_group", [True, False], ids=["all processes", "search"])
def test_other_worker_restarts_trial_of_killed_one(team: Team, is_group: bool) -> None:
    with team.search(team.anna) as anna:
        until(anna.trials, anna)
        with team.search(team.ben, "--worker") as ben:
            until(lambda: len(ben.trials()) > 1 and ben.is_training(ben.trials()[1]), ben)
            before, lost = ben.trials()
            if is_group:
                os.killpg(ben.process.pid, signal.SIGKILL)
            else:  # dvc continues
                os.kill(ben.process.pid, signal.SIGKILL)
            until(lambda: anna.process.poll() is not None)
            assert anna.process.returncode == 0, anna.output()
    assert lost in anna.trials()
    assert sorted([*anna.trials(), before]) == list(range(TRIALS))
    values = require_all(team)
    best = min(values, key=lambda number: values[number])
    name = NAMES[before]
    pull = f"dvc exp pull origin {NAMES[best]}"
    assert (pull in anna.output()) == (best == before), anna.output()
    commit = find_experiment(name, team.ben.folder)
    assert commit
    team.anna.run("dvc", "exp", "pull", "-q", "origin", name)
    # It fails after the trial's files were restored: other stages have never run in this project.
    team.anna.run("dvc", "exp", "apply", "-q", name, ok=None)
    metrics = json.loads((team.anna.folder / "metrics/train.json").read_text())
    assert metrics["validation_kid"] == pytest.approx(values[before])
    assert experiment_metrics(team.ben.folder, commit)["quality/validation_kid"] == pytest.approx(
        metrics["validation_kid"]
    )
    require_no_password(team, anna.output() + ben.output())


def require_no_password(team: Team, output: str) -> None:
    assert PASSWORD not in output
    for project in (team.anna, team.ben):
        for folder in (".atelier", ".dvc/tmp", ".git"):
            for file, content in texts(project.folder / folder):
                assert PASSWORD.encode() not in content, file
    experiment = team.client.get_experiment_by_name("atelier")
    for run in team.client.search_runs([experiment.experiment_id], max_results=1000):
        assert PASSWORD not in str(run.to_dictionary())


@contextmanager
def outage(database: str) -> Iterator[None]:
    """Refuse and close all connections to the database of studies."""
    close = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'studies'"
    with closing(psycopg.connect(database, autocommit=True)) as connection:
        connection.execute("ALTER DATABASE studies ALLOW_CONNECTIONS false")
        try:
            connection.execute(close)
            yield
        finally:
            connection.execute("ALTER DATABASE studies ALLOW_CONNECTIONS true")


def test_search_waits_for_database(team: Team, database: str) -> None:
    for project in (team.anna, team.ben):
        write_search(project, trials=2)
    with team.search(team.anna) as anna:
        until(lambda: anna.is_training(0), anna)
        with outage(database):
            until(lambda: "waiting for it, at most 10 minutes" in anna.output(), anna)
        until(lambda: anna.process.poll() is not None)
        assert anna.process.returncode == 0, anna.output()
    assert anna.trials() == [0, 1]
    assert sorted(finished(team)) == [0, 1]
    assert team.experiments() == NAMES[:2]
    assert PASSWORD not in anna.output()
