"""Description and table of an experiment on MLflow's pages."""

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from atelier.tracking.links import VIEW
from atelier.tracking.metric_names import KID

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_DESCRIPTION = "mlflow.note.content"
_ABOUT = (
    "Each run is one pipeline; `quality/kid` is its distance from unseen real images, or with"
    " `evaluate.reference: training` from the training images: lower is better. Tick runs and"
    " press Compare."
)
# MLflow keeps a shared view of its table in a tag. Without it, the table has no metric and no
# setting as a column.
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_SELECTED_WIDTHS = {
    f"metrics.`{KID}`": 95,
    "metrics.`quality/precision`": 120,
    "metrics.`quality/recall`": 105,
    "params.`train.lr`": 85,
    "params.`train.epochs`": 105,
    "params.`train.batch_size`": 130,
    "params.`train.seed`": 90,
}
_FIXED_WIDTHS = {"attributes.`Run Name`": 320, "runDateAndNestInfo": 130, "duration": 80}
_WIDTHS = _FIXED_WIDTHS | _SELECTED_WIDTHS
_STATE = json.dumps(
    {
        "selectedColumns": list(_SELECTED_WIDTHS),
        "columnOrder": list(_WIDTHS),
        "columnWidths": _WIDTHS,
    }
)


def describe_experiment(client: "MlflowClient", experiment: str) -> None:
    """Give an experiment its description, unless it has one, and its view.

    A team's server may let only some users change an experiment.
    """
    with suppress(Exception):
        tags = client.get_experiment(experiment).tags
        if tags.get(_VIEW_TAG) != _STATE:
            client.set_experiment_tag(experiment, _VIEW_TAG, _STATE)
        if _DESCRIPTION not in tags:
            client.set_experiment_tag(experiment, _DESCRIPTION, _ABOUT)
