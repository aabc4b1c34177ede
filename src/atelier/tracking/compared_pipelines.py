"""Compared runs of pipelines in MLflow."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from atelier.tracking import destination, mlflow_names
from atelier.tracking.compared_code import code_digest
from atelier.tracking.compared_files import (
    Notes,
    losses_of,
    parse_image,
    parse_losses,
    split_sheet,
)
from atelier.tracking.compared_run import ComparedRun, Floats, Pixels, StylizedFile, stylized_names
from atelier.tracking.links import RunLocation
from atelier.tracking.metric_names import current_metric, find_metric
from atelier.tracking.pipeline_run import PARENT_KEY, stages_of
from atelier.tracking.renamed import current_parameters
from atelier.tracking.run import VALIDATION_KID
from atelier.tracking.run_start import settings_of

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_QUALITY = "quality/"
# Metrics of this section that are not measured by the evaluate stage on the final generator.
_OTHERS = ("quality/kid_by_epoch", VALIDATION_KID)
_SAMPLES = re.compile(r"images/images~samples\+step\+(\d{1,9})\+.*\.png")
_MAX_SAMPLES = 4096  # of a sheet, if the settings do not have their number


def run_address(root: Path, run: "Run") -> str:
    """Return the address of a run's page in the store of a project."""
    info = run.info
    return RunLocation(destination.present(root), info.experiment_id, info.run_id).page()


