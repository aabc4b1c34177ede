"""Both networks of an earlier training, from a folder or MLflow, for ``train.start_from``."""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError
from atelier.core.files import NotRegularError, open_regular
from atelier.core.hashing import file_digest
from atelier.core.paths import (
    NETWORKS,
    ORIGIN,
    START,
    list_path,
    project_folders,
    read_list,
    user_path,
)
from atelier.tracking import mlflow_names
from atelier.tracking.dvc_lock import read_lock
from atelier.tracking.environment import repository_root
from atelier.tracking.models import CONTENT, MODEL, is_reference, training_of
from atelier.tracking.redact import redact_urls
from atelier.tracking.store import existing_store, short_message

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from atelier.gan.fine_tuning import PretrainedNetworks
    from atelier.tracking.run import Run

ARTIFACTS = "networks"
"""Folder of the run's artifacts with both networks."""
START_TAG = "start."
_PLACES = (
    "a folder with generator.safetensors and discriminator.safetensors, for example"
    " data/weights/celeba, the id of an MLflow run, or a model, e.g. models:/celeba@champion"
)
# A run, a version or a model's id, whose networks do not change; an alias or a stage can move.
_FIXED = re.compile(r"[0-9a-f]{32}|models:/[^/]+/\d+|models:/[^/@]+")
_SIZE_LIMIT = 4 * 2**30  # bytes of a file; a billion weights


@dataclass(frozen=True)
class Origin:
    """Where networks came from.

    Attributes:
        place: value of the setting, without passwords.
        run: id of the MLflow run that trained them; empty for a folder.
        model: name and version of the registered model, e.g. ``celeba/3``, or its id.
    """

    place: str
    run: str = ""
    model: str = ""

    @property
    def text(self) -> str:
        """The place, the model and the run in words."""
        about = [f"model {self.model}"] if self.model else []
        about += [f"run {self.run}"] if self.run and self.run != self.place else []
        return f"{self.place} ({', '.join(about)})" if about else self.place

    def as_json(self) -> dict[str, Any]:
        """Return the origin as a JSON object."""
        return asdict(self)


def reject_own_alias(place: str, registered_model: str) -> None:
    """Raise if a place is an alias that the training from it can move.

    Each training would become the champion, and the next ``dvc repro`` would start from it again.

    Args:
        place: value of ``train.start_from``.
        registered_model: value of ``tracking.registered_model``.

    Raises:
        AtelierError: the place is an alias, the latest version or a stage of that model.
    """
    name = mlflow_names.model_name(registered_model) if registered_model else ""
    if name and re.fullmatch(rf"models:/{re.escape(name)}(@.*|/\D.*)", place):
        raise AtelierError(
            f"train.start_from is {place}, but this training is registered as {name} too, and would"
            f" start again whenever it moves the alias; name a version, for example"
            f" models:/{name}/3, or change tracking.registered_model."
        )


def copy_networks(place: str, folder: Path) -> Origin:
    """Copy the generator and the discriminator of an earlier training.

    If MLflow returns none, those of an earlier call are copied again, with a warning. This applies
    to a run and to a model's version or id, but not to an alias, which may have moved.

    Args:
        place: a folder with both files, the id of a training's or a pipeline's run, or the address
            of a model, e.g. ``models:/celeba@champion``.
        folder: an existing folder for the copies.

    Raises:
        AtelierError: there is no such training, it has no discriminator, or MLflow does not
            respond.
    """
    if not is_reference(place):
        name = re.fullmatch(r"models:([^/\s]\S*)", place)
        if name and not user_path(place).exists():
            raise AtelierError(
                f"train.start_from is {place}, which lacks a slash; write models:/{name[1]}."
            )
        _copy(user_path(place), folder)
        return Origin(redact_urls(place))
    try:
        client = existing_store(repository_root())
        if client is None:
            raise AtelierError("this project has no MLflow store; set MLFLOW_TRACKING_URI")
        return _download(place, client, folder)
    except Exception as error:  # any error of MLflow
        reason = short_message(error).rstrip(".")
    return _copy_again(place, folder, reason)


