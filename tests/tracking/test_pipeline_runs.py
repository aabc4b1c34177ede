"""Contents of MLflow after pipelines of DVC: parent runs, hashes, models and lineage."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from atelier.gan.serialization import load_generator
from atelier.tracking.store import open_store

from ..support.project import Project

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Project after three pipelines: the first committed, then another fps, then another rate."""
    project = _tracked.copy(tmp_path_factory.mktemp("runs") / "project")
    project.commit()
    project.set(**{"render.fps": 9.0, "tracking.registered_model": "faces"})
    assert project.repro() == ["render", "report"]
    project.set(**{"train.lr": 0.002})
    assert project.repro("evaluate") == ["train", "evaluate"]
    project.delivered()
    return project


@pytest.fixture(scope="module")
def store(project: Project) -> tuple[Any, str]:
    return open_store(project.folder, "atelier")


@pytest.fixture(scope="module")
def parents(store: tuple[Any, str]) -> list[Any]:
    """Return the parent runs of the three pipelines, oldest first."""
    client, experiment = store
    runs = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def children(store: tuple[Any, str], parent: Any) -> dict[str, Any]:
    client, experiment = store
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return {run.data.tags["atelier.stage"]: run for run in found}


def locked_hashes(project: Project, revision: str = "") -> dict[str, dict[str, str]]:
    from atelier.tracking.dvc_lock import read_lock

    text = project.run("git", "show", f"{revision}:dvc.lock")
    return {name: record.outputs for name, record in read_lock(text).items()}


def test_experiment_explains_its_table_for_both_references(store: tuple[Any, str]) -> None:
    client, experiment = store
    assert client.get_experiment(experiment).tags["mlflow.note.content"] == (
        "Each run is one pipeline; `quality/kid` is its distance from unseen real images, or with"
        " `evaluate.reference: training` from the training images: lower is better. Tick runs and"
        " press Compare."
    )


def test_parent_run_contains_the_whole_pipeline(
    project: Project, store: tuple[Any, str], parents: list[Any]
) -> None:
    first, rendered, _ = parents
    ran = first.data.tags["stages.ran"].split()
    assert [stage for stage in ran if stage != "data_report"] == [
        *("download", "convert", "train", "evaluate", "render", "stylize")
    ]
    assert ran.index("data_report") > ran.index("convert")
    assert first.data.tags["stages.restored"] == ""
    assert rendered.data.tags["stages.ran"] == "render"
    for stage in ("download", "convert", "data_report", "train", "evaluate", "stylize"):
        producer = children(store, first)[stage].info.run_id
        assert rendered.data.tags[f"restored.{stage}"] == producer
        assert f"runs/{producer}" in rendered.data.tags["mlflow.note.content"]
    assert next(iter(first.data.metrics)) == "quality/kid", (
        "the pages that compare runs open with it"
    )
    assert {"quality/kid", "quality/precision", "style/loss"} <= set(first.data.metrics)
    assert rendered.data.metrics == first.data.metrics
    number = json.loads((project.folder / "metrics/convert.json").read_text())["images"]
    assert f", {number} pictures, " in first.info.run_name
    assert (
        f"runs/{first.info.run_id}/artifacts/report.html" in first.data.tags["mlflow.note.content"]
    )
    assert first.data.tags["mlflow.user"]
    assert rendered.data.params["render.fps"] == "9.0"
    assert rendered.data.params["train.lr"] == first.data.params["train.lr"]
    images = {file.path for file in store[0].list_artifacts(rendered.info.run_id)}
    assert {"report.html", "training.gif", "progress.png", "sheet.png", "epoch_0002.png"} <= images