class StoredRun:
    """Pipeline in MLflow's store: its own run, and those of its stages.

    Args:
        client: client of the store.
        head: run of the pipeline; or of a stage that ran without one.
    """

    def __init__(self, client: "MlflowClient", head: "Run") -> None:
        self._client, self._head = client, head
        self._notes = Notes()
        self._stages = self._find_stages()

    def read(self, root: Path) -> ComparedRun:
        """Return its results; images are downloaded later."""
        info, tags = self._head.info, self._head.data.tags
        settings = self._settings()
        validation = self._validation_by_epoch()
        metrics = self._metrics() | self._validation_kid(
            [kid for _, kid, _ in validation], settings
        )
        if "kid" not in metrics:
            self._notes.sentences.append("KID missing")
        is_dirty = tags.get("git.dirty") == "true"
        commit = tags.get("mlflow.source.git.commit", "")
        return ComparedRun(
            name=info.run_name or info.run_id,
            source=f"MLflow run {info.run_id[:8]}",
            status=info.status,
            date=f"{datetime.fromtimestamp(info.start_time / 1000):%Y-%m-%d %H:%M}",
            commit=commit,
            is_dirty=is_dirty,
            code=self._code(commit, is_dirty),
            experiment=tags.get("dvc.experiment", ""),
            settings=settings,
            metrics=metrics,
            measured_with=self._tagged("measured_with."),
            kid_by_epoch=self._kid_by_epoch(),
            validation_by_epoch=validation,
            losses=self._losses(),
            samples=self._samples(settings),
            stylized=self._stylized(),
            hashes=self._tagged("input.") | self._tagged("output."),
            address=run_address(root, self._head),
            notes=tuple(self._notes.sentences),
        )

    def _find_stages(self) -> "dict[str, Run]":
        """Return the runs of stages, also those that made restored outputs."""
        tags = self._head.data.tags
        if PARENT_KEY not in tags:
            return {tags["atelier.stage"]: self._head} if "atelier.stage" in tags else {}
        stages: dict[str, Run] = {}
        for tag, run_id in tags.items():
            if tag.startswith("restored.") and run_id != "unknown":
                try:
                    stages[tag.removeprefix("restored.")] = self._client.get_run(run_id)
                except Exception:  # it was removed
                    self._notes.sentences.append(f"run {run_id[:8]} removed")
        return stages | stages_of(self._client, self._head.info.run_id)

    def _settings(self) -> dict[str, str]:
        parameters = self._head.data.params
        if PARENT_KEY not in self._head.data.tags:
            parameters = settings_of(parameters, self._head.data.tags)
        return current_parameters(parameters)

    def _metrics(self) -> dict[str, float]:
        """Return the metrics of the final generator, without those that are not finite."""
        evaluation = self._stages.get("evaluate", self._head)
        found = {
            current_metric(name).removeprefix(_QUALITY): value
            for name, value in evaluation.data.metrics.items()
            if current_metric(name).startswith(_QUALITY) and current_metric(name) not in _OTHERS
        }
        stylization = self._stages.get("stylize", self._head)
        style_loss = find_metric(stylization.data.metrics, "style/loss")
        found |= {} if style_loss is None else {"style_loss": style_loss}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _validation_kid(
        self, values: Sequence[float], settings: Mapping[str, str]
    ) -> dict[str, float]:
        """Return the validation KID of the selected generator: of the best epoch or the last."""
        if not values or self._stages["train"].info.status != "FINISHED":
            return {}
        is_best = settings.get("train.select_model") == "best"
        return {"validation_kid": min(values) if is_best else values[-1]}

    def _validation_by_epoch(self) -> list[tuple[int, float, float]]:
        points = self._history("train", VALIDATION_KID) if "train" in self._stages else {}
        return [(epoch, kid, math.nan) for epoch, kid in sorted(points.items())]

    def _kid_by_epoch(self) -> list[tuple[int, float, float]]:
        if "evaluate" not in self._stages:
            return []
        points = self._history("evaluate", "quality/kid_by_epoch")
        return [(epoch, kid, math.nan) for epoch, kid in sorted(points.items())]

    def _losses(self) -> dict[str, Floats]:
        """Return the losses from their file; those of an unfinished training from its metrics."""
        if "train" not in self._stages:
            self._notes.sentences.append("training missing")
            return {}
        content = self._content("train", "losses.csv")
        if content is not None:
            return self._notes.read("losses", lambda: content, parse_losses) or {}
        points = {f"loss_{name}": self._history("train", f"loss/{name}") for name in "dg"}
        return losses_of(points)

    def _samples(self, settings: Mapping[str, str]) -> dict[int, partial[Pixels]]:
        """Return functions that download the samples of an epoch."""
        if "train" not in self._stages:
            return {}
        try:
            side = int(settings["convert.image_size"])
            count = int(settings.get("train.fixed_samples", _MAX_SAMPLES))
        except (KeyError, ValueError):
            self._notes.sentences.append("image size missing")
            return {}
        found = {
            int(match[1]): partial(self._sheet, path, side, count)
            for path in self._artifacts("train", "images")
            # The last samples are logged again at step 0, where MLflow opens the series.
            if (match := _SAMPLES.fullmatch(path)) and int(match[1])
        }
        if not found:
            self._notes.sentences.append("samples missing")
        return dict(sorted(found.items()))

    def _sheet(self, path: str, side: int, count: int) -> Pixels:
        return split_sheet(self._image("train", path), side, count)

    def _stylized(self) -> dict[str, StylizedFile]:
        if "stylize" not in self._stages:
            self._notes.sentences.append("stylized images missing")
            return {}

        def parse(content: bytes) -> dict[str, StylizedFile]:
            return {
                image: StylizedFile(
                    of,
                    style,
                    partial(
                        self._image, "stylize", mlflow_names.artifact_path(f"styled/{image}.png")
                    ),
                )
                for image, of, style in stylized_names(json.loads(content))
            }

        path = "styled/sources/list.json"
        return (
            self._notes.read("stylized images", lambda: self._content("stylize", path), parse) or {}
        )

    def _image(self, stage: str, path: str) -> Pixels:
        content = self._content(stage, path)
        if content is None:
            raise FileNotFoundError(path)
        return parse_image(content)

    def _code(self, commit: str, is_dirty: bool) -> str:
        if not is_dirty:
            return code_digest(commit, None)
        patch = self._download(self._head.info.run_id, "uncommitted.patch")
        return "" if patch is None else code_digest(commit, patch.decode("utf-8", "replace"))

    def _tagged(self, start: str) -> dict[str, str]:
        """Return the tags of all stages that begin with a text, without it."""
        return {
            tag.removeprefix(start): value
            for run in self._stages.values()
            for tag, value in run.data.tags.items()
            if tag.startswith(start)
        }

    def _history(self, stage: str, name: str) -> dict[int, float]:
        """Return the finite values of a metric by step."""
        run = self._stages[stage]
        names = [key for key in run.data.metrics if current_metric(key) == name]
        points = self._client.get_metric_history(run.info.run_id, names[0]) if names else []
        return {point.step: point.value for point in points if math.isfinite(point.value)}

    def _artifacts(self, stage: str, folder: str) -> list[str]:
        run = self._stages[stage].info.run_id
        try:
            return [file.path for file in self._client.list_artifacts(run, folder)]
        except Exception:  # any error of a store: the part counts as missing
            return []

    def _content(self, stage: str, path: str) -> bytes | None:
        return self._download(self._stages[stage].info.run_id, path)

    def _download(self, run: str, path: str) -> bytes | None:
        """Return an artifact's content; ``None`` if it cannot be downloaded."""
        with TemporaryDirectory() as folder:
            try:
                return Path(self._client.download_artifacts(run, path, folder)).read_bytes()
            except Exception:  # any error of a store: the part counts as missing
                return None
