"""Tests of `atelier search` with the real dvc, on tiny projects."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from atelier.core.errors import AtelierError
from atelier.core.yaml_files import read_yaml
from atelier.data.dataset import save_images
from atelier.search.loop import require_recorded
from atelier.search.settings import load_search
from atelier.search.study import OpenStudy, open_study
from atelier.search.trials import TrialRun
from atelier.tracking.epoch_reports import has_ended, read_reports, read_seconds
from atelier.tracking.experiment_run import Attempt, run_experiment
from atelier.tracking.experiments import experiment_metrics, experiments, finished_experiment

from ..support.project import Project
from .test_search_settings import write

FIXED = {"train.epochs": 3, "train.kid_every_epochs": 1, "train.kid_samples": 32}


def make_study(project: Project, **changes: Any) -> None:
    """Commit the project, and write a study of tiny trials."""
    project.commit()
    write(project.folder, study="tiny", fixed=FIXED, pruner="none", trials=2, **changes)


def trials(project: Project, study: str = "tiny") -> list[FrozenTrial]:
    storage = f"sqlite:///{project.folder}/.atelier/search.db"
    return optuna.load_study(study_name=study, storage=storage).get_trials()


def read_json(project: Project, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((project.folder / name).read_text("utf-8"))
    return content


@pytest.fixture(scope="module")
def searched(_ready: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Project with a finished study of two trials."""
    project = _ready.copy(tmp_path_factory.mktemp("searched") / "project")
    make_study(project)
    output = project.run("atelier", "search")
    (project.folder / "output.txt").write_text(output, "utf-8")
    return project


