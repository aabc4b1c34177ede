"""Runs that are found by a tag of ours, so that each is made once."""

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
    """Return the run that bears the tag ``key``, or create it.

    A deliverer that was killed may have made it, or a request whose answer was lost. So the
    server is asked again before a failure to create it is reported.

    Args:
        client: of the store.
        experiment: id of the experiment.
        name: of a new run.
        at: start of a new run, in milliseconds.
        key: the tag's name and its value, which no other run has.
        tags: more tags of a new run.
    """
    tag, value = key
    found = _bearing(client, experiment, key)
    if not found:
        legal = {k: mlflow_names.tag(v) for k, v in (tags | {tag: value}).items()}
        try:
            run = client.create_run(experiment, at, legal, mlflow_names.run_name(name))
            found = [run]
        except Exception:
            found = _bearing(client, experiment, key)
            if not found:
                raise
    run_id = str(found[0].info.run_id)
    if not run_id:  # a server that answers `{}` to everything
        raise ConnectionError("the server's answer names no run; it is no MLflow server")
    return run_id


def remove_duplicates(
    client: "MlflowClient", experiment: str, key: tuple[str, str], kept: str
) -> None:
    """Delete empty runs that bear the same tag: a request was carried out although it failed."""
    for run in _bearing(client, experiment, key):
        if run.info.run_id != kept:
            _delete_if_empty(client, run, key[0])


def remove_late_duplicates(client: "MlflowClient", experiment: str) -> None:
    """Delete empty runs that requests created after their execution was delivered.

    A request may be held up on a network for so long that the deliverer which sent it has ended.
    """
    for tag in (PARENT_KEY, STAGE_KEY):
        running = f"attributes.status = 'RUNNING' and tags.`{tag}` != ''"
        for run in client.search_runs([experiment], running, max_results=100):
            key = (tag, run.data.tags[tag])
            ended = [r for r in _bearing(client, experiment, key) if r.info.status != "RUNNING"]
            if ended:
                _delete_if_empty(client, run, tag)


def _delete_if_empty(client: "MlflowClient", run: "Run", tag: str) -> None:
    """Delete a duplicate that holds nothing.

    A team's server lets only some users delete the runs of an experiment. For others the duplicate
    loses the tag, so that it is not taken for the run itself.
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
        except Exception as also:
            # The run stays as it is; a lookup prefers the one that holds something.
            if not is_access_denied(also):
                raise


def _bearing(client: "MlflowClient", experiment: str, key: tuple[str, str]) -> "list[Run]":
    """Return the runs with a tag; first the one that has most logged, of equals the oldest."""
    tag, value = key
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=20)

    def order(run: "Run") -> tuple[int, int, str]:
        logged = len(run.data.metrics) + len(run.data.params) + len(run.data.tags)
        return -logged, run.info.start_time, run.info.run_id

    return sorted(found, key=order)
