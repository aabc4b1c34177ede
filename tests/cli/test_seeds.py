"""Command `atelier seeds`: its table and page, and its experiments with the real dvc."""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from scipy import stats

from atelier.cli.seeds_report import mean_margin, seeds_page, seeds_table
from atelier.core.errors import AtelierError
from atelier.core.yaml_files import read_yaml
from atelier.search.seeds import SeedPlan, plan_seeds
from atelier.tracking.compared_run import ComparedRun
from atelier.tracking.experiment_run import Outcome
from atelier.tracking.store import open_store

from ..support.compared_runs import HASHES, make_run
from ..support.project import AUTHOR, Project

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
PLAN = SeedPlan("sample-12345678", "evaluate", (1, 2, 3))


def seed_runs(values: Mapping[int, Mapping[str, float]], **changes: Any) -> list[ComparedRun]:
    return [
        make_run(PLAN.experiment(seed), {"train.seed": str(seed)}, metrics, **changes)
        for seed, metrics in values.items()
    ]


def cells(lines: Sequence[str]) -> list[list[str]]:
    """Return the cells of a table by row."""
    return [re.split(r"\s{2,}", line.strip()) for line in lines]


def test_margin_is_student_s_interval_of_the_mean() -> None:
    values = [1.0, 4.0, 2.5, 3.25]
    low, high = stats.t.interval(
        0.95, 3, statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    )
    assert mean_margin(values) == pytest.approx((high - low) / 2)
    # By the printed table: the 97.5% quantile of Student's t with one degree of freedom.
    assert mean_margin([1.0, 3.0]) == pytest.approx(12.706, rel=1e-4)


def test_table_has_each_seed_mean_deviation_and_margin() -> None:
    runs = seed_runs(
        {
            1: {"kid": 2.0, "kid_error": 0.1, "fid": 210.0, "memorised": 0.02, "swd": 9.0},
            2: {"kid": 3.0, "kid_error": 0.2, "fid": 220.0, "memorised": 0.04},
            3: {"kid": 4.0, "kid_error": 0.15, "fid": 230.0, "memorised": 0.03},
        }
    )
    # Deviations 1, 10 and 0.01; the margin is 4.303 / sqrt(3) = 2.484 deviations.
    assert cells(seeds_table(runs)) == [
        ["seed", "KID", "FID", "memorised"],
        ["1", "2.00 ± 0.10", "210", "2%"],
        ["2", "3.00 ± 0.20", "220", "4%"],
        ["3", "4.00 ± 0.15", "230", "3%"],
        ["mean ± deviation", "3.0 ± 1.0", "220 ± 10", "3.0% ± 1.0%"],
        ["95% margin of mean", "± 2.5", "± 25", "± 2.5%"],
    ]
    lines = seeds_table(runs)
    assert {len(line) for line in lines} == {len(lines[0])}  # aligned on the right


def test_table_of_one_seed_has_no_statistics() -> None:
    lines = seeds_table(seed_runs({5: {"kid": 2.0, "kid_error": 0.1}}))
    assert cells(lines) == [["seed", "KID"], ["5", "2.00 ± 0.10"]]


def test_table_counts_seeds_that_lack_a_metric() -> None:
    runs = seed_runs({1: {"kid": 2.0, "recall": 0.5}, 2: {"kid": 3.0}, 3: {"kid": 3.0}})
    rows = cells(seeds_table(runs))
    assert [row[2] for row in rows] == ["recall", "50%", "-", "-", "50.0% (1 seed)", "-"]
    assert seeds_table(seed_runs({1: {}, 2: {}})) == []


def test_table_shows_the_validation_kid_of_trainings_only() -> None:
    runs = seed_runs({1: {"validation_kid": 0.2}, 2: {"validation_kid": 0.4}})
    assert cells(seeds_table(runs))[0] == ["seed", "Validation KID"]
    assert cells(seeds_table(runs))[3] == ["mean ± deviation", "0.30 ± 0.14"]
    page = seeds_page(runs, PLAN, 4.0)
    assert page.verdict.headline == "Validation KID 0.30 ± 0.14 in 2 seeds of one setting"


