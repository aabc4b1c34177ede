"""Tests of a queue of its own for each experiment."""

from types import SimpleNamespace

import dvc.repo.experiments
import pytest

from atelier.tracking import private_dvc


def test_dvc_runs_with_the_queue_of_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    queues = []

    def main(arguments: list[str]) -> int:
        assert arguments == ["exp", "run"]
        # The property of DVC itself, which `dvc exp run --temp` uses.
        experiments = object.__new__(dvc.repo.experiments.Experiments)
        experiments.repo = SimpleNamespace(tmp_dir="tmp")
        queues.append(experiments.tempdir_queue.ref)
        return 3

    monkeypatch.setattr(dvc.repo.experiments, "WORKSPACE_STASH", "refs/exps/stash")
    monkeypatch.setattr(private_dvc, "main", main)
    assert private_dvc.run("study-trial-001", ["exp", "run"]) == 3
    assert queues == ["refs/atelier/queues/study-trial-001"]
