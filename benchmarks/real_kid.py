"""KID between disjoint sets of real images, before and after features are scaled independently.

The two sets have the same distribution, so the mean over repetitions must be 0. The scale of the
features comes from the reference set ("reference") or from other images ("training").

Usage: python benchmarks/real_kid.py ARCHIVE [--side 64] [--counts 16 50 100 200 400]
    [--repetitions 100] [--features random vgg19_caffe] [--json]
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.images.checksum import digest
from atelier.images.convert import convert
from atelier.images.dataset import load_images
from atelier.images.download import download
from atelier.metrics.extractors import build_extractor
from atelier.metrics.features import Scale
from atelier.metrics.kid import kernel_distance
from atelier.presets import preset_values
from atelier.settings import ConvertSettings, DownloadSettings

_SCALING = 1000


def load(archive: Path, side: int) -> NDArray[np.uint8]:
    """Convert all images of an archive, uint8 [N, side, side, 3]."""
    values = preset_values("sample", Path(__file__).parents[1] / "presets")
    location = {"location": str(archive.resolve()), "sha256": digest(archive)}
    source = {"source": "archive", "archive": location}
    with TemporaryDirectory() as folder:
        raw, images = Path(folder, "raw"), Path(folder, "images.npz")
        download(
            DownloadSettings.model_validate(values["download"] | source), raw, Path(folder, "s")
        )
        wanted = values["convert"] | {"image_size": side, "held_out": 0.0}
        convert(ConvertSettings.model_validate(wanted), raw, images, 0)
        return load_images(images).pixels


def measure(features: torch.Tensor, count: int, repetitions: int) -> dict[str, Any]:
    """Return the mean KID and its deviation for both choices of the scale, [N, D] features."""
    rng = np.random.default_rng(count)
    values: dict[str, list[float]] = {"reference": [], "training": []}
    errors = []
    for _ in range(repetitions):
        rows = torch.from_numpy(rng.permutation(len(features)))
        one, other, rest = rows.split([count, count, len(rows) - 2 * count])
        for name, chosen in (("reference", one), ("training", rest[:_SCALING])):
            scale = Scale.of(features[chosen])
            kid = kernel_distance(scale(features[one]), scale(features[other]))
            values[name].append(kid.value)
        errors.append(kid.error)
    result: dict[str, Any] = {"images": count}
    for name, kids in values.items():
        result[name] = float(np.mean(kids))
        result[f"{name}_error"] = float(np.std(kids) / np.sqrt(repetitions))
        result[f"{name}_deviation"] = float(np.std(kids))
    return result | {"stated_error": float(np.mean(errors))}


def main() -> None:
    """Print a row for each extractor and number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--counts", type=int, nargs="+", default=[16, 50, 100, 200, 400])
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--features", nargs="+", default=["random", "vgg19_caffe"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    images = load(options.archive, options.side)
    rows = []
    for name in options.features:
        features = build_extractor(name, 1)(images, torch.device("cpu"))
        for count in options.counts:
            row = {"features": name, **measure(features, count, options.repetitions)}
            rows.append(row)
            if not options.json:
                print(
                    "  ".join(
                        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                        for k, v in row.items()
                    ),
                    flush=True,
                )
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
