"""Workers that cannot join a study, lose a trial, or miss an experiment; without PostgreSQL."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atelier.cli.search import _summary, _write_report
from atelier.core.errors import AtelierError
from atelier.search.claims import Claims
from atelier.search.loop import _waiting_line
from atelier.search.settings import SearchSettings
from atelier.search.study import OpenStudy, open_study
from atelier.search.trials import TrialRun
from atelier.tracking import experiment_run
from atelier.tracking.experiment_process import NOT_PUSHED, main
from atelier.tracking.experiment_remote import require_remotes
from atelier.tracking.experiment_run import Attempt, Progress, run_experiment

from ..support.live import state as make_state
from ..support.project import AUTHOR, Project, clone
from ..support.team import write_search

PRESENT: dict[str, Any] = {"train.lr": 0.15, "train.seed": 1}
NAME = "study-trial-000"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Git repository with a commit."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").touch()
    (folder / "params.yaml").write_text("train: {lr: 0.15, seed: 1}\n")
    git(folder, "init", "-q")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, *AUTHOR, "commit", "-qm", "commit", "--allow-empty")


def opened(root: Path, **changes: Any) -> OpenStudy:
    space = {"train.lr": {"low": 0.1, "high": 0.2}}
    search = SearchSettings.model_validate({"study": "study", "settings": space} | changes)
    return open_study(search, PRESENT, root, str(root.parent / "studies.db"))


def test_worker_of_other_commit_is_rejected(root: Path) -> None:
    before = git(root, "rev-parse", "HEAD")
    opened(root)
    commit(root)
    with pytest.raises(AtelierError, match=f"started from commit {before[:10]}, but") as error:
        opened(root)
    assert "check out that commit" in str(error.value)


def test_missing_remotes_are_rejected(root: Path) -> None:
    with pytest.raises(AtelierError, match=r"git has no remote team, .*; it has none. Type: git"):
        require_remotes(root, "team")
    git(root, "remote", "add", "origin", "/absent")
    with pytest.raises(AtelierError, match="it has origin"):
        require_remotes(root, "team")
    with pytest.raises(AtelierError, match=r"DVC has no default remote, .*: dvc remote add -d"):
        require_remotes(root, "origin")
    (root / ".dvc/config").write_text(
        "[core]\n    remote = team\n['remote \"team\"']\n    url = /absent\n"
    )
    require_remotes(root, "origin")


def test_command_rejects_worker_that_cannot_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = clone(tmp_path / "project")
    write_search(project)
    monkeypatch.delenv("ATELIER_SEARCH_STORAGE", raising=False)
    assert "--worker needs the PostgreSQL database" in worker(project)
    monkeypatch.setenv("ATELIER_SEARCH_STORAGE", "postgresql://anna:secret@127.0.0.1:1/x")
    assert "git has no remote origin, which git_remote in search.yaml names" in worker(project)
    write_search(project, git_remote="")
    output = worker(project)
    assert "--worker needs git_remote in search.yaml" in output
    assert "secret" not in output


def worker(project: Project) -> str:
    output = project.atelier("search", "--worker", ok=False)
    assert output.startswith("ERROR: ")
    assert len(output.splitlines()) == 1
    return output


def test_trial_that_other_worker_ended_is_left_to_it(root: Path) -> None:
    study, messages = opened(root), []
    trial = study.next_trial()
    assert trial
    run = TrialRun(study, trial, root, PRESENT, messages.append)
    assert run._is_ours()
    run._tell("COMPLETE", [2.0])
    run._next_check = 0.0
    assert not run._is_ours()
    run._tell("COMPLETE", [1.0])
    assert [t.value for t in study.study.get_trials()] == [2.0]
    assert messages == [
        "WARNING: the connection to the study's database was lost, and another worker has taken"
        " trial 0 over"
    ]


def test_result_without_claim_is_not_stored(root: Path) -> None:
    study, messages = opened(root), []
    trial = study.next_trial()
    assert trial
    run = TrialRun(study, trial, root, PRESENT, messages.append)
    study.claims.release(trial.number)
    assert not run._is_ours()
    run._tell("COMPLETE", [1.0])
    assert [t.state.name for t in study.study.get_trials()] == ["RUNNING"]
    assert len(messages) == 1


def test_summary_pulls_experiment_of_other_machine(root: Path) -> None:
    study = opened(root, git_remote="origin")
    trial = study.next_trial()
    assert trial
    trial.set_user_attr("experiments", [NAME])
    study.study.tell(trial, 2.0)
    text = "\n".join(_summary(study, root, "atelier search"))
    pull, apply = f"dvc exp pull origin {NAME}", f"dvc exp apply {NAME}"
    assert 0 < text.find(pull) < text.find(apply)
    head = git(root, "rev-parse", "HEAD")
    git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{NAME}", head)
    text = "\n".join(_summary(study, root, "atelier search"))
    assert pull not in text
    assert apply in text


def test_report_names_experiments_of_other_machines(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for remote, is_named in (("origin", True), ("", False)):
        study = opened(root, git_remote=remote)
        if trial := study.next_trial() if remote else None:
            trial.set_user_attr("experiments", [NAME])
            study.study.tell(trial, 2.0)
        _write_report(study, root, root / "search.html")
        output = capsys.readouterr().out
        assert "shows the study" in output
        assert (f"\n  dvc exp pull origin {NAME}\n" in output) == is_named
        study.claims.close()


def test_waiting_names_trials_of_other_workers(root: Path) -> None:
    study = opened(root)
    study.study.ask()
    study.study.ask()
    assert _waiting_line(study, study.unfinished()) == (
        "waiting for trials 0, 1, which another process runs; Ctrl-C ends the wait"
    )


def test_claims_on_one_machine_are_inherited(tmp_path: Path) -> None:
    anna, ben = (Claims(tmp_path, "study") for _ in range(2))
    assert anna.claim(0)
    assert anna.is_claimed(0)
    assert not ben.claim(0)
    assert not ben.is_claimed(0)
    assert anna.allows_takeover()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=anna.descriptors(0)) as command:
        anna.close()
        assert not anna.is_claimed(0)
        assert not ben.claim(0)
        command.communicate()
    assert ben.claim(0)
    assert ben.claim(1)
    ben.close()


def test_failed_call_ends_lock_of_new_trials(tmp_path: Path) -> None:
    anna, ben = (Claims(tmp_path, "study") for _ in range(2))
    with pytest.raises(ValueError, match="a mistake"), anna.asking():
        raise ValueError("a mistake")
    with ben.asking():
        assert ben._lock_file(-1, wait=False) is None


def test_result_of_killed_search_is_pulled(root: Path) -> None:
    """The other machine had pushed the experiment before it could store its result."""
    team = root.parent
    (root / ".dvc/config").write_text(
        f"[core]\n    remote = team\n['remote \"team\"']\n    url = {team / 'dvc'}\n"
    )
    (root / "dvc.yaml").write_text("stages:\n  train:\n    cmd: 'true'\n")
    commit(root)
    git(team, "init", "-q", "--bare", "remote.git")
    git(root, "remote", "add", "origin", str(team / "remote.git"))
    head = git(root, "rev-parse", "HEAD")
    reference = f"refs/exps/{head[:2]}/{head[2:]}/{NAME}"
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  train:\n    cmd: 'true'\n")
    git(root, "add", "dvc.lock")
    tree = git(root, "write-tree")
    experiment = git(root, *AUTHOR, "commit-tree", tree, "-p", head, "-m", "x")
    git(root, "push", "-q", "origin", f"{experiment}:{reference}")
    study = opened(root, git_remote="origin")
    trial = study.next_trial()
    assert trial
    run = TrialRun(study, trial, root, PRESENT, print)
    assert run._finished(NAME, {"train.lr": 0.15}) is None  # a new trial is not looked up
    run._is_continued = True
    assert run._finished("study-trial-001", {}) is None
    assert run._finished(NAME, {"train.lr": 0.15}) == experiment
    assert git(root, "rev-parse", reference) == experiment


def test_progress_is_that_of_the_train_stage(tmp_path: Path) -> None:
    attempt = Attempt("a", {}, "stylize", tmp_path)
    attempt.reports.write_text('{"epoch": 2, "kid": 1.5}\n', "utf-8")
    state = make_state("train", done=30, total=60, remaining=8.0, started=100.0, updated=107.0)
    progress = Progress()
    experiment_run._update(progress, state, attempt)
    assert (progress.seconds, progress.is_training) == (7.0, True)
    assert str(progress) == "step 30 of 60, about 8 seconds left, KID 1.5 (epoch 2)"
    experiment_run._update(progress, make_state("evaluate", done=5), attempt)
    assert (progress.seconds, progress.steps, progress.is_training) == (7.0, 30, False)
    assert str(progress) == ""


def test_stages_are_found_below_process_of_trial() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as command:
        assert command.pid in experiment_run._children(os.getpid())
        command.communicate()
    assert experiment_run._children(command.pid) == set()


def test_trial_of_several_machines_is_pushed_by_its_own_process(tmp_path: Path) -> None:
    attempt = Attempt(NAME, {"train.lr": 0.1}, "train", tmp_path)
    command = experiment_run._command(attempt)
    assert command[1:6] == ["-m", "dvc", "--wait-for-lock", "exp", "run"]
    shared = Attempt(NAME, {"train.lr": 0.1}, "train", tmp_path, git_remote="origin")
    program = [sys.executable, "-m", "atelier.tracking.experiment_process", "origin", NAME]
    assert experiment_run._command(shared) == [*program, *command]


def test_process_of_trial_returns_code_of_its_command(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; os.kill(os.getpid(), signal.SIGKILL) if sys.argv[1:] else exit(3)"
    )
    assert main(["origin", NAME, sys.executable, "-c", code]) == 3
    assert main(["origin", NAME, sys.executable, "-c", code, "kill"]) == 128 + 9


def test_process_of_trial_reports_failed_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # no project
    assert main(["origin", NAME, sys.executable, "-c", ""]) == NOT_PUSHED
    assert f"WARNING: {NAME} cannot be pushed to origin (" in capsys.readouterr().err


def test_commands_of_trial_do_not_receive_address(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_SEARCH_STORAGE", "postgresql://anna:secret@db/x")
    code = "import os; print(sorted(n for n in os.environ if n.startswith('ATELIER_S')))"
    monkeypatch.setattr(experiment_run, "_command", lambda attempt: [sys.executable, "-c", code])
    attempt = Attempt(NAME, {}, "train", root / "logs", study="study")
    assert run_experiment(root, attempt).status == "failed"
    assert attempt.log.read_text() == "['ATELIER_STUDY']\n"
