"""First entry of a stage's outbox: what its run and the pipeline's run start with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atelier.tracking.mlflow_names import TAG_LENGTH
from atelier.tracking.redact import flat
from atelier.tracking.titles import Title

SETTINGS = "settings"  # tag with all settings of a stage as JSON, by dotted key
# MLflow writes a run's parameters above its pictures. A tile of the default size has room for about
# three lines of them and two thirds of the picture.
MAX_PARAMETERS = 4
MAX_PARAMETER_TEXT = 150  # characters of all names and values


@dataclass(frozen=True)
class RunStart:
    """Start of a stage.

    Attributes:
        stage: name of the stage.
        time: milliseconds since 1970.
        experiment: name of the experiment.
        pipeline: name of the pipeline's execution; empty without one.
        continues: key of the run that is continued; empty for a new one.
        parameters: all settings, by dotted key.
        tags: of both runs.
        title: of the pipeline; ``None`` in entries of earlier versions.
    """

    stage: str
    time: Any
    experiment: str
    pipeline: str
    continues: str
    parameters: dict[str, str]
    tags: dict[str, str]
    title: Title | None

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "RunStart":
        """Read an entry.

        Raises:
            KeyError: a field is missing.
            TypeError, ValueError: a field has another type.
        """
        return cls(
            stage=entry["stage"],
            time=entry["time"],
            experiment=entry["experiment"],
            pipeline=entry["pipeline"],
            continues=entry.get("continues", ""),
            parameters=dict(entry["parameters"]),
            tags=dict(entry["tags"]),
            title=Title.from_json(entry),
        )

    @property
    def settings(self) -> dict[str, str]:
        """All settings of the stage."""
        return {k: v for k, v in self.parameters.items() if k.startswith(f"{self.stage}.")}

    def run_name(self) -> str:
        """Return the name of the stage's run, e.g. ``train (best32)``."""
        preset = self.title.preset if self.title else ""
        return f"{self.stage} ({preset})" if preset else self.stage

    def run_parameters(self) -> dict[str, str]:
        """Return the parameters of the stage's run: those that differ from the preset."""
        if self.title is None or not self.title.preset:
            return self.settings
        parameters: dict[str, str] = {}
        length = 0
        for key in self.title.of_stage(self.stage):
            value = self.settings.get(key, "")
            length += len(key) + len(value)
            if len(parameters) == MAX_PARAMETERS or length > MAX_PARAMETER_TEXT:
                break
            parameters[key] = value
        return parameters

    def run_tags(self) -> dict[str, str]:
        """Return the tags of the stage's run."""
        preset = {"preset": self.title.preset} if self.title and self.title.preset else {}
        return self.tags | preset | {SETTINGS: self._settings_tag()}

    def _settings_tag(self) -> str:
        """Return the settings as JSON; without the longest values if MLflow would cut the tag."""
        settings = dict(self.settings)
        while len(text := json.dumps(settings)) > TAG_LENGTH:
            del settings[max(settings, key=lambda key: len(settings[key]))]
        return text


def settings_of(parameters: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
    """Return all settings of a stage by dotted key, from its run's parameters and tags."""
    try:
        return dict(parameters) | {k: str(v) for k, v in flat(json.loads(tags[SETTINGS])).items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return dict(parameters)  # a run of an earlier version
