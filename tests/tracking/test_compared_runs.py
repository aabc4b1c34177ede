"""Compared runs of a finished project: from MLflow, from git and from the workspace."""

import hashlib
import io
import json
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.tracking import compared_files
from atelier.tracking.compared_code import code_digest
from atelier.tracking.compared_files import (
    Notes,
    losses_of,
    parse_evaluation,
    parse_image,
    parse_kid,
    parse_losses,
    parse_quality,
    parse_samples,
    parse_style_loss,
    parse_validation,
    split_sheet,
)
from atelier.tracking.compared_pipelines import StoredRun
from atelier.tracking.compared_run import ComparedRun, stylized_names
from atelier.tracking.compared_selection import Selection
from atelier.tracking.compared_trees import workspace_run
from atelier.tracking.execution import Commit
from atelier.tracking.run import sheet
from atelier.tracking.store import open_store
from atelier.web.compare_groups import group_runs, result_settings

from ..support.arrays import random_images
from ..support.compared_runs import make_run
from ..support.project import Project

DIRECTORY = "d" * 32 + ".dir"
REFERENCE = "refs/exps/ab/" + "c" * 38


@pytest.fixture(scope="module")
def _committed(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = _tracked.copy(tmp_path_factory.mktemp("compared") / "project")
    project.commit()
    return project


@pytest.fixture
def finished(_committed: Project) -> Iterator[Project]:
    """Finished project with a committed ``dvc.lock``, which tests only read."""
    with chdir(_committed.folder):
        yield _committed


@pytest.fixture
def project(_committed: Project, tmp_path: Path) -> Iterator[Project]:
    """Copy of the finished project, which a test may change; commands run in its folder."""
    project = _committed.copy(tmp_path / "project")
    with chdir(project.folder):
        yield project


@pytest.fixture
def selection(finished: Project) -> Selection:
    return Selection(finished.folder, "atelier")


@pytest.fixture
def store(project: Project) -> tuple[Any, str]:
    return open_store(project.folder, "atelier")


def pipelines(store: tuple[Any, str]) -> list[Any]:
    client, experiment = store
    return list(client.search_runs([experiment], "tags.`atelier.pipeline` != ''"))


def stage_run(store: tuple[Any, str], stage: str) -> Any:
    client, experiment = store
    (run,) = client.search_runs([experiment], f"tags.`atelier.stage` = '{stage}'")
    return run


def assert_same_results(one: ComparedRun, other: ComparedRun) -> None:
    """Assert that two runs have the same images, settings and numbers."""
    assert result_settings(one) == result_settings(other)
    assert one.seed == other.seed == "1"
    assert one.metrics.keys() == other.metrics.keys()
    for name, value in one.metrics.items():  # MLflow has four digits of some
        assert other.metrics[name] == pytest.approx(value, rel=1e-3), name
    assert one.measured_with == other.measured_with
    assert [row[:2] for row in one.kid_by_epoch] == [
        (epoch, pytest.approx(kid)) for epoch, kid, _ in other.kid_by_epoch
    ]
    for name, values in one.losses.items():
        np.testing.assert_array_equal(values, other.losses[name])
    for mine, its in ((one.samples, other.samples), (one.stylized, other.stylized)):
        assert list(mine) == list(its) != []
    for epoch, load in one.samples.items():
        np.testing.assert_array_equal(load(), other.samples[epoch]())
    for name, file in one.stylized.items():
        np.testing.assert_array_equal(file.load(), other.stylized[name].load())
    for path in ("data/images.npz", "data/test.npz", "models"):
        assert one.hashes[path] == other.hashes[path] != ""


def test_mlflow_workspace_and_revision_have_the_same_results(
    finished: Project, selection: Selection
) -> None:
    project = finished
    stored, workspace, revision = *selection.latest(10), *selection.named(["workspace", "HEAD"])
    assert_same_results(stored, workspace)
    assert_same_results(workspace, revision)
    evaluation = json.loads((project.folder / "metrics/details/evaluate.json").read_text())
    assert workspace.metrics["kid"] == evaluation["kid"]
    assert workspace.metrics["kid_error"] == evaluation["kid_error"]
    assert "real_kid" not in workspace.metrics
    style = json.loads((project.folder / "metrics/stylize.json").read_text())
    assert workspace.metrics["style_loss"] == style["style_loss"]
    assert workspace.measured_with["features"] == "random"
    expected = np.load(project.folder / "samples/epoch_0002.npy")
    assert list(stored.samples) == [1, 2]
    np.testing.assert_array_equal(stored.samples[2](), expected)
    assert len(stored.losses["step"]) == len(stored.losses["loss_g"]) > 2
    # The pipeline and the commit of its lock have the same code.
    assert stored.code == workspace.code == revision.code != ""
    head = project.run("git", "rev-parse", "HEAD").strip()
    assert workspace.commit == revision.commit == head
    assert (stored.status, workspace.status) == ("FINISHED", "")
    assert (workspace.source, revision.source) == ("workspace", "git revision HEAD")
    assert stored.notes == workspace.notes == revision.notes == ()
    assert len(group_runs([stored, workspace, revision])) == 1


def test_address_is_that_of_the_run(finished: Project, selection: Selection) -> None:
    store = open_store(finished.folder, "atelier")
    (head,) = pipelines(store)
    (run,) = selection.latest(1)
    assert f"/#/experiments/{store[1]}/runs/{head.info.run_id}?" in run.address
    assert run.source == f"MLflow run {head.info.run_id[:8]}"
    assert run.name == head.info.run_name


def test_validation_kid_of_a_stored_run_is_that_of_its_generator(
    project: Project, store: tuple[Any, str]
) -> None:
    client, (head,) = store[0], pipelines(store)
    run = stage_run(store, "train").info.run_id
    for step, kid in ((1, 0.5), (3, 0.75), (2, 0.25)):
        client.log_metric(run, "quality/validation_kid", kid, step=step)
    (last,) = Selection(project.folder, "atelier").latest(1)
    assert last.metrics["validation_kid"] == 0.75
    measured = [(epoch, kid) for epoch, kid, _ in last.validation_by_epoch]
    assert measured == [(1, 0.5), (2, 0.25), (3, 0.75)]
    stored = StoredRun(client, head)
    assert stored._validation_kid([0.5, 0.25], {"train.select_model": "best"}) == {
        "validation_kid": 0.25
    }
    client.update_run(run, status="RUNNING")  # a part of a training is no result
    assert StoredRun(client, head)._validation_kid([0.5], {}) == {}


def test_runs_are_found_by_ids_and_names(finished: Project, selection: Selection) -> None:
    store = open_store(finished.folder, "atelier")
    (head,) = pipelines(store)
    child = stage_run(store, "train").info.run_id
    names = [head.info.run_id[:7], child, head.info.run_name]
    for name in names:
        (found,) = selection.named([name])
        assert found.source == f"MLflow run {head.info.run_id[:8]}", name
    assert len(selection.named(names)) == 1


def test_latest_runs_are_the_newest_ones_oldest_first(
    store: tuple[Any, str], project: Project
) -> None:
    client, experiment = store
    (first,) = pipelines(store)
    start = first.info.start_time
    for number in (1, 2):
        tags = {"atelier.pipeline": f"p{number}"}
        run = client.create_run(experiment, start + 1000 * number, tags, f"later {number}")
        client.set_terminated(run.info.run_id, "FAILED")
    client.create_run(experiment, start + 9000, {}, "no pipeline")
    found = Selection(project.folder, "atelier").latest(2)
    assert [(run.name, run.status) for run in found] == [
        ("later 1", "FAILED"),
        ("later 2", "FAILED"),
    ]
    assert found[0].metrics == found[0].samples == found[0].losses == {}
    assert found[0].notes == ("KID missing", "training missing", "stylized images missing")
    assert len(Selection(project.folder, "atelier").latest(10)) == 3


def test_interrupted_pipelines_are_left_out_unless_there_are_no_others(
    project: Project, store: tuple[Any, str]
) -> None:
    client, experiment = store
    (first,) = pipelines(store)
    start = first.info.start_time
    run = client.create_run(experiment, start + 1000, {"atelier.pipeline": "p"}, "stopped")
    client.set_terminated(run.info.run_id, "KILLED")
    (found,) = Selection(project.folder, "atelier").latest(2)
    assert first.info.run_id in found.address
    (named,) = Selection(project.folder, "atelier").named(["stopped"])
    assert named.status == "KILLED"
    client.delete_run(first.info.run_id)
    (found,) = Selection(project.folder, "atelier").latest(2)
    assert found.name == "stopped"


def test_dvc_experiments_are_found_by_name(project: Project, store: tuple[Any, str]) -> None:
    project.run("git", "update-ref", f"{REFERENCE}/lower-lr", "HEAD")
    (run,) = Selection(project.folder, "atelier").named(["lower-lr"])
    assert (run.source, run.experiment) == ("DVC experiment lower-lr", "lower-lr")
    assert run.address == ""
    client, _ = store
    (head,) = pipelines(store)
    client.set_tag(head.info.run_id, "dvc.experiment", "lower-lr")
    (run,) = Selection(project.folder, "atelier").named(["lower-lr"])
    assert head.info.run_id in run.address


@pytest.mark.slow
def test_without_a_store_the_experiments_and_the_workspace_are_compared(project: Project) -> None:
    (project.folder / "mlflow.db").unlink()
    project.run("git", "update-ref", f"{REFERENCE}/lower-lr", "HEAD")
    selection = Selection(project.folder, "atelier")
    assert [run.name for run in selection.latest(10)] == ["lower-lr", "workspace"]
    (project.folder / "dvc.lock").unlink()
    project.run("git", "update-ref", "-d", f"{REFERENCE}/lower-lr")
    with pytest.raises(AtelierError, match="no runs to compare yet; type: dvc repro"):
        Selection(project.folder, "atelier").latest(10)
    with pytest.raises(AtelierError, match="the workspace has no results yet"):
        selection.named(["workspace"])


def test_unknown_and_ambiguous_names_are_one_sentence(
    project: Project, store: tuple[Any, str]
) -> None:
    client, experiment = store
    for number in (1, 2):
        client.create_run(experiment, None, {"atelier.pipeline": f"p{number}"}, "same name")
    selection = Selection(project.folder, "atelier")
    with pytest.raises(
        AtelierError, match=r"^2 runs are named same name .*; give the id of one\.$"
    ):
        selection.named(["same name"])
    with pytest.raises(AtelierError, match=r"^there is no run same nam; did you mean same name\?$"):
        selection.named(["same nam"])
    with pytest.raises(
        AtelierError, match=r"^there is no run --exec; give an id or a name of a run"
    ):
        selection.named(["--exec"])
    with pytest.raises(AtelierError, match="^there is no run " + "f" * 32):
        selection.named(["f" * 32])
    project.run(
        "git", "tag", "empty", project.run("git", "hash-object", "-w", "params.yaml").strip()
    )
    with pytest.raises(AtelierError, match=r"^there is no run empty;"):
        selection.named(["empty"])


def test_digits_of_a_run_and_of_a_commit_are_ambiguous(
    project: Project, store: tuple[Any, str]
) -> None:
    client, experiment = store
    commit = project.run("git", "rev-parse", "HEAD").strip()
    run = client.create_run(experiment, None, {"atelier.pipeline": "p"}, commit[:8])
    message = f"^{commit[:8]} is MLflow run {run.info.run_id[:12]} and commit {commit[:12]}; give"
    with pytest.raises(AtelierError, match=message):
        Selection(project.folder, "atelier").named([commit[:8]])
    (found,) = Selection(project.folder, "atelier").named([commit])
    assert found.source == f"git revision {commit}"


def test_a_revision_without_results_is_one_sentence(project: Project) -> None:
    project.run("git", "rm", "-q", "--cached", "dvc.lock")
    project.commit()
    with pytest.raises(AtelierError, match=r"HEAD has no dvc\.lock; choose"):
        Selection(project.folder, "atelier").named(["HEAD"])


def test_missing_and_damaged_parts_of_a_stored_run_are_named(
    project: Project, store: tuple[Any, str]
) -> None:
    train, stylize = stage_run(store, "train"), stage_run(store, "stylize")
    artifacts = project.folder / "mlruns/atelier"
    (artifacts / train.info.run_id / "artifacts/losses.csv").write_text("step\nx\n")
    shutil.rmtree(artifacts / train.info.run_id / "artifacts/images")
    shutil.rmtree(artifacts / stylize.info.run_id / "artifacts/styled/sources")
    (run,) = Selection(project.folder, "atelier").latest(1)
    assert run.notes == ("losses damaged", "samples missing", "stylized images missing")
    assert run.metrics["kid"] > 0
    (artifacts / train.info.run_id / "artifacts/losses.csv").unlink()
    (run,) = Selection(project.folder, "atelier").latest(1)
    assert len(run.losses["step"]) == len(run.losses["loss_d"]) > 2  # from the metrics


@pytest.mark.slow
def test_missing_and_damaged_outputs_of_a_revision_are_named(project: Project) -> None:
    selection = Selection(project.folder, "atelier")
    (complete,) = selection.named(["HEAD"])
    for path, md5 in complete.hashes.items():
        cached = project.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        if path == "plots/losses.csv":
            cached.chmod(0o644)
            cached.write_text("damaged")
        elif path in ("samples", "plots/kid.csv", "metrics/details/evaluate.json"):
            cached.unlink()
    (run,) = Selection(project.folder, "atelier").named(["HEAD"])
    assert run.notes == (
        *("metrics missing", "KID by epoch missing", "losses damaged", "samples missing"),
    )
    assert run.stylized.keys() == complete.stylized.keys()
    assert run.metrics.keys() == {"style_loss"}


def commit_of(folder: Path, hashes: dict[str, str]) -> Commit:
    """Return a commit whose outputs have these hashes, with a cache in a folder."""
    cache = folder / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    return Commit(folder, "HEAD", cache, hashes)


def add_to_cache(commit: Commit, md5: str, content: str) -> None:
    file = commit.cache / md5[:2] / md5[2:]
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)


