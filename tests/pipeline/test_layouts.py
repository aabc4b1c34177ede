"""The chain in every layout of a repository: main folder, worktree, subdirectory, monorepo."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.entities import Run
from PIL import Image

from atelier.tracking.store import open_store

from ..support.project import TRACKED, Project, clone

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
LAYOUTS = ("main", "worktree", "subdirectory", "monorepo")
# DVC itself cannot run temporary copies below a folder with %, # or a letter outside ASCII.
ODD = {"repro": "my disk %41 #1 ü", "temp": "my disk (1)", "queue": "my disk (1)"}


@dataclass(frozen=True)
class Laid(Project):
    """A clone in a layout; ``home`` is the main worktree's project, which holds ignored files."""

    home: Path


def git(folder: Path, *words: str) -> None:
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    Project(folder).run("git", *author, *words)


def lay(base: Path, layout: str) -> Laid:
    """Make a clone in a layout, with a folder of pictures and an ignored style picture."""
    below = {"subdirectory": "repo/atelier", "monorepo": "repo/atelier"}.get(layout, "project")
    home = base / below
    project = clone(home, **TRACKED)
    if layout in ("subdirectory", "monorepo"):
        shutil.move(home / ".git", home.parent / ".git")
        if layout == "monorepo":
            shutil.move(home / ".dvc", home.parent / ".dvc")
    faces = base / "faces"
    faces.mkdir()
    for number in range(40):
        picture = Image.radial_gradient("L").rotate(9 * number, fillcolor=6 * number)
        picture.convert("RGB").resize((24, 24)).save(faces / f"{number}.png")
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
    (home / "dvc.lock").unlink()  # of results that this clone does not have
    git(home.parent if layout in ("subdirectory", "monorepo") else home, "add", "-A")
    git(home, "commit", "--quiet", "-m", "laid out")
    if layout == "worktree":
        # Not beside the main one, so that the relative path leads nowhere from here.
        tree = base / "deep" / "er" / "tree"
        git(home, "worktree", "add", "--quiet", str(tree))
        return Laid(tree, home)
    return Laid(home, home)


def make(project: Project, how: str, *targets: str) -> None:
    """Run stages in one of the ways that DVC has."""
    if how == "repro":
        project.repro(*targets)
    elif how == "temp":
        project.run("dvc", "exp", "run", "--temp", "-n", "trial", *targets)
    else:
        project.run("dvc", "exp", "run", "--queue", "-n", "trial", *targets)
        project.run("sh", "-c", "exec dvc queue start >/dev/null 2>&1")
        status = project.queue_ended()
        logs = project.run("dvc", "queue", "logs", "trial", ok=None)
        assert "Success" in status, f"{status}\n{logs}"
    project.delivered()
    if how != "repro":
        # It applies all that there is, and fails because the other stages have made nothing yet.
        project.run("dvc", "exp", "apply", "trial", ok=None)


def runs(project: Project) -> tuple[Run, dict[str, Run]]:
    """The only pipeline's run, and those of its stages."""
    client, experiment = open_store(project.folder, "atelier")
    found = client.search_runs([experiment])
    (parent,) = [run for run in found if "atelier.pipeline" in run.data.tags]
    return parent, {run.info.run_name: run for run in found if run is not parent}


def assert_tracked(project: Laid, stages: set[str]) -> None:
    """Runs, the stage table, hashes, lineage, and nothing that prune would take."""
    parent, children = runs(project)
    assert children.keys() == stages
    assert all(run.info.status == "FINISHED" for run in (parent, *children.values()))
    assert set(parent.data.tags["stages.ran"].split()) == stages
    table = parent.data.tags["mlflow.note.content"]
    assert all(f"| {stage} | ran | [{run.info.run_id[:8]}]" in table
               for stage, run in children.items())  # fmt: skip
    convert = children["convert"]
    assert parent.data.metrics["convert.accepted"] == 40
    images = convert.data.tags["output.data/images.npz"]
    assert images in (project.folder / "dvc.lock").read_text("utf-8")
    told = project.atelier("lineage", "data/images.npz")
    assert convert.info.run_id in told
    assert children["download"].info.run_id in told
    assert "goes:" not in project.atelier("gc", "--best", "0")
    # A file that no setting names and one that git ignores leave everything up to date.
    assert "up to date" in project.run("dvc", "status", "stylize_inputs")
    strays = {"mlflow.db", "mlruns", ".atelier"} & set(os.listdir(project.home.parent))
    assert strays == set()


@pytest.mark.parametrize(
    ("layout", "how", "odd"),
    [
        ("worktree", "repro", True),
        pytest.param("monorepo", "temp", False, marks=pytest.mark.slow),
    ],
)
def test_the_first_stages_run_in_any_layout(
    tmp_path: Path, layout: str, how: str, odd: bool
) -> None:
    project = lay(tmp_path / (ODD[how] if odd else "plain"), layout)
    make(project, how, "convert", "stylize_inputs")
    assert_tracked(project, {"download", "convert"})
    assert "my styl" in (project.folder / "data/inputs/stylize.json").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("how", ["repro", "temp", "queue"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_are_painted_in_any_layout(
    tmp_path: Path, layout: str, how: str, odd: bool
) -> None:
    project = lay(tmp_path / (ODD[how] if odd else "plain"), layout)
    make(project, how, "stylize")
    assert_tracked(project, {"download", "convert", "train", "stylize"})
    _, children = runs(project)
    style = "data/pictures/my stylé.png"
    inputs = [v for k, v in children["stylize"].data.tags.items() if k.startswith("input.data/pi")]
    assert inputs
    assert inputs[0] in (project.folder / "data/inputs/stylize.json").read_text("utf-8")
    # A picture that a setting names is an input; another is none.
    Image.radial_gradient("L").save(project.home / "data/pictures/another.png")
    assert "stylize" not in project.repro("stylize")
    Image.radial_gradient("L").convert("RGB").save(project.home / style)
    assert "stylize" in project.repro("stylize")


@pytest.mark.slow
def test_an_experiment_that_dvc_would_lose_is_refused(tmp_path: Path) -> None:
    project = lay(tmp_path / "my%41disk", "main")
    told = project.run("dvc", "exp", "run", "--temp", "convert", ok=False)
    assert "DVC cannot bring an experiment back" in told
