"""DVC commands of docs/experiments.md, run with the real dvc and MLflow."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from atelier.tracking.redact import flat
from atelier.tracking.store import open_store

from ..support.project import Project
from ..support.terminal import run_on_terminal

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

OUTPUTS = (
    *("data/raw", "data/images.npz", "data/validation.npz", "data/test.npz"),
    *("models", "samples", "renders", "styled", "metrics", "plots", "report.html"),
)
NAME = "other-seed"


@dataclass(frozen=True)
class Experiment:
    """Result of an experiment in the workspace.

    Attributes:
        stages: executed ones.
        changed: settings with their new values.
        before: content of all outputs before the experiment.
        after: content of all outputs after it.
    """

    stages: list[str]
    changed: dict[str, Any]
    before: dict[str, bytes]
    after: dict[str, bytes]


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Clone with the outputs of the complete pipeline and a committed ``dvc.lock``."""
    project = _tracked.copy(tmp_path_factory.mktemp("experiments") / "project")
    project.commit()
    return project


@pytest.fixture(scope="module")
def experiment(project: Project) -> Experiment:
    """Result of an experiment in the workspace, which is restored afterwards."""
    settings, before = project.settings().model_dump(), project.bytes(*OUTPUTS)
    output = project.run("dvc", "exp", "run", "-S", "evaluate.seed=3", "-n", NAME)
    result = Experiment(
        stages=re.findall(r"Running stage '(\w+)'", output),
        changed={
            f"{section}.{key}": value
            for section, values in project.settings().model_dump().items()
            for key, value in values.items()
            if value != settings[section][key]
        },
        before=before,
        after=project.bytes(*OUTPUTS),
    )
    restore(project)
    return result


def restore(project: Project) -> None:
    """Restore the workspace to the commit."""
    project.run("git", "checkout", "-q", "params.yaml", "dvc.lock")
    project.run("dvc", "checkout", "-q")


def plots(project: Project, folder: Path, *command: str) -> tuple[dict[str, Any], set[str]]:
    """Write the page of plots; return the rows of each curve and the names of its images."""
    project.run("dvc", "plots", *command, "--out", str(folder))
    page = (folder / "index.html").read_text("utf-8")
    curves = re.findall(r'<div id = "(.+?)">\s*<script.*?>\s*var spec = (.+);\n', page)
    images = set(re.findall(r'<img src="static/(.+?)"', page))
    for name in images:
        with Image.open(folder / "static" / name) as image:
            image.verify()
    specs = {name: json.loads(spec) for name, spec in curves}
    # A curve without points has no data, for example if no epoch was measured.
    rows = {name: spec["data"]["values"] for name, spec in specs.items() if "data" in spec}
    return rows, images


def values(rows: list[dict[str, str]], revision: str, column: str) -> list[float]:
    return [float(row[column]) for row in rows if row["rev"] == revision and column in row]


def column(file: Path, name: str) -> list[float]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [float(row[name]) for row in csv.DictReader(lines)]


def pipelines(project: Project) -> dict[str, tuple[Any, list[Any]]]:
    """Return, by experiment or name, each pipeline's run and the runs of its stages."""
    client, experiment = open_store(project.folder, "atelier")
    runs = client.search_runs([experiment])
    parents = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    return {
        run.data.tags.get("dvc.experiment", run.info.run_name): (
            run,
            [r for r in runs if parents[r.info.run_id] == run.info.run_id],
        )
        for run in runs
        if parents[run.info.run_id] is None
    }


def assert_only_stylize_ran(project: Project, name: str, made_by: dict[str, str]) -> None:
    """Assert that the pipeline's run is complete although DVC restored five stages."""
    parent, stages = pipelines(project)[name]
    tags = parent.data.tags
    assert parent.info.status == "FINISHED"
    assert tags["dvc.experiment"] == name
    assert tags["dvc.baseline"] == project.run("git", "rev-parse", "HEAD").strip()
    found = [(run.data.tags["atelier.stage"], run.info.status) for run in stages]
    assert found == [("stylize", "FINISHED")]
    assert tags["stages.ran"] == "stylize"
    assert set(tags["stages.restored"].split()) == set(made_by)
    assert {stage: tags[f"restored.{stage}"] for stage in made_by} == made_by
    evaluated = json.loads((project.folder / "metrics/evaluate.json").read_text())
    assert parent.data.metrics["quality/kid"] == pytest.approx(evaluated["kid"])
    assert parent.data.metrics["style/loss"] == stages[0].data.metrics["style/loss"]
    client, _ = open_store(project.folder, "atelier")
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"progress.png", "training.gif", "sheet.png"} <= artifacts