def _copy_again(place: str, folder: Path, reason: str) -> Origin:
    """Copy the copies of an earlier call, with a warning, if their place has no other content.

    Raises:
        AtelierError: there are no copies, or the place may have other networks by now.
    """
    copied = _copied_origin(place)
    message = f"MLflow returns no networks for train.start_from: {place} ({reason})"
    if copied and _FIXED.fullmatch(place):
        for name in NETWORKS:
            shutil.copyfile(START / name, folder / name)
        print(f"WARNING: {message}; the earlier copy in {START} is used.", file=sys.stderr)
        return Origin(place, copied.get("run", ""), copied.get("model", ""))
    kept = f"; the earlier copy in {START} is kept, and `dvc repro -s train` uses it"
    raise AtelierError(f"{message}{kept if copied else ''}.")


def _copy(source: Path, folder: Path) -> None:
    """Copy both networks of a folder.

    Raises:
        AtelierError: one of them is missing, damaged or an output of this project.
    """
    from atelier.core.pretrained import check_safetensors

    for file in (source, *(source / name for name in NETWORKS)):
        _reject_output(file)
    if not source.is_dir():
        problem = "which is a file" if source.is_file() else "but there is no such folder"
        raise AtelierError(f"train.start_from is {source}, {problem}; name {_PLACES}.")
    for name in NETWORKS:
        try:
            check_safetensors(source / name)
            _check_size(str(source / name), (source / name).stat().st_size)
            with open_regular(source / name) as original, (folder / name).open("wb") as copy:
                shutil.copyfileobj(original, copy)
        except FileNotFoundError:
            raise AtelierError(
                f"train.start_from is {source}, which has no {name}; training from a generator"
                " without its discriminator unlearns what it has learned, so both are needed."
            ) from None
        except NotRegularError as error:
            raise AtelierError(f"train.start_from is {source}, but {error}") from None
        except ValueError as error:
            raise AtelierError(
                f"train.start_from is {source}, whose {name} is no network ({error}); get it again."
            ) from None


def _reject_output(file: Path) -> None:
    """Raise if a file is in ``models/`` or ``data/start/``, also through links.

    Links are followed one by one: DVC may have replaced the files of outputs by links to its cache.

    Raises:
        AtelierError: the file is an output.
    """
    outputs = {(root / name).resolve() for root in project_folders() for name in ("models", START)}
    files = [file]
    while files[-1].is_symlink() and len(files) < 40:  # as many as Linux follows
        files.append(files[-1].parent / files[-1].readlink())
    if any(file.parent.resolve() in outputs for file in files):
        raise AtelierError(
            f"train.start_from uses {file}, which this pipeline itself replaces; copy both"
            " networks, for example to data/weights/first, and name that folder."
        )


def _check_size(name: str, size: int | None) -> None:
    """Raise if a file is too large to be a network; some stores return no size.

    Raises:
        AtelierError: the message names the size and the limit.
    """
    if size and size > _SIZE_LIMIT:
        raise AtelierError(
            f"{name} has {size / 2**30:,.1f} GiB, and the limit for a network is"
            f" {_SIZE_LIMIT // 2**30} GiB; choose other networks"
        )


