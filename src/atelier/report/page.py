"""Report page as HTML: the values of its template, and their formats."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.pages.charts import Chart
from atelier.pages.html import write_html
from atelier.pages.images import PageImage
from atelier.report.stylized import Stylized
from atelier.report.verdict import MetricRow, Verdict


@dataclass(frozen=True)
class Fact:
    """Line of the header: its name, its text, and the address of a link; or no address."""

    name: str
    text: str
    address: str = ""


@dataclass(frozen=True)
class Animation:
    """GIF of the training.

    Attributes:
        address: a data URI, or a path relative to the page.
        bytes: size of the file.
    """

    address: str
    bytes: int

    @property
    def size(self) -> str:
        """Size for people."""
        return f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 1e6 else f"{self.bytes / 1e3:.0f} kB"


@dataclass(frozen=True)
class Changed:
    """Setting that differs from the preset: its dotted key and both values."""

    key: str
    own: Any
    preset: Any


@dataclass(frozen=True)
class Page:
    """Content of the report page.

    Attributes:
        title: the heading.
        facts: lines of the header.
        verdict: on the generated images.
        warnings: sentences below the verdict.
        frames: (epoch, montage), at least one, in the order of the slider.
        fps: frames per second of the slider.
        epochs: number of epochs of the training.
        chosen: sentence on the epoch of the generator that later stages use; empty if it was not
            chosen by its KID.
        real: a montage of training images; ``None`` if they are not shared.
        animation: the GIF of the training.
        stylized: stylized images.
        stylized_total: their number, if it is larger.
        charts: of the training.
        metrics: the table of metrics.
        measured_with: conditions of the metrics, in one sentence.
        nearest: pairs of a generated image and the nearest training image.
        augmented: training images and augmentations of them; ``None`` without augmentation.
        hidden: sentence in place of training images; empty if they are shared.
        preset: name of the nearest preset.
        changed: settings that differ from it.
        settings: all settings by section.
    """

    title: str
    facts: Sequence[Fact]
    verdict: Verdict
    warnings: Sequence[str]
    frames: Sequence[tuple[int, PageImage]]
    fps: float
    epochs: int
    chosen: str
    real: PageImage | None
    animation: Animation
    stylized: Sequence[Stylized]
    stylized_total: int
    charts: Sequence[Chart]
    metrics: Sequence[MetricRow]
    measured_with: str
    nearest: Sequence[PageImage]
    augmented: PageImage | None
    hidden: str
    preset: str
    changed: Sequence[Changed]
    settings: Mapping[str, Mapping[str, Any]]

    def pixel_images(self) -> list[PageImage]:
        """Return the images that are enlarged by whole factors."""
        real = [image for image in (self.real, self.augmented) if image]
        return [*real, *self.nearest, *(image for _, image in self.frames)]

    def images(self) -> list[PageImage]:
        """Return all images."""
        stylized = [(each.content, each.style, each.image) for each in self.stylized]
        return [*self.pixel_images(), *itertools.chain(*stylized)]


def write_page(target: Path, page: Page) -> None:
    """Write the report page, see :func:`atelier.pages.html.write_html`."""
    factors = {image.width: image.factors for image in page.pixel_images()}
    values = {"page": page, "factors": factors}
    write_html(
        target, Path(__file__).with_name("page.html.j2"), values, setting=_setting, flat=_flat
    )


def _setting(value: Any) -> str:
    """Format a setting as in params.yaml."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_setting(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_setting, value))}]"
    if isinstance(value, str):
        return value or "''"
    return json.dumps(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested values with dotted names; a mapping with numbers as keys stays one value."""
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value and all(isinstance(key, str) for key in value):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
