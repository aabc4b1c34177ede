"""What all tests share: the repository's paths, and settings to start from."""

import http.server
import itertools
import os
import shutil
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

from .support.processes import MARK, end_processes, reset_ignored_signals
from .support.project import Project, clone, prepare

ROOT = Path(__file__).parents[1]
_NUMBERS = itertools.count()
SHARED = ROOT.parent / "shared"

torch.set_num_threads(1)  # tests run side by side; more threads would only wait for each other
reset_ignored_signals()
# No test asserts a time: a busy machine takes any time for an example.
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
    """End what a test started, if it passed or not; fixtures of a module keep theirs."""
    mark = f"{os.getpid()}-{next(_NUMBERS)}"
    monkeypatch.setenv(MARK, mark)
    yield
    while end_processes(mark):
        pass  # one of them may just have started another


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data beside the project; tests that need it skip without."""
    if not SHARED.is_dir():
        pytest.skip("there is no folder of real data beside the project")
    return SHARED


@pytest.fixture
def make_settings() -> Callable[..., settings.Settings]:
    """The plain DCGAN's settings, with some values changed: make_settings(train={"lr": 1.0})."""
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
    """A clone of the project in which nothing has run."""
    return clone(tmp_path / "project")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of two finished projects, which the first worker makes and all workers share."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent  # the folder of all workers
    with FileLock(shared / "prepared.lock"):
        # Prepared where it stays: MLflow's store holds absolute paths of artifacts.
        if not (shared / "prepared" / "finished").exists():
            shutil.rmtree(shared / "prepared", ignore_errors=True)
            (shared / "prepared").mkdir()
            prepare(shared / "prepared")
            (shared / "prepared" / "finished").touch()
    return shared / "prepared"


@pytest.fixture(scope="session")
def _ready(prepared: Path) -> Project:
    return Project(prepared / "untracked")


@pytest.fixture(scope="session")
def _tracked(prepared: Path) -> Project:
    return Project(prepared / "tracked")


@pytest.fixture
def ready(_ready: Project, tmp_path: Path) -> Project:
    """A clone of the project in which the whole chain has run once; MLflow is turned off."""
    return _ready.copy(tmp_path / "project")


@pytest.fixture
def tracked(_tracked: Project, tmp_path: Path) -> Project:
    """A clone of the project in which the whole chain has run once, with MLflow."""
    return _tracked.copy(tmp_path / "project")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which a real server offers it."""
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
    """Where torch hub keeps weights: a folder of this test's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch/hub/checkpoints"
