"""Averages of a generator's weights over its training, compared by KID.

All averages of a training have the same trajectory, so their differences are those of the averages:

- no average: the generator after the last step,
- `ema_decay`: exponential moving averages with fixed decays, as the train stage computes them,
- power functions of the time, by their relative width: the standard deviation of the averaged
  steps, divided by the number of steps,
- post-hoc averages of the same widths, from snapshots of two power functions,
- "recomputed": the statistics of batch normalization computed anew for the averaged weights.

KID compares generated images with faces that no training uses, by `random` and `vgg19_caffe`.

Power functions and post-hoc averages: Karras et al. 2024, "Analyzing and improving the training
dynamics of diffusion models", section 3 and appendix C.

Usage: python benchmarks/averages.py ARCHIVE [--preset best64] [--augment translation cutout]
    [--seeds 1 2] [--steps 0] [--decays 0.98 0.99 0.995] [--widths 0.025 0.05 0.1] [--every 50]
    [--images 6400] [--validation 800] [--samples 2000] [--json]
"""

import argparse
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from command import show
from numpy.typing import NDArray
from real_kid import load
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from atelier.core.presets import preset_values
from atelier.core.settings import TrainSettings
from atelier.gan.distributed import single_process
from atelier.gan.fit import TrainingEvents, build_trainer
from atelier.gan.generation import draw_latents, generate
from atelier.gan.model import EMA
from atelier.gan.networks import Generator
from atelier.metrics.validation import ValidationKID, validation_settings

PRESETS = Path(__file__).parents[1] / "presets"
FEATURES = ("random", "vgg19_caffe")
SNAPSHOT_WIDTHS = (0.05, 0.10)  # of the power functions that post-hoc averages are made from
_LATENTS_SEED = 9
_STATISTICS_BATCH = 250

Floats = NDArray[np.float64]


def exponent(width: float) -> float:
    """Return gamma of the power function of a relative width."""
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    return float(roots[np.abs(roots.imag) < 1e-9].real.max())


def power_average(width: float, generator: nn.Module) -> AveragedModel:
    """Return an average of weights and statistics over all steps so far."""
    power = exponent(width) + 1

    def average(mean: Tensor, value: Tensor, count: Tensor | int) -> Tensor:
        return mean + (1 - (1 - 1 / (count + 1)) ** power) * (value - mean)

    return AveragedModel(generator, avg_fn=average, use_buffers=True)


def inner_products(ends: Floats, gammas: Floats, ends_2: Floats, gammas_2: Floats) -> Floats:
    """Return the inner products of power functions that end at these steps."""
    ratio = ends / ends_2
    power = np.where(ends < ends_2, gammas_2, -gammas)
    products = (gammas + 1) * (gammas_2 + 1) * ratio**power
    return np.asarray(products / ((gammas + gammas_2 + 1) * np.maximum(ends, ends_2)))


def post_hoc_weights(ends: Sequence[int], widths: Sequence[float], width: float) -> Floats:
    """Return the weights [N] of snapshots for the average of a width at the last step.

    Args:
        ends: the step of each snapshot [N].
        widths: the relative width of each snapshot's average [N].
        width: of the average to approximate, by least squares.
    """
    steps = np.asarray(ends, np.float64)
    gammas = np.asarray([exponent(each) for each in widths])
    products = inner_products(steps[:, None], gammas[:, None], steps[None], gammas[None])
    gamma = np.full_like(gammas, exponent(width))
    target = inner_products(steps, gammas, np.full_like(steps, steps.max()), gamma)
    return np.asarray(np.linalg.lstsq(products, target, rcond=None)[0])


