"""Estimate of how long a style transfer takes, from a short measurement."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from atelier.core.settings import StylizeSettings
from atelier.style.batch import load_vgg
from atelier.style.objective import Style
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.pyramid import levels
from atelier.style.transfer import deepest

_SIDE = 128  # pixels of the measured image
_OVERHEAD = 1.3  # the optimizer and the larger images' memory traffic, measured


def estimate_seconds(
    settings: StylizeSettings,
    shapes: Sequence[tuple[int, int]],
    weights: Path,
    device: torch.device,
) -> float:
    """Return about how many seconds style transfer takes, from one evaluation of a small image.

    Args:
        settings: the ``stylize`` section.
        shapes: height and width of every result.
        weights: the folder of files that ``settings.weights`` may name.
        device: where it will run.
    """
    from atelier.style.objective import cast_vgg

    vgg = cast_vgg(load_vgg(settings, weights).to(device), settings, device)
    image = torch.rand(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    plain = settings.model_copy(update={"preserve_color": "none", "style_masks": []})
    scene = ScaledProblem(
        StyleJob(image, (Style((image,)),)), plain, vgg[: deepest(settings) + 1], None
    )
    seconds = []
    for _ in range(3):  # the first one allocates
        begin = time.perf_counter()
        _, losses, _ = scene.objective.loss_and_gradient(image, scene.targets, plain)
        next(iter(losses.values())).sum().item()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    pixels = evaluated_pixels(settings, shapes)
    return min(seconds) * pixels / _SIDE**2 * _OVERHEAD


def evaluated_pixels(settings: StylizeSettings, shapes: Sequence[tuple[int, int]]) -> int:
    """Return the pixels of all evaluations together, those at smaller scales included.

    Args:
        settings: the ``stylize`` section.
        shapes: height and width of every result.
    """
    pixels = 0
    for shape in shapes:
        done = 0
        for leg in levels(settings, *shape):
            pixels += (leg.end_iteration - done) * leg.height * leg.width
            done = leg.end_iteration
    return pixels