def test_runs_have_few_parameters_and_all_settings(
    project: Project, store: tuple[Any, str], parents: list[Any], tmp_path: Path
) -> None:
    """More parameters would cover the pictures of a run on MLflow's pages."""
    client, _ = store
    text = (project.folder / "params.yaml").read_text()
    stages = children(store, parents[2])
    for stage, run in stages.items():
        preset = run.data.tags["preset"]
        assert run.info.run_name == f"{stage} ({preset})"
        assert len(run.data.params) <= 4
        assert all(key.startswith(f"{stage}.") for key in run.data.params)
        settings = json.loads(run.data.tags["settings"])
        assert run.data.params.items() <= settings.items()
        file = client.download_artifacts(run.info.run_id, "settings.yaml", str(tmp_path))
        assert Path(file).read_text() == text
    assert json.loads(stages["train"].data.tags["settings"])["train.lr"] == "0.002"
    assert parents[2].data.params["train.lr"] == "0.002"


def test_no_metric_is_logged_twice(store: tuple[Any, str], parents: list[Any]) -> None:
    """No number has two names, apart from that of other real images, and none has two points."""
    client, _ = store
    for run in (*children(store, parents[0]).values(), parents[0]):
        keys = [key for key in run.data.metrics if not key.startswith("system/")]
        last_parts = [key.rpartition("/")[2] for key in keys if not key.startswith("real/")]
        assert len(set(last_parts)) == len(last_parts), run.info.run_name
        for key in keys:
            history = client.get_metric_history(run.info.run_id, key)
            steps = [point.step for point in history]
            assert len(set(steps)) == len(steps), f"{run.info.run_name}: {key}"
        numbers = [key for key in keys if "seed" in key or "samples" in key or "neighbo" in key]
        assert not numbers, "constants are tags or parameters"


def test_stages_of_older_training_are_not_in_newer_pipeline(
    parents: list[Any],
) -> None:
    newest = parents[2]
    assert newest.data.tags["stages.ran"] == "train evaluate"
    assert newest.data.tags["stages.restored"] == "download convert data_report"
    assert not [key for key in newest.data.metrics if key.startswith("style/")]
    assert "restored.stylize" not in newest.data.tags


def test_every_run_has_hashes_of_dvc_lock_and_machine_as_tags(
    project: Project, store: tuple[Any, str], parents: list[Any]
) -> None:
    recorded = locked_hashes(project, "HEAD")
    for stage, run in children(store, parents[0]).items():
        tags = run.data.tags
        hashes = {k.removeprefix("output."): v for k, v in tags.items() if k.startswith("output.")}
        assert hashes == recorded[stage]
        assert tags["atelier.stage"] == stage
        assert tags["git.dirty"] == "false"
        assert len(tags["mlflow.source.git.commit"]) == 40
        assert "cores" in tags["machine"]
        assert "torch 2" in tags["versions"]
    train = children(store, parents[0])["train"]
    digests = {
        dataset_input.dataset.name: dataset_input.dataset.digest
        for dataset_input in train.inputs.dataset_inputs
    }
    names = ("data/images.npz", "data/validation.npz")
    expected = {name: recorded["convert"][name] for name in names}
    assert digests == expected | recorded["train_inputs"]
    assert children(store, parents[1])["render"].data.tags["git.dirty"] == "true"


def test_uncommitted_changes_are_logged_to_run(
    store: tuple[Any, str], parents: list[Any], tmp_path: Path
) -> None:
    client, _ = store
    assert "uncommitted.patch" not in [
        file.path for file in client.list_artifacts(parents[0].info.run_id)
    ]
    patch = Path(
        client.download_artifacts(parents[1].info.run_id, "uncommitted.patch", str(tmp_path))
    ).read_text()
    assert "+  fps: 9.0" in patch
    assert "dvc.lock" not in patch


def test_throughput_machine_usage_and_style_layers_are_logged(
    project: Project, store: tuple[Any, str], parents: list[Any]
) -> None:
    client, _ = store
    stages = children(store, parents[0])

    def steps(stage: str, key: str) -> list[int]:
        return [point.step for point in client.get_metric_history(stages[stage].info.run_id, key)]

    assert steps("train", "loss/d") == list(range(1, 9))
    assert steps("train", "speed/images_per_second") == [4, 8]
    assert steps("evaluate", "quality/kid_by_epoch") == [1, 2]
    assert steps("stylize", "style/relative_loss")[:3] == [1, 2, 3]
    first, *_ = (key for key in stages["train"].data.metrics)
    assert first == "loss/d", "not a metric of the machine"
    usage = {k for k in stages["train"].data.metrics if k.startswith("system/")}
    assert {"system/cpu_utilization_percentage", "system/process_memory_megabytes"} <= usage


