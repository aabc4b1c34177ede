"""Settings, images and a recording observer for fast style transfers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from atelier.core.progress import Progress
from atelier.core.settings import StylizeSettings
from atelier.style.loss_log import IterationLosses, Preview, StyleEvents
from atelier.style.objective import Style
from atelier.style.transfer import TransferTask

CPU = torch.device("cpu")


def options(**changes: object) -> StylizeSettings:
    """Return settings of a small style transfer with some values changed."""
    values = {
        "contents": ["generated"],
        "generated_count": 1,
        "styles": ["drawn"],
        "pairing": "product",
        "style_weights": [],
        "style_masks": [],
        "style_scale": 1.0,
        "preserve_color": "none",
        "style_strength": 1.0,
        "image_size": 32,
        "memory_gb": 0.0,
        "weights": "random",
        "preprocessing": "torchvision",
        "pooling": "average",
        "padding": "zeros",
        "style_layers": {1: 1.0, 6: 1.0},
        "style_loss": "gram",
        "content_layers": {6: 0.1},
        "tv_weight": 0.0,
        "init": "content",
        "clamp_to_range": True,
        "pyramid_levels": 1,
        "optimizer": "lbfgs",
        "lr": 1.0,
        "iterate_averaging": 0.0,
        "iterations": 12,
        "precision": "fp32",
        "save_intermediates": 0,
        "gif": False,
        "seed": 1,
    }
    return StylizeSettings.model_validate({**values, **changes})


def smooth(seed: int) -> Tensor:
    """Return smooth random colors, float32 [1, 3, 32, 32]."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, 32, mode="bilinear")


def tasks(
    contents: Sequence[Tensor], styles: Tensor | Sequence[Style], names: Sequence[str] = ()
) -> list[TransferTask]:
    """Return tasks for :func:`atelier.style.transfer.transfer_style`.

    Args:
        contents: images to stylize.
        styles: one style image or one style for all contents, or a style for each.
        names: of the results; ``image 1`` and so on by default.
    """
    of_each = [Style((styles,))] if isinstance(styles, Tensor) else list(styles)
    of_each *= len(contents) if len(of_each) == 1 else 1
    names = names or [f"image {number}" for number, _ in enumerate(contents, start=1)]
    return [
        TransferTask(number, name, content, style)
        for number, (name, content, style) in enumerate(zip(names, contents, of_each, strict=True))
    ]


@dataclass
class RecordedEvents(StyleEvents):
    """Observer that appends everything to lists."""

    losses: list[IterationLosses] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

    def on_losses(self, losses: IterationLosses) -> None:
        self.losses.append(losses)

    def on_preview(self, preview: Preview) -> None:
        self.previews.append(preview)

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def warn(self, *warnings: str) -> None:
        self.warnings += warnings
