"""Durations of stages, and whether they belong to the present outputs."""

import json
from pathlib import Path

import pytest
import torch

from atelier.core.device import device_name
from atelier.tracking import timings
from atelier.tracking.run_state import Fingerprint
from atelier.tracking.timings import Stopwatch, read_timings, run_facts

TRAINING = Fingerprint(
    settings={"train.epochs": 3, "download.archive.location": "https://me:secret@host/a.zip?key=1"},
    files={"src/a.py": "code"},
    contents={"src/a.py": "5678"},
)
LOCK = """
schema: '2.0'
stages:
  train:
    cmd: python stages/train.py
    deps:
    - {path: src/a.py, md5: '5678'}
    params:
      params.yaml:
        train.epochs: 3
        download.archive.location: https://me:secret@host/a.zip?key=1
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory, in which the training is recorded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.lock").write_text(LOCK)
    monkeypatch.setattr(timings, "machine", lambda: "EPYC, 2 cores, 8 GiB")
    return tmp_path


def test_timing_belongs_to_the_recorded_outputs_only(project: Path) -> None:
    Stopwatch().record("train", TRAINING, "cpu", resumed=False)
    timing = read_timings(["train"])["train"]
    assert 0 <= timing.seconds < 60
    assert (timing.resumed, timing.machine) == (False, "EPYC, 2 cores, 8 GiB")
    assert timing.device == device_name(torch.device("cpu"))
    (project / "dvc.lock").write_text(LOCK.replace("epochs: 3", "epochs: 4"))
    assert read_timings(["train"]) == {}
    (project / "dvc.lock").write_text(LOCK.replace("5678", "9999"))
    assert read_timings(["train"]) == {}


def test_timings_contain_no_secrets(project: Path) -> None:
    Stopwatch().record("train", TRAINING, "cpu", resumed=False)
    text = (project / ".atelier/timings/train.json").read_text("utf-8")
    assert "host/a.zip" in text
    assert "secret" not in text
    assert "key=1" not in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"timing": {}, "fingerprint": {}}'])
def test_damaged_or_missing_timings_are_ignored(project: Path, content: str) -> None:
    assert read_timings(["train", "render"]) == {}
    (project / ".atelier/timings").mkdir(parents=True)
    (project / ".atelier/timings/train.json").write_text(content)
    assert read_timings(["train"]) == {}
    (project / "dvc.lock").unlink()
    assert read_timings(["train"]) == {}


def test_unknown_stage_and_full_disk_do_not_fail(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Stopwatch().record("train", None, "cpu", resumed=False)
    assert not (project / ".atelier").exists()
    (project / ".atelier").write_text("in the way")
    Stopwatch().record("train", TRAINING, "cpu", resumed=False)
    assert read_timings(["train"]) == {}


def test_missing_device_does_not_fail_a_finished_stage(project: Path) -> None:
    Stopwatch().record("train", TRAINING, "cuda:99", resumed=False)
    assert read_timings(["train"])["train"].device == ""
    assert dict(run_facts(["train"]))["Training"] == "a few seconds"


def test_value_that_json_lacks_does_not_fail_a_finished_stage(project: Path) -> None:
    odd = Fingerprint(settings={"train.epochs": {1, 2}}, files={}, contents={})
    Stopwatch().record("train", odd, "cpu", resumed=False)
    assert read_timings(["train"]) == {}


def test_temporary_copy_reads_timings_of_the_main_project(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC sets DVC_ROOT to the main project, and restores its outputs into the copy."""
    (project / ".dvc").mkdir()
    Stopwatch().record("train", TRAINING, "cpu", resumed=False)
    copy = project / "copy"
    (copy / ".dvc").mkdir(parents=True)
    (copy / "dvc.lock").write_text(LOCK)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project))
    main = read_timings(["train"])["train"]
    assert not (copy / ".atelier").exists()
    Stopwatch().record("train", TRAINING, "cpu", resumed=True)
    assert read_timings(["train"])["train"].resumed, "its own timing comes first"
    assert not main.resumed
    (copy / "dvc.lock").write_text(LOCK.replace("epochs: 3", "epochs: 4"))
    assert read_timings(["train"]) == {}, "the outputs have other settings"


def test_facts_state_durations_of_stages_that_ran(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Stopwatch().record("train", TRAINING, "cpu", resumed=True)
    file = project / ".atelier/timings/train.json"
    content = json.loads(file.read_text("utf-8"))
    content["timing"]["seconds"] = 123.4
    file.write_text(json.dumps(content))
    monkeypatch.setattr(
        timings,
        "git_tags",
        lambda: {"mlflow.source.git.commit": "12345678" * 5, "git.dirty": "true"},
    )
    facts = dict(run_facts(["train"]))
    assert facts.pop("Date")
    assert facts == {
        "Training": f"2 minutes since it was resumed ({device_name(torch.device('cpu'))})",
        "Pipeline": "2 minutes in 1 stage",
        "Machine": "EPYC, 2 cores, 8 GiB",
        "Commit": "12345678, with uncommitted changes",
    }
    facts = dict(run_facts(["convert", "train"]))
    assert facts["Pipeline"] == "2 minutes; convert restored from DVC's cache"
    file.unlink()
    facts = dict(run_facts(["train"]))
    assert facts["Training"] == "restored from DVC's cache, which does not record the duration"
    assert facts["Pipeline"] == "train restored from DVC's cache"
