"""Exact results of functions on dvc.lock, fingerprints and stores for small inputs."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from atelier.core.errors import AtelierError, count_text
from atelier.tracking import destination
from atelier.tracking.dvc_lock import (
    StageRecord,
    current,
    folder_hash,
    is_logged,
    producers,
    read_lock,
)
from atelier.tracking.execution import Commit, Workspace, _last
from atelier.tracking.finished import clear_recorded
from atelier.tracking.preflight import _cache_folder, _dvc_folder
from atelier.tracking.redact import flat, numbers
from atelier.tracking.run_state import Fingerprint, capture, verify_unchanged

LOCK = """
schema: '2.0'
stages:
  paint:
    deps:
    - {path: models/last, hash: md5, md5: bb}
    - {path: src/paint.py, md5: cc}
    params: {params.yaml: {style: {size: 30, name: a}}}
    outs:
    - {path: styled, md5: dd.dir}
  train:
    deps:
    - {path: data/raw, md5: aa.dir}
    - {path: src/page.j2, md5: ee}
    params: {params.yaml: {train.lr: 0.5}}
    outs:
    - {path: models, md5: ff.dir}
    - {path: models/last, hash: etag, etag: bb}
"""


def test_stages_are_read_in_order_of_dependencies() -> None:
    records = read_lock(LOCK)
    assert list(records) == ["train", "paint"]
    assert records["paint"] == StageRecord(
        parameters={"style.size": "30", "style.name": "a"},
        inputs={"models/last": "bb", "src/paint.py": "cc"},
        outputs={"styled": "dd.dir"},
    )
    assert records["train"].outputs == {"models": "ff.dir", "models/last": "bb"}
    assert records["train"].data == {"data/raw": "aa.dir"}
    assert producers(records, records["paint"]) == {"models/last": "train"}
    assert producers(records, records["train"]) == {}


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "stages: 5", "stages: {a: 5}", "stages: {a: {outs: [{path: x}]}}", "[1]",
     "stages: {a: {deps: [{path: x, md5: 1}], outs: [{path: x, md5: 1}]}}", "\x00"],
)  # fmt: skip
def test_damaged_lock_has_no_stages(text: str) -> None:
    assert read_lock(text) == {}


@pytest.mark.parametrize(
    ("parameters", "changed", "expected"),
    [
        ({}, {}, ["train", "paint"]),
        ({"train.lr": "0.50"}, {}, ["train", "paint"]),
        ({"train.lr": "0.6"}, {}, []),
        ({"style.name": "b"}, {}, ["train"]),
        ({}, {"src/paint.py": "new"}, ["train"]),
        ({}, {"src/page.j2": None}, []),
        ({}, {"data/raw": "new", "models/last": "new"}, ["train", "paint"]),
    ],
)
def test_stage_is_current_if_settings_code_and_earlier_stages_are(
    parameters: dict[str, str], changed: dict[str, str | None], expected: list[str]
) -> None:
    """Outputs and folders that no stage writes are compared by DVC's hashes, not read."""
    records = read_lock(LOCK)
    values = {"train.lr": "0.5", "style.size": "30.0", "style.name": "a"} | parameters
    files = {"src/paint.py": "cc", "src/page.j2": "ee"} | changed
    assert list(current(records, values, files.get)) == expected
    if not changed:
        assert list(current(records, values, None)) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [("src/pkg/deep/b.py", []), ("src/pkg/c.py", []), ("src/pkg/__pycache__/a.pyc", ["train"])],
    ids=["changed", "new", "cache"],
)
def test_stage_is_current_if_its_code_folders_are(
    file: str, expected: list[str], tmp_path: Path
) -> None:

    package = tmp_path / "src/pkg"
    (package / "deep").mkdir(parents=True)
    (package / "__pycache__").mkdir()
    (package / "a.py").write_text("a")
    (package / "deep/b.py").write_text("b")
    recorded = folder_hash({"a.py": _md5("a"), "deep/b.py": _md5("b")})
    records = {"train": StageRecord({}, {"src/pkg": recorded, "data/raw": "aa.dir"}, {})}
    workspace = Workspace(tmp_path)
    assert list(current(records, {}, workspace.hash_of)) == ["train"]
    assert Workspace(tmp_path / "none").hash_of("src/pkg") is None
    (tmp_path / file).write_text("changed")
    assert list(current(records, {}, workspace.hash_of)) == expected