def test_page_is_of_one_group_with_the_common_name() -> None:
    runs = seed_runs({1: {"kid": 2.0}, 2: {"kid": 3.0}, 3: {"kid": 4.0}})
    page = seeds_page(runs, PLAN, 7.0)
    assert page.title == "3 seeds of sample-12345678"
    assert [group.label for group in page.groups] == ["sample-12345678"]
    assert page.verdict.headline == "KID 3.0 ± 1.0 in 3 seeds of one setting"
    assert page.fps == 7.0
    other = seed_runs({4: {"kid": 3.0}}, hashes=HASHES | {"data/images.npz": "d" * 32})
    with pytest.raises(AtelierError, match=r"no common mean: A and B differ in training images\."):
        seeds_page([*runs, *other], PLAN, 4.0)


@pytest.fixture(scope="module")
def _project(_ready: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = _ready.copy(tmp_path_factory.mktemp("seeds") / "project")
    for preset in (project.folder / "presets").iterdir():  # to read all takes half a second
        if preset.stem not in ("base", "sample"):
            preset.unlink()
    project.commit()
    return project


@pytest.fixture
def project(_project: Project) -> Iterator[Project]:
    """Finished project with a committed ``dvc.lock``; experiments are removed afterwards."""
    yield _project
    for reference in _project.run(
        "git", "for-each-ref", "--format=%(refname)", "refs/exps"
    ).split():
        _project.run("git", "update-ref", "-d", reference)
    _project.run("git", "checkout", "-q", ".")
    (_project.folder / "seeds.html").unlink(missing_ok=True)


def record(project: Project, seed: int) -> None:
    """Record an experiment with the results of the workspace and another seed."""
    plan = plan_seeds(project.folder, 1, "evaluate")
    yaml, lock = YAML(), project.folder / "dvc.lock"
    before, document = lock.read_bytes(), yaml.load(lock)
    document["stages"]["train"]["params"]["params.yaml"]["train"]["seed"] = seed
    yaml.dump(document, lock)
    # Without a change, git creates no commit.
    created = project.run("git", *AUTHOR, "stash", "create", ok=None).strip()
    head = project.run("git", "rev-parse", "HEAD").strip()
    lock.write_bytes(before)
    reference = f"refs/exps/{head[:2]}/{head[2:]}/{plan.experiment(seed)}"
    project.run("git", "update-ref", reference, created or head)


def kid_of(project: Project) -> float:
    return float(read_yaml(project.folder / "metrics/details/evaluate.json")["kid"])


def table_of(output: str) -> list[list[str]]:
    """Return the cells of the printed table."""
    lines = output.split("\n\n")[1].splitlines()
    return cells(lines)


def test_present_seed_is_restored_and_finished_seeds_are_kept(project: Project) -> None:
    record(project, 2)
    output = project.atelier("seeds", "2")
    assert "up to the stage evaluate: train.seed 1, 2.\n" in output
    assert "All have evaluate.seed 1: the deviation is that of the training.\n" in output
    assert "uncommitted" not in output
    assert "Finished earlier: seed 2.\nSeed 1 restored by DVC.\n" in output
    rows = table_of(output)
    assert [row[0] for row in rows[:3]] == ["seed", "1", "2"]
    value = float(rows[1][1].split(" ± ")[0])
    assert value == pytest.approx(kid_of(project), rel=0.02)
    assert rows[2] == ["2", *rows[1][1:]]  # the recorded experiment has its results
    assert rows[3][1].endswith("± 0.0")
    assert output.endswith("seeds.html shows the images of 2 seeds.\n")
    page = (project.folder / "seeds.html").read_text("utf-8")
    assert "2 seeds of " in page
    assert ">Stylized images<" not in page  # of the workspace, not of the seeds
    assert project.run("git", "status", "--porcelain") == ""


def test_page_replaces_no_other_file(project: Project, tmp_path: Path) -> None:
    other = tmp_path / "notes.html"
    other.write_text("notes", "utf-8")
    message = project.atelier("seeds", "1", "--out", str(other), ok=False)
    assert f"ERROR: {other} is there already" in message
    assert other.read_text("utf-8") == "notes"
    message = project.atelier("seeds", "1", "--out", str(tmp_path / "missing/page.html"), ok=False)
    assert "its folder does not exist; choose another FILE." in message
    message = project.atelier("seeds", "1", "--out", str(tmp_path), "--force", ok=False)
    assert "is a folder" in message


def test_experiment_that_dvc_could_not_record_is_refused(project: Project) -> None:
    lock = read_yaml(project.folder / "dvc.lock")
    (md5,) = [o["md5"] for o in lock["stages"]["stylize"]["outs"] if o["path"] == "styled"]
    listing = project.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    content = listing.read_bytes()
    listing.unlink()
    try:
        message = project.atelier("seeds", "1", ok=False)
    finally:
        listing.write_bytes(content)
    assert "are not in DVC's cache (styled), so that DVC could not record" in message
    assert "run `dvc repro` once, or `dvc pull`." in message


def test_lost_results_of_one_seed_are_one_sentence(project: Project, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    other.write_text("old", "utf-8")
    record(project, 1)
    lock = read_yaml(project.folder / "dvc.lock")
    outputs = {o["path"]: o["md5"] for s in lock["stages"].values() for o in s.get("outs", [])}
    md5 = outputs["metrics/details/evaluate.json"]
    file = project.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    content = file.read_bytes()
    file.unlink()
    try:
        message = project.atelier("seeds", "1", "--out", str(other), "--force", ok=False)
    finally:
        file.write_bytes(content)
    assert "Finished earlier: seed 1.\nNo metric was measured.\n" in message
    assert "One seed has no deviation; `atelier seeds 3` adds two more seeds.\n" in message
    assert f"{other} shows the images of 1 seed.\n" in message
    assert "<h1>1 seed of " in other.read_text("utf-8")
    assert not (project.folder / "seeds.html").exists()
    name = plan_seeds(project.folder, 1, "evaluate").experiment(1)
    assert f"results of {name} are not in DVC's cache (metrics missing)" in message
    assert f"type `dvc exp remove {name}`, and repeat the command." in message


class Trainings:
    """Outcomes of seeds in place of trainings, which take minutes; records the seeds.

    A finished one is recorded as an experiment with the results of the workspace.
    """

    def __init__(self, project: Project, outcomes: Mapping[int, Outcome | None]) -> None:
        self.project, self.outcomes = project, outcomes
        self.seeds: list[int] = []

    def __call__(self, root: Path, plan: SeedPlan, seed: int, *_: object) -> Outcome:
        self.seeds.append(seed)
        outcome = self.outcomes[seed]
        if outcome is None:
            raise KeyboardInterrupt
        if outcome.status == "finished":
            record(self.project, seed)
        return outcome


TRAINED = Outcome("finished", "abc", "", 20.0, 8)
FAILED = Outcome("failed", "", "losses are not finite.", 3.0, 2)


def test_other_seeds_are_trained_after_a_failure(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings(project, {1: TRAINED, 2: FAILED, 3: TRAINED, 4: FAILED})
    monkeypatch.setattr("atelier.search.seeds.run_seed", trainings)
    output = project.atelier("seeds", "4", ok=False)
    assert trainings.seeds == [1, 2, 3, 4]
    assert re.search(r"\nSeed 1 trained in .+\. About .+ left for 3 more seeds\.\n", output)
    assert re.search(r"\nSeed 2 failed after .+: losses are not finite\.\n", output)
    assert re.search(r"\nSeed 3 trained in .+\. About .+ left for 1 more seed\.\n", output)
    assert [row[0] for row in table_of(output)[:4]] == ["seed", "1", "3", "mean ± deviation"]
    assert "seeds.html shows the images of 2 seeds.\n" in output
    assert output.endswith("ERROR: seeds 2, 4 failed: losses are not finite.\n")


@pytest.mark.parametrize("outcome", [None, Outcome("stopped")], ids=["Ctrl-C", "stopped"])
def test_stopped_command_names_the_one_that_continues(
    project: Project, monkeypatch: pytest.MonkeyPatch, outcome: Outcome | None
) -> None:
    trainings = Trainings(project, {1: outcome})
    monkeypatch.setattr("atelier.search.seeds.run_seed", trainings)
    output = project.atelier("seeds", "3", ok=False)
    assert output.endswith(
        "ERROR: seed 1 was stopped, and its training is saved; to resume it, repeat"
        " `atelier seeds 3` with the same options.\n"
    )
    assert trainings.seeds == [1]
    assert not (project.folder / "seeds.html").exists()


def test_uncommitted_changes_are_listed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("README.md", "Makefile", "CHANGELOG.md", "CITATION.cff")):
        with (project.folder / name).open("a", encoding="utf-8") as file:
            file.write(f"{number}\n")
    monkeypatch.setattr("atelier.search.seeds.run_seed", Trainings(project, {1: None}))
    files = "CHANGELOG.md, CITATION.cff, Makefile, README.md"
    assert f"They contain your uncommitted changes of {files}.\n" in project.atelier(
        "seeds", "1", ok=False
    )
    for name in ("dvc.yaml", "mkdocs.yml"):
        with (project.folder / name).open("a", encoding="utf-8") as file:
            file.write("# a comment\n")
    assert "README.md, dvc.yaml, 1 more.\n" in project.atelier("seeds", "1", ok=False)


def train_runs(project: Project) -> dict[str, str]:
    """Return the DVC experiment of each finished train stage in MLflow, by the run's id."""
    project.delivered()
    client, experiment = open_store(project.folder, "atelier")
    runs = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
    return {
        run.info.run_id: run.data.tags.get("dvc.experiment", "")
        for run in runs
        if run.info.status == "FINISHED"
    }


def experiments_of(project: Project) -> list[str]:
    """Return the names of DVC's experiments, as DVC lists them."""
    return sorted(project.run("dvc", "exp", "list", "--name-only").split())


@pytest.mark.slow
def test_more_seeds_train_only_the_missing_one(tracked: Project) -> None:
    tracked.commit()
    plan = plan_seeds(tracked.folder, 3, "evaluate")
    before = train_runs(tracked)
    output = tracked.run("atelier", "seeds", "2")
    assert "Seed 1 restored by DVC.\nSeed 2 trained in" in output
    assert sorted(train_runs(tracked).values()) == sorted([*before.values(), plan.experiment(2)])
    output = tracked.run("atelier", "seeds", "3")
    assert "Finished earlier: seeds 1, 2.\nSeed 3 trained in" in output
    assert sorted(train_runs(tracked).values()) == sorted(
        [*before.values(), plan.experiment(2), plan.experiment(3)]
    )
    assert experiments_of(tracked) == [plan.experiment(seed) for seed in (1, 2, 3)]
    rows = table_of(output)
    kids = [float(row[1].split(" ± ")[0]) for row in rows[1:4]]
    assert len(set(kids)) > 1
    mean, deviation = map(float, rows[4][1].split(" ± "))
    assert mean == pytest.approx(statistics.mean(kids), abs=0.2)
    assert deviation == pytest.approx(statistics.stdev(kids), abs=0.2)
    assert tracked.run("git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_seed_that_fails_in_changed_code_leaves_the_others(ready: Project) -> None:
    script = ready.folder / "stages/train.py"
    check = '    if settings.train.seed == 2:\n        raise AtelierError("seed 2 is bad.")\n'
    text = script.read_text("utf-8").replace(
        "from atelier.core.files",
        "from atelier.core.errors import AtelierError\nfrom atelier.core.files",
        1,
    )
    start = "    from atelier.data.dataset import load_images\n"
    assert text.count(start) == 1
    script.write_text(text.replace(start, check + start), "utf-8")
    output = ready.run("atelier", "seeds", "3", ok=False)
    assert "They contain your uncommitted changes of stages/train.py.\n" in output
    assert "Seed 1 trained in" in output  # by other code than before
    assert output.endswith("ERROR: seed 2 failed: seed 2 is bad.\n")
    assert [row[0] for row in table_of(output)[:4]] == ["seed", "1", "3", "mean ± deviation"]
    plan = plan_seeds(ready.folder, 3, "evaluate")
    assert experiments_of(ready) == [plan.experiment(1), plan.experiment(3)]
    commits = ready.run("git", "for-each-ref", "--format=%(objectname)", "refs/exps").split()
    assert check in ready.run("git", "show", f"{commits[0]}:stages/train.py")


LONG: dict[str, Any] = {
    "train.epochs": 150,
    "runtime.checkpoint_seconds": 0.0,
    "train.sample_every_epochs": 50,
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_seed_is_resumed(ready: Project, number: signal.Signals) -> None:
    ready.set(**LONG)
    ready.commit()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = subprocess.Popen(
        ["atelier", "seeds", "1"],
        cwd=ready.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 280
    while not list((ready.folder / ".atelier/unfinished").glob("*/state-*")):
        assert command.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(command.pid, number)  # as the terminal does
    output = command.communicate(timeout=280)[0]
    if number == signal.SIGINT:
        assert output.endswith(
            "ERROR: seed 1 was stopped, and its training is saved; to resume it, repeat"
            " `atelier seeds 1` with the same options.\n"
        )
    assert experiments_of(ready) == []
    assert ready.run("git", "status", "--porcelain") == ""
    assert "Seed 1 trained in" in ready.run("atelier", "seeds", "1")
    name = plan_seeds(ready.folder, 1, "evaluate").experiment(1)
    log = (ready.folder / f".atelier/seeds/{name}.log").read_text("utf-8")
    assert re.search(r"of which \d+ steps remain", log.rpartition("Reproducing experiment")[2])
    assert experiments_of(ready) == [name]
