"""Which run made a file: asked by content, so that it holds however the file came here."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from atelier.core.errors import AtelierError
from atelier.tracking import mlflow_names
from atelier.tracking.dvc_lock import is_logged, read_lock
from atelier.tracking.environment import git
from atelier.tracking.pipeline_run import find_producer, stages_of

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class Producer:
    """One execution of a stage that made a file, or what a file was made from.

    Attributes:
        stage: the stage.
        run: id of its MLflow run; empty where this store has none.
        commit: the commit that it started from, or, without a run, that first records its outputs.
        dirty: whether it started from more than the commit; the run keeps ``uncommitted.patch``.
        when: when it started, or when the commit was made.
        settings: the stage's settings by dotted key.
        inputs: content hash by path.
        outputs: the same.
    """

    stage: str
    run: str
    commit: str
    dirty: bool
    when: str
    settings: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Lineage:
    """Where a content comes from.

    Attributes:
        path: the output of a stage that it is, or lies in.
        content: that output's hash.
        producers: the execution that made it, then those that made what it was made from.
    """

    path: str
    content: str
    producers: tuple[Producer, ...]

    def as_text(self) -> Iterator[str]:
        """Lines of text."""
        yield f"{self.path} ({self.content}) was first made by"
        for number, maker in enumerate(self.producers):
            if number == 1:
                yield "from what was first made by"
            unknown = "a run that this store does not have, recorded"
            run = f"run {maker.run}," if maker.run else unknown
            commit = f"commit {maker.commit[:12]}" if maker.commit else "no commit"
            changes = " with the run's uncommitted.patch" if maker.dirty else ""
            yield f"  {maker.stage:<10}{run} {maker.when}, {commit}{changes}"
            for key, value in sorted(maker.settings.items()):
                if number == 0:
                    yield f"            {key}: {value}"

    def as_json(self) -> str:
        """The same with all settings and hashes, as JSON."""
        return json.dumps(asdict(self), indent=2)


def find_lineage(wanted: str, client: "MlflowClient | None") -> Lineage:
    """Find the run that made a file, and the runs that made what it was made from.

    Args:
        wanted: a path that a stage makes, or a file in such a folder; or the first digits of a
            content's hash.
        client: MLflow's store; ``None`` where there is none, so that git alone answers.

    Raises:
        AtelierError: nothing known made it; the sentence says why.
    """
    path, content = _output(wanted, client)
    found: list[Producer] = []
    pending = [(path, content, "")]
    while pending:
        at, hash_, reader = pending.pop(0)
        maker = _by_run(client, at, hash_, reader) or _by_commit(at, hash_)
        if maker and maker not in found and (is_logged(maker.stage) or not found):
            found.append(maker)
            pending += [(*item, maker.run) for item in maker.inputs.items()]
    if not found:
        raise AtelierError(
            f"no run of this MLflow store and no commit's dvc.lock knows {path} with the content"
            f" {content}: it was changed by hand, or made by a run that was neither logged nor"
            " committed; `dvc checkout` brings back what dvc.lock records."
        )
    return Lineage(path, content, tuple(found))


def _output(wanted: str, client: "MlflowClient | None") -> tuple[str, str]:
    """The output that a path is or lies in, with its content now, or that of a hash."""
    if wanted and Path(wanted).exists():
        return _output_at(Path(wanted))
    here = Path("dvc.lock").read_text("utf-8") if Path("dvc.lock").exists() else ""
    for record in read_lock(here).values():
        if (path := str(PurePosixPath(wanted))) in record.outputs:  # recorded, but not pulled
            return path, record.outputs[path]
    if not re.fullmatch(r"[0-9a-f]{6,32}(\.dir)?", wanted):
        raise AtelierError(
            f"there is no {wanted}; give a path that a stage makes, such as renders/training.gif,"
            " or at least six digits of a hash as dvc.lock has it."
        )
    paths: set[str] = set()
    for lock in _locks():
        for record in read_lock(lock).values():
            paths |= set(record.outputs)
            for path, content in record.outputs.items():
                if content.startswith(wanted):
                    return path, content
    for path in sorted(paths):
        if client and (run := find_producer(client, {path: f"{wanted}%"})):
            return path, run.data.tags[mlflow_names.key(f"output.{path}")]
    raise AtelierError(
        f"no dvc.lock of this repository, in any commit, and no run has the hash {wanted}."
    )


def _output_at(path: Path) -> tuple[str, str]:
    from dvc.exceptions import OutputNotFoundError
    from dvc.repo import Repo

    with Repo() as repo:
        for place in (path.resolve(), *path.resolve().parents):
            try:
                output = repo.find_outs_by_path(str(place))[0]
            except OutputNotFoundError:
                continue
            # As it lies there now, which may be another content than dvc.lock records.
            # dvc.lock names it from its own folder, which may lie below that of .dvc.
            name = os.path.relpath(place, Path.cwd().resolve())
            if not name.startswith(".."):
                return PurePosixPath(name).as_posix(), str(output.get_hash().value)
    raise AtelierError(f"{path} is made by no stage of dvc.yaml.")


def _locks() -> Iterator[str]:
    """Every ``dvc.lock``: the working tree's, then those of all commits, newest first."""
    if Path("dvc.lock").exists():
        yield Path("dvc.lock").read_text("utf-8")
    for commit in (git("log", "--all", "--format=%H", "--", "dvc.lock") or "").split():
        yield git("show", f"{commit}:./dvc.lock") or ""


