"""Pipeline in all layouts of a repository: main folder, worktree, subdirectory, monorepo."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.entities import Run
from PIL import Image

from atelier.tracking.store import open_store

from ..support.project import AUTHOR, TRACKED, Project, clone

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
LAYOUTS = ("main", "worktree", "subdirectory", "monorepo")
# DVC cannot run temporary copies in a path with %, # or a non-ASCII letter.
ODD_NAMES = {"repro": "my disk %41 #1 ü", "temp": "my disk (1)", "queue": "my disk (1)"}


@dataclass(frozen=True)
class LayoutProject(Project):
    """Clone in a layout; ``home`` is the project in the main worktree, with the ignored files."""

    home: Path


def git(folder: Path, *words: str) -> None:
    Project(folder).run("git", *AUTHOR, *words)


def create(base: Path, layout: str) -> LayoutProject:
    """Create a clone in a layout, with a folder of images and an ignored style image."""
    path = {"subdirectory": "repo/atelier", "monorepo": "repo/atelier"}.get(layout, "project")
    home = base / path
    project = clone(home, **TRACKED)
    if layout in ("subdirectory", "monorepo"):
        shutil.move(home / ".git", home.parent / ".git")
        if layout == "monorepo":
            shutil.move(home / ".dvc", home.parent / ".dvc")
    faces = base / "faces"
    faces.mkdir()
    for number in range(40):
        image = Image.radial_gradient("L").rotate(9 * number, fillcolor=6 * number)
        image.convert("RGB").resize((24, 24)).save(faces / f"{number}.png")
    Image.linear_gradient("L").convert("RGB").save(home / "data/pictures/my stylé.png")
    Image.linear_gradient("L").convert("RGB").save(home / "data/pictures/unused.png")
    project.set(
        **{
            "download.source": "folder",
            "download.folders": {"f": os.path.relpath(faces, home)},
            "stylize.styles": ["my stylé.png"],
            "train.batch_size": 16,
            "train.epochs": 1,
            "tracking.delivery_timeout_seconds": 0,
        }
    )
    (home / "dvc.lock").unlink()  # this clone does not have its outputs
    git(home.parent if layout in ("subdirectory", "monorepo") else home, "add", "-A")
    git(home, "commit", "--quiet", "-m", "layout")
    if layout == "worktree":
        # At another depth than the main worktree, so that the relative path to the images is wrong.
        tree = base / "deep" / "er" / "tree"
        git(home, "worktree", "add", "--quiet", str(tree))
        return LayoutProject(tree, home)
    return LayoutProject(home, home)


def run_stages(project: Project, how: str, *targets: str) -> None:
    """Run stages by ``dvc repro``, in a temporary copy or in DVC's queue."""
    if how == "repro":
        project.repro(*targets)
    elif how == "temp":
        project.run("dvc", "exp", "run", "--temp", "-n", "trial", *targets)
    else:
        project.run("dvc", "exp", "run", "--queue", "-n", "trial", *targets)
        project.run("sh", "-c", "exec dvc queue start >/dev/null 2>&1")
        status = project.wait_for_queue()
        logs = project.run("dvc", "queue", "logs", "trial", ok=None)
        assert "Success" in status, f"{status}\n{logs}"
    project.delivered()
    if how != "repro":
        # DVC applies all outputs and fails, because the other stages have none yet.
        project.run("dvc", "exp", "apply", "trial", ok=None)


def runs(project: Project) -> tuple[Run, dict[str, Run]]:
    """Return the only pipeline's run and the runs of its stages."""
    client, experiment = open_store(project.folder, "atelier")
    found = client.search_runs([experiment])
    (parent,) = [run for run in found if "atelier.pipeline" in run.data.tags]
    return parent, {run.data.tags["atelier.stage"]: run for run in found if run is not parent}


def assert_tracked(project: LayoutProject, stages: set[str]) -> None:
    """Assert that runs, stage table, hashes and lineage are complete; ``gc`` removes no run."""
    parent, children = runs(project)
    assert children.keys() == stages
    assert all(run.info.status == "FINISHED" for run in (parent, *children.values()))
    assert set(parent.data.tags["stages.ran"].split()) == stages
    table = parent.data.tags["mlflow.note.content"]
    assert all(f"| {stage} | ran | [{run.info.run_id[:8]}]" in table
               for stage, run in children.items())  # fmt: skip
    convert = children["convert"]
    assert parent.data.tags["mlflow.runName"].count("40 pictures") == 1
    images = convert.data.tags["output.data/images.npz"]
    assert images in (project.folder / "dvc.lock").read_text("utf-8")
    lineage = project.atelier("lineage", "data/images.npz")
    assert convert.info.run_id in lineage
    assert children["download"].info.run_id in lineage
    assert "goes:" not in project.atelier("gc", "--best", "0")
    if not (project.folder / "data/pictures/my stylé.png").exists():
        # A temporary copy used the images of the main worktree; the next run links them here.
        assert project.repro("stylize_inputs") == ["stylize_inputs"]
    # Ignored files and files that no setting names do not change the state.
    assert "up to date" in project.run("dvc", "status", "stylize_inputs")
    strays = {"mlflow.db", "mlruns", ".atelier"} & set(os.listdir(project.home.parent))
    assert strays == set()


@pytest.mark.parametrize(
    ("layout", "how", "odd"),
    [
        pytest.param("worktree", "repro", True, marks=pytest.mark.slow),
        pytest.param("monorepo", "temp", False, marks=pytest.mark.slow),
    ],
)
def test_first_stages_run_in_any_layout(tmp_path: Path, layout: str, how: str, odd: bool) -> None:
    project = create(tmp_path / (ODD_NAMES[how] if odd else "plain"), layout)
    run_stages(project, how, "convert", "stylize_inputs")
    assert_tracked(project, {"download", "convert"})
    assert "my styl" in (project.folder / "data/inputs/stylize.json").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("how", ["repro", "temp", "queue"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_stylized_in_any_layout(
    tmp_path: Path, layout: str, how: str, odd: bool
) -> None:
    project = create(tmp_path / (ODD_NAMES[how] if odd else "plain"), layout)
    run_stages(project, how, "stylize")
    assert_tracked(project, {"download", "convert", "train", "stylize"})
    _, children = runs(project)
    style = "data/pictures/my stylé.png"
    inputs = [v for k, v in children["stylize"].data.tags.items() if k.startswith("input.data/pi")]
    assert inputs
    assert inputs[0] in (project.folder / "data/inputs/stylize.json").read_text("utf-8")
    # Only images that a setting names are inputs.
    Image.radial_gradient("L").save(project.home / "data/pictures/another.png")
    assert "stylize" not in project.repro("stylize")
    Image.radial_gradient("L").convert("RGB").save(project.home / style)
    assert "stylize" in project.repro("stylize")


@pytest.mark.slow
def test_experiment_that_dvc_would_lose_is_rejected(tmp_path: Path) -> None:
    project = create(tmp_path / "my%41disk", "main")
    output = project.run("dvc", "exp", "run", "--temp", "convert", ok=False)
    assert "DVC cannot bring an experiment back" in output
