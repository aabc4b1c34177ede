"""Names of metrics in MLflow, and the names that earlier versions gave them.

MLflow folds metrics with a common prefix before a slash into a section, and sorts sections and
charts by name. Its page that compares runs opens with the metric that was logged first.
"""

from collections.abc import Mapping
from typing import Any

KID = "quality/kid"

# Metrics of a pipeline's run by stage and by key of the stage's metrics file, in the order in which
# they are logged. FID is only in the run of `evaluate`: by its name, it would precede KID.
_OF_PIPELINE = {
    "evaluate": {
        "kid": KID,
        "kid_error": "quality/kid_error",
        "precision": "quality/precision",
        "recall": "quality/recall",
        "memorised": "quality/memorised",
    },
    "train": {"validation_kid": "quality/validation_kid"},
    "stylize": {"style_loss": "style/loss"},
}
_RENAMED = {
    "loss_d": "loss/d",
    "loss_g": "loss/g",
    "d_x": "scores/d_x",
    "d_g_z1": "scores/d_g_z1",
    "d_g_z2": "scores/d_g_z2",
    "images_per_second": "speed/images_per_second",
    "kid": "quality/validation_kid",
    "kid_of_epoch": "quality/kid_by_epoch",
    "evaluate.kid": KID,
}


def pipeline_metrics(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of a pipeline's run, most important first.

    Args:
        stages: records of the stages by name; ``metrics`` are the numbers of its metrics file.
    """
    return {
        name: stages[stage]["metrics"][key]
        for stage, names in _OF_PIPELINE.items()
        for key, name in names.items()
        if stage in stages and key in stages[stage]["metrics"]
    }


def current_metric(name: str) -> str:
    """Return the present name of a metric that an earlier version logged."""
    return _RENAMED.get(name, name)


def find_metric(metrics: Mapping[str, float], name: str) -> float | None:
    """Return a metric of a run, also of one that an earlier version logged."""
    found = (value for key, value in metrics.items() if current_metric(key) == name)
    return metrics.get(name, next(found, None))
