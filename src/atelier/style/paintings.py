"""Painting several pictures in several styles."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.errors import AtelierError
from atelier.progress import Progress, Report, silent
from atelier.settings import StylizeSettings
from atelier.style.paint import Iterate, paint
from atelier.style.pictures import prepare, sheet, to_uint8
from atelier.style.resume import Attempts
from atelier.style.vgg import build_vgg19

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Painting:
    """A picture in the style of another, and how the losses fell.

    Attributes:
        name: of the files it is written to: what was painted, in which style.
        content: uint8 [H, W, 3] RGB, as it was given.
        style: likewise.
        pixels: uint8 [h, w, 3] RGB, the shorter side as ``stylize.picture_size`` says.
        iterates: the losses of every evaluation.
    """

    name: str
    content: Pixels
    style: Pixels
    pixels: Pixels
    iterates: tuple[Iterate, ...]

    def curves(self) -> tuple[list[str], dict[int, list[float]]]:
        """Names of the losses, in all and by layer, and their values by iteration.

        The loss stands first, so that MLflow shows all paintings' curves of one loss together.
        """
        layers = list(self.iterates[0].per_layer)
        names = [f"{loss}/{self.name}" for loss in ("loss", *layers)]
        rows = {it.iteration: [it.total, *it.per_layer.values()] for it in self.iterates}
        return names, rows


def paint_all(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    weights: Path,
    device: torch.device,
    report: Report = silent,
    attempts: Attempts | None = None,
) -> list[Painting]:
    """Paint every content in every style, each on its own, style by style.

    Args:
        settings: the ``stylize`` section.
        contents: uint8 [H, W, 3] RGB by name.
        styles: likewise.
        weights: the folder of files that ``settings.weights`` may name.
        device: where to paint.
        report: counts evaluations.
        attempts: keeps unfinished pictures, and brings back those of an earlier attempt.

    Raises:
        AtelierError: two paintings would have the same name, the weights cannot be had, or a
            loss is no longer finite.
    """
    _refuse_equal_names(contents, styles)
    deepest = max([*settings.style_layers, *settings.content_layers])
    made = settings.weights in ("random", "imagenet")
    source = settings.weights if made else str(weights / settings.weights)
    vgg = build_vgg19(source, settings.pooling, settings.seed, deepest)
    prepared = [prepare(content, settings.picture_size) for content in contents.values()]
    total = len(contents) * len(styles) * settings.iterations
    paintings: list[Painting] = []
    iterates: defaultdict[int, list[Iterate]] = defaultdict(list)

    def note(step: Iterate) -> None:
        iterates[len(paintings) + step.picture].append(step)
        # The line search of L-BFGS may take one evaluation more than it was given.
        done = sum(min(len(steps), settings.iterations) for steps in iterates.values())
        report(Progress(done, total, f"loss {step.total:.4g}"))

    for style_name, style in styles.items():
        if attempts:
            attempts.first = len(paintings)
        ground = prepare(style, settings.picture_size)
        painted = paint(prepared, ground, settings, vgg, device, note, attempts)
        for (content_name, content), result in zip(contents.items(), painted, strict=True):
            name = _name(content_name, style_name)
            steps = tuple(iterates[len(paintings)])
            paintings.append(Painting(name, content, style, to_uint8(result)[0], steps))
    return paintings


def overview(paintings: Sequence[Painting]) -> Pixels:
    """Return a sheet, uint8 [H, W, 3] RGB, with a row for each: content, style, painting."""
    rows = [(painting.content, painting.style, painting.pixels) for painting in paintings]
    return sheet(*zip(*rows, strict=True))


def loss_table(paintings: Sequence[Painting]) -> tuple[list[str], list[list[Any]]]:
    """The losses of every evaluation as a header and rows: in all, and by layer."""
    layers = list(paintings[0].iterates[0].per_layer)
    rows = [
        [painting.name, step.iteration, f"{step.total:.6g}"]
        + [f"{step.per_layer[layer]:.6g}" for layer in layers]
        for painting in paintings
        for step in painting.iterates
    ]
    return ["painting", "iteration", "loss", *layers], rows


def summary(paintings: Sequence[Painting]) -> dict[str, Any]:
    """How many paintings there are, and the mean of their first and last losses."""
    first, last = (
        sum(painting.iterates[at].total for painting in paintings) / len(paintings)
        for at in (0, -1)
    )
    return {"paintings": len(paintings), "first_loss": first, "loss": last}


def _name(content: str, style: str) -> str:
    return f"{content}-{style}"


def _refuse_equal_names(contents: Iterable[str], styles: Iterable[str]) -> None:
    """Refuse names whose paintings would overwrite each other, such as a-b in c and a in b-c."""
    seen: dict[str, tuple[str, str]] = {}
    for content, style in product(contents, styles):
        name = _name(content, style)
        if name in seen:
            raise AtelierError(
                f"two paintings would be called {name}: {seen[name][0]} in the style of"
                f" {seen[name][1]}, and {content} in the style of {style}; rename one of the"
                " pictures."
            )
        seen[name] = (content, style)
