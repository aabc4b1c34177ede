"""Painting several pictures in several styles."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.progress import Progress, Report, silent
from atelier.settings import StylizeSettings
from atelier.style.paint import Iterate, paint
from atelier.style.pictures import prepare, to_uint8
from atelier.style.vgg import build_vgg19

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Painting:
    """A picture in the style of another, and how the losses fell.

    Attributes:
        name: of the files it is written to: what was painted, in which style.
        content: uint8 [H, W, 3] RGB, as it was given.
        style: likewise.
        pixels: uint8 [h, w, 3] RGB, the shorter side as ``stylize.size`` says.
        iterates: the losses of every evaluation.
    """

    name: str
    content: Pixels
    style: Pixels
    pixels: Pixels
    iterates: tuple[Iterate, ...]


def paint_all(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    device: torch.device,
    report: Report = silent,
) -> Iterator[Painting]:
    """Paint every content in every style, each on its own, style by style.

    Args:
        settings: the ``stylize`` section.
        contents: uint8 [H, W, 3] RGB by name.
        styles: likewise.
        device: where to paint.
        report: counts evaluations.

    Raises:
        AtelierError: the weights cannot be had, or a loss is no longer finite.
    """
    deepest = max([*settings.style_layers, *settings.content_layers])
    vgg = build_vgg19(settings.weights, settings.pooling, settings.seed, deepest)
    total = len(contents) * len(styles) * settings.iterations
    done = 0
    for style_name, style in styles.items():
        for content_name, content in contents.items():
            iterates: list[Iterate] = []

            def note(step: Iterate, into: list[Iterate] = iterates, before: int = done) -> None:
                into.append(step)
                # The line search of L-BFGS may take one evaluation more than it was given.
                seen = before + min(step.iteration, settings.iterations)
                report(Progress(seen, total, f"loss {step.total:.4g}"))

            painted = paint(
                prepare(content, settings.size),
                prepare(style, settings.size),
                settings,
                vgg,
                device,
                note,
            )
            done += settings.iterations
            name = f"{content_name}-{style_name}"
            yield Painting(name, content, style, to_uint8(painted)[0], tuple(iterates))


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
