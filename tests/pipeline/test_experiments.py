"""DVC's own commands, as docs/experiments.md shows them, by the real dvc and the real MLflow."""

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

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MADE = (
    *("data/raw", "data/images.npz", "data/validation.npz", "data/test.npz"),
    *("models", "samples", "renders", "styled", "metrics", "plots"),
)
NAME = "other-seed"


@dataclass(frozen=True)
class Experiment:
    """What an experiment did in the workspace, and what stood there before."""

    stages: list[str]
    changed: dict[str, Any]
    before: dict[str, bytes]
    after: dict[str, bytes]


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone in which the whole chain has run once, with its ``dvc.lock`` committed."""
    project = _tracked.copy(tmp_path_factory.mktemp("experiments") / "project")
    project.commit()
    return project


@pytest.fixture(scope="module")
def experiment(project: Project) -> Experiment:
    """An experiment that ran in the workspace, which is back at the commit since."""
    settings, before = project.settings().model_dump(), project.bytes(*MADE)
    told = project.run("dvc", "exp", "run", "-S", "evaluate.seed=3", "-n", NAME)
    ran = Experiment(
        stages=re.findall(r"Running stage '(\w+)'", told),
        changed={
            f"{section}.{key}": value
            for section, values in project.settings().model_dump().items()
            for key, value in values.items()
            if value != settings[section][key]
        },
        before=before,
        after=project.bytes(*MADE),
    )
    go_back(project)
    return ran


def go_back(project: Project) -> None:
    """Put the workspace back to the commit."""
    project.run("git", "checkout", "-q", "params.yaml", "dvc.lock")
    project.run("dvc", "checkout", "-q")


def plots(project: Project, folder: Path, *command: str) -> tuple[dict[str, Any], set[str]]:
    """Make a page of plots; return the rows behind each curve, and the pictures it shows."""
    project.run("dvc", "plots", *command, "--out", str(folder))
    page = (folder / "index.html").read_text("utf-8")
    curves = re.findall(r'<div id = "(.+?)">\s*<script.*?>\s*var spec = (.+);\n', page)
    pictures = set(re.findall(r'<img src="static/(.+?)"', page))
    for name in pictures:
        with Image.open(folder / "static" / name) as image:
            image.verify()
    specs = {name: json.loads(spec) for name, spec in curves}
    # A curve without a point, such as of epochs that were not measured, has no data.
    return {
        name: spec["data"]["values"] for name, spec in specs.items() if "data" in spec
    }, pictures


def values(rows: list[dict[str, str]], revision: str, column: str) -> list[float]:
    return [float(row[column]) for row in rows if row["rev"] == revision and column in row]


def column(file: Path, name: str) -> list[float]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [float(row[name]) for row in csv.DictReader(lines)]


def pipelines(project: Project) -> dict[str, tuple[Any, list[Any]]]:
    """Each pipeline's run in the store at the project's root, and those below it, by name."""
    client, experiment = open_store(project.folder, "atelier")
    runs = client.search_runs([experiment])
    below = {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in runs}
    return {
        run.info.run_name: (run, [r for r in runs if below[r.info.run_id] == run.info.run_id])
        for run in runs
        if below[run.info.run_id] is None
    }


def assert_only_stylize_ran(project: Project, name: str, made_by: dict[str, str]) -> None:
    """MLflow has an experiment of a temporary copy whole, though five stages did not run."""
    parent, stages = pipelines(project)[name]
    tags = parent.data.tags
    assert parent.info.status == "FINISHED"
    assert tags["dvc.experiment"] == name
    assert tags["dvc.baseline"] == project.run("git", "rev-parse", "HEAD").strip()
    assert [(run.info.run_name, run.info.status) for run in stages] == [("stylize", "FINISHED")]
    assert tags["stages.ran"] == "stylize"
    assert tags["stages.restored"].split() == list(made_by)
    assert {stage: tags[f"restored.{stage}"] for stage in made_by} == made_by
    evaluated = json.loads((project.folder / "metrics/evaluate.json").read_text())
    assert parent.data.metrics["evaluate.kid"] == pytest.approx(evaluated["kid"])
    assert parent.data.metrics["stylize.loss"] == stages[0].data.metrics["stylize.loss"]
    client, _ = open_store(project.folder, "atelier")
    pictures = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"losses.png", "training.gif", "epoch_0002.png", "sheet.png"} <= pictures


@pytest.mark.slow
def test_an_experiment_changes_one_setting_and_runs_what_depends_on_it(
    experiment: Experiment,
) -> None:
    assert experiment.changed == {"evaluate.seed": 3}
    assert experiment.stages == ["evaluate", "render"]
    before, after = experiment.before, experiment.after
    assert sorted(before) == sorted(after)
    other = {name for name in after if before[name] != after[name]}
    assert {"metrics/evaluate.json", "plots/kid.csv", "renders/report.html"} <= other
    assert not [name for name in other if name.startswith(("data", "models", "samples", "styled"))]


@pytest.mark.slow
def test_the_diffs_show_what_changed_and_nothing_else(
    project: Project, experiment: Experiment
) -> None:
    compared = ("HEAD", NAME)
    settings = json.loads(project.run("dvc", "params", "diff", *compared, "--json"))
    assert {file: list(of) for file, of in settings.items()} == {"params.yaml": ["evaluate.seed"]}
    found = settings["params.yaml"]["evaluate.seed"]
    assert (found["old"], found["new"]) == (1, 3)
    numbers = json.loads(project.run("dvc", "metrics", "diff", *compared, "--json"))
    old, new = (
        flat(json.loads(of["metrics/evaluate.json"]))
        for of in (experiment.before, experiment.after)
    )
    assert {file: set(of) for file, of in numbers.items()} == {
        "metrics/evaluate.json": {key for key in new if new[key] != old[key]}
    }
    told = numbers["metrics/evaluate.json"]["kid"]
    assert (told["old"], told["new"]) == (old["kid"], new["kid"])
    assert str(round(new["kid"], 5)) in project.run("dvc", "metrics", "diff", *compared)


@pytest.mark.slow
def test_the_page_of_plots_shows_curves_and_pictures(project: Project, tmp_path: Path) -> None:
    curves, pictures = plots(project, tmp_path / "page", "show")
    made = project.folder / "plots"
    for name in ("loss_d", "loss_g"):
        assert values(curves["losses"], "workspace", name)[:8] == column(made / "losses.csv", name)
    assert values(curves["KID"], "workspace", "kid") == column(made / "kid.csv", "kid")
    montages = {f"workspace_renders_montages_epoch_000{epoch}.png" for epoch in (1, 2)}
    assert montages | {"workspace_renders_training.gif", "workspace_styled_sheet.png"} <= pictures


@pytest.mark.slow
def test_two_revisions_are_plotted_side_by_side(
    project: Project, experiment: Experiment, tmp_path: Path
) -> None:
    curves, pictures = plots(project, tmp_path / "page", "diff", "HEAD", NAME)
    kids = {revision: values(curves["KID"], revision, "kid") for revision in ("HEAD", NAME)}
    assert kids["HEAD"] == column(project.folder / "plots/kid.csv", "kid")
    assert len(kids[NAME]) == 2
    assert kids[NAME] != kids["HEAD"]
    losses = [values(curves["losses"], revision, "loss_d") for revision in ("HEAD", NAME)]
    assert losses[0] == losses[1] != []
    montages = [f"renders_montages_epoch_000{epoch}.png" for epoch in (1, 2)]
    assert {f"{revision}_{name}" for revision in ("HEAD", NAME) for name in montages} <= pictures


@pytest.mark.slow
def test_the_table_of_experiments_holds_the_numbers_and_fits_a_terminal(
    project: Project, experiment: Experiment
) -> None:
    rows = csv.DictReader(project.run("dvc", "exp", "show", "--csv").splitlines())
    row = {row["Experiment"]: row for row in rows}[NAME]
    kid = json.loads(experiment.after["metrics/evaluate.json"])["kid"]
    assert float(row["kid"]) == kid
    assert row["evaluate.seed"] == "3"
    chosen = ("--drop", ".*", "--keep", "Experiment|State|evaluate.seed|kid$|swd$|loss$")
    table = project.run("dvc", "exp", "show", *chosen, "--sort-by", "kid", COLUMNS="80")
    assert "…" not in table, "a column is cut off"
    (line,) = [line for line in table.splitlines() if NAME in line]
    assert f"{kid:.5g}" in line
    changed = ("--only-changed", "--drop", ".*/|samples|Created", "--md")
    heads = project.run("dvc", "exp", "show", *changed).splitlines()[0].strip("| ").split("|")
    assert {"kid", "evaluate.seed"} <= {head.strip() for head in heads}
    assert "train.lr" not in heads


@pytest.mark.slow
def test_an_applied_experiment_is_in_the_workspace(
    project: Project, experiment: Experiment
) -> None:
    try:
        project.run("dvc", "exp", "apply", NAME)
        assert project.bytes(*MADE) == experiment.after
        assert project.settings().evaluate.seed == 3
        assert "up to date" in project.run("dvc", "status")
    finally:
        go_back(project)


@pytest.mark.slow
def test_what_is_pushed_a_second_clone_pulls(ready: Project, tmp_path: Path) -> None:
    ready.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    ready.commit()
    ready.run("dvc", "push")
    ready.run("git", "clone", "-q", ".", str(tmp_path / "second"))
    second = Project(tmp_path / "second")
    assert second.bytes("models", "samples", "metrics") == {}
    second.run("dvc", "pull")
    assert second.bytes(*MADE) == ready.bytes(*MADE)
    assert "up to date" in second.run("dvc", "status")
    assert second.repro() == []


@pytest.mark.slow
def test_an_experiment_in_a_temporary_copy_is_logged_in_the_main_project(project: Project) -> None:
    found = pipelines(project).values()
    (made,) = [stages for parent, stages in found if "dvc.experiment" not in parent.data.tags]
    made_by = {run.info.run_name: run.info.run_id for run in made}
    before = project.bytes(*MADE)
    project.run("dvc", "exp", "run", "--temp", "-S", "stylize.iterations=2", "-n", "aside")
    project.delivered()
    order = ("download", "convert", "train", "evaluate", "render")
    assert_only_stylize_ran(project, "aside", {stage: made_by[stage] for stage in order})
    assert project.run("git", "status", "--porcelain") == ""
    assert project.bytes(*MADE) == before


def test_an_applied_experiment_knows_a_picture_added_after_an_equal_run(fresh: Project) -> None:
    stage = "stylize_inputs"
    (fresh.folder / "dvc.lock").unlink()  # of results that this clone does not have
    fresh.commit()
    fresh.repro(stage)  # without a picture, as a temporary copy is before its own run
    fresh.run("git", "add", "dvc.lock")
    fresh.commit()
    (fresh.folder / "data/pictures/x.txt").write_text("x")
    fresh.repro(stage)
    fresh.commit()
    told = fresh.run("dvc", "exp", "run", "--temp", "-n", "e1", "-S", "render.fps=7", stage)
    assert "skipping run" not in told
    fresh.run("dvc", "exp", "apply", "e1", ok=None)  # the other stages have made nothing
    assert "up to date" in fresh.run("dvc", "status", stage)


@pytest.fixture
def workers(tracked: Project) -> Iterator[Project]:
    """A clone to run a queue in; its workers, which are daemons, are gone afterwards."""
    tracked.commit()
    yield tracked
    tracked.run("dvc", "queue", "stop", "--kill")
    tracked.queue_ended("0 active, 0 idle")


@pytest.mark.slow
def test_four_queued_experiments_at_once_make_the_store_and_all_appear(workers: Project) -> None:
    (workers.folder / "mlflow.db").unlink()
    shutil.rmtree(workers.folder / "mlruns")
    grid = ("-S", "stylize.iterations=1,2", "-S", "stylize.seed=2,3")
    told = workers.run("dvc", "exp", "run", *grid, "--queue", "-n", "grid")
    names = re.findall(r"Queued experiment '(\S+)'", told)
    assert names == ["grid-1", "grid-2", "grid-3", "grid-4"]
    # The workers keep what they were given as standard output open.
    workers.run("sh", "-c", "exec dvc queue start -j 4 >/dev/null 2>&1")
    status = workers.queue_ended()
    logs = {name: workers.run("dvc", "queue", "logs", name) for name in names}
    assert len(re.findall("Success", status)) == 4, f"{status}\n{logs}"
    workers.delivered()
    assert sorted(pipelines(workers)) == names
    restored = ("download", "convert", "train", "evaluate", "render")
    tried = []
    for name in names:
        # Nothing in the new store made what was restored.
        assert_only_stylize_ran(workers, name, dict.fromkeys(restored, "unknown"))
        settings = pipelines(workers)[name][0].data.params
        tried.append((settings["stylize.iterations"], settings["stylize.seed"]))
    assert sorted(tried) == [("1", "2"), ("1", "3"), ("2", "2"), ("2", "3")]
