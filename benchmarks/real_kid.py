"""KID between disjoint sets of real images, with the scale of the features from two sources.

The two sets have the same distribution, so that the expectation is 0. The scale of the features
is computed from the first set ("reference") or from other images ("training").

Usage: python benchmarks/real_kid.py [--archive FILE] [--images 2000] [--side 64]
    [--counts 16 50 100 200 400] [--repetitions 100] [--features random vgg19_caffe] [--json]
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from command import show
from extractors import draw
from numpy.typing import NDArray

from atelier.core.download_settings import DownloadSettings
from atelier.core.hashing import file_digest
from atelier.core.presets import preset_values
from atelier.core.settings import ConvertSettings
from atelier.data.convert import convert
from atelier.data.dataset import load_images
from atelier.data.sources.download import download
from atelier.metrics.distances import compute_kid
from atelier.metrics.extractors import build_extractor
from atelier.metrics.features import Standardizer

_MAX_SCALING_IMAGES = 1000


def load(archive: Path, side: int) -> NDArray[np.uint8]:
    """Convert all images of an archive, uint8 [N, side, side, 3]."""
    values = preset_values("sample", Path(__file__).parents[1] / "presets")
    location = {"location": str(archive.resolve()), "sha256": file_digest(archive)}
    source = values["download"] | {"source": "archive", "archive": location}
    splits = {"validation_fraction": 0.0, "test_fraction": 0.0}
    settings = values["convert"] | {"image_size": side} | splits
    with TemporaryDirectory() as folder:
        raw, images = Path(folder, "raw"), Path(folder, "images.npz")
        download(DownloadSettings.model_validate(source), raw, Path(folder, "s"))
        convert(ConvertSettings.model_validate(settings), raw, images, 0)
        return load_images(images).pixels


def measure(features: torch.Tensor, count: int, repetitions: int) -> dict[str, float]:
    """Return means, standard errors and deviations of KID for both scales; features [N, D]."""
    rng = np.random.default_rng(count)
    values: dict[str, list[float]] = {"reference": [], "training": []}
    errors = []
    for _ in range(repetitions):
        rows = torch.from_numpy(rng.permutation(len(features)))
        one, other, rest = rows.split([count, count, len(rows) - 2 * count])
        for name, chosen in (("reference", one), ("training", rest[:_MAX_SCALING_IMAGES])):
            scale = Standardizer.of(features[chosen])
            kid = compute_kid(scale(features[one]), scale(features[other]))
            values[name].append(kid.value)
        errors.append(kid.error)
    result = {"kid_error": float(np.mean(errors))}
    for name, kids in values.items():
        deviation = float(np.std(kids))
        result[name] = float(np.mean(kids))
        result |= {f"{name}_error": deviation / repetitions**0.5, f"{name}_deviation": deviation}
    return result


def main() -> None:
    """Measure each extractor at each number of images, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object a row")
    parser.add_argument("--archive", type=Path, help="of images; default: drawn faces")
    parser.add_argument("--images", type=int, default=2000, help="number of drawn faces")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--counts", type=int, nargs="+", default=[16, 50, 100, 200, 400])
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--features", nargs="+", default=["random", "vgg19_caffe"])
    options = parser.parse_args()
    images = (
        load(options.archive, options.side)
        if options.archive
        else draw(options.images, options.side)
    )
    for name in options.features:
        features = build_extractor(name, 1)(images, torch.device("cpu"))
        for count in options.counts:
            row = measure(features, count, options.repetitions)
            show({"features": name, "images": count, **row}, options.json)


if __name__ == "__main__":
    main()
