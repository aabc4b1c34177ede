"""Run of a study in MLflow: the parent of its trials' pipeline runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.core.errors import AtelierError
from atelier.tracking import mlflow_names
from atelier.tracking.pipeline_run import find_or_create
from atelier.tracking.store import open_store, quiet_environment, short_message

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

STUDY_KEY = "atelier.study"


def study_run(client: "MlflowClient", experiment: str, study: str, at: int) -> str:
    """Return the id of a study's run, which is created if there is none.

    Args:
        client: client of the store.
        experiment: id of the experiment.
        study: key of the study: its name, a hyphen and eight digits.
        at: start of a new run, in milliseconds.
    """
    name = f"study {study.rpartition('-')[0]}"
    return find_or_create(client, experiment, name, at, (STUDY_KEY, study), {})


def log_study(
    root: Path,
    experiment: str,
    study: str,
    *,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    started: int,
    status: str,
) -> None:
    """Log the present state of a study to its run.

    Args:
        root: the project.
        experiment: name of the experiment.
        study: key of the study, as for :func:`study_run`.
        tags: of the run.
        metrics: by name; logged at step 0, the latest value replaces earlier ones in tables.
        started: time of the study's start in milliseconds since 1970.
        status: of the run, e.g. ``RUNNING``.

    Raises:
        AtelierError: MLflow does not accept it.
    """
    quiet_environment()
    try:
        client, number = open_store(root, experiment)
        run = study_run(client, number, study, started)
        client.update_run(run, status="RUNNING")
        for key, value in tags.items():
            client.set_tag(run, key, mlflow_names.tag(value))
        for key, number_ in metrics.items():
            client.log_metric(run, mlflow_names.key(key), number_)
        if status != "RUNNING":
            client.set_terminated(run, status)
    except AtelierError:
        raise
    except Exception as error:  # any error of MLflow
        raise AtelierError(f"MLflow does not accept the study: {short_message(error)}.") from None
