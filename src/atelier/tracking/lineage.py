"""Lineage of a file: the run that made it, found by content hash, and the runs of its inputs."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from atelier.core.errors import AtelierError
from atelier.core.paths import NETWORKS, START
from atelier.tracking import mlflow_names
from atelier.tracking.dvc_lock import StageRecord, is_logged, read_lock
from atelier.tracking.environment import git
from atelier.tracking.models import GENERATOR, model_of
from atelier.tracking.pipeline_run import find_producer, stages_of
from atelier.tracking.run_start import settings_of
from atelier.tracking.trained_networks import START_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class Producer:
    """Execution of a stage that made a file or one of its inputs.

    Attributes:
        stage: name of the stage.
        run: id of its MLflow run; empty if this store has none.
        commit: commit that it started from, or, without a run, that first records its outputs.
        dirty: True if it started with uncommitted changes; the run has ``uncommitted.patch``.
        when: time of its start, or of the commit.
        settings: the stage's settings by dotted key.
        inputs: content hash by path.
        outputs: content hash by path.
        start: of a training that started from other networks: ``place``, ``run`` and ``model`` they
            came from, as far as they are known. Their hashes are among the inputs.
    """

    stage: str
    run: str
    commit: str
    dirty: bool
    when: str
    settings: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]
    start: dict[str, str] = field(default_factory=dict)

    @property
    def first_generator(self) -> str:
        """Hash of the generator that a training started from; empty for random weights."""
        return self.inputs.get(str(START / NETWORKS[0]), self.start.get("generator", ""))

    def start_text(self) -> str:
        """Return where the networks of a training came from; empty for random weights."""
        if not self.first_generator:
            return ""
        about = {"model": self.start.get("model"), "run": self.start.get("run")}
        words = [f"{name} {value}" for name, value in about.items() if value]
        words.append(f"generator {self.first_generator}")
        return f"started from {self.start.get('place', 'other networks')} ({', '.join(words)})"


@dataclass(frozen=True)
class Lineage:
    """Producers of a content.

    Attributes:
        path: the stage's output with that content, or the output folder that contains it.
        content: hash of that output.
        producers: the execution that made it, then those that made its direct and other inputs.
    """

    path: str
    content: str
    producers: tuple[Producer, ...]

    def as_text(self) -> Iterator[str]:
        """Yield the lineage as lines of text."""
        yield f"{self.path} ({self.content}) was first made by"
        for number, producer in enumerate(self.producers):
            if number == 1:
                yield "from inputs that were first made by"
            logged = is_logged(producer.stage)
            unknown = "a run that this store does not have" if logged else "no run of its own"
            unknown += ", recorded"
            run = f"run {producer.run}," if producer.run else unknown
            commit = f"commit {producer.commit[:12]}" if producer.commit else "no commit"
            changes = " with the run's uncommitted.patch" if producer.dirty else ""
            yield f"  {producer.stage:<10}{run} {producer.when}, {commit}{changes}"
            if start := producer.start_text():
                yield f"            {start}"
            for key, value in sorted(producer.settings.items()):
                if number == 0:
                    yield f"            {key}: {value}"

    def as_json(self) -> str:
        """Return the lineage with all settings and hashes as JSON."""
        return json.dumps(asdict(self), indent=2)


def find_lineage(target: str, client: "MlflowClient | None") -> Lineage:
    """Find the run that made a file, and the runs that made its inputs.

    Args:
        target: the path of a stage's output or of a file in it; or the first digits of a content
            hash.
        client: client of MLflow's store; ``None`` to search git only.

    Raises:
        AtelierError: no producer is known, or no output has this path or hash.
    """
    path, content = _output(target, client)
    found: list[Producer] = []
    pending = [(path, content, "")]
    while pending:
        input_path, hash_, consumer = pending.pop(0)
        producer = (
            _by_run(client, input_path, hash_, consumer)
            or _by_commit(input_path, hash_)
            or _by_working_tree(input_path, hash_)
        )
        if producer and producer not in found and (is_logged(producer.stage) or not found):
            found.append(producer)
            pending += [(*item, producer.run) for item in producer.inputs.items()]
            if producer.first_generator:  # a copy of what another training made
                pending.append((GENERATOR, producer.first_generator, ""))
    if not found:
        raise AtelierError(
            f"no run of this MLflow store and no commit's dvc.lock has {path} with the content"
            f" {content}: it was edited, or made by a run that was neither logged nor committed;"
            " `dvc checkout` restores the files that dvc.lock records."
        )
    return Lineage(path, content, tuple(found))


def _output(target: str, client: "MlflowClient | None") -> tuple[str, str]:
    """Return path and content hash of the output with a path or hash.

    If the file exists, its present content is hashed.
    """
    if target and Path(target).exists():
        return _output_at(Path(target))
    here = Path("dvc.lock").read_text("utf-8") if Path("dvc.lock").exists() else ""
    for record in read_lock(here).values():
        if (path := str(PurePosixPath(target))) in record.outputs:  # recorded, but not pulled
            return path, record.outputs[path]
    if not re.fullmatch(r"[0-9a-f]{6,32}(\.dir)?", target):
        raise AtelierError(
            f"there is no {target}; give a stage's output, e.g. renders/training.gif, or at least"
            " six digits of a hash in dvc.lock."
        )
    paths: set[str] = set()
    for lock in _locks():
        for record in read_lock(lock).values():
            paths |= set(record.outputs)
            for path, content in record.outputs.items():
                if content.startswith(target):
                    return path, content
    for path in sorted(paths):
        if client and (run := find_producer(client, {path: f"{target}%"})):
            return path, run.data.tags[mlflow_names.key(f"output.{path}")]
    raise AtelierError(
        f"no dvc.lock of this repository, in any commit, and no run has the hash {target}."
    )


def _output_at(path: Path) -> tuple[str, str]:
    from dvc.exceptions import OutputNotFoundError
    from dvc.repo import Repo

    with Repo() as repo:
        for candidate in (path.resolve(), *path.resolve().parents):
            try:
                output = repo.find_outs_by_path(str(candidate))[0]
            except OutputNotFoundError:
                continue
            # Paths in dvc.lock are relative to its folder, which may be below that of .dvc. The
            # present content may differ from the recorded one.
            name = os.path.relpath(candidate, Path.cwd().resolve())
            if not name.startswith(".."):
                return PurePosixPath(name).as_posix(), str(output.get_hash().value)
    raise AtelierError(f"{path} is not an output of a stage of dvc.yaml.")


def _locks() -> Iterator[str]:
    """Yield every ``dvc.lock``: the working tree's, then those of all commits, newest first."""
    if Path("dvc.lock").exists():
        yield Path("dvc.lock").read_text("utf-8")
    for commit in (git("log", "--all", "--format=%H", "--", "dvc.lock") or "").split():
        yield git("show", f"{commit}:./dvc.lock") or ""


