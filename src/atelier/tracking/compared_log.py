"""Logging of a compare page to MLflow, as a run of its own."""

from collections.abc import Sequence
from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.tracking import destination, mlflow_names
from atelier.tracking.compared_run import ComparedRun
from atelier.tracking.environment import owner_tags
from atelier.tracking.links import TRAINING, RunLocation
from atelier.tracking.store import open_store, quiet_environment, short_message
from atelier.tracking.uploads import upload

_ARTIFACT = "compare.html"
_TAG = "atelier.compared"


def log_compare_page(
    root: Path, experiment: str, file: Path, runs: Sequence[ComparedRun], title: str
) -> RunLocation:
    """Log a page as an artifact of a new run of the experiment; return where the run is.

    The run's description has a link to the page. It is not a run of a pipeline: it has no metrics,
    and ``atelier gc`` leaves it alone.

    Args:
        root: the project.
        experiment: name of the experiment.
        file: the page.
        runs: that the page compares.
        title: of the page, the name of the run.

    Raises:
        AtelierError: MLflow does not accept it.
    """
    quiet_environment()
    try:
        client, number = open_store(root, experiment)
        tags = owner_tags(root) | {_TAG: ", ".join(run.source for run in runs)}
        legal = {name: mlflow_names.tag(value) for name, value in tags.items()}
        run = client.create_run(number, tags=legal, run_name=mlflow_names.run_name(title))
        run_id = run.info.run_id
        status = "FAILED"
        try:
            upload(client, run_id, {_ARTIFACT: file})
            page = f"#/experiments/{number}/runs/{run_id}/artifacts/{_ARTIFACT}?{TRAINING}"
            client.set_tag(run_id, "mlflow.note.content", f"[Comparison]({page})")
            status = "FINISHED"
        finally:
            client.set_terminated(run_id, status)
    except AtelierError:
        raise
    except Exception as error:  # any error of MLflow
        raise AtelierError(
            f"{file} is written, but MLflow does not accept it: {short_message(error)}."
        ) from None
    return RunLocation(destination.present(root), number, run_id)
