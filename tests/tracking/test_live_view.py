"""Content of the live page."""

import time
from pathlib import Path
from typing import Any

import pytest

from atelier.core.yaml_files import read_yaml
from atelier.tracking.live_state import STOP
from atelier.tracking.live_view import STAGES, executions, live_view

from ..support.live import OWN, dead_key, write_state
from ..support.project import ROOT


def statuses(view: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["status"] for stage in view["stages"]}


def test_stages_are_those_of_the_pipeline() -> None:
    """Each stage with all stages that must be done before it."""
    definitions = read_yaml(ROOT / "dvc.yaml")["stages"]
    outputs = {
        str(next(iter(output)) if isinstance(output, dict) else output): name
        for name, definition in definitions.items()
        for output in definition.get("outs", [])
    }

    def before(name: str) -> set[str]:
        paths = definitions[name].get("deps", [])
        direct = {
            stage
            for path in paths
            for output, stage in outputs.items()
            if f"{path}/".startswith(f"{output}/") or f"{output}/".startswith(f"{path}/")
        }
        return direct.union(*map(before, direct))

    def listed(name: str) -> set[str]:
        return set(STAGES[name]).union(*map(listed, STAGES[name]))

    for name in STAGES:
        assert listed(name) == before(name) & set(STAGES), name
    helpers = {name for name in definitions if name.endswith("_inputs")}
    assert set(definitions) - set(STAGES) - helpers == {"watch", "start", "plots_script"}


def test_nothing_runs(tmp_path: Path) -> None:
    view = live_view(tmp_path)
    assert (view["status"], view["headline"]) == ("none", "Nothing is running")
    assert view["message"] == "Start the pipeline with: dvc repro"
    assert executions(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "status", "headline", "message"),
    [
        ({}, "running", "The stage train is running", ""),
        ({"process": dead_key()}, "killed", "The stage train was killed", "dvc repro"),
        (
            {"status": "finished", "pipeline": OWN, "process": dead_key()},
            "between",
            "The stage train is finished",
            "The next stage starts",
        ),
        ({"status": "finished"}, "finished", "The stage train is finished", ""),
        (
            {"status": "failed", "message": "the disk is full", "pipeline": OWN},
            "failed",
            "The stage train failed",
            "the disk is full",
        ),
        (
            {"status": "interrupted", "is_saved": True},
            "interrupted",
            "The stage train is stopped",
            "A checkpoint is saved. To continue from it, type: dvc repro",
        ),
        (
            {"status": "interrupted", "is_saved": True, "experiment": "warm-fox"},
            "interrupted",
            "The stage train is stopped",
            "To continue from it, repeat the command that started the experiment warm-fox: dvc exp",
        ),
        (
            {"process": dead_key(), "experiment": "warm-fox"},
            "killed",
            "The stage train was killed",
            "checkpoint, repeat the command that started the experiment warm-fox: dvc exp run ...",
        ),
        (
            {"status": "interrupted"},
            "interrupted",
            "The stage train is stopped",
            "To start it again, type: dvc repro",
        ),
    ],
)
def test_status_is_described(
    tmp_path: Path, fields: dict[str, Any], status: str, headline: str, message: str
) -> None:
    write_state(tmp_path, "train", **fields)
    view = live_view(tmp_path)
    assert (view["status"], view["headline"]) == (status, headline)
    assert message in view["message"]
    assert bool(view["message"]) == bool(message)
    (execution,) = executions(tmp_path)
    assert execution.is_running == (status in ("running", "between"))


def test_requested_stop_is_shown_until_the_stage_ends(tmp_path: Path) -> None:
    folder = write_state(tmp_path)
    (folder / STOP).touch()
    view = live_view(tmp_path)
    assert (view["status"], view["message"]) == (
        "stopping",
        "It finishes its step and saves a checkpoint.",
    )


def test_finished_pipeline(tmp_path: Path) -> None:
    write_state(tmp_path, "report", status="finished", pipeline=dead_key(2))
    assert live_view(tmp_path)["headline"] == "The pipeline is finished"


def test_stages_of_the_pipeline_are_listed(tmp_path: Path) -> None:
    pipeline = dead_key(2)
    done = {"status": "finished", "pipeline": pipeline}
    write_state(tmp_path, "download", process=dead_key(9), status="finished", pipeline=dead_key(8))
    convert = {"process": dead_key(3), "started": 10.0, "updated": 12.5}
    write_state(tmp_path, "convert", **done | convert)
    write_state(tmp_path, "train", pipeline=pipeline, started=20.0, updated=25.0)
    view = live_view(tmp_path)
    assert statuses(view) == {
        "download": "unchanged",
        "convert": "finished",
        "data_report": "waiting",
        "train": "running",
        "evaluate": "waiting",
        "render": "waiting",
        "stylize": "waiting",
        "report": "waiting",
    }
    seconds = {stage["name"]: stage.get("seconds") for stage in view["stages"]}
    assert (seconds["convert"], seconds["train"], seconds["download"]) == (2.5, 5.0, None)
    assert (view["pipeline_started"], view["started"]) == (10.0, 20.0)


def test_stage_without_a_known_pipeline_has_no_list(tmp_path: Path) -> None:
    write_state(tmp_path, "train")
    assert live_view(tmp_path)["stages"] == []
    write_state(tmp_path, "plots_script", pipeline=dead_key(2), started=5000.0)
    assert live_view(tmp_path)["stages"] == []


def test_later_stage_shows_samples_and_curves_of_the_training(tmp_path: Path) -> None:
    own = {"pipeline": OWN, "process": dead_key(1), "status": "finished"}
    trained = {"samples": 7, "curves": 4, "caption": "after epoch 7", "title": "best32"}
    train = write_state(tmp_path, "train", warnings=["few images"], **own | trained)
    other = {"samples": 1, "curves": 1, "pipeline": dead_key(5), "process": dead_key(6)}
    write_state(tmp_path, "train", **other)
    write_state(tmp_path, "evaluate", pipeline=OWN, started=2000.0, warnings=["few samples"])
    view = live_view(tmp_path)
    assert (view["stage"], view["title"]) == ("evaluate", "best32")
    samples = {"name": train.name, "number": 7, "stage": "train", "caption": "after epoch 7"}
    assert view["samples"] == samples
    assert view["curves"] == {"name": train.name, "number": 4, "stage": "train"}
    assert view["warnings"] == ["few images", "few samples"]
    assert view["others"] == []


def test_newest_running_pipeline_is_shown_and_others_are_listed(tmp_path: Path) -> None:
    older = write_state(tmp_path, "train", pipeline=OWN, title="older")
    ended = {"process": dead_key(1), "pipeline": dead_key(2), "started": 9000.0}
    write_state(tmp_path, "train", title="ended", **ended)
    now = time.time()
    remote = {"process": "elsewhere-77-1", "started": 3000.0, "updated": now}
    newer = write_state(tmp_path, "train", title="newer", **remote)
    view = live_view(tmp_path)
    assert view["title"] == "newer"
    (listed,) = view["others"]
    assert (listed["name"], listed["text"]) == (older.name, f"train-{OWN.split('-')[-2]}: older")
    view = live_view(tmp_path, older.name)
    assert view["title"] == "older"
    assert view["others"] == [{"name": newer.name, "text": "train-77: newer"}]
    assert view["now"] >= now
