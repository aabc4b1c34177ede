"""Fixtures of the report page's tests."""

from pathlib import Path

import pytest

from ..support.pipeline_outputs import Outputs


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outputs:
    """Outputs of all other stages in the working directory."""
    monkeypatch.chdir(tmp_path)
    return Outputs(tmp_path)
