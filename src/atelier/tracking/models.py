"""Trained generators as MLflow models: log, evaluate, register and load them."""

import importlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError
from atelier.core.hashing import file_digest
from atelier.tracking import mlflow_names
from atelier.tracking.mlflow_errors import (
    ContentError,
    as_content_error,
    exists_already,
    is_access_denied,
)
from atelier.tracking.pipeline_run import stages_of
from atelier.tracking.renamed import current_parameters
from atelier.tracking.run_start import settings_of
from atelier.tracking.store import as_default_store, short_message
from atelier.tracking.uploads import MissingFileError

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model
    from mlflow.tracking import MlflowClient
    from torch import nn

    from atelier.tracking.batch_logger import BatchLogger

GENERATOR = "models/generator.safetensors"
CHAMPION = "champion"
ABOUT = "architecture"  # key of metadata that a signature lacks, e.g. the latent distribution
CONTENT = "content.md5"
_KIND = "atelier.kind"
_OLD_NAME = "generator"  # of all models of earlier versions
_TEST = "data/test.npz"
_PACKAGE = "atelier."
_NOT_IN_NAME = re.compile(r"""[/:.%"'`\\]""")
_ABOUT_MODEL = (
    "Generators of images, one version for each evaluated training. The alias champion is the"
    " version with the lowest KID among those that were evaluated with the latest settings."
)
_RUN = re.compile(r"[0-9a-f]{32}")
MODEL = re.compile(r"models:/\S+")


def log_model(client: "MlflowClient", run: str, file: Path, loader: str) -> None:
    """Log a network's file as an MLflow model of a run, once.

    It is stored as a traced graph (``torch.export``) with signature, example and pinned
    requirements. Loading it needs no code of this package and executes no code of the file.

    Args:
        client: client of the store.
        run: id of the run that trained it.
        file: the network's file.
        loader: see :meth:`atelier.tracking.run.Run.log_model`.

    Raises:
        ContentError: the loader is not in this package, or it rejects the file.
        MissingFileError: the server confirmed an upload, but does not have the file.
    """
    import torch
    from mlflow.models import Model, infer_signature

    if _is_logged(client, run):
        return
    module, _, function = loader.partition(":")
    if not module.startswith(_PACKAGE):
        raise ContentError(f"{loader} is no loader of this package")
    with as_content_error():
        network, example, about = getattr(importlib.import_module(module), function)(file)
        with torch.inference_mode():
            images = network(torch.from_numpy(example)).numpy()
    content = file_digest(file, "md5")
    model = _create(client, run, content, about)
    flavor = _RecordingFlavor()
    with as_default_store(client):
        Model.log(
            artifact_path=None,
            flavor=flavor,
            model_id=model.model_id,
            run_id=run,
            pytorch_model=network,
            signature=infer_signature(example, images),
            input_example=example,
            serialization_format="pt2",
            metadata={ABOUT: about},
            pip_requirements=[f"{name}=={_public(name)}" for name in ("mlflow", "numpy", "torch")],
        )
    _verify(client, model.model_id, flavor.files)
    # Set last: only a model with this tag is complete.
    client.set_logged_model_tags(model.model_id, {CONTENT: content})


def _create(
    client: "MlflowClient", run: str, content: str, about: Mapping[str, Any]
) -> "LoggedModel":
    """Create a model without files, with a name and a description that distinguish it."""
    found = client.get_run(run)
    preset = found.data.tags.get("preset", _OLD_NAME)
    side, channels = about.get("image_size", "?"), about.get("channels", 3)
    kind = "grayscale" if channels == 1 else "color"
    note = (
        f"Generator of {side}x{side} {kind} images, trained with the preset {preset}."
        f" `atelier generate --model {run}` draws images of it."
    )
    return client.create_logged_model(
        found.info.experiment_id,
        name=f"{_NOT_IN_NAME.sub('-', preset)}-{content[:6]}",
        source_run_id=run,
        params=settings_of(found.data.params, found.data.tags),
        tags={_KIND: "generator", "mlflow.note.content": note},
    )


class _RecordingFlavor:
    """PyTorch flavor of MLflow that records the files of the model that it saves."""

    def __init__(self) -> None:
        self.files: set[str] = set()

    def save_model(self, path: str, **options: Any) -> None:
        """Save a model to a folder, which MLflow then uploads."""
        import mlflow

        mlflow.pytorch.save_model(path=path, **options)
        files = (file for file in Path(path).rglob("*") if file.is_file())
        self.files = {file.relative_to(path).as_posix() for file in files}


def is_complete(model: "LoggedModel") -> bool:
    """Return True if a model was uploaded and verified."""
    from mlflow.entities import LoggedModelStatus

    return model.status == LoggedModelStatus.READY and CONTENT in model.tags