def _by_run(
    client: "MlflowClient | None", path: str, content: str, consumer: str
) -> Producer | None:
    """Return the run that made an output, or a file in an output that the run ``consumer`` read."""
    if client is None:
        return None
    run = find_producer(client, {path: content})
    if run is None and consumer:
        siblings = _runs_of_pipeline(client, client.get_run(consumer))
        run = next((run for run in siblings if _has_output(run, path)), None)
    if run is None and path == GENERATOR and (model := model_of(client, content)):
        run = client.get_run(str(model.source_run_id))
    if run is None:
        return None
    tags = run.data.tags
    return Producer(
        stage=tags["atelier.stage"],
        run=run.info.run_id,
        commit=tags.get("mlflow.source.git.commit", ""),
        dirty=tags.get("git.dirty") == "true",
        when=f"{datetime.fromtimestamp(run.info.start_time / 1000):%Y-%m-%d %H:%M:%S}",
        settings=settings_of(run.data.params, tags),
        inputs=_inputs(run),
        outputs=_tagged(run, "output."),
        start=_tagged(run, START_TAG),
    )


def _runs_of_pipeline(client: "MlflowClient", run: "Run") -> "list[Run]":
    """Return the runs of all stages of a run's pipeline, including restored ones."""
    parent = run.data.tags.get("mlflow.parentRunId")
    if not parent:
        return []
    tags = client.get_run(parent).data.tags
    restored = [
        id_ for tag, id_ in tags.items() if tag.startswith("restored.") and id_ != "unknown"
    ]
    return [*stages_of(client, parent).values(), *map(client.get_run, restored)]


