"""Trained generators that MLflow keeps, brought back to make pictures."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from atelier.errors import AtelierError
from atelier.tracking.models import ABOUT, is_complete
from atelier.tracking.pipeline import stages_of
from atelier.tracking.store import asked_by_default, in_short

if TYPE_CHECKING:
    from mlflow.models import Model
    from mlflow.tracking import MlflowClient
    from torch import Tensor

_RUN = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"models:/\S+")


@dataclass(frozen=True)
class Logged:
    """A logged generator, on the CPU.

    Attributes:
        network: [B, inputs] float32 to pictures [B, C, H, W] in [-1, 1].
        inputs: how many numbers it takes for a picture, by its signature.
        about: its architecture; empty where the model was logged without.
    """

    network: "Callable[[Tensor], Tensor]"
    inputs: int
    about: Mapping[str, Any]


def is_reference(wanted: str) -> bool:
    """Whether this names something that MLflow keeps: a run's id, or ``models:/...``."""
    return bool(_RUN.fullmatch(wanted) or _MODEL.fullmatch(wanted))


def load_logged(wanted: str, client: "MlflowClient | None") -> Logged:
    """Load a generator from MLflow.

    Args:
        wanted: the id of a run, of a training or of a pipeline that has one; or an address such
            as ``models:/faces@champion``, ``models:/faces/1`` or ``models:/m-0123...``.
        client: MLflow's store; ``None`` where there is none.

    Raises:
        AtelierError: there is no such run or model, it is no generator, or MLflow does not answer.
    """
    if client is None:
        raise AtelierError(
            f"there is no MLflow store here to ask for {wanted}; give a file, such as"
            " models/generator.safetensors, or set MLFLOW_TRACKING_URI."
        )
    try:
        address = wanted if _MODEL.fullmatch(wanted) else _of_run(wanted, client)
        return _loaded(address, client)
    except AtelierError:
        raise
    except Exception as error:  # whatever MLflow raises of what it does not know or cannot reach
        raise AtelierError(
            f"MLflow gives no generator for {wanted} ({in_short(error).rstrip('.')}); `make ui`"
            " shows its runs and models."
        ) from None


def _of_run(run: str, client: "MlflowClient") -> str:
    """The address of the model that a run logged, or the training of the run's pipeline."""
    found = client.get_run(run)
    trained = stages_of(client, run).get("train")
    restored = found.data.tags.get("restored.train", "unknown")
    maker = trained or (found if restored == "unknown" else client.get_run(restored))
    for info in (found.info, maker.info):  # the maker's experiment may be another one
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


def _loaded(address: str, client: "MlflowClient") -> Logged:
    # The model may be anybody's: only what cannot execute on loading is loaded.
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.models import Model

    # A copy that goes again: MLflow writes into the folder, and leaves what it fetched.
    with TemporaryDirectory(prefix="atelier-model-") as place, asked_by_default(client):
        folder = mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=place)
        model = Model.load(folder)
        if "pytorch" not in model.flavors or model.flavors["pytorch"].get("code"):
            raise AtelierError(f"{address} is no generator that this program logged.")
        inputs = _inputs(model)
        if not inputs:
            raise AtelierError(f"{address} takes no latents, by its signature ({model.signature}).")
        network = mlflow.pytorch.load_model(folder)
    return Logged(network, inputs, (model.metadata or {}).get(ABOUT, {}))


def _inputs(model: "Model") -> int:
    """How many numbers a model takes for a picture; 0 where it takes something else."""
    inputs = model.signature.inputs.inputs if model.signature else []
    shape: Sequence[int] = inputs[0].shape if len(inputs) == 1 and inputs[0].name is None else ()
    return max(shape[1], 0) if len(shape) == 2 else 0