@pytest.mark.slow
def test_experiment_changes_one_setting_and_runs_dependent_stages(
    experiment: Experiment,
) -> None:
    assert experiment.changed == {"evaluate.seed": 3}
    assert experiment.stages == ["evaluate", "report"]
    before, after = experiment.before, experiment.after
    assert sorted(before) == sorted(after)
    changed = {name for name in after if before[name] != after[name]}
    assert {"metrics/evaluate.json", "plots/kid.csv", "report.html"} <= changed
    assert not [
        name for name in changed if name.startswith(("data", "models", "samples", "styled"))
    ]


@pytest.mark.slow
def test_diffs_show_only_changed_settings_and_metrics(
    project: Project, experiment: Experiment
) -> None:
    compared = ("HEAD", NAME)
    settings = json.loads(project.run("dvc", "params", "diff", *compared, "--json"))
    assert {file: list(changes) for file, changes in settings.items()} == {
        "params.yaml": ["evaluate.seed"]
    }
    seed = settings["params.yaml"]["evaluate.seed"]
    assert (seed["old"], seed["new"]) == (1, 3)
    numbers = json.loads(project.run("dvc", "metrics", "diff", *compared, "--json"))
    old, new = (
        flat(json.loads(outputs["metrics/evaluate.json"]))
        for outputs in (experiment.before, experiment.after)
    )
    assert {file: set(changes) for file, changes in numbers.items()} == {
        "metrics/evaluate.json": {key for key in new if new[key] != old[key]}
    }
    kid = numbers["metrics/evaluate.json"]["kid"]
    assert (kid["old"], kid["new"]) == (old["kid"], new["kid"])
    assert str(round(new["kid"], 5)) in project.run("dvc", "metrics", "diff", *compared)


@pytest.mark.slow
def test_page_of_plots_shows_curves_and_images(project: Project, tmp_path: Path) -> None:
    curves, images = plots(project, tmp_path / "page", "show")
    folder = project.folder / "plots"
    for name in ("loss_d", "loss_g"):
        assert values(curves["losses"], "workspace", name)[:8] == column(
            folder / "losses.csv", name
        )
    assert values(curves["KID"], "workspace", "kid") == column(folder / "kid.csv", "kid")
    assert images == {
        *("workspace_plots_nearest.png", "workspace_renders_progress.png"),
        *("workspace_renders_real_and_generated.png", "workspace_renders_training.gif"),
        "workspace_styled_sheet.png",
    }


@pytest.mark.slow
def test_plots_diff_shows_both_revisions(
    project: Project, experiment: Experiment, tmp_path: Path
) -> None:
    curves, images = plots(project, tmp_path / "page", "diff", "HEAD", NAME)
    kids = {revision: values(curves["KID"], revision, "kid") for revision in ("HEAD", NAME)}
    assert kids["HEAD"] == column(project.folder / "plots/kid.csv", "kid")
    assert len(kids[NAME]) == 2
    assert kids[NAME] != kids["HEAD"]
    losses = [values(curves["losses"], revision, "loss_d") for revision in ("HEAD", NAME)]
    assert losses[0] == losses[1] != []
    assert {f"{revision}_renders_progress.png" for revision in ("HEAD", NAME)} <= images


@pytest.mark.slow
def test_experiment_table_has_the_metrics_and_fits_a_terminal(
    project: Project, experiment: Experiment
) -> None:
    rows = csv.DictReader(project.run("dvc", "exp", "show", "--csv").splitlines())
    row = {row["Experiment"]: row for row in rows}[NAME]
    kid = json.loads(experiment.after["metrics/evaluate.json"])["kid"]
    assert float(row["kid"]) == kid
    assert row["evaluate.seed"] == "3"
    columns = ("--drop", ".*", "--keep", "Experiment|State|evaluate.seed|kid$|fid$|style_loss")
    table = project.run("dvc", "exp", "show", *columns, "--sort-by", "kid", COLUMNS="80")
    assert "…" not in table, "a column is cut off"
    (line,) = [line for line in table.splitlines() if NAME in line]
    assert f"{kid:.5g}" in line
    _, heading, *_ = run_on_terminal(
        "dvc", "exp", "show", "--only-changed", folder=project.folder, columns=120
    )
    assert {"kid", "evaluate.seed"} <= set(heading[:120].split())
    assert "train.lr" not in heading