LOAD = """
import sys, json, numpy as np, mlflow, torch
mlflow.set_tracking_uri(sys.argv[1])
latents = np.load(sys.argv[2])
images = []
for address in sys.argv[4:]:
    with torch.inference_mode():
        images.append(mlflow.pytorch.load_model(address)(torch.from_numpy(latents)).numpy())
    images.append(mlflow.pyfunc.load_model(address).predict(latents))
assert "atelier" not in sys.modules
np.save(sys.argv[3], np.stack(images))
"""


@pytest.mark.slow
def test_logged_generator_returns_same_images_in_clean_process(
    project: Project, store: tuple[Any, str], parents: list[Any], tmp_path: Path
) -> None:
    from mlflow.models import Model

    client, experiment = store
    train = children(store, parents[2])["train"]
    (model,) = client.search_logged_models([experiment], f"source_run_id = '{train.info.run_id}'")
    generator = project.folder / "models/generator.safetensors"
    assert model.tags["content.md5"] == hashlib.md5(generator.read_bytes()).hexdigest()
    latents = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    np.save(tmp_path / "latents.npy", latents)
    subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-I", "-c", LOAD),
            f"sqlite:///{project.folder}/mlflow.db",
            *(str(tmp_path / "latents.npy"), str(tmp_path / "made.npy")),
            *(f"models:/{model.model_id}", "models:/faces@champion"),
        ],
        check=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    images = np.load(tmp_path / "made.npy")
    assert images.shape == (4, 5, 3, 16, 16)
    for other in images[1:]:
        np.testing.assert_array_equal(images[0], other)
    network = load_generator(generator).network
    with torch.inference_mode():
        expected = network(torch.from_numpy(latents)).numpy()
    np.testing.assert_allclose(images[0], expected, atol=1e-5)
    folder = Path(model.artifact_location.removeprefix("file://"))
    pinned = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in pinned] == ["mlflow", "numpy", "torch"]
    signature = Model.load(str(folder)).signature
    assert [spec.shape for spec in (*signature.inputs, *signature.outputs)] == [
        (-1, 8),
        (-1, 3, 16, 16),
    ]
    assert not list(folder.rglob("*.pkl"))


def test_evaluation_is_logged_to_model_and_best_is_champion(
    project: Project, store: tuple[Any, str], parents: list[Any]
) -> None:
    client, experiment = store
    kids = {}
    for model in client.search_logged_models([experiment]):
        numbers = {metric.key: metric.value for metric in model.metrics or []}
        kids[model.model_id] = numbers["quality/kid"]
    assert sorted(kids.values()) == pytest.approx(
        sorted(parent.data.metrics["quality/kid"] for parent in (parents[0], parents[2]))
    )
    (version,) = client.search_model_versions("name = 'faces'")
    assert float(version.tags["kid"]) == parents[2].data.metrics["quality/kid"]
    champion = client.get_model_version_by_alias("faces", "champion")
    assert champion.version == version.version


@pytest.mark.slow
def test_lineage_finds_the_run_of_a_file_after_a_checkout(
    project: Project, store: tuple[Any, str], parents: list[Any]
) -> None:
    arguments = ("lineage", "renders/training.gif", "--json")
    lineage = json.loads(project.atelier(*arguments))
    producer, *upstream = lineage["producers"]
    rendered = children(store, parents[1])["render"]
    assert (producer["stage"], producer["run"]) == ("render", rendered.info.run_id)
    assert producer["settings"]["render.fps"] == "9.0"
    assert producer["dirty"]
    first = children(store, parents[0])
    assert {earlier["stage"]: earlier["run"] for earlier in upstream} == {
        stage: first[stage].info.run_id for stage in ("download", "convert", "train")
    }
    shutil.rmtree(project.folder / "renders")
    project.run("dvc", "checkout", "renders")
    assert json.loads(project.atelier(*arguments)) == lineage
    by_hash = json.loads(project.atelier("lineage", lineage["content"][:10], "--json"))
    assert by_hash["producers"][0]["run"] == rendered.info.run_id
    text = project.atelier("lineage", "renders/training.gif")
    assert f"run {rendered.info.run_id}" in text
    assert "render.fps: 9.0" in text


