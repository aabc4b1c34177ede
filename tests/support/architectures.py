"""Architectures for tests: those of the presets, and a small one."""

from pathlib import Path
from typing import Any

import torch

from atelier.core.presets import preset_values
from atelier.core.settings import ConvertSettings, TrainSettings
from atelier.gan.networks import Architecture, Generator, build_networks

PRESETS = Path(__file__).parents[2] / "presets"


def train_settings(preset: str, **changes: Any) -> TrainSettings:
    """Return the section ``train`` of a preset with some values changed."""
    return TrainSettings.model_validate(preset_values(preset, PRESETS)["train"] | changes)


def architecture(preset: str) -> Architecture:
    """Return the architecture of a preset."""
    convert = ConvertSettings.model_validate(preset_values(preset, PRESETS)["convert"])
    return Architecture.from_settings(train_settings(preset), convert.image_size, convert.channels)


def with_changes(arch: Architecture, **changes: Any) -> Architecture:
    """Return an architecture with some fields changed, after the checks of all fields."""
    return Architecture(**(arch.model_dump() | changes))


CELEBA64 = architecture("celeba64")
FACES32 = architecture("faces32")
MNIST28 = architecture("mnist28")
FASHION_MLP = architecture("fashion_mlp")
SMALL = with_changes(
    CELEBA64, image_size=16, latent_size=8, generator_channels=4, discriminator_channels=4
)


def vivid(arch: Architecture, seed: int = 1) -> Generator:
    """Return an untrained generator with larger weights, so that its images are not all gray."""
    generator = build_networks(arch, seed)[0].eval()
    with torch.no_grad():
        for weight in generator.parameters():
            weight.mul_(12 if weight.ndim == 4 else 2 if weight.ndim == 2 else 1)
    return generator