def _download(place: str, client: "MlflowClient", folder: Path) -> Origin:
    """Download both networks of a run or a model.

    Raises:
        AtelierError: the run has no networks, one is too large, or the generator is not the one of
            the model.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    if MODEL.fullmatch(place):
        run, model, content = _resolve_model(place, client)
    else:
        run, model, content = training_of(client.get_run(place), client).info.run_id, "", ""
    stored = {file.path: file.file_size for file in client.list_artifacts(run, ARTIFACTS)}
    for name in NETWORKS:
        path = f"{ARTIFACTS}/{name}"
        if path not in stored:
            raise AtelierError(
                f"the run {run} has no {path}, because an earlier version logged it, or it trained"
                " nothing; name the folder with its networks instead"
            )
        _check_size(path, stored[path])
        with TemporaryDirectory(dir=folder) as target:  # stores differ in the folders they create
            shutil.copyfile(client.download_artifacts(run, path, target), folder / name)
    if content and file_digest(folder / NETWORKS[0], "md5") != content:
        raise AtelierError(
            f"the generator of the run {run} is not the one of {place}; name the run or a folder"
        )
    return Origin(place, run, model)


def _resolve_model(address: str, client: "MlflowClient") -> tuple[str, str, str]:
    """Return the run that trained a model, the model's name, and the MD5 of its generator."""
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    found = get_model_name_and_version(client, address)
    if len(found) == 1:
        model = client.get_logged_model(found[0])
        run, name, content = model.source_run_id, found[0], model.tags.get(CONTENT, "")
    else:
        version = client.get_model_version(*found)
        run, name = version.run_id, f"{version.name}/{version.version}"
        content = version.tags.get(CONTENT, "")
    if not run:
        raise AtelierError(f"no run of this store trained {address}")
    return str(run), str(name), str(content)


def load_copies(folder: Path, place: str) -> "PretrainedNetworks":
    """Load copied networks.

    Args:
        folder: of the copies.
        place: value of ``train.start_from``, which errors name instead of the folder.

    Raises:
        AtelierError: a network is damaged, or both are not of one training.
    """
    from atelier.gan.fine_tuning import load_pretrained

    try:
        return load_pretrained(folder)
    except AtelierError as error:
        message = str(error).replace(str(folder), redact_urls(place))
        raise AtelierError(f"train.start_from needs other networks: {message}") from None


def load_start(start_from: Mapping[str, str], run: "Run") -> "PretrainedNetworks | None":
    """Load the copied networks of ``train.start_from``, and tag a run with their origin.

    Args:
        start_from: the setting.
        run: of the training.

    Returns:
        The networks; ``None`` if the setting is empty.

    Raises:
        AtelierError: the copied networks are not those of the setting, or are damaged.
    """
    if not start_from:
        return None
    (place,) = start_from.values()
    origin = _copied_origin(place)
    if origin is None:
        raise AtelierError(
            f"{START} has other networks than train.start_from names; run `dvc repro train`,"
            " without -s, to copy them."
        )
    names = {f"{START_TAG}{Path(name).stem}": digest for name, digest in origin["md5"].items()}
    about = {
        f"{START_TAG}{key}": str(origin[key])
        for key in ("place", "run", "model")
        if origin.get(key)
    }
    run.set_tags(**about | names)
    return load_copies(START, place)


def _copied_origin(place: str) -> dict[str, Any] | None:
    """Return the origin of the copied networks; ``None`` if they are not those of a place.

    DVC compares only their list, so it must be the one of the copies too. `dvc pull` restores both
    in another clone, but not the file with the origin: then ``dvc.lock`` has the place.
    """
    if not all((START / name).is_file() for name in NETWORKS):
        return None
    digests = {name: file_digest(START / name, "md5") for name in NETWORKS}
    listed = {(START / name).as_posix(): digest for name, digest in digests.items()}
    is_listed = read_list(list_path("train")) == listed
    if not is_listed and "DVC_STAGE" in os.environ:
        return None
    origin: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        origin = json.loads(ORIGIN.read_text("utf-8"))
    if is_listed and not ORIGIN.exists():
        origin = {"place": _listed_place(), "md5": digests}
    matches = origin.get("place") == redact_urls(place) and origin.get("md5") == digests
    return origin if matches else None


def _listed_place() -> str:
    """Return the place whose networks DVC lists, without passwords; empty if it is unknown."""
    with suppress(OSError):
        record = read_lock(Path("dvc.lock").read_text("utf-8")).get("train_inputs")
        if record and len(record.parameters) == 1:
            (place,) = record.parameters.values()
            return place
    return ""
