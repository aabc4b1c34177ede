"""Complete pipeline with tiny settings, run with the real dvc and MLflow."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.core.yaml_files import read_yaml

from ..support.project import Project
from ..support.terminal import run_on_terminal

STAGES = ["download", "convert", "data_report", "train", "evaluate", "render", "stylize"]


def test_pipeline_writes_images_and_metrics_and_is_up_to_date(ready: Project) -> None:
    with np.load(ready.folder / "data/images.npz", allow_pickle=False) as images:
        assert images["arr_0"].shape == (64, 16, 16, 3)
        assert len(images["names"]) == 64
    for name in ("validation", "test"):
        with np.load(ready.folder / f"data/{name}.npz", allow_pickle=False) as images:
            assert images["arr_0"].shape == (16, 16, 16, 3)
    counts = json.loads((ready.folder / "metrics/details/convert.json").read_text())
    assert (counts["accepted"], counts["training"]) == (96, 64)
    assert (counts["validation"], counts["test"], counts["near_duplicate_groups"]) == (16, 16, 0)
    assert counts["found"] == counts["accepted"] + counts["rejected"]
    assert len(list((ready.folder / "samples").glob("epoch_*.npy"))) == 2
    for path in (
        *("renders/real_and_generated.png", "renders/progress.png"),
        *("styled/sheet.png", "plots/nearest.png"),
    ):
        with Image.open(ready.folder / path) as image:
            assert np.asarray(image.convert("RGB")).std() > 5, f"{path} is blank"
    with Image.open(ready.folder / "renders/training.gif") as gif:
        assert getattr(gif, "n_frames", 1) >= 2
    with Image.open(ready.folder / "renders/montages/epoch_0002.png") as montage:
        assert montage.size == (3 * 16, 3 * 16)
    page = (ready.folder / "report.html").read_text("utf-8")
    assert re.search(r"<h1>Sample data, preset \w+ with \d+ changes</h1>", page)
    assert "The training has 8 steps (2 epochs of 4)" in page
    assert re.search(r"<dt>Training</dt><dd>(\d+|a few) seconds? \(CPU with 1 thread\)</dd>", page)
    assert re.search(r"<dt>Pipeline</dt><dd>.* in 7 stages</dd>", page)
    assert "Data and pipelines are up to date." in ready.run("dvc", "repro")
    assert ready.run("git", "status", "--porcelain").split()[1:] == ["dvc.lock"]


def test_repeated_stages_give_the_same_bytes(ready: Project) -> None:
    """Run the stages in this process; DVC has run each in a separate one."""
    outputs = ("data", "models", "samples", "renders", "styled", "metrics", "plots")
    before = ready.bytes(*outputs)
    for stage in STAGES:
        ready.remove_outputs(stage)
        ready.stage(stage)
    after = ready.bytes(*outputs)
    assert sorted(before) == sorted(after)
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.slow
def test_forced_repro_gives_the_same_bytes(ready: Project) -> None:
    outputs = ("data", "models", "samples", "renders", "styled", "metrics", "plots")
    before, lock = ready.bytes(*outputs), read_yaml(ready.folder / "dvc.lock")["stages"]
    helpers = ["evaluate_inputs", "stylize_inputs", "train_inputs", "plots_script"]
    assert ready.repro("--force") == [*helpers, *STAGES, "report"]
    after = ready.bytes(*outputs)
    assert sorted(before) == sorted(after)
    assert [name for name in before if before[name] != after[name]] == []
    new_lock = read_yaml(ready.folder / "dvc.lock")["stages"]
    (page,), (new_page,) = lock["report"].pop("outs"), new_lock["report"].pop("outs")
    assert page["path"] == new_page["path"] == "report.html", "the only output with a date"
    assert lock == new_lock


CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"render.fps": 9.0}, ["render", "report"]),
    ({"stylize.iterations": 2}, ["stylize", "report"]),
    ({"stylize.image_size": 48}, ["stylize", "report"]),
    ({"runtime.workers": 2, "tracking.experiment": "other"}, []),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reruns"),
    CHANGES,
)
def test_repro_runs_only_stages_that_depend_on_a_changed_setting(
    ready: Project, changes: dict[str, Any], reruns: list[str]
) -> None:
    ready.set(**changes)
    assert ready.repro() == reruns


@pytest.mark.slow
def test_dry_repro_lists_stages_that_depend_on_a_changed_setting(ready: Project) -> None:
    for changes, reruns in CHANGES[1:]:
        before = (ready.folder / "params.yaml").read_bytes()
        ready.set(**changes)
        assert ready.repro("--dry") == reruns
        (ready.folder / "params.yaml").write_bytes(before)


def test_edit_of_networks_reruns_train_and_edit_of_gif_does_not(ready: Project) -> None:
    gif = ready.folder / "src/atelier/figures/gif.py"
    gif.write_text(gif.read_text() + "# an edit\n")
    status = ready.run("dvc", "status")
    assert "render" in status
    assert "train" not in status
    networks = ready.folder / "src/atelier/gan/networks.py"
    networks.write_text(networks.read_text() + "# an edit\n")
    assert "train" in ready.run("dvc", "status")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_stages_are_logged_as_children_of_the_pipelines_run(tracked: Project) -> None:
    from mlflow.tracking import MlflowClient

    # `mlflow ui` without options opens this store in the project's root.
    client = MlflowClient(f"sqlite:///{tracked.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("atelier")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    runs = {run.data.tags.get("atelier.stage", "pipeline"): run for run in found}
    parent = runs["pipeline"]
    assert len(found) == len(runs)
    assert sorted(runs) == sorted([*STAGES, "pipeline"])
    for name in STAGES:
        assert runs[name].info.status == "FINISHED"
        assert runs[name].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.params["train.epochs"] == "2"
    evaluated = json.loads((tracked.folder / "metrics/evaluate.json").read_text())
    assert parent.data.metrics["quality/kid"] == runs["evaluate"].data.metrics["quality/kid"]
    assert parent.data.metrics["quality/kid"] == pytest.approx(evaluated["kid"])
    train = runs["train"].info.run_id
    assert len(client.get_metric_history(train, "loss/d")) == 8
    images = [file.path for file in client.list_artifacts(train, "images")]
    steps = sorted(path.split("+step+")[1][0] for path in images if path.endswith(".png"))
    assert steps == ["0", "1", "2"], "the last samples are at step 0, where MLflow opens a series"
    artifacts = {file.path for file in client.list_artifacts(runs["render"].info.run_id, "renders")}
    assert "renders/training.gif" in artifacts


def test_dvc_commands_work(ready: Project) -> None:
    ready.commit()
    output = ready.run(
        "dvc", "exp", "run", "-S", "evaluate.seed=3", "-n", "other-pictures", "evaluate"
    )
    assert "Running stage 'evaluate'" in output
    assert "Running stage 'train'" not in output
    assert "kid_error" in ready.run("dvc", "metrics", "diff")
    _, heading, _, workspace, _, experiment, *_ = run_on_terminal(
        "dvc", "exp", "show", folder=ready.folder, columns=120
    )
    # The pager cuts lines at the width of the terminal.
    assert heading[:120].split()[:8] == [
        *("Experiment", "Created", "kid", "kid_error", "fid", "precision", "recall", "memorised")
    ]
    kid = json.loads((ready.folder / "metrics/evaluate.json").read_text())["kid"]
    for row, name in ((workspace, "workspace"), (experiment, "[other-pictures]")):
        assert name in row
        end = heading.index(" kid ") + len(" kid ")
        assert float(row[:end].split()[-1]) == pytest.approx(kid, rel=1e-4)
    assert "train.lr" not in heading[:120]


def test_metrics_fit_120_columns_and_details_are_not_among_them(ready: Project) -> None:
    # Values as wide as those of a large run with a measured validation KID.
    widest = {
        "evaluate": {
            "kid": 1698, "kid_error": 0.2009, "fid": 214.7,
            "precision": 0.4912, "recall": 0.01512, "memorised": 0.01234,
        },
        "train": {"validation_kid": 0.04317},
        "stylize": {"style_loss": 5601000000},
    }  # fmt: skip
    for stage, values in widest.items():
        target = ready.folder / f"metrics/{stage}.json"
        found = json.loads(target.read_text())
        assert list(found) == [name for name in values if name in found]
        target.unlink()  # a link to DVC's cache
        target.write_text(json.dumps(values))
    heading, *rows = ready.run("dvc", "metrics", "show").splitlines()
    assert max(map(len, (heading, *rows))) <= 120
    assert [row.split()[0] for row in rows] == [f"metrics/{stage}.json" for stage in widest]
    assert heading.split() == ["Path", *sorted(name for v in widest.values() for name in v)]
    details = json.loads((ready.folder / "metrics/details/evaluate.json").read_text())
    assert {"real_kid", "measured_with", "notes"} <= set(details)


def test_repro_converts_images_added_to_the_folder(fresh: Project, tmp_path: Path) -> None:
    add = use_folder(fresh, tmp_path)
    output = fresh.run("dvc", "repro", "convert")
    skipped = "2 skipped (1 hidden file, 1 broken link)"
    assert f"20 files, {skipped}: data/raw/manifest.json lists them\n" in output
    assert f"20 images, {skipped}: metrics/details/convert.json lists them\n" in output
    add(5)
    assert fresh.repro("convert") == ["watch@mine", "download", "convert"]
    counts = json.loads((fresh.folder / "metrics/details/convert.json").read_text())
    assert counts["accepted"] == 25


@pytest.mark.slow
def test_repro_follows_a_change_of_the_source_folder(fresh: Project, tmp_path: Path) -> None:
    use_folder(fresh, tmp_path)
    assert fresh.repro("convert") == ["watch@mine", "download", "convert"]
    assert fresh.repro("convert") == ["watch@mine"]
    fresh.set(**{"download.folders": {"yours": str(tmp_path / "faces")}})
    assert fresh.repro("convert") == ["watch@yours", "download", "convert"]
    assert [file.name for file in (fresh.folder / "data/listing").glob("*.json")] == ["yours.json"]
    fresh.set(**{"download.source": "sample", "download.folders": {}})
    assert fresh.repro("convert") == ["download", "convert"]
    assert fresh.repro("convert") == []


def use_folder(project: Project, tmp_path: Path) -> Callable[[int], None]:
    """Make a folder with a link to 20 images the source; return a function that adds images."""
    faces = tmp_path / "disk"
    faces.mkdir()
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces/linked").symlink_to(faces)
    (tmp_path / "faces/.DS_Store").touch()
    (tmp_path / "faces/dead.png").symlink_to("nothing")
    rng = np.random.default_rng(0)

    def add(count: int) -> None:
        for number in range(count):
            pixels = rng.integers(0, 256, (20, 18, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(faces / f"face {count} {number}.png")

    add(20)
    project.set(
        **{"download.source": "folder", "download.folders": {"mine": str(tmp_path / "faces")}}
    )
    return add