class Averages:
    """All averages of one training."""

    def __init__(self, generator: Generator, options: argparse.Namespace) -> None:
        self._source, self._every = generator, options.every
        self._emas = {f"ema_decay {decay}": EMA(generator, decay) for decay in options.decays}
        widths = {*options.widths, *SNAPSHOT_WIDTHS}
        self._powers = {width: power_average(width, generator) for width in sorted(widths)}
        self._snapshots: list[tuple[int, float, dict[str, Tensor]]] = []
        self._steps = 0

    def update(self) -> None:
        """Average in the generator after a step."""
        self._steps += 1
        for ema in self._emas.values():
            ema.update(self._source)
        for average in self._powers.values():
            average.update_parameters(self._source)
        if self._steps % self._every == 0:
            self._save()

    def _save(self) -> None:
        for width in SNAPSHOT_WIDTHS:
            state = deepcopy(self._powers[width].module.state_dict())
            self._snapshots.append((self._steps, width, state))

    def generators(self) -> dict[str, nn.Module]:
        """Return all averages by name; call it after the last step."""
        if self._steps % self._every:
            self._save()
        return {
            "no average": self._source,
            **{name: ema.generator for name, ema in self._emas.items()},
            **{f"power {width}": average.module for width, average in self._powers.items()},
            **{f"post-hoc {width}": self._post_hoc(width) for width in self._powers},
        }

    def _post_hoc(self, width: float) -> nn.Module:
        """Return an average from the snapshots."""
        ends, widths, states = zip(*self._snapshots, strict=True)
        weights = post_hoc_weights(ends, widths, width)
        generator = deepcopy(self._source)
        for name, tensor in generator.state_dict().items():
            terms = (w * s[name].double() for w, s in zip(weights, states, strict=True))
            total = torch.stack(list(terms)).sum(0)
            # Weights of snapshots can be negative, and then a variance can be too.
            tensor.copy_(total.clamp(min=0) if name.endswith("running_var") else total)
        return generator


def measure(settings: TrainSettings, faces: NDArray[np.uint8], options: argparse.Namespace) -> None:
    """Train with one seed, and print the KID of all averages."""
    training, validation = faces[: options.images], faces[-options.validation :]
    kids = []
    for features in FEATURES:
        changes = {"kid_features": features, "kid_samples": options.validation, "seed": 1}
        chosen = validation_settings(settings.model_copy(update=changes))
        kids.append(ValidationKID(chosen, training, validation))
    trainer = build_trainer(settings, training, runtime=single_process(), events=TrainingEvents())
    averages = Averages(trainer.gan.generator, options)
    for _ in trainer.run(averages.update):
        pass
    latents = draw_latents(options.samples, trainer.arch, _LATENTS_SEED)
    results: dict[str, object] = {
        "name": options.preset,
        "seed": settings.seed,
        "augment": settings.augment,
        "steps": trainer.steps_done,
        "features": FEATURES,
        "error for real images": [round(kid.error, 4) for kid in kids],
    }
    for name, average in averages.generators().items():
        generator = deepcopy(average)
        images = generate(generator, latents)
        results[name] = [round(kid(images), 4) for kid in kids]
        update_bn(latents.split(_STATISTICS_BATCH), generator)
        images = generate(generator, latents)
        results[f"{name}, recomputed"] = [round(kid(images), 4) for kid in kids]
    show(results, options.json)


def main() -> None:
    """Train with all seeds, and print a result for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--preset", default="best64")
    parser.add_argument("--augment", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--decays", type=float, nargs="*", default=[0.98, 0.99, 0.995])
    parser.add_argument("--widths", type=float, nargs="*", default=[0.025, 0.05, 0.1])
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--validation", type=int, default=800)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    values = preset_values(options.preset, PRESETS)
    faces = load(options.archive, values["convert"]["image_size"])
    faces = faces[np.random.default_rng(0).permutation(len(faces))]
    for seed in options.seeds:
        # The KID of epochs is not needed.
        changes = {"seed": seed, "augment": options.augment, "ema_decay": 0.0}
        changes |= {"kid_every_epochs": 0, "select_model": "last"}
        changes |= {"steps": options.steps} if options.steps else {}
        settings = TrainSettings.model_validate(values["train"] | changes)
        measure(settings, faces, options)


if __name__ == "__main__":
    main()
