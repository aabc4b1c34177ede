"""Two clones of a project that share a git remote, a DVC remote, MLflow and PostgreSQL."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from ruamel.yaml import YAML

from atelier.tracking.epoch_reports import read_reports

from .project import Project
from .servers import program

TIMEOUT_SECONDS = 900.0
STUDY = "two-workers"
SEARCH: dict[str, Any] = {
    "study": STUDY,
    "settings": {"train.lr": {"low": 0.0001, "high": 0.001, "log": True}},
    "fixed": {"train.epochs": 3, "train.kid_every_epochs": 1},
    "trials": 4,
    "sampler": "random",
    "pruner": "none",
    "git_remote": "origin",
}


def until(condition: Callable[[], Any], worker: "Worker | None" = None) -> Any:
    """Wait until a condition is true; return its value.

    Raises:
        AssertionError: the timeout expired, or the worker has exited.
    """
    end = time.monotonic() + TIMEOUT_SECONDS
    while True:
        exited = worker is not None and worker.process.poll() is not None
        if value := condition():
            return value
        text = worker.output() if worker else ""
        assert not exited, f"it exited:\n{text}"
        assert time.monotonic() < end, f"timeout:\n{text}"
        time.sleep(0.1)


@dataclass
class Worker:
    """Running search."""

    project: Project
    process: "Popen[bytes]"
    log: Path

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def trials(self) -> list[int]:
        """Return the numbers of the trials that it has started."""
        lines = [line.split() for line in self.output().splitlines() if line.startswith("trial ")]
        return [int(words[1]) for words in lines]

    def is_training(self, number: int) -> bool:
        """Return True if the training of a trial has measured an epoch."""
        name = f"{STUDY}-*/{STUDY}-trial-{number:03d}.epochs"
        files = (self.project.folder / ".atelier/search").glob(name)
        return any(read_reports(file) for file in files)


@dataclass
class Team:
    """Clones and their servers.

    Attributes:
        anna: the first clone, in which all outputs exist.
        ben: the second one, cloned from the git remote, with outputs from DVC's remote.
        remote: bare git repository.
        environment: variables with the addresses of the servers.
    """

    anna: Project
    ben: Project
    remote: Project
    environment: Mapping[str, str]
    client: MlflowClient = field(repr=False)

    @contextmanager
    def search(self, project: Project, *options: str) -> Iterator[Worker]:
        """Run a search in the body of ``with``."""
        log = project.folder.with_suffix(f".{time.monotonic_ns()}.log")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
        environment = inherited | self.environment | {"OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        command = (sys.executable, "-u", "-m", "atelier.cli.app", "search", *options)
        with program(*command, log=log, cwd=project.folder, env=environment) as running:
            yield Worker(project, running, log)

    def experiments(self) -> list[str]:
        """Return the names of the experiments on the git remote."""
        names = self.remote.run("git", "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps")
        return sorted(names.split())

    def pipelines(self) -> list[Run]:
        """Return the finished pipeline runs below the run of the study."""
        experiment = self.client.get_experiment_by_name("atelier")
        runs = self.client.search_runs([experiment.experiment_id], max_results=1000)
        studies = [
            run for run in runs if run.data.tags.get("atelier.study", "").startswith(f"{STUDY}-")
        ]
        assert [run.info.status for run in studies] == ["FINISHED"]
        return [
            run
            for run in runs
            if run.data.tags.get("mlflow.parentRunId") == studies[0].info.run_id
            and run.info.status == "FINISHED"
        ]


def make_team(source: Project, folder: Path, database: str, server: str) -> Team:
    """Return two clones of a finished project.

    Args:
        source: with all outputs.
        folder: receives the clones and remotes.
        database: address for the study.
        server: address of MLflow.
    """
    anna = source.copy(folder / "anna")
    anna.set(**{"tracking.enabled": True})
    for name, value in (("user.name", "anna"), ("user.email", "anna@localhost")):
        anna.run("git", "config", name, value)
    anna.run("git", "init", "-q", "--bare", str(folder / "remote.git"))
    anna.run("git", "remote", "add", "origin", str(folder / "remote.git"))
    anna.run("dvc", "remote", "add", "-q", "-d", "shared", str(folder / "dvc"))
    anna.commit()
    branch = anna.run("git", "branch", "--show-current").strip()
    anna.run("git", "push", "-q", "origin", branch)
    anna.run("dvc", "push", "-q")
    anna.run("git", "clone", "-q", "-b", branch, str(folder / "remote.git"), str(folder / "ben"))
    ben = Project(folder / "ben")
    for name, value in (("user.name", "ben"), ("user.email", "ben@localhost")):
        ben.run("git", "config", name, value)
    ben.run("dvc", "pull", "-q", "download", "convert")
    for project in (anna, ben):
        write_search(project)
    environment = {"ATELIER_SEARCH_STORAGE": database, "MLFLOW_TRACKING_URI": server}
    remote = Project(folder / "remote.git")
    return Team(anna, ben, remote, environment, MlflowClient(server))


def write_search(project: Project, **changes: Any) -> None:
    """Write ``search.yaml``."""
    with (project.folder / "search.yaml").open("w") as file:
        YAML().dump(SEARCH | changes, file)


def texts(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the content of all small files below a folder."""
    for file in folder.rglob("*"):
        with suppress(OSError):  # it is being removed
            if file.is_file() and file.stat().st_size < 2**20:
                yield file, file.read_bytes()
