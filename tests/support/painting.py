"""Settings and images for fast style transfers."""

import torch
from torch import Tensor, nn

from atelier.core.settings import StylizeSettings

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
