"""Fixtures of all tests: paths, settings, projects and a web server."""

import http.server
import itertools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import settings as hypothesis_settings

from atelier.core import settings
from atelier.core.yaml_files import read_yaml
from atelier.tracking.environment import private_folder
from atelier.tracking.run_state import STOP_SIGNALS
from atelier.tracking.store import open_store

from .support.processes import MARK, end_processes, reset_ignored_signals
from .support.project import Project, clone, prepare

BuildOnce = Callable[[str, Callable[[Path], None]], Path]
ROOT = Path(__file__).parents[1]
_NUMBERS = itertools.count()
SHARED = ROOT.parent / "shared"

# Workers run in parallel; more threads would only compete. Stages in this process and in others
# must have the same number, because checkpoints are resumed only with the same one.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
reset_ignored_signals()
# No deadline: an example can take long on a busy machine.
hypothesis_settings.register_profile("atelier", deadline=None, max_examples=25)
hypothesis_settings.register_profile("thorough", deadline=None, max_examples=100)
hypothesis_settings.load_profile("atelier")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of finished projects first.

    pytest-xdist gives each worker an unbroken part of the list, so that only the first worker
    needs a finished project early, and no other worker waits while it is prepared.
    """
    items.sort(key=lambda item: "prepared" not in getattr(item, "fixturenames", ()))


@pytest.fixture(autouse=True)
def _no_leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kill the processes that a test started, and restore the handlers of signals.

    Processes of module fixtures keep running. A stage that a test runs in this process ignores
    signals at its end; programs of later tests would inherit that.
    """
    mark = f"{os.getpid()}-{next(_NUMBERS)}"
    monkeypatch.setenv(MARK, mark)
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    while end_processes(mark):
        pass  # a process may have started another one


@pytest.fixture(scope="session", autouse=True)
def _unchanged_repository() -> Iterator[None]:
    """Fail if a test leaves a file in the repository's own folder, e.g. a store of MLflow."""
    before = set(os.listdir(ROOT))
    yield
    left = {name for name in set(os.listdir(ROOT)) - before if not name.startswith(".hypothesis")}
    assert left <= {".pytest_cache"}, "tests must write to temporary folders"


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real data next to the repository; skip the test if it is missing."""
    if not SHARED.is_dir():
        pytest.skip("there is no folder of real data next to the project")
    return SHARED


@pytest.fixture
def make_settings() -> Callable[..., settings.Settings]:
    """Return a function that changes the plain DCGAN's settings, e.g. f(train={"lr": 1.0})."""
    values = read_yaml(ROOT / "params.yaml")
    values.update(read_yaml(ROOT / "presets/base.yaml")["values"])
    values["evaluate"]["features"] = "random"  # the fastest

    def make(**sections: dict[str, Any]) -> settings.Settings:
        changed = deepcopy(values)
        for section, changes in sections.items():
            changed[section].update(changes)
        return settings.check(changed, "params.yaml")

    return make


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """Clone of the project without outputs of a run."""
    return clone(tmp_path / "project")


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> BuildOnce:
    """Return a function that builds a folder in the first worker; all workers share it."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent  # the folder of all workers

    def build(name: str, fill: Callable[[Path], None]) -> Path:
        folder, finished = shared / name, shared / f"{name}.finished"
        with FileLock(shared / f"{name}.lock"):
            # Not moved later: MLflow's store contains absolute paths of artifacts.
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                finished.touch()
        return folder

    return build


@pytest.fixture(scope="session")
def prepared(build_once: BuildOnce) -> Path:
    """Folder of two finished projects."""
    return build_once("prepared", prepare)


@pytest.fixture(scope="session")
def empty_store(build_once: BuildOnce) -> Path:
    """Database file of an MLflow store without runs; creating its tables takes seconds."""

    def fill(folder: Path) -> None:
        private_folder(folder)
        open_store(folder, "other")

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return build_once("store", fill) / "mlflow.db"


@pytest.fixture(scope="session")
def _ready(prepared: Path) -> Project:
    return Project(prepared / "untracked")


@pytest.fixture(scope="session")
def _tracked(prepared: Path) -> Project:
    return Project(prepared / "tracked")


@pytest.fixture
def ready(_ready: Project, tmp_path: Path) -> Project:
    """Clone with the outputs of the complete pipeline; MLflow is turned off."""
    return _ready.copy(tmp_path / "project")


@pytest.fixture
def tracked(_tracked: Project, tmp_path: Path) -> Project:
    """Clone with the outputs of the complete pipeline and its MLflow runs."""
    return _tracked.copy(tmp_path / "project")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Folder that an HTTP server serves, and its URL."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder for the weights of torch hub, separate for each test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch/hub/checkpoints"
