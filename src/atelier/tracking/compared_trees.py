"""Compared runs of the working tree, of DVC experiments and of git revisions."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atelier.core.errors import AtelierError
from atelier.tracking.compared_code import code_digest
from atelier.tracking.compared_files import (
    Notes,
    parse_evaluation,
    parse_image,
    parse_kid,
    parse_losses,
    parse_samples,
    parse_style_loss,
)
from atelier.tracking.compared_run import (
    ComparedRun,
    Pixels,
    StylizedFile,
    settings_as_text,
    stylized_names,
)
from atelier.tracking.dvc_lock import StageRecord, read_lock
from atelier.tracking.environment import git, git_tags, uncommitted
from atelier.tracking.execution import Commit, Tree, Workspace

WORKSPACE = "workspace"
_SAMPLES = re.compile(r"epoch_(\d+)\.npy")
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
        code=code_digest(commit, uncommitted() if is_dirty else ""),
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
        code=code_digest(commit, ""),
        experiment=name if is_experiment else "",
    )


def _tree_run(tree: Tree, name: str, source: str) -> ComparedRun:
    """Return the results in a tree of files."""
    notes = Notes()
    records = read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace"))
    metrics, conditions = notes.read(
        "metrics", tree.read("metrics/details/evaluate.json"), parse_evaluation
    ) or ({}, {})
    metrics |= notes.read("style loss", tree.read("metrics/stylize.json"), parse_style_loss) or {}
    kid = notes.read("KID by epoch", tree.read("plots/kid.csv"), parse_kid) or []
    losses = notes.read("losses", tree.read("plots/losses.csv"), parse_losses) or {}
    files = {m[1]: m[0] for m in map(_SAMPLES.fullmatch, tree.names("samples")) if m}
    if not files:
        notes.sentences.append("samples missing")
    return ComparedRun(
        name=name,
        source=source,
        settings=_settings(tree, records, notes),
        metrics=metrics,
        measured_with=conditions,
        kid_by_epoch=kid,
        losses=losses,
        samples={
            int(epoch): partial(_samples, tree, f"samples/{file}")
            for epoch, file in sorted(files.items(), key=lambda item: int(item[0]))
        },
        stylized=notes.read(
            "stylized images",
            tree.read("styled/sources/list.json"),
            lambda content: {
                image: StylizedFile(of, style, partial(_image, tree, f"styled/{image}.png"))
                for image, of, style in stylized_names(json.loads(content))
            },
        )
        or {},
        hashes={
            path: hash_
            for record in records.values()
            for path, hash_ in (record.data | record.outputs).items()
        },
        notes=tuple(notes.sentences),
    )


def _settings(tree: Tree, records: Mapping[str, StageRecord], notes: Notes) -> dict[str, str]:
    """Return the settings of the outputs: those that ``dvc.lock`` records, before other ones."""
    try:
        values = YAML(typ="safe", pure=True).load(tree.read("params.yaml") or b"{}")
        present = settings_as_text(dict(values))
    except (YAMLError, TypeError, ValueError):
        notes.sentences.append("params.yaml damaged")
        present = {}
    recorded = {
        key: value
        for section, record in records.items()
        for key, value in record.parameters.items()
        if key.startswith(f"{section}.")
    }
    # A section is replaced as a whole: two mappings, e.g. of weights by layer, must not be mixed.
    others = {k: v for k, v in present.items() if k.split(".")[0] not in records}
    # Permission is that of the present settings; it changes no output.
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
