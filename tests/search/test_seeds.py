"""Names, seeds and locks of the experiments that repeat the settings with several seeds."""

import shutil
import subprocess
from pathlib import Path

import pytest

from atelier.core.errors import AtelierError
from atelier.search.seeds import (
    SeedPlan,
    Target,
    exclusive,
    finished_seeds,
    plan_seeds,
    run_seed,
)

from ..support.project import AUTHOR, ROOT, Project

CODE = "src/model.py"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Repository with settings, presets and a file of code, without data."""
    folder = tmp_path / "project"
    (folder / "src").mkdir(parents=True)
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, folder)
    (folder / "presets").mkdir()
    for preset in ("base.yaml", "sample.yaml"):  # to read all of them takes half a second
        shutil.copy(ROOT / "presets" / preset, folder / "presets")
    (folder / CODE).write_text("layers = 3\n", "utf-8")
    project = Project(folder)
    project.run("git", "init", "-q")
    project.run("git", "add", "-A")
    project.run("git", *AUTHOR, "commit", "-qm", "start")
    return project


def name(project: Project, target: Target = "evaluate") -> str:
    return plan_seeds(project.folder, 1, target).name


def append(project: Project, path: str, text: str) -> None:
    with (project.folder / path).open("a", encoding="utf-8") as file:
        file.write(text)


def test_seeds_are_the_present_one_and_the_following(project: Project) -> None:
    project.set(**{"train.seed": 7})
    plan = plan_seeds(project.folder, 3, "evaluate")
    assert plan.seeds == (7, 8, 9)
    assert plan.target == "evaluate"
    assert plan.experiment(8) == f"{plan.name}-seed-8"
    assert plan.name.startswith("sample-")  # the nearest preset
    project.run("git", "check-ref-format", f"refs/exps/12/34/{plan.experiment(8)}")


def test_name_depends_on_everything_but_the_seed_that_shapes_results(project: Project) -> None:
    names = [name(project)]
    project.set(**{"train.seed": 4, "runtime.device": "cpu", "tracking.experiment": "other"})
    append(project, "params.yaml", "# a comment\n")
    append(project, "dvc.lock", "# written by every pipeline\n")
    (project.folder / "untracked.py").write_text("DVC does not copy it", "utf-8")
    assert name(project) == names[0]
    project.set(**{"train.lr": 0.003})
    names.append(name(project))
    append(project, CODE, "layers = 4\n")
    names.append(name(project))
    project.commit()
    names.append(name(project))
    project.set(**{"evaluate.seed": 2})
    names.append(name(project))
    assert len(set(names)) == 5


def test_name_depends_on_the_settings_of_the_target(project: Project) -> None:
    targets: tuple[Target, ...] = ("train", "evaluate", "report")
    before = {target: name(project, target) for target in targets}
    assert len(set(before.values())) == 3
    project.set(**{"stylize.iterations": 7})
    assert [t for t in targets if name(project, t) != before[t]] == ["report"]
    project.set(**{"evaluate.samples": 77})
    assert [t for t in targets if name(project, t) != before[t]] == ["evaluate", "report"]
    project.set(**{"download.sample.count": 70})
    assert [t for t in targets if name(project, t) != before[t]] == list(targets)


def test_changed_files_are_those_that_experiments_contain(project: Project) -> None:
    assert plan_seeds(project.folder, 1, "train").changed_files == ()
    append(project, "params.yaml", "\n")
    append(project, "dvc.lock", "\n")
    append(project, CODE, "\n")
    (project.folder / "untracked.py").touch()
    assert plan_seeds(project.folder, 1, "train").changed_files == (CODE,)


def test_seed_that_would_be_too_large_is_rejected(project: Project) -> None:
    project.set(**{"train.seed": 2**32 - 2})
    assert plan_seeds(project.folder, 2, "train").seeds == (2**32 - 2, 2**32 - 1)
    with pytest.raises(AtelierError, match="seeds end at 4294967295; set it to a smaller number"):
        plan_seeds(project.folder, 3, "train")


def test_project_without_a_commit_is_rejected(project: Project) -> None:
    shutil.rmtree(project.folder / ".git")
    project.run("git", "init", "-q")
    with pytest.raises(AtelierError, match="run `git commit`"):
        plan_seeds(project.folder, 1, "train")


def test_finished_seeds_are_those_of_the_plan_and_the_present_commit(project: Project) -> None:
    plan = plan_seeds(project.folder, 3, "train")
    head = project.run("git", "rev-parse", "HEAD").strip()
    for experiment in (plan.experiment(3), plan.experiment(2), plan.experiment(4), "other-seed-1"):
        project.run("git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{experiment}", head)
    assert finished_seeds(project.folder, plan) == {2: head, 3: head}
    project.run("git", *AUTHOR, "commit", "-qm", "later", "--allow-empty")
    assert finished_seeds(project.folder, plan) == {}


def test_lock_is_also_held_by_a_training_that_inherited_it(project: Project) -> None:
    plan, other = SeedPlan("a-1", "train", (1,)), SeedPlan("b-2", "train", (1,))
    with exclusive(project.folder, plan) as descriptor:
        training = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    with (
        pytest.raises(AtelierError, match="another process is training these seeds"),
        exclusive(project.folder, plan),
    ):
        pass
    with exclusive(project.folder, other):
        pass
    training.communicate()
    with exclusive(project.folder, plan):
        pass


def test_seed_is_not_started_with_settings_that_changed_meanwhile(project: Project) -> None:
    plan = plan_seeds(project.folder, 2, "train")
    project.set(**{"train.lr": 0.003})
    with (
        exclusive(project.folder, plan) as lock,
        pytest.raises(AtelierError, match="seed 2 was not started: settings or code have changed"),
    ):
        run_seed(project.folder, plan, 2, lock)
    assert list((project.folder / ".atelier/seeds").glob("*.log")) == []
