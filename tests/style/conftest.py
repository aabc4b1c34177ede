"""Fixtures of tests of style transfers."""

import pytest

from atelier.style import graphed_evaluation


@pytest.fixture
def cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn on CUDA graphs, which are off by default."""
    monkeypatch.setattr(graphed_evaluation, "USE_CUDA_GRAPHS", True)