def test_trials_are_experiments_with_their_settings_and_results(searched: Project) -> None:
    found = experiments(searched.folder)
    assert sorted(found) == ["tiny-trial-000", "tiny-trial-001"]
    for trial, name in zip(trials(searched), sorted(found), strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.user_attrs["experiments"] == [name]
        metrics = experiment_metrics(searched.folder, found[name])
        assert trial.value == metrics["quality/validation_kid"]
        assert trial.user_attrs["seed_values"] == [trial.value]
        assert trial.user_attrs["steps"] == 3 * 64 / trial.params["train.batch_size"]
        assert sorted(trial.intermediate_values) == [1, 2, 3]
        assert round(trial.intermediate_values[3], 2) == round(trial.value, 2)
        (file,) = (searched.folder / ".atelier/search").glob(f"tiny-*/{name}.epochs")
        assert [report.epoch for report in read_reports(file)] == [1, 2, 3]
        assert has_ended(file)
        assert 0 < read_seconds(file) < 2 * trial.user_attrs["seconds"]
        text = searched.run("git", "show", f"{found[name]}:params.yaml")
        assert f"batch_size: {trial.params['train.batch_size']}" in text
        assert "epochs: 3" in text
    assert trials(searched)[0].params == {"train.lr": 0.0002, "train.batch_size": 16}


def test_workspace_is_unchanged_by_a_search(searched: Project) -> None:
    assert searched.run("git", "status", "--porcelain", "-uno") == ""
    assert read_yaml(searched.folder / "params.yaml")["train"]["epochs"] == 2


def test_output_ends_with_commands_that_work(searched: Project, tmp_path: Path) -> None:
    output = (searched.folder / "output.txt").read_text("utf-8")
    best = min(trials(searched), key=lambda trial: trial.value or 0.0)
    assert f"Trial {best.number} is the best of 2" in output
    (command,) = [
        line.split("   ")[0].strip() for line in output.splitlines() if "exp apply" in line
    ]
    project = searched.copy(tmp_path / "applied")
    project.run(*command.split())
    assert read_json(project, "metrics/train.json")["validation_kid"] == best.value
    assert read_yaml(project.folder / "params.yaml")["train"]["epochs"] == 3


def test_applied_settings_leave_the_fixed_ones(searched: Project, tmp_path: Path) -> None:
    project = searched.copy(tmp_path / "project")
    trial = trials(project)[1]
    output = project.atelier("search", "--apply", "1")
    train = read_yaml(project.folder / "params.yaml")["train"]
    assert f"train.lr: 0.0002 -> {train['lr']}" in output
    assert train["lr"] == pytest.approx(trial.params["train.lr"], rel=1e-3)
    assert train["epochs"] == 2
    assert "commit them before `atelier seeds 3`" in output
    assert "WARNING" not in output
    project.atelier("search", "--apply", "1", "--with-fixed")
    assert read_yaml(project.folder / "params.yaml")["train"]["epochs"] == 3
    storage = f"sqlite:///{project.folder}/.atelier/search.db"
    optuna.load_study(study_name="tiny", storage=storage).ask()
    warning = "WARNING: trial 2 has not finished, so its result is not known."
    assert warning in project.atelier("search", "--apply", "2")
    assert "has no trial 7; they are numbered from 0 to 2" in project.atelier(
        "search", "--apply", "7", ok=False
    )


def test_finished_search_runs_nothing_again(searched: Project) -> None:
    before = experiments(searched.folder)
    output = searched.atelier("search")
    assert "trial 0 of 2" not in output
    assert experiments(searched.folder) == before


def test_uncommitted_settings_are_refused(searched: Project, tmp_path: Path) -> None:
    project = searched.copy(tmp_path / "project")
    project.set(**{"train.lr": 0.5})
    output = project.atelier("search", ok=False)
    assert "params.yaml changed since the last commit" in output


def test_few_validation_images_are_refused(searched: Project, tmp_path: Path) -> None:
    project = searched.copy(tmp_path / "project")
    path = project.folder / "data/validation.npz"
    path.unlink()
    save_images(path, [bytes(15 * 16 * 16 * 3)], (15, 16, 16, 3), [f"{n}" for n in range(15)])
    output = project.atelier("search", ok=False)
    assert "data/validation.npz has 15 images, and the KID of epochs needs 16" in output


def test_lost_cache_is_refused_before_any_trial(searched: Project, tmp_path: Path) -> None:
    project = searched.copy(tmp_path / "project")
    lock = read_yaml(project.folder / "dvc.lock")
    md5 = lock["stages"]["stylize"]["outs"][-1]["md5"]
    (path,) = (project.folder / ".dvc/cache/files/md5" / md5[:2]).glob(md5[2:])
    path.chmod(0o600)
    path.unlink()
    with pytest.raises(AtelierError, match=r"not in DVC's cache \(styled\).*or `dvc pull`"):
        require_recorded(project.folder)


def head(project: Project) -> str:
    return project.run("git", "rev-parse", "HEAD").strip()


def open_tiny(project: Project) -> tuple[OpenStudy, dict[str, Any]]:
    search, present = load_search(project.folder / "search.yaml", project.folder / "params.yaml")
    return open_study(search, present, project.folder), present


def run_next(project: Project, opened: OpenStudy, present: dict[str, Any]) -> FrozenTrial:
    trial = opened.next_trial()
    assert trial is not None
    TrialRun(opened, trial, project.folder, present, print).run()
    opened.claims.release(trial.number)
    return opened.study.get_trials()[trial.number]


@pytest.mark.slow
def test_pruned_training_is_saved_and_resumed(
    ready: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(ready)
    write(ready.folder, study="tiny", fixed=FIXED | {"train.epochs": 60}, trials=2)
    monkeypatch.chdir(ready.folder)
    opened, present = open_tiny(ready)
    opened.study.pruner = optuna.pruners.ThresholdPruner(upper=0.0)
    ended = run_next(ready, opened, present)
    assert ended.state == TrialState.PRUNED
    steps = ended.user_attrs["steps"]
    assert 4 <= steps < 240
    name = "tiny-trial-000"
    assert list(experiments(ready.folder)) == [name]
    assert "train:" not in ready.run("git", "show", f"{experiments(ready.folder)[name]}:dvc.lock")
    ready.atelier("search", "--apply", "0", "--with-fixed")
    output = ready.run("dvc", "repro", "train")
    assert f"of which {240 - steps} steps remain" in output


@pytest.mark.slow
def test_failed_trial_keeps_its_reason(ready: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(ready)
    write(ready.folder, study="tiny", fixed=FIXED | {"train.conditional": True}, pruner="none")
    monkeypatch.chdir(ready.folder)
    ended = run_next(ready, *open_tiny(ready))
    assert ended.state == TrialState.FAIL
    assert "an image's class is the last folder in its name" in ended.user_attrs["reason"]
    assert experiments(ready.folder) == {}


@pytest.mark.slow
def test_search_stops_after_three_failures(ready: Project) -> None:
    make_study(ready)
    write(ready.folder, study="tiny", fixed=FIXED | {"train.conditional": True}, pruner="none")
    output = ready.run("atelier", "search", ok=False)
    assert "ERROR: 3 trials in a row failed, the last one: " in output
    assert "an image's class is the last folder in its name" in output
    assert [trial.state for trial in trials(ready)] == [TrialState.FAIL] * 3


def test_experiment_of_other_settings_is_not_taken_for_a_trial(searched: Project) -> None:
    name, other = "tiny-trial-000", {"train.lr": 0.9}
    with pytest.raises(AtelierError, match=r"train\.lr is 0\.0002 instead of 0\.9; remove it"):
        finished_experiment(searched.folder, name, other, "train", head(searched))


def test_reason_of_a_failed_experiment_is_the_stage_s_own(
    searched: Project, tmp_path: Path
) -> None:
    attempt = Attempt("bad", {"train.lr": -1.0}, "train", tmp_path, commit=head(searched))
    outcome = run_experiment(searched.folder, attempt)
    assert outcome.status == "failed"
    sentence = "params.yaml: train.lr is -1.0, but it should be greater than 0."
    assert outcome.reason == sentence
