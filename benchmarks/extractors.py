"""Sensitivity of KID and memorization to known damage of images, for several extractors.

Drawn faces are blurred, get noise, are reduced to the brightest or to a few repeated ones, or are
copied from the training images. With a good extractor, KID increases with the damage, and copies
are found. All sets are compared with faces that are in none of the other sets.

Usage: python benchmarks/extractors.py [--side 64] [--count 400] [--json]
"""

import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from command import converted_rows, options, show
from numpy.typing import NDArray

from atelier.core.download_settings import DownloadSettings
from atelier.core.presets import preset_values
from atelier.core.settings import ConvertSettings
from atelier.data.convert import convert
from atelier.data.sources.download import download
from atelier.metrics.distances import compute_kid
from atelier.metrics.extractors import build_extractor, vgg19_caffe_features
from atelier.metrics.features import Extractor
from atelier.metrics.neighbors import memorized_fraction, nearest_pairs

Images = NDArray[np.uint8]
LAYERS = {"relu3_1": 12, "relu4_1": 21, "relu5_1": 30}


def draw(count: int, side: int) -> Images:
    """Draw different faces, uint8 [count, side, side, 3], as in the sample preset."""
    values = preset_values("sample", Path(__file__).parents[1] / "presets")
    sample = {"sample": {"count": count, "seed": 5}}
    settings = ConvertSettings.model_validate(
        values["convert"] | {"image_size": side, "validation_fraction": 0.0, "test_fraction": 0.0}
    )
    with TemporaryDirectory() as folder:
        raw, converted = Path(folder, "raw"), Path(folder, "converted")
        converted.mkdir()
        download(
            DownloadSettings.model_validate(values["download"] | sample), raw, Path(folder, "s")
        )
        convert(settings, raw, converted / "images.npz", 0)
        return converted_rows(converted)


def damaged_sets(faces: Images, training: Images) -> dict[str, Images]:
    """Return sets of the same size by damage; blur is in pixels of images of 32 x 32."""
    rng = np.random.default_rng(0)
    pixel = faces.shape[1] / 32

    def blur(deviation: float) -> Images:
        return np.stack([cv2.GaussianBlur(face, (0, 0), deviation * pixel) for face in faces])

    def noise(deviation: float, images: Images = faces) -> Images:
        noisy = images + rng.normal(0, deviation, images.shape)
        return noisy.round().clip(0, 255).astype(np.uint8)

    brightest = faces[faces.mean(axis=(1, 2, 3)).argsort()[::-1]]
    few = partial(np.resize, new_shape=faces.shape)
    return {
        "real": faces,
        **{f"blur of {size} pixels": blur(size) for size in (0.35, 0.7, 1.4)},
        **{f"noise of {size}": noise(size) for size in (5, 10, 20)},
        **{f"the brightest {share:.0%}": few(brightest[: int(share * len(faces))])
           for share in (0.75, 0.5, 0.25)},
        **{f"{count} faces, repeated": few(faces[:count]) for count in (100, 30, 10)},
        "half copied": np.concatenate([faces[::2], noise(2, training[: len(faces) // 2])]),
    }  # fmt: skip


def measure(
    extractor: Extractor, sets: dict[str, Images], reference_images: Images, training: Images
) -> dict[str, object]:
    """Return the KID of each set with its error, memorized fractions and the time per image."""
    device = torch.device("cpu")
    start = time.perf_counter()
    reference = extractor(reference_images, device)
    milliseconds = 1000 * (time.perf_counter() - start) / len(reference_images)
    training_features = extractor(training, device)
    scale = extractor.scale(training_features)
    reference, training_features = scale(reference), scale(training_features)
    row: dict[str, object] = {"milliseconds a picture": round(milliseconds, 1)}
    for name, images in sets.items():
        features = scale(extractor(images, device))
        kid = compute_kid(reference, features)
        row[name] = f"{kid.value:.3f} ± {kid.error:.3f}"
        if name in ("real", "half copied"):
            fraction = memorized_fraction(
                nearest_pairs(features, training_features),
                nearest_pairs(reference, training_features),
            )
            row[f"memorised, {name}"] = round(fraction, 3)
    return row


def main() -> None:
    """Measure each extractor, and print."""
    arguments = options(__doc__, side=64, count=400)
    faces = draw(4 * arguments.count, arguments.side)
    reference, others, training = np.split(faces, [arguments.count, 2 * arguments.count])
    sets = damaged_sets(others, training)
    extractors = {"random": build_extractor("random", 1)}
    extractors |= {name: vgg19_caffe_features(layers) for name, layers in LAYERS.items()}
    for name, extractor in extractors.items():
        row = measure(extractor, sets, reference, training)
        show({"name": name, "side": arguments.side, **row}, arguments.json)


if __name__ == "__main__":
    main()