def _is_logged(client: "MlflowClient", run: str) -> bool:
    """Return True if a run has a complete model; delete models of interrupted attempts.

    An incomplete model cannot be completed: MLflow does not add it to the run's outputs twice.
    """
    experiment = client.get_run(run).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run}'", max_results=20)
    ours = [model for model in found if _KIND in model.tags or model.name == _OLD_NAME]
    incomplete = [model for model in ours if not is_complete(model)]
    for model in incomplete:
        try:
            client.delete_logged_model(model.model_id)
        except Exception as error:  # a team's server lets only some users delete
            if not is_access_denied(error):
                raise
    return len(ours) > len(incomplete)


def _verify(client: "MlflowClient", model: str, files: set[str]) -> None:
    """Raise unless the server has all files of a model.

    Raises:
        MissingFileError: a file is absent, although the server confirmed its upload.
    """
    missing = files - set(_files(client, model))
    if missing:
        raise MissingFileError(
            f"the server accepted the model's {min(missing)}, but does not have it"
        )


def _files(client: "MlflowClient", model: str, folder: str | None = None) -> Iterator[str]:
    """Yield the paths of all files of a model."""
    for file in client.list_logged_model_artifacts(model, folder):
        if file.is_dir:
            yield from _files(client, model, file.path)
        else:
            yield file.path


def log_evaluation(
    client: "MlflowClient", evaluate: Mapping[str, Any], evaluation: str, log: "BatchLogger"
) -> None:
    """Log the metrics of an evaluation to the model that it evaluated.

    Args:
        client: client of the store.
        evaluate: hashes and metrics of the stage ``evaluate``, see
            :func:`atelier.tracking.pipeline_run.complete_parent_run`.
        evaluation: id of the stage's run.
        log: logger of the same store.
    """
    model = model_of(client, evaluate["inputs"].get(GENERATOR, ""))
    if model is None:
        return
    points = []
    for name, value in evaluate["metrics"].items():
        key = mlflow_names.key(f"quality/{name}")
        # With the same time, it is the same point of the run, which is not logged twice.
        history = client.get_metric_history(evaluation, key)
        at = history[0].timestamp if history else client.get_run(evaluation).info.start_time
        points.append((key, value, at, 0))
    test = evaluate["inputs"].get(_TEST)
    dataset = (_TEST, test[:36]) if test else (None, None)
    log.log_metrics(evaluation, points, model=model.model_id, dataset=dataset)


def register_model(
    client: "MlflowClient", evaluate: Mapping[str, Any], evaluation: str, name: str
) -> None:
    """Register the model that was evaluated, if its KID is known.

    Args:
        client: client of the store.
        evaluate: hashes and metrics of the stage ``evaluate``.
        evaluation: id of the stage's run.
        name: name of the registered model.
    """
    model = model_of(client, evaluate["inputs"].get(GENERATOR, ""))
    if model is None or "kid" not in evaluate["metrics"]:
        return
    data = client.get_run(evaluation).data
    parameters = current_parameters(settings_of(data.params, data.tags))
    settings = {key: value for key, value in parameters.items() if key.startswith("evaluate.")}
    _register(client, model, mlflow_names.model_name(name), evaluate["metrics"]["kid"], settings)


def model_of(client: "MlflowClient", content: str) -> "LoggedModel | None":
    """Return the newest logged model of a generator file with this MD5; ``None`` without one."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_logged_models(
        experiments,
        f"tags.`{CONTENT}` = '{content}'",
        max_results=1,
        order_by=[{"field_name": "creation_timestamp", "ascending": False}],
    )
    return found[0] if found else None


def _register(
    client: "MlflowClient",
    model: "LoggedModel",
    name: str,
    kid: float,
    settings: Mapping[str, str],
) -> None:
    """Register a model once; the best version evaluated with the same settings is champion."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        try:
            client.create_registered_model(name, description=_ABOUT_MODEL)
        except MlflowException as error:  # another worker has just created it
            if not exists_already(error):
                raise
    versions = client.search_model_versions(f"name = '{name}'")
    # If a worker was killed before it set the tags, a version has the source only.
    source = f"models:/{model.model_id}"
    same = [v for v in versions if v.tags.get(CONTENT) == model.tags[CONTENT]]
    registered = next((v for v in (*same, *versions) if v in same or v.source == source), None)
    if registered is None:
        with as_default_store(client):  # MLflow looks the model up in the default store
            registered = client.create_model_version(
                name,
                source=source,
                run_id=model.source_run_id,
                model_id=model.model_id,
                tags={CONTENT: model.tags[CONTENT]},
            )
    note = f"{model.name}: KID {kid:.4g}. {model.tags.get('mlflow.note.content', '')}"
    client.update_model_version(name, registered.version, note)
    tags = {CONTENT: model.tags[CONTENT], "kid": repr(kid), **settings}
    for key, value in tags.items():
        client.set_model_version_tag(name, registered.version, key, value)
    _set_champion(client, name, settings)


