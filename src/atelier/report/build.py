"""Content of the report page, from the files of the other stages."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError, count_text
from atelier.core.presets import STAGES, nearest_preset, preset_values
from atelier.core.settings import Settings
from atelier.data.dataset import load_images
from atelier.figures.captions import IMAGES_NOT_SHARED
from atelier.figures.curves import read_losses
from atelier.figures.montage import montage, split_sides, whole_tile
from atelier.gan.length import batch_warnings, length_warnings
from atelier.gan.sample_files import epoch_files, load_augmented, shape_of_samples
from atelier.pages.charts import Chart
from atelier.pages.images import Format, PageImage, data_uri, encode_within, read_image
from atelier.report.charts import kid_chart, training_chart
from atelier.report.montages import Layout, frames
from atelier.report.page import Animation, Changed, Fact, Page
from atelier.report.stylized import load_stylized
from atelier.report.verdict import metric_rows, verdict

MAX_CHARACTERS = 4_450_000
"""Limit of the sum of all data URIs, so that the page with its text stays below 5 MB."""

_PAIRS = 12  # of generated and training images
# Largest shares of the characters; frames get what the others leave, but not more than their own.
_REAL, _AUGMENTED, _NEAREST, _STYLIZED, _FRAMES = 0.11, 0.07, 0.13, 0.33, 0.58
_PAIR_FORMATS = (Format(lossless=True), Format(), Format(512), Format(256, 60))


@dataclass(frozen=True)
class Results:
    """Files of the other stages.

    Attributes:
        images: the training images.
        samples: the folder of :mod:`atelier.gan.sample_files`.
        losses: one row per step.
        kid: one row per measured epoch.
        nearest: generated images and their nearest training images.
        styled: the folder of stylized images.
        animation: the GIF of the training.
        metrics: the folder of the files of details, one per stage.
    """

    images: Path
    samples: Path
    losses: Path
    kid: Path
    nearest: Path
    styled: Path
    animation: Path
    metrics: Path

    def read_metrics(self, stage: str) -> dict[str, Any]:
        """Read a stage's file of details.

        Raises:
            AtelierError: the file is missing or damaged.
        """
        file = self.metrics / f"{stage}.json"
        with _damage_as_sentence(file, stage):
            return dict(json.loads(file.read_text("utf-8")))

    def read_kid(self) -> list[tuple[int, float, float]]:
        """Read the KID of epochs with its standard error, by epoch.

        Raises:
            AtelierError: the file is missing or damaged.
        """
        with _damage_as_sentence(self.kid, "evaluate"), self.kid.open(encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [(int(row["epoch"]), float(row["kid"]), float(row["error"])) for row in rows]


@contextmanager
def _damage_as_sentence(file: Path, stage: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AtelierError(
            f"{file} cannot be read ({type(error).__name__}); run the {stage} stage again."
        ) from None


def build_page(
    settings: Settings,
    values: Mapping[str, Any],
    results: Results,
    presets: Path,
    facts: Sequence[Fact] = (),
    characters: int = MAX_CHARACTERS,
) -> Page:
    """Build the content of the report page.

    Args:
        settings: of the pipeline.
        values: the same settings to print, by section, without secrets.
        results: files of the other stages.
        presets: the folder of presets.
        facts: about the run, for the header.
        characters: limit of the sum of all data URIs. Images that exceed it have a lower quality or
            are left out, and the GIF is linked.

    Raises:
        AtelierError: a file is missing or damaged.
    """
    images, files = load_images(results.images), epoch_files(results.samples)
    pixels, shared = images.pixels, settings.shares_images
    count = shape_of_samples(files[max(files)])[0]
    classes = images.classes()[0] if settings.train.conditional else ()
    layout = Layout(settings.render.columns, classes, settings.render.tile_pixels)
    evaluation, table = results.read_metrics("evaluate"), read_losses(results.losses)
    steps, epochs = int(table["step"][-1]), max(files)
    side = pixels.shape[1] if shared else 0  # of the real images in nearest.png
    preset, changed = nearest_preset(values, presets)
    chosen = _chosen(settings, results)
    stylized, stylized_total = load_stylized(results.styled, int(_STYLIZED * characters))
    page = Page(
        title=f"{settings.download.source_title}, {_preset_name(preset, changed)}",
        facts=[*_facts(results.read_metrics("convert"), pixels, chosen), *facts],
        verdict=verdict(evaluation, _length(settings, len(pixels), steps, epochs)),
        warnings=_warnings(settings, len(pixels), evaluation),
        frames=(),
        fps=settings.render.fps,
        epochs=epochs,
        chosen=chosen,
        real=_real_images(pixels, count, layout, int(_REAL * characters)) if shared else None,
        animation=Animation(results.animation.as_posix(), _size(results.animation)),
        stylized=stylized,
        stylized_total=stylized_total,
        charts=_charts(table, results.read_kid(), evaluation),
        metrics=metric_rows(evaluation),
        measured_with=_measured_with(evaluation),
        nearest=_nearest(results.nearest, side, int(_NEAREST * characters)),
        augmented=_augmented(results.samples, int(_AUGMENTED * characters)) if shared else None,
        hidden="" if shared else IMAGES_NOT_SHARED,
        preset=preset,
        changed=_changed(changed, preset, presets),
        settings={section: values[section] for section in STAGES},
    )
    left = min(int(_FRAMES * characters), characters - _characters(page))
    page = replace(page, frames=frames(files, layout, left))
    return _with_embedded_animation(page, results.animation, characters)


def _preset_name(preset: str, changed: Mapping[str, Any]) -> str:
    """Return the preset, and the number of changed settings, without those of the data."""
    count = sum(not key.startswith("download.") for key in changed)
    return f"preset {preset}" + (f" with {count_text(count, 'change')}" if count else "")


def _warnings(settings: Settings, images: int, evaluation: Mapping[str, Any]) -> list[str]:
    small = batch_warnings(settings.train.batch_size, images)
    return [*small, *evaluation.get("notes", [])]


def _facts(convert: Mapping[str, Any], pixels: NDArray[np.uint8], chosen: str) -> list[Fact]:
    """Return the data, and the sentence on the chosen epoch if there is one."""
    data = _data_fact(convert, pixels)
    return [data, Fact("Generator", chosen)] if chosen else [data]


def _data_fact(convert: Mapping[str, Any], pixels: NDArray[np.uint8]) -> Fact:
    count, height, width, channels = pixels.shape
    parts = [f"{count_text(count, 'training image')} of {width} × {height} pixels"]
    parts[0] += " in grayscale" if channels == 1 else ""
    if others := {name: convert[name] for name in ("validation", "test") if convert.get(name)}:
        parts.append(" and ".join(f"{n:,} for {name}" for name, n in others.items()))
    if convert.get("rejected"):
        parts.append(f"{count_text(convert['rejected'], 'file')} rejected")
    return Fact("Data", ", ".join(parts))


def _chosen(settings: Settings, results: Results) -> str:
    """Return a sentence on the chosen epoch; empty if the last one is used without a choice."""
    if settings.train.select_model != "best":
        return ""
    epoch = results.read_metrics("train").get("best_epoch")
    if not epoch:
        return ""
    return (
        f"The generator of epoch {epoch} was chosen by its validation KID; metrics and paintings"
        " use it."
    )


def _length(settings: Settings, images: int, steps: int, epochs: int) -> str:
    """Return a sentence with the length of the training, and advice if it is short."""
    train = settings.train
    warnings = length_warnings(train.epochs, -(-images // train.batch_size), train.steps)
    if warnings and not train.start_from:
        return warnings[0][0].upper() + warnings[0][1:]
    return f"{count_text(steps, 'step')} in {count_text(epochs, 'epoch')}."


def _real_images(
    pixels: NDArray[np.uint8], count: int, layout: Layout, characters: int
) -> PageImage:
    """Return a montage of as many training images as samples, evenly spread over the data."""
    rows = np.linspace(0, len(pixels) - 1, min(count, len(pixels))).astype(np.int64)
    columns = count // len(layout.classes) if layout.classes else layout.columns
    image = Layout(columns).montage(pixels[rows])
    return encode_within([image], ["Training images, in rows"], characters)[0]


def _charts(
    table: Mapping[str, NDArray[np.float64]],
    kid: Sequence[tuple[int, float, float]],
    evaluation: Mapping[str, Any],
) -> list[Chart]:
    real = evaluation.get("real_kid")
    level = None if real is None else (real, evaluation.get("real_kid_error", 0.0))
    charts = [
        kid_chart(kid, level, evaluation.get("measured_with", {}).get("reference", "test")),
        training_chart(
            "Losses",
            "Pale: measured values. Strong: smoothed values. Losses do not measure quality.",
            table["step"],
            {"discriminator": table["loss_d"], "generator": table["loss_g"]},
        ),
        training_chart(
            "Scores of the discriminator",
            "Mean scores of real images, D(x), and of generated ones, D(G(z)), before and after"
            " the update of the discriminator.",
            table["step"],
            {
                "D(x)": table["d_x"],
                "D(G(z)) before": table["d_g_z1"],
                "D(G(z)) after": table["d_g_z2"],
            },
            (0.0, 1.0),
        ),
    ]
    return [chart for chart in charts if chart]


def _measured_with(evaluation: Mapping[str, Any]) -> str:
    """Return a sentence with the conditions under which metrics are comparable."""
    conditions = evaluation.get("measured_with")
    if not conditions:
        return ""
    return (
        f"Measured with features of {conditions['features']} on"
        f" {count_text(conditions['samples'], 'generated image')} and"
        f" {count_text(conditions['reference_images'], conditions['reference'] + ' image')}, with"
        f" seed {conditions['seed']}. Compare numbers only if these are equal."
    )


def _nearest(file: Path, side: int, characters: int) -> list[PageImage]:
    """Return pairs of a generated image and the nearest training image, nearest first.

    Args:
        file: the image that the evaluate stage writes.
        side: of the training images, in pixels; 0 if the file has generated images only, which
            are returned as one image.
        characters: limit of the sum of all data URIs.
    """
    if not side:
        texts = ["Generated images, each above its distance from the nearest training image"]
        return encode_within([read_image(file, "evaluate")], texts, characters, _PAIR_FORMATS)
    with _damage_as_sentence(file, "evaluate"):
        pairs = split_sides(read_image(file, "evaluate"), whole_tile(side))
    images = [np.hstack(pair) for pair in pairs[:_PAIRS]]
    texts = [
        f"Pair {number}: a generated image, and the nearest training image on the right"
        for number in range(1, len(images) + 1)
    ]
    return encode_within(images, texts, characters, _PAIR_FORMATS)


def _augmented(samples: Path, characters: int) -> PageImage | None:
    rows = load_augmented(samples)
    if rows is None:
        return None
    count, columns, *shape = rows.shape
    image = montage(rows.reshape(count * columns, *shape), columns, shape[0])
    text = "Training images, one per row: the original, then augmentations"
    return encode_within([image], [text], characters)[0]


def _changed(changed: Mapping[str, Any], preset: str, presets: Path) -> list[Changed]:
    values = preset_values(preset, presets)
    return [Changed(key, own, _value(values, key)) for key, own in changed.items()]


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise AtelierError(
            f"{file} cannot be read ({error.strerror}); run the render stage again."
        ) from None


def _characters(page: Page) -> int:
    return sum(len(image.uri) for image in page.images())


def _with_embedded_animation(page: Page, file: Path, characters: int) -> Page:
    """Replace the link to the GIF by the GIF itself, if the page stays small enough."""
    if _characters(page) + 4 / 3 * page.animation.bytes > characters:
        return page
    address = data_uri(file.read_bytes(), "image/gif")
    return replace(page, animation=replace(page.animation, address=address))