def test_commit_has_hash_of_its_code_folders(tmp_path: Path) -> None:
    (tmp_path / "project/src/pkg/deep").mkdir(parents=True)
    (tmp_path / "project/src/pkg/a.py").write_text("a")
    (tmp_path / "project/src/pkg/deep/b.py").write_text("b")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "code"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "-q", "--subdir"],
        cwd=tmp_path / "project",
        check=True,
    )
    commit = Commit.open(tmp_path / "project", "HEAD")
    (tmp_path / "project/src/pkg/a.py").write_text("changed later")
    assert commit.hash_of("src/pkg") == folder_hash({"a.py": _md5("a"), "deep/b.py": _md5("b")})
    assert commit.hash_of("src/pkg/a.py") == _md5("a")
    assert commit.hash_of("src/none") is None


def test_stage_made_from_an_older_output_is_not_current() -> None:
    records = read_lock(LOCK.replace("etag: bb", "etag: b2"))
    values = {"train.lr": "0.5", "style.size": "30", "style.name": "a"}
    assert list(current(records, values, None)) == ["train"]


@pytest.mark.parametrize(
    ("stage", "logged"),
    [("train", True), ("watch@mine", False), ("watch", False), ("evaluate", True),
     ("evaluate_inputs", False), ("stylize_inputs", False), ("train_inputs", False),
     ("start@first", False), ("plots_script", False), ("report", False), ("xwatch", True)],
)  # fmt: skip
def test_stages_that_compute_nothing_have_no_runs(stage: str, logged: bool) -> None:
    assert is_logged(stage) == logged


def test_values_are_flattened_and_only_finite_numbers_are_metrics() -> None:
    nested = {
        "a": {"b": 1, "c": {"d": 2.5}},
        "e": {},
        "f": True,
        "g": "3",
        "h": float("nan"),
        "i": [1],
    }
    assert flat(nested) == {
        "a.b": 1, "a.c.d": 2.5, "e": {}, "f": True, "g": "3", "h": nested["h"], "i": [1]
    }  # fmt: skip
    assert numbers(nested) == {"a.b": 1.0, "a.c.d": 2.5}
    assert all(isinstance(value, float) for value in numbers(nested).values())
    assert [count_text(n, "entry", "entries") for n in (0, 1, 2)] == [
        "0 entries",
        "1 entry",
        "2 entries",
    ]
    assert [count_text(n, "run") for n in (1, 2)] == ["1 run", "2 runs"]


def _project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    Path("src").mkdir()
    Path("src/code.py").write_text("pass", "utf-8")
    Path("data/inner").mkdir(parents=True)
    Path("data/inner/a.txt").write_text("a", "utf-8")
    Path("params.yaml").write_text("train: {lr: 0.5, steps: 7}\nother: 1\n", "utf-8")
    stage = "{cmd: x, deps: [src/code.py, data, absent], params: [train, gone.key]}"
    Path("dvc.yaml").write_text(f"stages: {{train: {stage}, bare: {{cmd: y}}}}\n", "utf-8")


def _md5(content: str) -> str:
    return hashlib.md5(content.encode()).hexdigest()


