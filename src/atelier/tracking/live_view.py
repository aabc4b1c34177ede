"""Content of the live page, from the states of all stages of a pipeline."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.tracking.live_curves import Curves
from atelier.tracking.live_state import (
    CURVES,
    FOLDER,
    STOP,
    StageState,
    is_alive,
    read_regular,
    read_states,
)

# The stages of a pipeline, in their order, with those that must be done before. The others only
# list files. A test compares them with dvc.yaml.
STAGES: dict[str, tuple[str, ...]] = {
    "download": (),
    "convert": ("download",),
    "data_report": ("convert",),
    "train": ("convert",),
    "evaluate": ("train",),
    "render": ("train",),
    "stylize": ("train",),
    "report": ("data_report", "evaluate", "render", "stylize"),
}
NOTHING_RUNS = "Nothing is running"
_NOTHING_HINT = "Start the pipeline with: dvc repro"


@dataclass(frozen=True)
class Execution:
    """Stages of one pipeline, or one stage that was started without ``dvc``.

    Attributes:
        states: by the name of their folder, oldest first; at least one.
        is_running: true if a stage is running, or the next one can start.
    """

    states: dict[str, StageState]
    is_running: bool

    @property
    def name(self) -> str:
        """Name of the folder of the newest stage."""
        return next(reversed(self.states))

    @property
    def newest(self) -> StageState:
        """The newest stage."""
        return self.states[self.name]

    @property
    def key(self) -> str:
        """Key of the process of ``dvc``; without one, of the stage."""
        return self.newest.pipeline or self.newest.process

    @property
    def title(self) -> str:
        """Description of the settings; empty if all stages were short."""
        return next((s.title for s in reversed(self.states.values()) if s.title), "")

    @property
    def short_name(self) -> str:
        """Name for a command, e.g. ``train-4711``: the newest stage and its process."""
        host_and_pid = self.newest.process.rpartition("-")[0]
        return f"{self.newest.stage}-{host_and_pid.rpartition('-')[2]}"


def executions(private: Path) -> list[Execution]:
    """Return the executions whose states are known: running ones last, then by their newest stage.

    Args:
        private: the repository's folder ``.atelier/``.
    """
    groups: dict[str, dict[str, StageState]] = {}
    for name, state in read_states(private).items():
        groups.setdefault(state.pipeline or state.process, {})[name] = state
    found = [Execution(states, _is_running(states)) for states in groups.values()]
    return sorted(found, key=lambda each: (each.is_running, each.newest.started))


def _is_running(states: dict[str, StageState]) -> bool:
    newest = states[next(reversed(states))]
    if newest.status == "running":
        return is_alive(newest.process, newest.updated)
    # After a stage that failed or was stopped, dvc only ends.
    return newest.status == "finished" and is_alive(newest.pipeline, newest.updated)


def live_view(private: Path, name: str = "") -> dict[str, Any]:
    """Return what the live page shows, as a JSON object.

    Args:
        private: the repository's folder ``.atelier/``.
        name: folder of a state of the execution to show; by default the newest running one.
    """
    found = executions(private)
    chosen = next((each for each in found if name in each.states), found[-1] if found else None)
    now = time.time()
    if chosen is None:
        empty = {"status": "none", "headline": NOTHING_RUNS, "message": _NOTHING_HINT}
        return empty | {"now": now, "stages": [], "others": [], "warnings": []}
    state = chosen.newest
    status = _status(private, chosen)
    headline, message = _sentences(status, chosen)
    return state.model_dump(exclude={"process", "pipeline", "signal", "status", "samples"}) | {
        "name": chosen.name,
        "title": chosen.title,
        "status": status,
        "headline": headline,
        "message": message,
        "now": now,
        "pipeline_started": min(each.started for each in chosen.states.values()),
        "warnings": list(dict.fromkeys(w for s in chosen.states.values() for w in s.warnings)),
        "stages": list(_stage_list(private, chosen)),
        "samples": _latest(chosen, "samples"),
        "curves": _latest(chosen, "curves"),
        "others": [
            {"name": each.name, "text": f"{each.short_name}: {each.title}".rstrip(": ")}
            for each in found
            if each.is_running and each is not chosen
        ],
    }


def read_curves(private: Path, name: str) -> Any:
    """Return the curves in a state's folder, or ``None``; see :meth:`LiveCurves.as_json`."""
    with suppress(OSError, ValueError):
        content = read_regular(private / FOLDER / name / CURVES)
        return Curves.model_validate_json(content).model_dump(mode="json")
    return None


