"""What all tests share: the repository's paths, and settings to start from."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from atelier import settings

from .project import Project, clone

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

torch.set_num_threads(1)  # tests run side by side; more threads would only wait for each other


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
    """The settings of params.yaml, with some values changed: make_settings(train={"lr": 1.0})."""
    values = settings.read_yaml(ROOT / "params.yaml")

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
def _ready(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = clone(tmp_path_factory.mktemp("ready") / "project")
    project.repro()
    project.delivered()
    return project


@pytest.fixture
def ready(_ready: Project, tmp_path: Path) -> Project:
    """A clone of the project in which the whole chain has run once."""
    return _ready.copy(tmp_path / "project")
