"""Lookup of runs by a unique tag, so that each run is created once."""

from typing import TYPE_CHECKING

from atelier.tracking import mlflow_names
from atelier.tracking.mlflow_errors import is_access_denied

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PARENT_KEY = "atelier.pipeline"
STAGE_KEY = "atelier.journal"


def find_or_create(
    client: "MlflowClient",
    experiment: str,
    name: str,
    at: int,
    key: tuple[str, str],
    tags: dict[str, str],
) -> str:
    """Return the id of the run with the tag ``key``; create the run if there is none.

    If creating it fails, it is looked up again, because the response may have been lost.

    Args:
        client: client of the store.
        experiment: id of the experiment.
        name: name of a new run.
        at: start of a new run, in milliseconds.
        key: name and value of the tag; no other run has it.
        tags: more tags of a new run.

    Raises:
        ConnectionError: the response contains no id of a run.
    """
    tag, value = key
    found = _runs_with_tag(client, experiment, key)
    if not found:
        legal = {k: mlflow_names.tag(v) for k, v in (tags | {tag: value}).items()}
        try:
            run = client.create_run(experiment, at, legal, mlflow_names.run_name(name))
            found = [run]
        except Exception:
            found = _runs_with_tag(client, experiment, key)
            if not found:
                raise
    run_id = str(found[0].info.run_id)
    if not run_id:  # a server that responds with `{}` to every request
        raise ConnectionError("the server's answer names no run; it is no MLflow server")
    return run_id


def remove_duplicates(
    client: "MlflowClient", experiment: str, key: tuple[str, str], run_id: str
) -> None:
    """Delete empty runs with the tag of ``run_id``, which requests created although they failed."""
    for run in _runs_with_tag(client, experiment, key):
        if run.info.run_id != run_id:
            _delete_if_empty(client, run, key[0])


def remove_late_duplicates(client: "MlflowClient", experiment: str) -> None:
    """Delete empty runs that delayed requests created after the execution was delivered."""
    for tag in (PARENT_KEY, STAGE_KEY):
        running = f"attributes.status = 'RUNNING' and tags.`{tag}` != ''"
        for run in client.search_runs([experiment], running, max_results=100):
            key = (tag, run.data.tags[tag])
            ended = [
                r for r in _runs_with_tag(client, experiment, key) if r.info.status != "RUNNING"
            ]
            if ended:
                _delete_if_empty(client, run, tag)


def _delete_if_empty(client: "MlflowClient", run: "Run", tag: str) -> None:
    """Delete a duplicate without metrics and parameters.

    A team's server may let only some users delete runs. For others the duplicate's tag is deleted,
    so that the run is not found by it.
    """
    if run.data.metrics or run.data.params:
        return
    run_id = run.info.run_id
    client.set_terminated(run_id, "KILLED")
    try:
        client.delete_run(run_id)
    except Exception as error:
        if not is_access_denied(error):
            raise
        try:
            client.delete_tag(run_id, tag)
        except Exception as tag_error:
            # The duplicate stays; the lookup prefers the run with more logged values.
            if not is_access_denied(tag_error):
                raise


def _runs_with_tag(client: "MlflowClient", experiment: str, key: tuple[str, str]) -> "list[Run]":
    """Return the runs with a tag; those with more logged values first, then older ones."""
    tag, value = key
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=20)

    def order(run: "Run") -> tuple[int, int, str]:
        logged = len(run.data.metrics) + len(run.data.params) + len(run.data.tags)
        return -logged, run.info.start_time, run.info.run_id

    return sorted(found, key=order)