@pytest.mark.slow
def test_lineage_uses_git_if_the_store_lacks_the_run(project: Project, tmp_path: Path) -> None:
    remote = ("--local", "-d", "-f", "near", str(tmp_path / "remote"))
    project.run("dvc", "remote", "add", *remote)
    project.run("git", "clone", "-q", ".", str(tmp_path / "colleague"))
    project.run("git", "stash", "-q")
    project.run("dvc", "checkout", "-f")
    project.run("dvc", "push", "-q", "-r", "near")
    project.run("git", "stash", "pop", "-q")
    colleague = Project(tmp_path / "colleague")
    colleague.run("dvc", "remote", "add", *remote)
    colleague.run("dvc", "pull", "-q")
    lineage = json.loads(colleague.atelier("lineage", "models/generator.safetensors", "--json"))
    producer = lineage["producers"][0]
    assert (producer["stage"], producer["run"]) == ("train", "")
    assert producer["commit"] == project.run("git", "rev-parse", "HEAD").strip()
    assert producer["settings"]["train.epochs"] == "2"
    assert [stage["stage"] for stage in lineage["producers"]] == ["train", "convert", "download"]
    assert "a run that this store does not have" in colleague.atelier("lineage", "models")


@pytest.mark.slow
def test_lineage_waits_for_delivery_of_a_pipeline_that_has_just_ended(tracked: Project) -> None:
    tracked.set(**{"render.fps": 5.0})
    tracked.repro("render")
    output = tracked.atelier("lineage", "renders/training.gif")
    assert "render.fps: 5.0" in output
    assert "not delivered" not in output


def test_lineage_reports_why_no_run_is_found(tracked: Project) -> None:
    (tracked.folder / "styled" / "sheet.png").write_bytes(b"edited")
    for path, sentence in (
        ("styled/sheet.png", "it was edited"),
        ("nowhere.png", "there is no nowhere.png; give a stage's output"),
        ("0123456789abcdef", "has the hash 0123456789abcdef"),
        ("README.md", "not an output of a stage"),
    ):
        output = tracked.atelier("lineage", path, ok=False)
        assert sentence in output
        assert "Traceback" not in output


@pytest.mark.slow
def test_moved_project_finds_its_artifacts(tracked: Project) -> None:
    client, experiment = open_store(tracked.folder, "atelier")
    run, *_ = client.search_runs([experiment], "tags.`atelier.stage` = 'render'")
    assert run.info.artifact_uri.startswith(tracked.folder.as_uri())
    assert "renders" in [file.path for file in client.list_artifacts(run.info.run_id)]
    tracked.set(**{"render.fps": 7.0})
    tracked.repro("render")
    tracked.delivered()
    newest, *_ = client.search_runs([experiment], "tags.`atelier.stage` = 'render'")
    assert newest.info.run_id != run.info.run_id
    assert (tracked.folder / "mlruns/atelier" / newest.info.run_id / "artifacts/renders").is_dir()


@pytest.mark.slow
def test_outcome_is_written_later_if_the_worker_was_killed(tracked: Project) -> None:
    tracked.set(**{"render.fps": 6.0})
    tracked.run("dvc", "repro", "render", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if "atelier.tracking.delivery_worker" in arguments and str(tracked.folder) in arguments:
            process.kill()
            process.wait()
    tracked.atelier("sync", "--here")
    client, experiment = open_store(tracked.folder, "atelier")
    newest, *_ = client.search_runs([experiment], "tags.`atelier.pipeline` != ''")
    assert newest.data.tags["stages.ran"] == "render"
    lineage = json.loads(tracked.atelier("lineage", "renders", "--json"))
    assert lineage["producers"][0]["settings"]["render.fps"] == "6.0"
