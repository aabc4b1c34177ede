"""KID by step on few images, from random weights and from an earlier training.

The first training uses --first images of the archive. The others use --few other images, the same
settings and the same seed: from random weights, from both networks of the first training, and from
them with --freeze frozen layers of the discriminator. With --first-preset, the first training has
the settings of that preset, and the others have its numbers of channels. KID compares --samples
generated images with --reference images that no training uses.

Usage: python benchmarks/fine_tuning.py --archive FILE [--first 3000] [--few 200] [--reference 1000]
    [--first-steps 1500] [--steps 600] [--every 100] [--freeze 2] [--samples 500]
    [--preset best32] [--first-preset best64] [--channels 64] [--sheet FILE] [--json]
"""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from command import options, show
from numpy.typing import NDArray
from real_kid import load

from atelier.core.presets import preset_values
from atelier.core.settings import TrainSettings
from atelier.figures.montage import montage, save_png
from atelier.gan.distributed import SINGLE_PROCESS, Runtime
from atelier.gan.fine_tuning import PretrainedNetworks, load_pretrained
from atelier.gan.fit import TrainingEvents, build_trainer, save_models, train
from atelier.gan.generation import draw_latents, generate
from atelier.gan.trainer import Trainer
from atelier.metrics.validation import ValidationKID, validation_settings

Images = NDArray[np.uint8]
RUNTIME = Runtime(SINGLE_PROCESS, torch.device("cpu"))
FEATURES = ("random", "vgg19_caffe")
_CHANNELS = ("generator_channels", "discriminator_channels")
_NEVER = 10**6  # epochs between two samples


def measure(
    trainer: Trainer, kids: dict[str, ValidationKID], every: int, samples: int
) -> dict[str, list[float]]:
    """Train to the end; return the KIDs before the first and after every n-th step."""
    latents = draw_latents(samples, trainer.arch, seed=9)
    values: dict[str, list[float]] = {name: [] for name in kids}

    def after_step() -> None:
        if trainer.steps_done % every == 0:
            images = generate(trainer.gan.eval_generator, latents)
            for name, kid in kids.items():
                values[name].append(round(kid(images), 3))

    after_step()
    for _ in trainer.run(after_step):
        pass
    return values


def training_settings(
    preset: dict[str, Any], first_preset: dict[str, Any] | None, arguments: argparse.Namespace
) -> tuple[TrainSettings, TrainSettings]:
    """Return the settings of the trainings on few images, and of the first training."""
    changes: dict[str, Any] = {
        "horizontal_flip": True,
        "kid_every_epochs": 0,
        "select_model": "last",
        "sample_every_epochs": _NEVER,
    }
    if arguments.channels:
        changes |= dict.fromkeys(_CHANNELS, arguments.channels)
    elif first_preset:
        changes |= {name: first_preset[name] for name in _CHANNELS}
    few = preset | changes | {"augment": preset["augment"] or ["translation", "cutout"]}
    first = first_preset | changes if first_preset else few
    return (
        TrainSettings.model_validate(few | {"steps": arguments.steps}),
        TrainSettings.model_validate(first | {"steps": arguments.first_steps}),
    )


def main() -> None:
    """Measure and print."""
    arguments = options(
        __doc__,
        archive=Path(),
        preset="best32",
        first_preset="",
        first=3000,
        few=200,
        reference=1000,
        first_steps=1500,
        steps=600,
        every=100,
        freeze=2,
        channels=0,
        samples=500,
        sheet=Path(),
    )
    presets = Path(__file__).parents[1] / "presets"
    values = preset_values(arguments.preset, presets)
    pixels = load(arguments.archive, values["convert"]["image_size"])
    order = np.random.default_rng(1).permutation(len(pixels))
    first, few, reference = np.split(
        pixels[order[: arguments.first + arguments.few + arguments.reference]],
        [arguments.first, arguments.first + arguments.few],
    )
    settings, first_settings = training_settings(
        values["train"],
        preset_values(arguments.first_preset, presets)["train"] if arguments.first_preset else None,
        arguments,
    )
    kids = {
        name: ValidationKID(
            validation_settings(
                settings.model_copy(
                    update={"kid_features": name, "kid_samples": arguments.reference}
                )
            ),
            first,
            reference,
        )
        for name in FEATURES
    }
    began = time.process_time()
    with TemporaryDirectory() as folder:
        save_models(train(first_settings, first, runtime=RUNTIME).trainer, Path(folder))
        start = load_pretrained(Path(folder))
    print(f"first training: {time.process_time() - began:.0f} s of CPU", file=sys.stderr)
    from_start = settings.model_copy(update={"start_from": {"first": "first"}})
    frozen = from_start.model_copy(update={"freeze_discriminator": arguments.freeze})
    runs: dict[str, tuple[TrainSettings, PretrainedNetworks | None]] = {
        "random weights": (settings, None),
        "start": (from_start, start),
        f"start, {arguments.freeze} frozen layers": (frozen, start),
    }
    kid: dict[str, dict[str, list[float]]] = {name: {} for name in FEATURES}
    rows = [few[:16]]
    for name, (chosen, pretrained) in runs.items():
        began = time.process_time()
        trainer = build_trainer(
            chosen, few, runtime=RUNTIME, events=TrainingEvents(), pretrained=pretrained
        )
        rows.append(trainer.samples()[:16])
        for features, kids_by_step in measure(
            trainer, kids, arguments.every, arguments.samples
        ).items():
            kid[features][name] = kids_by_step
        rows.append(trainer.samples()[:16])
        print(f"{name}: {time.process_time() - began:.0f} s of CPU", file=sys.stderr)
    if arguments.sheet != Path():
        save_png(montage(np.concatenate(rows), 16, tile=64), arguments.sheet)
    steps = list(range(0, arguments.steps + 1, arguments.every))
    sizes = {"first": arguments.first, "few": arguments.few, "reference": len(reference)}
    show({"name": "fine_tuning", **sizes, "steps": steps, "kid": kid}, arguments.json)


if __name__ == "__main__":
    main()