def test_fingerprint_has_settings_files_and_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _project(tmp_path, monkeypatch)
    found = capture("train")
    assert found is not None
    assert found.settings == {"train.lr": 0.5, "train.steps": 7, "gone.key": None}
    assert found.contents["src/code.py"] == found.files["src/code.py"] == _md5("pass")
    listing = json.dumps([{"md5": _md5("a"), "relpath": "inner/a.txt"}])
    assert found.contents["data"] == f"{_md5(listing)}.dir"
    assert found.contents["absent"] == "missing"
    assert capture("bare") is capture("unknown") is None
    verify_unchanged(found, "train")
    verify_unchanged(None, "train")
    Path("data/__pycache__").mkdir()
    Path("data/__pycache__/x.pyc").write_text("", "utf-8")
    assert capture("train") == found
    Path("data/inner/a.txt").write_text("b", "utf-8")
    Path("src/code.py").write_text("pass  #", "utf-8")
    Path("params.yaml").write_text("train: {lr: 0.6, steps: 7}\n", "utf-8")
    with pytest.raises(AtelierError) as caught:
        verify_unchanged(found, "train")
    assert str(caught.value).startswith(
        "while train ran, train.lr was 0.5 and is 0.6; data was changed; src/code.py was changed."
    )
    Path("params.yaml").write_text("train: {lr: 0.6, steps: 8}\n", "utf-8")
    with pytest.raises(AtelierError, match=r"data was changed and 1 more"):
        verify_unchanged(found, "train")


def test_outputs_verified_by_dvc_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _project(tmp_path, monkeypatch)
    Path("dvc.lock").write_text("stages: {load: {outs: [{path: data, md5: abc.dir}]}}", "utf-8")
    monkeypatch.setenv("DVC_STAGE", "train")
    found = capture("train")
    assert found is not None
    assert found.contents["data"] == "abc.dir"
    assert found.contents["src/code.py"] == _md5("pass")


def test_key_depends_on_settings_contents_device_and_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    start: dict[str, Any] = {"settings": {"a": 1}, "files": {"x": "1"}, "contents": {"x": "h"}}
    key = Fingerprint(**start).key("cpu")
    assert len(key) == 32
    assert Fingerprint(**{**start, "files": {"x": "2"}}).key("cpu") == key
    others = [
        Fingerprint(**{**start, "settings": {"a": 2}}).key("cpu"),
        Fingerprint(**{**start, "contents": {"x": "i"}}).key("cpu"),
        Fingerprint(**start).key("cuda"),
    ]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "77")
        others.append(Fingerprint(**start).key("cpu"))
    assert len({key, *others}) == 6