def test_a_hash_that_is_a_path_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("secret")
    commit = commit_of(tmp_path, {"kid.csv": ".." + str(secret), "samples": DIRECTORY})
    # Without a check, the first two characters are a folder and the others an absolute path.
    assert (commit.cache / ".." / str(secret)).read_text() == "secret"
    listing = [
        {"relpath": "a.npy", "md5": ".." + str(secret)},
        {"relpath": "b.npy", "md5": "b" * 32},
    ]
    add_to_cache(commit, DIRECTORY, json.dumps(listing))
    add_to_cache(commit, "b" * 32, "content")
    assert commit.read("kid.csv") is None
    assert commit.read("samples/a.npy") is None
    assert commit.read("samples/b.npy") == b"content"


@pytest.mark.parametrize("listing", ['[{"relpath": "a.npy", ', "[1]", "7", "[{}]", "[" * 100_000])
def test_a_damaged_listing_of_a_folder_has_no_files(tmp_path: Path, listing: str) -> None:
    commit = commit_of(tmp_path, {"samples": DIRECTORY})
    add_to_cache(commit, DIRECTORY, listing)
    assert commit.names("samples") == []
    assert commit.read("samples/a.npy") is None


LOCK = """
schema: '2.0'
stages:
  convert: {cmd: a, outs: [{path: data/images.npz, md5: %(images)s}]}
  train:
    cmd: b
    deps: [{path: data/images.npz, md5: i1}]
    params: {params.yaml: {train: {lr: 0.1}}}
    outs: [{path: models, md5: m2.dir}, {path: samples, md5: s2.dir}]
  evaluate:
    cmd: c
    deps: [{path: samples, md5: %(samples)s}]
    outs: [{path: metrics/details/evaluate.json, md5: e1}]
  stylize:
    cmd: d
    deps: [{path: models/generator.safetensors, md5: %(generator)s}]
    outs: [{path: metrics/stylize.json, md5: y1}]
"""
GENERATOR = hashlib.md5(b"network").hexdigest()
FRESH = {"images": "i1", "samples": "s2.dir", "generator": GENERATOR}