def _by_run(client: "MlflowClient | None", path: str, content: str, reader: str) -> Producer | None:
    """The run that made an output, or a file in one that the run ``reader`` read."""
    if client is None:
        return None
    run = find_producer(client, {path: content})
    if run is None and reader:
        beside = _locks_beside(client, client.get_run(reader))
        run = next((run for run in beside if _outputs_of(run, path)), None)
    if run is None:
        return None
    tags = run.data.tags
    return Producer(
        stage=tags["atelier.stage"],
        run=run.info.run_id,
        commit=tags.get("mlflow.source.git.commit", ""),
        dirty=tags.get("git.dirty") == "true",
        when=f"{datetime.fromtimestamp(run.info.start_time / 1000):%Y-%m-%d %H:%M:%S}",
        settings=dict(run.data.params),
        inputs=_inputs(run),
        outputs=_tagged(run, "output."),
    )


def _locks_beside(client: "MlflowClient", run: "Run") -> "list[Run]":
    """The runs of all stages of the pipeline that a run belongs to, restored ones too."""
    parent = run.data.tags.get("mlflow.parentRunId")
    if not parent:
        return []
    tags = client.get_run(parent).data.tags
    restored = [
        id_ for tag, id_ in tags.items() if tag.startswith("restored.") and id_ != "unknown"
    ]
    return [*stages_of(client, parent).values(), *map(client.get_run, restored)]


def _outputs_of(run: "Run", path: str) -> bool:
    places = (path, *map(str, PurePosixPath(path).parents))
    return any(mlflow_names.key(f"output.{place}") in run.data.tags for place in places)


def _covers(outputs: Iterable[str], path: str) -> bool:
    return any(PurePosixPath(path).is_relative_to(output) for output in outputs)


def _is_of(stage: str, key: str) -> bool:
    return key.startswith(f"{stage}.")


def _tagged(run: "Run", start: str) -> dict[str, str]:
    tags = run.data.tags.items()
    return {tag.removeprefix(start): value for tag, value in tags if tag.startswith(start)}


def _inputs(run: "Run") -> dict[str, str]:
    """Return the hashes of what a run read, by path.

    MLflow does not accept every path in a tag's name; the run's datasets have the paths.
    """
    inputs = _tagged(run, "input.")
    for item in run.inputs.dataset_inputs if run.inputs else []:
        with suppress(ValueError, KeyError, TypeError):  # anybody may log datasets
            path = str(json.loads(item.dataset.source)["path"])
            legal = mlflow_names.key(f"input.{path}").removeprefix("input.")
            if legal != path and legal in inputs:
                inputs[path] = inputs.pop(legal)
    return inputs


def _by_commit(path: str, content: str) -> Producer | None:
    """The oldest commit whose ``dvc.lock`` records a content, as a colleague's push brings it."""
    found = git("log", "--all", "--reverse", "--format=%H", f"-S{content}", "--", "dvc.lock")
    for commit in (found or "").split():
        records = read_lock(git("show", f"{commit}:./dvc.lock") or "")
        # A file in an output folder has no hash of its own there, but whoever read it has.
        known = {p: h for record in records.values() for p, h in record.inputs.items()}
        for stage, record in records.items():
            recorded = record.outputs.get(path) or known.get(path)
            if _covers(record.outputs, path) and recorded == content:
                return Producer(
                    stage=stage,
                    run="",
                    commit=commit,
                    dirty=False,
                    when=(git("show", "-s", "--format=%ci", commit) or "").strip(),
                    settings={k: v for k, v in record.parameters.items() if _is_of(stage, k)},
                    inputs=record.data,
                    outputs=record.outputs,
                )
    return None