def _has_output(run: "Run", path: str) -> bool:
    """Return True if a path, or a folder that contains it, is an output of a run."""
    paths = (path, *map(str, PurePosixPath(path).parents))
    return any(mlflow_names.key(f"output.{one}") in run.data.tags for one in paths)


def _covers(outputs: Iterable[str], path: str) -> bool:
    return any(PurePosixPath(path).is_relative_to(output) for output in outputs)


def _is_of(stage: str, key: str) -> bool:
    return key.startswith(f"{stage}.")


def _tagged(run: "Run", start: str) -> dict[str, str]:
    tags = run.data.tags.items()
    return {tag.removeprefix(start): value for tag, value in tags if tag.startswith(start)}


def _inputs(run: "Run") -> dict[str, str]:
    """Return the hashes of a run's inputs by path.

    MLflow does not accept every path as the name of a tag, so paths are read from the datasets.
    """
    inputs = _tagged(run, "input.")
    for item in run.inputs.dataset_inputs if run.inputs else []:
        with suppress(ValueError, KeyError, TypeError):  # users may log other datasets
            path = str(json.loads(item.dataset.source)["path"])
            legal = mlflow_names.key(f"input.{path}").removeprefix("input.")
            if legal != path and legal in inputs:
                inputs[path] = inputs.pop(legal)
    return inputs


def _by_commit(path: str, content: str) -> Producer | None:
    """Return the producer that the oldest commit with a content records in ``dvc.lock``."""
    found = git("log", "--all", "--reverse", "--format=%H", f"-S{content}", "--", "dvc.lock")
    for commit in (found or "").split():
        when = (git("show", "-s", "--format=%ci", commit) or "").strip()
        lock = git("show", f"{commit}:./dvc.lock") or ""
        if producer := _recorded(lock, path, content, commit, when):
            return producer
    return None


def _by_working_tree(path: str, content: str) -> Producer | None:
    """Return the producer that the present ``dvc.lock`` records, which is not committed."""
    with suppress(OSError):
        file = Path("dvc.lock")
        when = f"{datetime.fromtimestamp(file.stat().st_mtime):%Y-%m-%d %H:%M:%S}"
        return _recorded(file.read_text("utf-8"), path, content, commit="", when=when)
    return None


def _recorded(lock: str, path: str, content: str, commit: str, when: str) -> Producer | None:
    """Return the producer of a content in the text of a ``dvc.lock``; ``None`` without one."""
    records = read_lock(lock)
    # A file in an output folder has a hash only as an input of another stage.
    known = {p: h for record in records.values() for p, h in record.inputs.items()}
    for stage, record in records.items():
        recorded = record.outputs.get(path) or known.get(path)
        if _covers(record.outputs, path) and recorded == content:
            start, networks = _start(records, record)
            return Producer(
                stage=stage,
                run="",
                commit=commit,
                dirty=False,
                when=when,
                settings={k: v for k, v in record.parameters.items() if _is_of(stage, k)},
                inputs=record.data | networks,
                outputs=record.outputs,
                start=start,
            )
    return None


def _start(
    records: Mapping[str, StageRecord], record: StageRecord
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the place of the networks that a training started from, and their hashes by path."""
    for key, place in record.parameters.items():
        name = key.removeprefix("train.start_from.")
        if name != key and (start := records.get(f"start@{name}")):
            return {"place": place}, start.outputs
    return {}, {}