def _set_champion(client: "MlflowClient", name: str, settings: Mapping[str, str]) -> None:
    """Make the best version that was evaluated with these settings champion."""
    comparable = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if settings.items() <= current_parameters(version.tags).items()
    ]
    best = min(comparable, key=_kid)
    # A server's webhooks report every call, also one that changes nothing.
    if str(client.get_registered_model(name).aliases.get(CHAMPION)) != str(best.version):
        client.set_registered_model_alias(name, CHAMPION, best.version)


def _kid(version: "ModelVersion") -> float:
    """Return a version's KID; infinite if it was registered without one."""
    try:
        return float(version.tags["kid"])
    except (KeyError, ValueError):
        return math.inf


def _public(package: str) -> str:
    """Return a package's version without its local part, e.g. ``+cpu``."""
    return version(package).partition("+")[0]


@dataclass(frozen=True)
class LoadedModel:
    """Generator from MLflow, on the CPU.

    Attributes:
        network: maps [B, inputs] float32 to images [B, C, H, W] in [-1, 1].
        inputs: length of an input vector, from the signature.
        about: its architecture; empty if the model was logged without it.
    """

    network: "nn.Module"
    inputs: int
    about: Mapping[str, Any]


def is_reference(name: str) -> bool:
    """Return True for the id of an MLflow run and for an address ``models:/...``."""
    return bool(_RUN.fullmatch(name) or MODEL.fullmatch(name))


def load_model(reference: str, client: "MlflowClient | None") -> LoadedModel:
    """Load a generator from MLflow.

    Args:
        reference: the id of a training's or a pipeline's run; or an address, e.g.
            ``models:/faces@champion``, ``models:/faces/1`` or ``models:/m-0123...``.
        client: client of the store; ``None`` if there is no store.

    Raises:
        AtelierError: there is no such run or model, it is not a generator, or MLflow does not
            respond.
    """
    if client is None:
        raise AtelierError(
            f"there is no MLflow store here that could have {reference}; give a file, e.g."
            " models/generator.safetensors, or set MLFLOW_TRACKING_URI."
        )
    try:
        is_address = MODEL.fullmatch(reference)
        address = reference if is_address else _address_from_run(reference, client)
        return _load(address, client)
    except AtelierError:
        raise
    except Exception as error:  # any error of MLflow
        reason = short_message(error).rstrip(".")
        raise AtelierError(
            f"MLflow returns no generator for {reference} ({reason}); `make ui` shows its runs and"
            " models."
        ) from None


def _address_from_run(run: str, client: "MlflowClient") -> str:
    """Return the address of the model that a run, or the training of its pipeline, logged."""
    found = client.get_run(run)
    producer = training_of(found, client)
    for info in (found.info, producer.info):  # the experiments may differ
        models = client.search_logged_models(
            [info.experiment_id], f"source_run_id = '{info.run_id}'", max_results=20
        )
        # An interrupted upload may have left a model that is not complete.
        complete = [model for model in models if is_complete(model)] or models[:1]
        if complete:
            return f"models:/{complete[0].model_id}"
    raise AtelierError(
        f"the run {run} ({found.info.run_name}) logged no generator; give the run of a train stage"
        " or of a pipeline."
    )


def training_of(run: "Run", client: "MlflowClient") -> "Run":
    """Return the run of the training in a pipeline's run; any other run itself."""
    trained = stages_of(client, run.info.run_id).get("train")
    restored = run.data.tags.get("restored.train", "unknown")
    return trained or (run if restored == "unknown" else client.get_run(restored))


def _load(address: str, client: "MlflowClient") -> LoadedModel:
    # The model may be from an unknown source, so formats that can execute code are rejected.
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.models import Model

    # A temporary copy: MLflow writes into the folder and does not remove its downloads.
    with TemporaryDirectory(prefix="atelier-model-") as target, as_default_store(client):
        folder = mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=target)
        model = Model.load(folder)
        if "pytorch" not in model.flavors or model.flavors["pytorch"].get("code"):
            raise AtelierError(f"{address} is not a generator that Atelier logged.")
        inputs = _inputs(model)
        if not inputs:
            raise AtelierError(
                f"{address} accepts no latents, by its signature ({model.signature})."
            )
        network = mlflow.pytorch.load_model(folder)
    return LoadedModel(network, inputs, (model.metadata or {}).get(ABOUT, {}))


def _inputs(model: "Model") -> int:
    """Return the length of a model's input vectors; 0 if its input is not a batch of vectors."""
    inputs = model.signature.inputs.inputs if model.signature else []
    shape: Sequence[int] = inputs[0].shape if len(inputs) == 1 and inputs[0].name is None else ()
    return max(shape[1], 0) if len(shape) == 2 else 0
