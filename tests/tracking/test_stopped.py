"""Reason why a training does not continue the last one, which was stopped."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atelier.tracking.finished import stopped_reason
from atelier.tracking.run import Run
from atelier.tracking.run_state import Fingerprint, ResumeDir

from ..support.project import Project

TRAINING = Fingerprint(
    settings={"train.epochs": 2, "train.steps": 0, "train.lr": 0.1, "train.augment": []},
    files={"src/atelier/gan": "code"},
    contents={"src/atelier/gan": "5678"},
)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Folder ``.atelier/`` of a project."""
    return tmp_path / ".atelier"


def stop(private: Path, fingerprint: Fingerprint, seconds: float) -> Path:
    """Save checkpoints of a training at a time; return the folder."""
    resume_dir = ResumeDir(private, "train", fingerprint, "cpu", None)
    with resume_dir.checkpoints("outbox") as saved:
        saved.save(1, {"number": torch.tensor(1)})
    for file in resume_dir.folder.glob("state-*"):
        os.utime(file, (seconds, seconds))
    return resume_dir.folder


def reason_now(private: Path, device: str = "cpu", **settings: object) -> str:
    """Return why a training with other settings does not continue a stopped one."""
    changed = {f"train.{name}": value for name, value in settings.items()}
    fingerprint = replace(TRAINING, settings=TRAINING.settings | changed)
    return stopped_reason(ResumeDir(private, "train", fingerprint, device, None))


def test_change_since_a_stopped_training_is_the_reason(private: Path) -> None:
    assert reason_now(private, steps=700) == ""
    folder = stop(private, replace(TRAINING, settings=TRAINING.settings | {"train.steps": 6000}), 1)
    files = {path.name for path in folder.iterdir()}
    assert reason_now(private, steps=700) == "train.steps was 6000 and is 700"
    assert reason_now(private, steps=6000, epochs=4) == "train.epochs was 2 and is 4"
    assert reason_now(private, steps=6000, lr=0.2) == "train.lr was 0.1 and is 0.2"
    reason = "train.augment was [] and is 1 (and 2 other changes)"
    assert reason_now(private, steps=700, augment=1, lr=0.2) == reason
    assert reason_now(private, "cuda", steps=6000) == "device was cpu and is cuda"
    assert stopped_reason(ResumeDir(private, "train", None, "cpu", None)) == ""
    assert {path.name for path in folder.iterdir()} == files, "nothing is removed"
    (folder / "fingerprint.json").write_text("{", "utf-8")
    assert reason_now(private, steps=700) == ""


def test_only_the_last_training_that_was_stopped_is_a_reason(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(rate: float) -> Fingerprint:
        return replace(TRAINING, settings=TRAINING.settings | {"train.lr": rate})

    stop(private, training(0.3), 3)
    stop(private, training(0.2), 2)
    assert reason_now(private) == "train.lr was 0.3 and is 0.1"
    monkeypatch.setenv("ATELIER_STUDY", "study")
    stop(private, training(0.4), 4)
    monkeypatch.delenv("ATELIER_STUDY")
    assert reason_now(private) == "train.lr was 0.3 and is 0.1", "a search ended its trial"
    with ResumeDir(private, "train", training(0.3), "cpu", None).checkpoints("outbox"):
        assert reason_now(private) == "train.lr was 0.2 and is 0.1", "the other one still runs"
    finished = stop(private, training(0.5), 5)
    (finished / "finished").touch()
    assert reason_now(private) == "", "a later training has finished"
    (private / "finished").mkdir()
    finished.rename(private / "finished" / finished.name)
    assert reason_now(private) == "", "its state is kept for a longer training"


def test_resumed_trainings_and_trials_have_no_reason(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(private, replace(TRAINING, settings=TRAINING.settings | {"train.epochs": 4}), 2)
    run = Run(None, ResumeDir(private, "train", TRAINING, "cpu", None))
    assert run.stopped_reason() == "train.epochs was 4 and is 2"
    monkeypatch.setenv("ATELIER_STUDY", "study")
    assert run.stopped_reason() == ""
    monkeypatch.delenv("ATELIER_STUDY")
    stop(private, TRAINING, 1)
    assert run.stopped_reason() == "", "its own checkpoint is older"
    assert Run(None).stopped_reason() == ""


def test_stage_prints_why_a_stopped_training_is_not_continued(ready: Project) -> None:
    private = ready.folder / ".atelier"
    (kept,) = (private / "finished").glob("train-*")
    stopped = kept.rename(private / "unfinished" / kept.name)
    (stopped / "finished").unlink()
    ready.set(**{"train.epochs": 1})
    sentence = "  The stopped training is not continued, because train.epochs was 2 and is 1."
    assert f"\n{sentence}\n" in f"\n{ready.stage('train')}"
    ready.set(**{"train.epochs": 2})
    output = ready.stage("train")
    assert "not continued" not in output
    assert stopped.is_dir()
