"""Fingerprints of a stage's settings and inputs."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from atelier.core.errors import AtelierError
from atelier.tracking import run_state
from atelier.tracking.dvc_lock import StageRecord
from atelier.tracking.run_state import Fingerprint, capture, verify_unchanged

TRAINING = Fingerprint(
    settings={"train.lr": 0.1, "train.augment": []},
    files={"data/faces.npy": "seen", "src/a.py": "code"},
    contents={"data/faces.npy": "1234", "src/a.py": "5678"},
)


def md5(content: str) -> str:
    return hashlib.md5(content.encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda _patch: replace(TRAINING, settings={"train.lr": 0.2, "train.augment": []}),
        lambda _patch: replace(TRAINING, settings={"train.lr": 0.1}),
        lambda _patch: replace(TRAINING, contents=TRAINING.contents | {"src/a.py": "9"}),
        lambda patch: patch.setattr(run_state, "version", lambda name: f"{name} 99"),
        lambda patch: patch.setattr(os, "sched_getaffinity", lambda _pid: set(range(99))),
        lambda patch: patch.setattr(os, "sched_getaffinity", lambda _pid: {0, *range(9, 99)}),
        lambda patch: patch.setattr(run_state, "gpu_names", lambda: ["H200"]),
        lambda patch: patch.setenv("OMP_NUM_THREADS", "99"),
        lambda patch: patch.setenv("MKL_NUM_THREADS", "99"),
        lambda patch: patch.setattr(run_state, "processes", lambda: 2),
    ],
    ids=[
        "setting",
        "missing setting",
        "content",
        "torch",
        "cores",
        "some cores",
        "cards",
        "OMP",
        "MKL",
        "processes",
    ],
)
def test_key_depends_on_fingerprint_and_machine(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], Fingerprint | None]
) -> None:
    monkeypatch.setattr(run_state, "gpu_names", lambda: ["H100"])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    key = TRAINING.key("cpu")
    assert len(key) == 32
    # Another copy of the project has the same contents but other inodes.
    copy = Fingerprint(dict(reversed(TRAINING.settings.items())), {}, dict(TRAINING.contents))
    assert copy.key("cpu") == key
    assert TRAINING.key("cuda") != key
    changed = change(monkeypatch) or TRAINING
    assert changed.key("cpu") != key


@pytest.mark.parametrize(
    ("parameters", "inputs", "recorded"),
    [
        ({}, {}, True),
        ({}, {"src/a.py": "9"}, False),
        ({}, {"data/listing": "9"}, False),
        ({}, {"data/folder": "9.dir"}, False),
        ({"train.lr": "0.2"}, {}, False),
        ({"train.seed": "1"}, {}, False),
    ],
    ids=["same", "content", "more files", "folder", "setting", "more settings"],
)
def test_record_matches_fingerprint_with_same_settings_and_files(
    parameters: dict[str, str], inputs: dict[str, str], recorded: bool
) -> None:
    same = {"train.lr": "0.1", "train.augment": "[]"}
    record = StageRecord(same | parameters, TRAINING.contents | inputs, {})
    assert TRAINING.is_recorded(record) is recorded


def test_changes_are_named_in_order() -> None:
    settings = {"train.augment": [], "train.lr": 0.2, "train.seed": 1}
    files = {"data/new.npy": "seen", "src/a.py": "other code"}
    assert TRAINING.changes(TRAINING.settings, TRAINING.files) == []
    assert TRAINING.changes(settings, files) == [
        "train.lr was 0.1 and is 0.2",
        "train.seed was None and is 1",
        "data/faces.npy was changed",
        "data/new.npy was changed",
        "src/a.py was changed",
    ]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a pipeline of one stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    for folder in ("src/__pycache__", "data/inputs", "data/faces"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("train: {lr: 0.1, ema: {decay: 0.9}}\nruntime: cpu\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  train:\n"
        "    cmd: x\n"
        "    deps: [src, src/a.py, data/faces, data/inputs/train.json, data/missing]\n"
        "    params: [train, runtime, none.of.these, {other.yaml: [x]}]\n"
        "  nothing: {cmd: x}\n"
        "  listed: {foreach: [1], do: {cmd: x, deps: [a]}}\n"
    )
    (tmp_path / "src/a.py").write_text("print(1)")
    (tmp_path / "src/__pycache__/a.pyc").write_text("cache")
    (tmp_path / "data/faces/1.png").write_text("one")
    (tmp_path / "data/faces/2.png").write_text("two")
    (tmp_path / "data/mine.jpg").write_text("mine")
    (tmp_path / "data/inputs/train.json").write_text(json.dumps({"data/mine.jpg": md5("mine")}))
    return tmp_path


def fingerprint() -> Fingerprint:
    found = capture("train")
    assert found
    return found


def test_fingerprint_contains_settings_and_files_of_the_stage(project: Path) -> None:
    found = fingerprint()
    assert found.settings == {
        "train.lr": 0.1, "train.ema.decay": 0.9, "runtime": "cpu", "none.of.these": None,
    }  # fmt: skip
    assert found.files.keys() == found.contents.keys()
    assert list(found.files) == [
        *("src", "src/a.py", "data/faces", "data/inputs/train.json", "data/missing"),
        "data/mine.jpg",
    ]
    assert found.files["src/a.py"] == found.contents["src/a.py"] == md5("print(1)")
    assert found.contents["data/mine.jpg"] == md5("mine")
    assert found.contents["data/missing"] == "missing"
    assert found == fingerprint()
    assert [capture(stage) for stage in ("nothing", "listed", "none")] == [None] * 3
    (project / "dvc.yaml").unlink()
    assert capture("train") is None


@pytest.mark.parametrize(
    ("path", "content", "changed"),
    [
        ("data/faces/2.png", "two, changed", {"data/faces"}),
        ("data/faces/3.png", "three", {"data/faces"}),
        ("src/a.py", "print(2)", {"src", "src/a.py"}),
        ("src/__pycache__/a.pyc", "another", set()),
        ("data/mine.jpg", "theirs", {"data/mine.jpg"}),
        ("data/missing", "there", {"data/missing"}),
        ("unrelated", "x", set()),
    ],
)
def test_changed_file_changes_fingerprint_of_its_dependency(
    project: Path, path: str, content: str, changed: set[str]
) -> None:
    before = fingerprint()
    (project / path).write_text(content)
    after = fingerprint()
    for found, other in ((before.files, after.files), (before.contents, after.contents)):
        assert {name for name in found if found[name] != other[name]} == changed
    if changed:
        with pytest.raises(AtelierError, match=f"while train ran, {min(changed)} was changed"):
            verify_unchanged(before, "train")
    else:
        verify_unchanged(before, "train")
    verify_unchanged(None, "train")


def test_data_is_compared_by_inode_size_and_time_and_code_by_content(project: Path) -> None:
    """Rewriting data is a change; restoring code to the same content is not."""
    before = fingerprint()
    for path in ("data/faces/2.png", "src/a.py"):
        content = (project / path).read_text()
        (project / path).unlink()
        (project / path).write_text(content)
        os.utime(project / path, ns=(1, 1))
    after = fingerprint()
    assert after.contents == before.contents
    assert {name for name in before.files if before.files[name] != after.files[name]} == {
        "data/faces"
    }


@pytest.mark.parametrize("change", ["place", "size", "time"])
def test_data_with_other_inode_size_or_time_is_changed(project: Path, change: str) -> None:
    file = project / "data/faces/2.png"
    os.utime(file, ns=(10**18, 10**18))
    before = fingerprint()
    if change == "place":
        copy = project / "copy"
        copy.write_text(file.read_text())
        copy.replace(file)
    elif change == "size":
        file.write_text("longer")
    nanoseconds = 10**18 + (change == "time")
    os.utime(file, ns=(nanoseconds, nanoseconds))
    assert before.changes(before.settings, fingerprint().files) == ["data/faces was changed"]


def test_first_three_changes_are_named_and_others_counted(project: Path) -> None:
    before = fingerprint()
    (project / "params.yaml").write_text("train: {lr: 0.2, ema: {decay: 0.8}}\nruntime: x\n")
    with pytest.raises(
        AtelierError, match=r"runtime was .* is 0\.8; train\.lr was 0\.1 and is 0\.2\. DVC"
    ):
        verify_unchanged(before, "train")
    (project / "src/a.py").write_text("print(2)")
    with pytest.raises(AtelierError, match=r"is 0\.2 and 2 more\. DVC would record"):
        verify_unchanged(before, "train")
    (project / "dvc.yaml").unlink()
    verify_unchanged(before, "train")


def test_recorded_hashes_are_used_only_within_dvc_stages(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "dvc.lock").write_text(
        "schema: '2.0'\n"
        "stages:\n"
        "  convert:\n"
        "    cmd: x\n"
        "    outs: [{path: data/faces, md5: 00ff.dir}]\n"
    )
    outside = fingerprint()
    monkeypatch.setenv("DVC_STAGE", "train")
    within = fingerprint()
    assert within.contents == outside.contents | {"data/faces": "00ff.dir"}
    (project / "dvc.lock").unlink()
    assert fingerprint() == outside


def test_changed_listed_file_is_rejected_within_dvc_stages(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "data/mine.jpg").write_text("theirs")
    capture("train")
    monkeypatch.setenv("DVC_STAGE", "train")
    with pytest.raises(AtelierError, match=r"data/mine.jpg was changed after data/inputs listed"):
        capture("train")
