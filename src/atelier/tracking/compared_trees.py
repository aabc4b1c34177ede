"""Compared runs of the working tree, of DVC experiments and of git revisions."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from ruamel.yaml import YAML

from atelier.core.errors import AtelierError
from atelier.tracking.compared_code import code_digest
from atelier.tracking.compared_files import (
    Notes,
    parse_evaluation,
    parse_image,
    parse_kid,
    parse_losses,
    parse_quality,
    parse_samples,
    parse_style_loss,
    parse_validation,
)
from atelier.tracking.compared_run import (
    ComparedRun,
    Pixels,
    StylizedFile,
    settings_as_text,
    stylized_names,
)
from atelier.tracking.dvc_lock import StageRecord, current, producers, read_lock
from atelier.tracking.environment import git, git_tags, uncommitted
from atelier.tracking.execution import Commit, Tree, Workspace

T = TypeVar("T")
WORKSPACE = "workspace"
_RESULTS = ("train", "evaluate", "stylize")
_SAMPLES = re.compile(r"epoch_(\d{1,9})\.npy")
_PERMISSION = "convert.share_images"


def workspace_run(root: Path) -> ComparedRun:
    """Return the run whose outputs are in the working tree of a project.

    Raises:
        AtelierError: it has no ``dvc.lock``.
    """
    tree, tags, lock = Workspace(root), git_tags(), root / "dvc.lock"
    if not lock.is_file():
        raise AtelierError("the workspace has no results yet; type: dvc repro")
    commit, is_dirty = tags.get("mlflow.source.git.commit", ""), tags.get("git.dirty") == "true"
    run = _tree_run(tree, WORKSPACE, WORKSPACE)
    return replace(
        run,
        date=f"{datetime.fromtimestamp(lock.stat().st_mtime):%Y-%m-%d %H:%M}",
        commit=commit,
        is_dirty=is_dirty,
        code=code_digest(commit, uncommitted() if is_dirty else None),
    )


def revision_run(root: Path, name: str, commit: str, is_experiment: bool) -> ComparedRun:
    """Return the run that the ``dvc.lock`` of a commit records.

    Args:
        root: the project.
        name: of the revision, as the user entered it.
        commit: its id.
        is_experiment: True for a DVC experiment.

    Raises:
        AtelierError: the commit has no ``dvc.lock``.
    """
    tree = Commit.open(root, commit)
    if tree.read("dvc.lock") is None:
        raise AtelierError(
            f"{name} has no dvc.lock; choose a commit that was made after `dvc repro`."
        )
    kind = "DVC experiment" if is_experiment else "git revision"
    shown = git("show", "-s", "--date=format:%Y-%m-%d %H:%M", "--format=%cd", commit)
    return replace(
        _tree_run(tree, name, f"{kind} {name}"),
        date=(shown or "").strip(),
        commit=commit,
        code=code_digest(commit, None),
        experiment=name if is_experiment else "",
    )


def _tree_run(tree: Tree, name: str, source: str) -> ComparedRun:
    """Return the results in a tree of files, without those of stages that are out of date."""
    notes = Notes()
    recorded = read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace"))
    records = _up_to_date(tree, recorded, notes)
    # Without a record of a stage, its files are those of a pipeline that has not ended.
    results = _Results(tree, frozenset(recorded.keys() - records.keys()), notes)
    metrics, conditions = results.evaluation()
    return ComparedRun(
        name=name,
        source=source,
        metrics=metrics | results.validation_kid() | results.style_loss(),
        measured_with=conditions,
        kid_by_epoch=results.read("evaluate", "KID by epoch", "plots/kid.csv", parse_kid) or [],
        validation_by_epoch=results.validation_by_epoch(),
        losses=results.read("train", "losses", "plots/losses.csv", parse_losses) or {},
        samples=results.samples(),
        settings=_settings(tree, records, notes),
        stylized=results.stylized(),
        hashes={
            path: hash_
            for record in records.values()
            for path, hash_ in (record.data | record.outputs).items()
        },
        notes=tuple(notes.sentences),
    )


def _up_to_date(
    tree: Tree, records: Mapping[str, StageRecord], notes: Notes
) -> dict[str, StageRecord]:
    """Return the records whose inputs are the recorded outputs of other stages.

    After ``dvc repro train``, evaluate and stylize still have the results of an earlier training.
    Those would be shown with the settings of the new one.
    """
    hashes = {path: tree.hash_of(path) for path in _inside_outputs(records)}
    linked = {
        name: replace(
            record,
            parameters={},
            # A file that is not in the cache cannot be compared.
            inputs={
                path: record.inputs[path]
                for path in producers(records, record)
                if hashes.get(path, record.inputs[path]) is not None
            },
        )
        for name, record in records.items()
    }
    valid = current(linked, {}, hashes.get)
    for name in _RESULTS:
        if name in records and name not in valid:
            notes.sentences.append(f"{name} is older than {_newer(linked, valid, name)}")
    return {name: record for name, record in records.items() if name in valid}


def _inside_outputs(records: Mapping[str, StageRecord]) -> set[str]:
    """Return the inputs that are in a folder that a stage makes, e.g. one network of models/."""
    outputs = {path for record in records.values() for path in record.outputs}
    return {path for record in records.values() for path in producers(records, record)} - outputs


def _newer(records: Mapping[str, StageRecord], valid: Mapping[str, StageRecord], name: str) -> str:
    """Return the stage whose outputs are newer than the results of a stage."""
    found = list(dict.fromkeys(producers(records, records[name]).values()))
    outdated = [producer for producer in found if producer not in valid]
    if outdated:
        return _newer(records, valid, outdated[0])
    outputs = {path: md5 for each in found for path, md5 in records[each].outputs.items()}
    changed = [
        producer
        for path, producer in producers(records, records[name]).items()
        if outputs.get(path) != records[name].inputs[path]
    ]
    return changed[0]


@dataclass(frozen=True)
class _Results:
    """Results in a tree, without those of some stages.

    Attributes:
        tree: of files.
        outdated: stages whose results are left out.
        notes: on missing and damaged parts.
    """

    tree: Tree
    outdated: frozenset[str]
    notes: Notes

    def read(
        self,
        stage: str,
        part: str,
        path: str,
        parse: Callable[[bytes], T],
        default: bytes | None = None,
    ) -> T | None:
        """Return a parsed file of a stage; ``None`` if it is out of date, missing or damaged.

        Args:
            stage: that writes the file.
            part: name for a note.
            path: of the file.
            parse: its content.
            default: content of a missing file that needs no note.
        """
        if stage in self.outdated:
            return None
        return self.notes.read(part, lambda: self.tree.read(path) or default, parse)

    def evaluation(self) -> tuple[dict[str, float], dict[str, str]]:
        """Return the metrics and their conditions."""
        path = "metrics/details/evaluate.json"
        return self.read("evaluate", "metrics", path, parse_evaluation) or ({}, {})

    def validation_kid(self) -> dict[str, float]:
        """Return the metric of the train stage, if it measured any."""
        path = "metrics/train.json"
        return self.read("train", "validation KID", path, parse_validation, b"{}") or {}

    def validation_by_epoch(self) -> list[tuple[int, float, float]]:
        """Return the table of the train stage, if it measured epochs."""
        path = "plots/quality.csv"
        return self.read("train", "validation KID by epoch", path, parse_quality, b"") or []

    def style_loss(self) -> dict[str, float]:
        """Return the metric of the stylize stage."""
        path = "metrics/stylize.json"
        return self.read("stylize", "style loss", path, parse_style_loss) or {}

    def samples(self) -> dict[int, Callable[[], Pixels]]:
        """Return functions that read the samples of an epoch."""
        if "train" in self.outdated:
            return {}
        names = self.tree.names("samples")
        files = {int(m[1]): m[0] for m in map(_SAMPLES.fullmatch, names) if m}
        if not files:
            self.notes.sentences.append("samples missing")
        return {
            epoch: partial(_samples, self.tree, f"samples/{file}")
            for epoch, file in sorted(files.items())
        }

    def stylized(self) -> dict[str, StylizedFile]:
        """Return the stylized images."""

        def parse(content: bytes) -> dict[str, StylizedFile]:
            return {
                image: StylizedFile(of, style, partial(_image, self.tree, f"styled/{image}.png"))
                for image, of, style in stylized_names(json.loads(content))
            }

        path = "styled/sources/list.json"
        return self.read("stylize", "stylized images", path, parse) or {}


def _settings(tree: Tree, records: Mapping[str, StageRecord], notes: Notes) -> dict[str, str]:
    """Return the settings of the outputs: those that ``dvc.lock`` records, before other ones."""

    def parse(content: bytes) -> dict[str, str]:
        return settings_as_text(dict(YAML(typ="safe", pure=True).load(content)))

    present = notes.read("params.yaml", lambda: tree.read("params.yaml") or b"{}", parse) or {}
    recorded = {
        key: value
        for section, record in records.items()
        for key, value in record.parameters.items()
        if key.startswith(f"{section}.")
    }
    # A section is replaced as a whole: two mappings, e.g. of weights by layer, must not be mixed.
    others = {k: v for k, v in present.items() if k.split(".")[0] not in records}
    # Permission is that of the tree's settings; it changes no output.
    permission = {_PERMISSION: present[_PERMISSION]} if _PERMISSION in present else {}
    return others | recorded | permission


def _samples(tree: Tree, path: str) -> Pixels:
    return parse_samples(_content(tree, path))


def _image(tree: Tree, path: str) -> Pixels:
    return parse_image(_content(tree, path))


def _content(tree: Tree, path: str) -> bytes:
    content = tree.read(path)
    if content is None:
        raise AtelierError(f"{path} is missing; run the pipeline again.")
    return content