def _status(private: Path, execution: Execution) -> str:
    """Return the newest stage's status, or ``stopping``, ``between`` (two stages), ``killed``."""
    state = execution.newest
    if state.status == "running" and not execution.is_running:
        return "killed"
    if state.status == "running" and (private / FOLDER / execution.name / STOP).exists():
        return "stopping"
    if state.status == "finished" and execution.is_running:
        return "between"
    return state.status


def _sentences(status: str, execution: Execution) -> tuple[str, str]:
    """Return a headline, and a sentence that is empty if there is nothing to add."""
    state, stage = execution.newest, execution.newest.stage
    if status == "running":
        return f"The stage {stage} is running", ""
    if status == "stopping":
        return f"The stage {stage} is stopping", "It finishes its step and saves a checkpoint."
    if status == "between":
        return f"The stage {stage} is finished", "The next stage starts, or the pipeline ends."
    if status == "finished":
        whole = state.pipeline and stage == "report"
        return "The pipeline is finished" if whole else f"The stage {stage} is finished", ""
    if status == "interrupted":
        return f"The stage {stage} is stopped", interrupted_message(state)
    if status == "failed":
        return f"The stage {stage} failed", state.message
    command = repeated_command(state)
    killed = f"Its process ended without a result. To resume its last checkpoint, {command}"
    return f"The stage {stage} was killed", killed


def interrupted_message(state: StageState) -> str:
    """Return a sentence about how to continue a stage that was interrupted."""
    if state.is_saved:
        return f"A checkpoint is saved. To continue from it, {repeated_command(state)}"
    return f"It had no checkpoint yet. To start it again, {repeated_command(state)}"


def repeated_command(state: StageState) -> str:
    """Return the end of a sentence: what to do to run a stage again.

    An experiment in a temporary copy, or with ``-S``, has settings that ``dvc repro`` lacks.
    """
    if state.experiment:
        return f"repeat the command that started the experiment {state.experiment}: dvc exp run ..."
    return "type: dvc repro"


def _stage_list(private: Path, execution: Execution) -> Iterator[dict[str, Any]]:
    """Yield name, status and seconds of the stages of a pipeline; none if they are not known."""
    if not execution.newest.pipeline or execution.newest.stage not in STAGES:
        return
    by_stage = {state.stage: state for state in execution.states.values()}
    required = {name for stage in by_stage for name in _required(stage)}
    for name in STAGES:
        state = by_stage.get(name)
        if state is None:
            yield {"name": name, "status": "unchanged" if name in required else "waiting"}
            continue
        is_newest = state is execution.newest
        status = _status(private, execution) if is_newest else state.status
        yield {
            "name": name,
            "status": "finished" if status == "between" else status,
            "seconds": max(0.0, state.updated - state.started),
        }


def _required(stage: str) -> set[str]:
    """Return the stages that must be done before another one."""
    direct = STAGES.get(stage, ())
    return {*direct, *(name for each in direct for name in _required(each))}


def _latest(execution: Execution, kind: str) -> dict[str, Any] | None:
    """Return folder, number, stage and caption of the newest samples or curves, if any."""
    for name, state in reversed(execution.states.items()):
        if number := getattr(state, kind):
            found = {"name": name, "number": number, "stage": state.stage}
            return found | ({"caption": state.caption} if kind == "samples" else {})
    return None