@pytest.mark.parametrize(
    ("changes", "parts", "notes"),
    [
        ({}, {"kid", "style_loss", "losses", "validation_kid"}, []),
        (
            {"samples": "s1.dir"},
            {"style_loss", "losses", "validation_kid"},
            ["evaluate is older than train"],
        ),
        ({"generator": "g1"}, {"kid", "losses", "validation_kid"}, ["stylize is older than train"]),
        (
            {"images": "i2"},
            set(),
            [f"{stage} is older than convert" for stage in ("train", "evaluate", "stylize")],
        ),
    ],
)
def test_results_of_an_earlier_training_are_left_out_and_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    parts: set[str],
    notes: list[str],
) -> None:
    files = {
        "dvc.lock": LOCK % (FRESH | changes),
        "params.yaml": "train: {lr: 0.1}",
        "models/generator.safetensors": "network",
        "metrics/details/evaluate.json": '{"kid": 1.5}',
        "metrics/stylize.json": '{"style_loss": 2.5}',
        "plots/quality.csv": "epoch,kid\n2,3.5\n",
        "metrics/train.json": '{"loss_d": 1.0, "validation_kid": 3.5}',
        "plots/losses.csv": "step,epoch,images,loss_d,loss_g,d_x,d_g_z1,d_g_z2\n1,1,8,1,1,1,1,1\n",
        "plots/kid.csv": "epoch,kid,error\n1,7,1\n",
        "styled/sources/list.json": '[{"image": "i", "content": "c", "style": "s"}]',
    }
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    monkeypatch.chdir(tmp_path)
    run = workspace_run(tmp_path)
    assert {*run.metrics, *(["losses"] if run.losses else [])} == parts
    assert run.metrics.get("validation_kid", 3.5) == 3.5
    assert "loss_d" not in run.metrics
    measured = [(epoch, kid) for epoch, kid, _ in run.validation_by_epoch]
    assert measured == ([(2, 3.5)] if "validation_kid" in parts else [])
    assert bool(run.kid_by_epoch) == ("kid" in parts)
    assert bool(run.stylized) == ("style_loss" in parts)
    assert [text for text in run.notes if "older" in text] == notes


