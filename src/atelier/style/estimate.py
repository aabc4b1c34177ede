"""Estimate of the duration of a style transfer, from a short measurement."""

import time
from collections.abc import Sequence

import torch
from torch import nn

from atelier.core.settings import StylizeSettings
from atelier.style.objective import Style, cast_vgg
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.pyramid import levels
from atelier.style.transfer import deepest_layer
from atelier.style.vgg import device_of

_SIZE = 128  # pixels of the measured image
_OVERHEAD = 1.3  # of the optimizer and the memory traffic of larger images, measured


def estimate_seconds(
    settings: StylizeSettings, shapes: Sequence[tuple[int, int]], vgg: nn.Sequential
) -> float:
    """Return the approximate seconds of a style transfer, from evaluations of a small image.

    Args:
        settings: the ``stylize`` section.
        shapes: height and width of every result.
        vgg: from :func:`atelier.style.batch.load_vgg`, on the device of the style transfer.
    """
    device = device_of(vgg)
    vgg = cast_vgg(vgg, settings, device)
    image = torch.rand(1, 3, _SIZE, _SIZE, generator=torch.Generator().manual_seed(0)).to(device)
    simplified = settings.model_copy(update={"preserve_color": "none", "style_masks": []})
    job = StyleJob(image, (Style((image,)),))
    problem = ScaledProblem(job, simplified, vgg[: deepest_layer(settings) + 1], None)
    seconds = []
    for _ in range(3):  # the first one allocates memory
        start = time.perf_counter()
        _, losses, _ = problem.loss_and_gradient(image, simplified)
        next(iter(losses.values())).sum().item()  # synchronizes the device
        seconds.append(time.perf_counter() - start)
    return min(seconds) * evaluated_pixels(settings, shapes) / _SIZE**2 * _OVERHEAD


def evaluated_pixels(settings: StylizeSettings, shapes: Sequence[tuple[int, int]]) -> int:
    """Return the total pixels of all evaluations at all pyramid levels.

    Args:
        settings: the ``stylize`` section.
        shapes: height and width of every result.
    """
    pixels = 0
    for shape in shapes:
        start = 0
        for level in levels(settings, *shape):
            pixels += (level.end_iteration - start) * level.height * level.width
            start = level.end_iteration
    return pixels
