"""Logging of metrics, tags, parameters and datasets in batches; rejects single items only."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from atelier.tracking import mlflow_names
from atelier.tracking.mlflow_errors import is_too_large, may_reject_content, rejects

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# MLflow accepts this many items and a million bytes in a request; a character takes up to six.
_MAX_METRICS = 1000
_MAX_TAGS = 100
_MAX_REQUEST_CHARACTERS = 300_000
_MAX_INTEGER = 2**63 - 1
_T = TypeVar("_T")

Reject = Callable[[dict[str, Any], str, str], None]
"""Takes a description of a rejected item, MLflow's message, and a unique name of the item."""


class BatchLogger:
    """Logs to runs of one store; passes items that MLflow rejects to a callback."""

    def __init__(self, client: "MlflowClient", reject: Reject) -> None:
        self._client = client
        self._reject = reject

    def log_metrics(
        self,
        run: str,
        points: Iterable[tuple[str, Any, Any, Any]],
        model: str | None = None,
        dataset: tuple[str | None, str | None] = (None, None),
    ) -> None:
        """Log points of a run's metrics.

        Args:
            run: id of the run.
            points: (legal name, value, milliseconds since 1970, step).
            model: id of a logged model that the points also belong to.
            dataset: name and digest of the data that they were measured on.
        """
        from mlflow.entities import Metric

        metrics: list[Metric] = []
        for key, value, at, step in points:
            try:
                point = _metric_point(value, at, step)
                metrics.append(Metric(key, *point, model, *dataset))
            except (TypeError, ValueError, OverflowError) as error:
                fields = {"metric": key, "value": value, "time": at, "step": step, "run": run}
                name = f"{run}/metric/{key}/{step}/{at}"
                self._reject({"kind": "metric", **fields}, str(error), name)
        for part in _split(metrics, _MAX_METRICS, lambda metric: len(metric.key) + 60):
            self._send(run, part, lambda some: self._client.log_batch(run, metrics=some))

    def log_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; their names and values are made legal."""
        from mlflow.entities import RunTag

        legal = [
            RunTag(mlflow_names.key(name), mlflow_names.tag(str(value)))
            for name, value in tags.items()
        ]
        for part in _split(legal, _MAX_TAGS, lambda tag: len(tag.key) + len(tag.value)):
            self._send(run, part, lambda some: self._client.log_batch(run, tags=some))

    def log_parameters(self, run: str, parameters: Mapping[str, str]) -> None:
        """Log parameters that a run does not have yet; MLflow cannot change logged ones."""
        from mlflow.entities import Param

        known = self._client.get_run(run).data.params
        legal = [
            Param(mlflow_names.key(name), mlflow_names.parameter(str(value)))
            for name, value in parameters.items()
        ]
        new = [parameter for parameter in legal if parameter.key not in known]
        for part in _split(new, _MAX_TAGS, lambda param: len(param.key) + len(param.value)):
            self._send(run, part, lambda some: self._client.log_batch(run, params=some))

    def log_datasets(self, run: str, datasets: Sequence[Any]) -> None:
        """Log the input datasets of a run (``mlflow.entities.DatasetInput``)."""
        self._send(run, datasets, lambda some: self._client.log_inputs(run, datasets=list(some)))

    def _send(self, run: str, items: Sequence[_T], send: Callable[[Sequence[_T]], object]) -> None:
        """Send items of a run in one request, and reject those that MLflow does not accept."""

        def reject(item: _T, error: Exception) -> None:
            if is_too_large(error) and not self._is_always_too_large(lambda: send([item]), run):
                return
            fields = _fields(item)
            kind, *_ = fields
            # Two points of a metric have the same name.
            position = [str(fields[key]) for key in ("step", "time") if key in fields]
            name = "/".join((run, kind, _contents(item)[0], *position))
            self._reject({"kind": kind, **fields, "run": run}, str(error), name)

        send_in_parts(items, send, reject, _contents)

    def _is_always_too_large(self, send: Callable[[], object], run: str) -> bool:
        """Return whether a server accepts another request, but calls this one too large.

        Raises:
            Exception: the server accepts no other request, or sending fails for another reason.
        """
        from mlflow.entities import RunTag

        for is_last in (False, True):
            try:
                send()
            except Exception as error:
                if not is_too_large(error):
                    raise
                if is_last:
                    return True
                # The tag also shows users that the run is incomplete.
                self._client.log_batch(run, tags=[RunTag("atelier.rejected", "true")])
            else:
                return False
        return True


def _fields(item: object) -> dict[str, Any]:
    """Return the fields of a rejected item; the first one names its kind."""
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

    match item:
        case Metric(key=key, value=value, timestamp=at, step=step):
            return {"metric": key, "value": value, "time": at, "step": step}
        case RunTag(key=key, value=value):
            return {"tag": key, "value": value}
        case Param(key=key, value=value):
            return {"parameter": key, "value": value}
        case DatasetInput(dataset=dataset):
            return {"dataset": dataset.name}
    raise TypeError(f"{item!r} is no part of a run")


def _contents(item: object) -> list[str]:
    """Return the parts of an item that MLflow's message may quote, its name first."""
    from mlflow.entities import DatasetInput, Metric

    match item:
        case Metric(key=key):
            return [key]
        case DatasetInput(dataset=dataset):
            return [dataset.name, dataset.digest]
    return [item.key, item.value]  # type: ignore[attr-defined]  # a tag or a parameter


def send_in_parts(
    items: Sequence[_T],
    send: Callable[[Sequence[_T]], object],
    reject: Callable[[_T, Exception], None],
    contents: Callable[[_T], Sequence[str]],
) -> None:
    """Send items together; if some are rejected for content or size, reject only those.

    Args:
        items: of one request.
        send: sends some of them.
        reject: called with an item that is rejected.
        contents: an item's name and value; MLflow's message must quote one of them.
    """
    try:
        send(items)
    except Exception as error:
        too_large = is_too_large(error)
        if not (too_large or may_reject_content(error)):
            raise
        if len(items) > 1:
            middle = len(items) // 2
            for half in (items[:middle], items[middle:]):
                send_in_parts(half, send, reject, contents)
        elif too_large or rejects(error, *contents(items[0])):
            reject(items[0], error)
        else:
            raise


def timestamp(milliseconds: Any) -> int:
    """Return an entry's time as MLflow accepts it, in milliseconds since 1970.

    Raises:
        TypeError: it is not a number.
        ValueError: it is out of range, or not a number.
        OverflowError: it is infinite.
    """
    time = int(milliseconds)
    if not 0 <= time <= _MAX_INTEGER:
        raise ValueError(f"{time} is no time in milliseconds since 1970")
    return time


def _metric_point(value: Any, at: Any, step: Any) -> tuple[float, int, int]:
    """Return a point's value, milliseconds and step as MLflow accepts them.

    Raises:
        TypeError: one of them is not a number.
        ValueError: one of them is out of range.
        OverflowError: one of them is infinite.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"the value {value!r} is no number")
    if abs(int(step)) > _MAX_INTEGER:
        raise ValueError(f"the step {step} is out of range")
    return float(value), timestamp(at), int(step)


def _split(
    items: Sequence[_T], max_items: int, length: Callable[[_T], int]
) -> Iterator[Sequence[_T]]:
    """Yield parts of ``items`` that MLflow accepts in one request."""
    part: list[_T] = []
    total = 0
    for item in items:
        if part and (len(part) == max_items or total + length(item) > _MAX_REQUEST_CHARACTERS):
            yield part
            part, total = [], 0
        part.append(item)
        total += length(item)
    if part:
        yield part