def test_key_depends_on_the_device_that_auto_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Fingerprint({}, {}, {})
    monkeypatch.setattr("atelier.tracking.run_state.gpu_names", lambda: ["NVIDIA H100"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    on_gpu = start.key("auto")
    assert on_gpu == start.key("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # by CUDA_VISIBLE_DEVICES
    assert start.key("auto") == start.key("cpu") != on_gpu


@pytest.mark.parametrize(
    ("changes", "recorded"),
    [
        ({}, True),
        ({"parameters": {"a": "2"}}, False),
        ({"parameters": {"a": "1", "b": "1"}}, False),
        ({"inputs": {"x": "other", "folder": "z.dir"}}, False),
        ({"inputs": {"x": "h", "folder": "other.dir"}}, False),
    ],
)
def test_record_matches_fingerprint_if_settings_and_files_agree(
    changes: dict[str, Any], recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = Fingerprint({"a": 1}, {}, {"x": "h", "folder": "z.dir"})
    values = {"parameters": {"a": "1"}, "inputs": {"x": "h", "folder": "z.dir"}, "outputs": {}}
    assert fingerprint.is_recorded(StageRecord(**{**values, **changes})) == recorded
    # Only checkpoints of finished stages with results in dvc.lock are removed.
    inputs = {**values, **changes}["inputs"]
    stage = {
        "params": {"params.yaml": {**values, **changes}["parameters"]},
        "deps": [{"path": path, "md5": hash_} for path, hash_ in inputs.items()],
    }
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text(json.dumps({"stages": {"stylize": stage}}), "utf-8")
    content = json.dumps({"settings": {"a": 1}, "files": {}, "contents": fingerprint.contents})
    for name in ("stylize-1", ".stylize-2", "paint-3"):
        (tmp_path / "unfinished" / name).mkdir(parents=True)
        (tmp_path / "unfinished" / name / "finished").touch()
        (tmp_path / "unfinished" / name / "fingerprint.json").write_text(content, "utf-8")
    (tmp_path / "unfinished/stylize-4").mkdir()
    clear_recorded(tmp_path)
    remaining = sorted(path.name for path in (tmp_path / "unfinished").iterdir())
    assert remaining == (
        ["paint-3", "stylize-4"]
        if recorded
        else [".stylize-2", "paint-3", "stylize-1", "stylize-4"]
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("", "project"),
        ("  ", "project"),
        ("sqlite:///{root}/mlflow.db", "project"),
        ("sqlite:///{root}/other.db", "sqlite:///{root}/other.db"),
        ("http://ann:pw@Host:80/ml/", "http://host/ml"),
        ("https://host:443", "https://host"),
        ("https://host:80/", "https://host:80"),
        ("http://host:443", "http://host:443"),
        ("http://host:5000/?token=x", "http://host:5000"),
        ("databricks://profile/", "databricks://profile/"),
    ],
)
def test_store_is_recorded_without_password_and_default_port(
    address: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path.resolve()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(root=root))
    assert destination.present(tmp_path) == expected.format(root=root)


def test_entries_of_another_store_are_rejected_with_both_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = tmp_path / "execution"
    execution.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    destination.require_same_store(execution, tmp_path)  # an older version recorded nothing
    destination.record(execution, tmp_path)
    assert destination.recorded(execution) == "project"
    destination.require_same_store(execution, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    destination.record(execution, tmp_path)  # the first record is kept
    with pytest.raises(destination.OtherStoreError) as caught:
        destination.require_same_store(execution, tmp_path)
    assert str(caught.value) == (
        "the entries are for this project's mlflow.db, but the store is http://host:5000 now; unset"
        " MLFLOW_TRACKING_URI, or deliver them to http://host:5000 with `atelier sync --here`"
    )
    destination.replace(execution, tmp_path)
    destination.require_same_store(execution, tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(destination.OtherStoreError) as caught:
        destination.require_same_store(execution, tmp_path)
    assert "set MLFLOW_TRACKING_URI=http://host:5000, or deliver them to this" in str(caught.value)


def test_last_configuration_sets_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    monkeypatch.setenv("DVC_SYSTEM_CONFIG_DIR", str(tmp_path / "system"))
    dvc = tmp_path / "project" / ".dvc"
    for folder in ("user", "system", "project/.dvc", "project/part/inner"):
        (tmp_path / folder).mkdir(parents=True)
    assert _dvc_folder(tmp_path / "project/part/inner") == dvc
    assert _dvc_folder(tmp_path / "project") == dvc
    assert _cache_folder(dvc) == dvc / "cache"
    files = [
        tmp_path / "system/config",
        tmp_path / "user/config",
        dvc / "config",
        dvc / "config.local",
    ]
    for number, file in enumerate(files):
        file.write_text(f"[cache]\ndir = '{number}'\n", "utf-8")
        assert _cache_folder(dvc) == file.parent / str(number)
    files[3].write_text("[cache]\ndir = /absolute\n", "utf-8")
    assert _cache_folder(dvc) == Path("/absolute")
    files[3].write_text("no configuration", "utf-8")
    assert _cache_folder(dvc) == files[2].parent / "2"


def test_last_montage_is_that_of_the_largest_number() -> None:
    assert _last(["epoch_0001.png", "epoch_10000.png", "epoch_9999.png"]) == ["epoch_10000.png"]
    assert _last([]) == []