@pytest.mark.slow
def test_applied_experiment_is_in_the_workspace(project: Project, experiment: Experiment) -> None:
    try:
        project.run("dvc", "exp", "apply", NAME)
        assert project.bytes(*OUTPUTS) == experiment.after
        assert project.settings().evaluate.seed == 3
        assert "up to date" in project.run("dvc", "status")
    finally:
        restore(project)


@pytest.mark.slow
def test_second_clone_pulls_pushed_outputs(ready: Project, tmp_path: Path) -> None:
    ready.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    ready.commit()
    ready.run("dvc", "push")
    ready.run("git", "clone", "-q", ".", str(tmp_path / "second"))
    second = Project(tmp_path / "second")
    assert second.bytes("models", "samples", "metrics") == {}
    second.run("dvc", "pull")
    assert second.bytes(*OUTPUTS) == ready.bytes(*OUTPUTS)
    assert "up to date" in second.run("dvc", "status")
    assert second.repro() == []


@pytest.mark.slow
def test_experiment_in_a_temporary_copy_is_logged_in_the_main_project(project: Project) -> None:
    (original,) = [
        stages
        for parent, stages in pipelines(project).values()
        if "dvc.experiment" not in parent.data.tags
    ]
    made_by = {run.data.tags["atelier.stage"]: run.info.run_id for run in original}
    before = project.bytes(*OUTPUTS)
    project.run("dvc", "exp", "run", "--temp", "-S", "stylize.iterations=2", "-n", "aside")
    project.delivered()
    order = ("download", "convert", "data_report", "train", "evaluate", "render")
    assert_only_stylize_ran(project, "aside", {stage: made_by[stage] for stage in order})
    assert project.run("git", "status", "--porcelain") == ""
    assert project.bytes(*OUTPUTS) == before


@pytest.mark.slow
def test_applied_experiment_uses_an_image_added_after_an_equal_run(fresh: Project) -> None:
    stage = "stylize_inputs"
    (fresh.folder / "dvc.lock").unlink()  # this clone does not have its outputs
    fresh.commit()
    fresh.repro(stage)  # without the image, as in a temporary copy before its run
    fresh.run("git", "add", "dvc.lock")
    fresh.commit()
    (fresh.folder / "data/pictures/x.txt").write_text("x")
    fresh.repro(stage)
    fresh.commit()
    output = fresh.run("dvc", "exp", "run", "--temp", "-n", "e1", "-S", "render.fps=7", stage)
    assert "skipping run" not in output
    fresh.run("dvc", "exp", "apply", "e1", ok=None)  # the other stages have no outputs
    assert "up to date" in fresh.run("dvc", "status", stage)


@pytest.fixture
def workers(tracked: Project) -> Iterator[Project]:
    """Clone whose queue workers, which are daemons, are killed after the test."""
    tracked.commit()
    yield tracked
    tracked.run("dvc", "queue", "stop", "--kill")
    tracked.wait_for_queue("0 active, 0 idle")


@pytest.mark.slow
def test_four_concurrent_queued_experiments_create_the_store_and_are_logged(
    workers: Project,
) -> None:
    (workers.folder / "mlflow.db").unlink()
    shutil.rmtree(workers.folder / "mlruns")
    grid = ("-S", "stylize.iterations=1,2", "-S", "stylize.seed=2,3")
    output = workers.run("dvc", "exp", "run", *grid, "--queue", "-n", "grid")
    names = re.findall(r"Queued experiment '(\S+)'", output)
    assert names == ["grid-1", "grid-2", "grid-3", "grid-4"]
    # The workers inherit standard output and keep it open.
    workers.run("sh", "-c", "exec dvc queue start -j 4 >/dev/null 2>&1")
    status = workers.wait_for_queue()
    logs = {name: workers.run("dvc", "queue", "logs", name) for name in names}
    assert len(re.findall("Success", status)) == 4, f"{status}\n{logs}"
    workers.delivered()
    assert sorted(pipelines(workers)) == names
    restored = ("download", "convert", "data_report", "train", "evaluate", "render")
    tested = []
    for name in names:
        # The new store has no runs of the restored stages.
        assert_only_stylize_ran(workers, name, dict.fromkeys(restored, "unknown"))
        settings = pipelines(workers)[name][0].data.params
        tested.append((settings["stylize.iterations"], settings["stylize.seed"]))
    assert sorted(tested) == [("1", "2"), ("1", "3"), ("2", "2"), ("2", "3")]
