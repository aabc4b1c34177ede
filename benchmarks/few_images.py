"""Presets trained on a few hundred faces for the same time, measured against thousands of others.

The last preset is trained to its end or for --seconds, and every other one for as many seconds, on
the same images. The seconds are elapsed time, for which nothing else should run, or processor time
with `--clock processor`. A preset that keeps its last generator does not measure the KID of epochs,
and none generates samples, so that the time is spent on steps.

KID compares generated faces with faces that no training used, by `vgg19_caffe` and `random`. The
training face that is nearest to a generated face, or to its mirror image, is searched by
`vgg19_caffe`; for comparison also that of other real faces. Each training writes a sheet of faces,
PRESET-SEED.png.

Usage: python benchmarks/few_images.py ARCHIVE [--presets best64 few64] [--images 400]
    [--reference 5000] [--seeds 1 2 3] [--seconds 0]
    [--clock elapsed | processor] [--sheets FOLDER] [--json]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import show
from numpy.typing import NDArray
from real_kid import load

from atelier.core.presets import preset_values
from atelier.core.settings import TrainSettings
from atelier.data.dataset import count_for_fraction
from atelier.figures.montage import montage, save_png
from atelier.gan.distributed import single_process
from atelier.gan.fit import TrainingEvents, TrainResult, build_trainer
from atelier.gan.generation import draw_latents, generate
from atelier.gan.history import History
from atelier.gan.trainer import Trainer
from atelier.metrics.distances import compute_kid
from atelier.metrics.extractors import build_extractor
from atelier.metrics.features import Extractor, Standardizer
from atelier.metrics.neighbors import Nearest, nearest_pairs

PRESETS = Path(__file__).parents[1] / "presets"
CPU = torch.device("cpu")
Images = NDArray[np.uint8]
_GENERATED = 2000
_LATENTS_SEED = 12345
_CLOCKS = {"elapsed": time.perf_counter, "processor": time.process_time}
_ENDLESS = 10**9  # steps of a training that ends by its time


@dataclass
class Reference:
    """Features of real faces: of those of the trainings, and of others."""

    extractor: Extractor
    scale: Standardizer
    faces: torch.Tensor
    others: torch.Tensor

    @classmethod
    def of(cls, features: str, images: Images, others: Images) -> "Reference":
        """Extract the features of both sets, standardized with the others."""
        extractor = build_extractor(features, 1)
        raw = extractor(others, CPU)
        scale = Standardizer.of(raw)
        return cls(extractor, scale, scale(extractor(images, CPU)), scale(raw))

    def kid(self, images: Images) -> tuple[float, float]:
        """Return the KID to the other faces, and its standard error."""
        kid = compute_kid(self.others, self.scale(self.extractor(images, CPU)))
        return kid.value, kid.error

    def nearest_training(self, images: Images, held_out: int) -> Nearest:
        """Return the nearest training face of each image or of its mirror image."""
        nearest, mirrored = (
            nearest_pairs(self.scale(self.extractor(each, CPU)), self.faces[held_out:])
            for each in (images, np.ascontiguousarray(images[:, :, ::-1]))
        )
        return nearest.or_mirrored(mirrored)


def train(
    settings: TrainSettings,
    images: Images,
    held_out: int,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[Trainer, float]:
    """Train to the end, or for some seconds; return the trainer and its seconds."""
    trainer = build_trainer(
        settings,
        images[held_out:],
        held_out=images[:held_out],
        runtime=single_process(),
        events=TrainingEvents(),
    )
    begin = clock()
    for _ in trainer.run():
        if seconds and clock() - begin >= seconds:
            break
    return trainer, clock() - begin


def held_out_images(convert: dict[str, Any], count: int) -> int:
    """Return the number of images that the fractions of a preset keep from the training."""
    fractions = (convert[f"{part}_fraction"] for part in ("validation", "test"))
    return sum(count_for_fraction(fraction, count) for fraction in fractions)


def settings_of(train: dict[str, Any], seed: int, endless: bool) -> TrainSettings:
    """Return the settings of a preset's training, which measures only what it needs."""
    changes: dict[str, Any] = {"seed": seed, "sample_every_epochs": _ENDLESS}
    if endless:
        changes["steps"] = _ENDLESS
    if train["select_model"] == "last":
        changes["kid_every_epochs"] = 0
    return TrainSettings.model_validate(train | changes)


def judge(
    trainer: Trainer, held_out: int, references: dict[str, Reference], sheet: Path
) -> dict[str, Any]:
    """Return KIDs and distances of the generator that the settings select."""
    generator = TrainResult(trainer, History()).generator()
    images = generate(generator, draw_latents(_GENERATED, trainer.arch, _LATENTS_SEED))
    save_png(montage(images[:64], 8, 64), sheet)
    nearest = references["vgg19_caffe"].nearest_training(images, held_out)
    kids = {f"kid, {name}": reference.kid(images) for name, reference in references.items()}
    return {
        "steps": trainer.steps_done,
        "epochs": trainer.epochs_done,
        **{name: [round(number, 4) for number in kid] for name, kid in kids.items()},
        "nearest face": spread(nearest.distance),
        "nearest is of the mirror image": round(float(nearest.mirrored.double().mean()), 3),
    }


def spread(distances: torch.Tensor) -> list[float]:
    """Return the 1st percentile and the median."""
    return [round(float(distances.quantile(share)), 2) for share in (0.01, 0.5)]


def main() -> None:
    """Train all presets with all seeds, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--presets", nargs="+", default=["best64", "few64"])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--reference", type=int, default=5000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--clock", choices=_CLOCKS, default="elapsed")
    parser.add_argument("--sheets", type=Path, default=Path())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    values = {name: preset_values(name, PRESETS) for name in options.presets}
    side = values[options.presets[-1]]["convert"]["image_size"]
    faces = load(options.archive, side)
    faces = faces[np.random.default_rng(0).permutation(len(faces))]
    images, others = faces[: options.images], faces[-options.reference :]
    references = {name: Reference.of(name, images, others) for name in ("vgg19_caffe", "random")}
    held_out = {
        name: held_out_images(each["convert"], len(images)) for name, each in values.items()
    }
    nearest = references["vgg19_caffe"].nearest_training(
        others[:_GENERATED], held_out[options.presets[-1]]
    )
    clock = _CLOCKS[options.clock]
    real = {"nearest face of other real faces": spread(nearest.distance)}
    for seed in options.seeds:
        seconds = options.seconds
        for name in reversed(options.presets):
            settings = settings_of(values[name]["train"], seed, endless=bool(seconds))
            trainer, used = train(settings, images, held_out[name], seconds, clock)
            seconds = seconds or used
            sheet = options.sheets / f"{name}-{seed}.png"
            result = judge(trainer, held_out[name], references, sheet)
            show(
                {"name": name, "seed": seed, "seconds": round(used), **result, **real}, options.json
            )


if __name__ == "__main__":
    main()
