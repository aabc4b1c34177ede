"""Titles of runs: the preset, the data, and the settings that differ from the preset."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atelier.core.errors import AtelierError, count_text
from atelier.core.presets import nearest_preset
from atelier.core.settings import Settings
from atelier.tracking.redact import flat, redact_urls

# Settings in a title; more make it unreadable in MLflow's table.
_MAX_CHANGES = 3
_MAX_VALUE = 30  # characters of a value
_MAX_DATA = 60


@dataclass(frozen=True)
class Title:
    """Description of a pipeline's settings.

    Attributes:
        preset: name of the nearest preset; empty if there is none.
        data: short name of the images' source; empty for the built-in sample.
        changes: settings that differ from the preset's, as text by dotted key. A value that is a
            mapping, e.g. of weights by layer, has a key for each of its values.
    """

    preset: str = ""
    data: str = ""
    changes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, presets: Path) -> "Title":
        """Describe settings by the presets of a folder."""
        download = settings.download
        data = "" if download.source == "sample" else download.source_name
        with suppress(AtelierError, OSError):
            preset, changes = nearest_preset(settings.model_dump(), presets)
            texts = {key: redact_urls(value) for key, value in flat(changes).items()}
            return cls(preset, _cut(data, _MAX_DATA), texts)
        return cls(data=_cut(data, _MAX_DATA))

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Title | None":
        """Return the title in an outbox's first entry; ``None`` in those of earlier versions."""
        title = entry.get("title")
        with suppress(TypeError):
            return cls(**title) if isinstance(title, dict) else None
        return None

    def as_json(self) -> dict[str, Any]:
        """Return the title as a JSON object."""
        return asdict(self)

    def of_stage(self, stage: str) -> dict[str, str]:
        """Return the changed settings of a stage."""
        return {key: value for key, value in self.changes.items() if key.startswith(f"{stage}.")}

    def run_name(
        self,
        images: int | None = None,
        previous: Mapping[str, str] | None = None,
        experiment: str = "",
    ) -> str:
        """Return the name of a pipeline's run, e.g. ``best32, 400 pictures, lr 0.0004``.

        Args:
            images: number of images, if known.
            previous: all settings of the pipeline before. Changes since then come first.
            experiment: name of the DVC experiment, which is added in parentheses.
        """
        count = "pictures" if images is None else f"{images:,} pictures"
        pictures = f"{count} of {self.data}" if self.data else count
        parts = [self.preset] if self.preset else []
        if images is not None or self.data:
            parts.append(pictures)
        changes = {k: v for k, v in self.changes.items() if not k.startswith("download.")}
        keys = sorted(changes, key=lambda key: (previous or {}).get(key, "") == changes[key])
        parts += [f"{_short(key)} {_cut(changes[key], _MAX_VALUE)}" for key in keys[:_MAX_CHANGES]]
        if len(keys) > _MAX_CHANGES:
            parts.append(count_text(len(keys) - _MAX_CHANGES, "more setting"))
        return ", ".join(parts) + (f" ({experiment})" if parts and experiment else "")


def _short(key: str) -> str:
    """Return a setting's name without the section of the GAN, which most changes are about."""
    return key.removeprefix("train.")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