HEADER = "step,epoch,images,loss_d,loss_g,d_x,d_g_z1,d_g_z2\n"


def png_of_size(width: int, height: int) -> bytes:
    """Return a small PNG file whose header has another size."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = file.getvalue()
    return content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


@pytest.mark.parametrize(
    ("parse", "content"),
    [
        (parse_evaluation, b"[" * 100_000),
        (parse_evaluation, b'{"kid": 1' + b"0" * 400 + b"}"),
        (parse_style_loss, b"{}"),
        (parse_kid, b"epoch,kid,error\n1" + b"0" * 400 + b",1,1\n"),
        (parse_kid, b"epoch,kid,error\n" + b"1" * 200_000),
        (parse_kid, b"epoch,kid\n1,2\n"),
        (parse_quality, b"epoch\n1\n"),
        (parse_validation, b"[]"),
        (parse_losses, HEADER.encode()),
        (parse_samples, b""),
        (parse_samples, b"\x93NUMPY"),
        (parse_image, png_of_size(20_000, 20_000)),
        (parse_image, png_of_size(9_000, 9_000)),
        (parse_image, png_of_size(10_000, 10_000)),
    ],
)
def test_damaged_and_hostile_files_are_noted(
    parse: Callable[[bytes], object], content: bytes
) -> None:
    notes = Notes()
    assert notes.read("part", lambda: content, parse) is None
    assert notes.sentences == ["part damaged"]


def test_files_that_cannot_be_read_or_are_too_large_are_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> bytes:
        raise EOFError

    notes = Notes()
    assert notes.read("one", fail, parse_kid) is None
    monkeypatch.setattr(compared_files, "_MAX_BYTES", 3)
    assert notes.read("two", lambda: b"1234", len) is None
    assert notes.read("three", lambda: b"123", len) == 3
    assert notes.sentences == ["one damaged", "two damaged"]


def test_settings_that_include_themselves_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text("train: &a {lr: 1, train: *a}\n")
    (tmp_path / "dvc.lock").write_text("stages: {train: {params: {params.yaml: &a {b: *a}}}}\n")
    monkeypatch.chdir(tmp_path)
    run = workspace_run(tmp_path)
    assert run.settings == {}
    assert "params.yaml damaged" in run.notes


def test_code_of_uncommitted_changes_without_a_patch_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages = {stage: {"deps": ["src/gan"]} for stage in ("convert", "train", "evaluate")}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (tmp_path / "src/gan").mkdir(parents=True)
    (tmp_path / "src/gan/fit.py").write_text("fit\n")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "-A"), (*author, "commit", "-qm", "a")):
        subprocess.run(["git", *command], check=True)
    shown = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    commit = shown.stdout.strip()
    clean = code_digest(commit, None)
    assert clean != ""
    assert code_digest(commit, "") == code_digest(commit, "diff --git i/src/gan w/src/gan") == ""
    assert code_digest(commit, "diff --git a/README.md b/README.md\n") == clean
    changed = code_digest(commit, "diff --git a/src/gan/fit.py b/src/gan/fit.py\n+x\n")
    assert changed not in ("", clean)


def test_settings_of_the_workspace_are_those_of_its_results(project: Project) -> None:
    project.set(**{"train.lr": 0.5, "convert.share_images": "none"})
    (run,) = Selection(project.folder, "atelier").named(["workspace"])
    assert run.settings["train.lr"] == "0.0002"
    assert run.is_dirty
    assert run.settings["convert.share_images"] == "none"


@pytest.mark.slow
def test_uncommitted_code_is_other_code(project: Project) -> None:
    def code() -> str:
        (run,) = Selection(project.folder, "atelier").named(["workspace"])
        return run.code

    before = code()
    for path, is_of_training in (("README.md", False), ("src/atelier/gan/losses.py", True)):
        with (project.folder / path).open("a") as file:
            file.write("\n# more\n")
        assert (code() != before) == is_of_training, path
    project.commit()
    assert code() not in ("", before)


def test_damaged_params_and_outputs_of_the_workspace_are_named(project: Project) -> None:
    (project.folder / "params.yaml").write_text("[")
    (project.folder / "metrics/details/evaluate.json").write_text("[]")
    shutil.rmtree("samples")
    (run,) = Selection(project.folder, "atelier").named(["workspace"])
    assert run.notes == ("metrics damaged", "samples missing", "params.yaml damaged")
    assert run.settings["train.lr"] == "0.0002"  # from dvc.lock


@pytest.mark.parametrize(
    ("source", "sharing", "contents", "is_shown"),
    [
        ("folder", "public", "['generated']", True),
        ("sample", "public", "['me.jpg']", True),
        ("folder", "public", "['me.jpg']", False),
        ("folder", "public", "['generated', 'me.jpg']", False),
        ("folder", "all", "['me.jpg']", True),
        ("sample", "none", "['me.jpg']", False),
        ("sample", "none", "['generated']", True),
    ],
)
def test_stylized_photographs_are_shown_only_if_images_are_shared(
    source: str, sharing: str, contents: str, is_shown: bool
) -> None:
    settings = {
        "download.source": source,
        "convert.share_images": sharing,
        "stylize.contents": contents,
    }
    run = make_run(settings=settings)
    assert bool(run.shown_stylized) == is_shown


@pytest.mark.parametrize(
    ("source", "own", "present", "is_shown"),
    [
        ("folder", "all", "all", True),
        ("folder", "all", "public", False),
        ("folder", "public", "all", False),
        ("sample", "all", "public", True),
        ("torchvision", "public", "public", True),
        ("sample", "public", "none", False),
        ("sample", "none", "all", False),
    ],
)
def test_photographs_need_the_permission_of_the_run_and_the_present_one(
    source: str, own: str, present: str, is_shown: bool
) -> None:
    settings = {"download.source": source, "convert.share_images": own, "stylize.contents": "[me]"}
    run = make_run(settings=settings, sharing=present)
    assert run.shares_images == bool(run.shown_stylized) == is_shown


def test_present_permission_holds_for_all_runs(project: Project) -> None:
    for sharing in ("none", "public"):
        selection = Selection(project.folder, "atelier", sharing)
        runs = [*selection.latest(1), *selection.named(["HEAD", "workspace"])]
        assert [run.shares_images for run in runs] == [sharing == "public"] * 3


def test_unknown_settings_share_nothing() -> None:
    run = ComparedRun("old", "MLflow run 1", stylized=make_run().stylized)
    assert not run.shares_images
    assert run.shown_stylized == {}


@pytest.mark.parametrize(
    ("count", "side", "columns"), [(9, 16, 3), (64, 64, 8), (5, 28, 0), (1, 16, 0), (6, 256, 2)]
)
def test_sheet_is_split_into_the_images_it_was_made_of(count: int, side: int, columns: int) -> None:
    images = random_images(count, side, 3)
    np.testing.assert_array_equal(split_sheet(sheet(images, columns), side, count), images)


def test_sheet_of_other_images_is_refused() -> None:
    with pytest.raises(ValueError, match="are not of images of 25 pixels"):
        split_sheet(sheet(random_images(9, 16, 3)), 25, 9)


def test_losses_of_an_unfinished_training_have_the_common_steps() -> None:
    points = {"loss_d": {1: 0.5, 2: 0.4, 3: 0.3}, "loss_g": {2: 1.0, 3: 2.0, 4: 3.0}}
    found = losses_of(points)
    assert {name: column.tolist() for name, column in found.items()} == {
        "step": [2.0, 3.0],
        "loss_d": [0.4, 0.3],
        "loss_g": [1.0, 2.0],
    }
    assert losses_of({"loss_d": {}, "loss_g": {1: 1.0}}) == {}


def test_names_of_stylized_images_cannot_leave_their_folder() -> None:
    entries = [
        {"image": name, "content": "c", "style": "s"} for name in ("a", "../b", "c\\d", "/e", "")
    ]
    assert stylized_names(entries) == [("a", "c", "s")]
