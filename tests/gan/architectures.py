"""Architectures for tests: those of the presets, as their files have them, and a small one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from atelier.gan.networks import Architecture
from atelier.presets import preset_values
from atelier.settings import ConvertSettings, TrainSettings

PRESETS = Path(__file__).parents[2] / "presets"


def train_settings(preset: str, **changes: Any) -> TrainSettings:
    """The section ``train`` of a preset."""
    return TrainSettings.model_validate(preset_values(preset, PRESETS)["train"] | changes)


def architecture(preset: str) -> Architecture:
    """The networks of a preset."""
    convert = ConvertSettings.model_validate(preset_values(preset, PRESETS)["convert"])
    return Architecture.of(train_settings(preset), convert.image_size, convert.channels)


CELEBA64 = architecture("celeba64")
FACES32 = architecture("faces32")
MNIST28 = architecture("mnist28")
FASHION_MLP = architecture("fashion_mlp")
SMALL = replace(CELEBA64, image_size=16, latent_size=8, generator_width=4, discriminator_width=4)
