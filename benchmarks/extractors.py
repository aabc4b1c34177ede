"""Which features notice what: real faces, spoilt in a known way, by several extractors.

Drawn faces are blurred, made noisy, reduced to the brightest of them or to a few, repeated, and
copied from the training. A good extractor gives them a KID that grows with the damage, and finds
the copies. Everything is compared with faces that neither side has seen.

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

from atelier.core.presets import preset_values
from atelier.core.settings import ConvertSettings, DownloadSettings
from atelier.data.convert import convert
from atelier.data.sources.download import download
from atelier.metrics.distances import compute_kid
from atelier.metrics.extractors import build_extractor, vgg19_caffe_features
from atelier.metrics.features import Extractor
from atelier.metrics.neighbors import memorised, nearest_pairs

Images = NDArray[np.uint8]
LAYERS = {"relu3_1": 12, "relu4_1": 21, "relu5_1": 30}


def draw(count: int, side: int) -> Images:
    """Draw different faces, uint8 [count, side, side, 3], as the sample's convert makes them."""
    values = preset_values("sample", Path(__file__).parents[1] / "presets")
    sample = {"sample": {"count": count, "seed": 5}}
    wanted = ConvertSettings.model_validate(
        values["convert"] | {"image_size": side, "validation": 0.0, "test": 0.0}
    )
    with TemporaryDirectory() as folder:
        raw, converted = Path(folder, "raw"), Path(folder, "converted")
        converted.mkdir()
        download(
            DownloadSettings.model_validate(values["download"] | sample), raw, Path(folder, "s")
        )
        convert(wanted, raw, converted / "images.npz", 0)
        return converted_rows(converted)


def spoilt(faces: Images, seen: Images) -> dict[str, Images]:
    """Give sets of as many faces, by what was done to them; blur in pixels of 32 across."""
    random = np.random.default_rng(0)
    pixel = faces.shape[1] / 32

    def blur(deviation: float) -> Images:
        return np.stack([cv2.GaussianBlur(face, (0, 0), deviation * pixel) for face in faces])

    def noise(deviation: float, images: Images = faces) -> Images:
        noisy = images + random.normal(0, deviation, images.shape)
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
        "half copied": np.concatenate([faces[::2], noise(2, seen[: len(faces) // 2])]),
    }  # fmt: skip


def judge(extractor: Extractor, sets: dict[str, Images], unseen: Images, seen: Images) -> dict:
    """Return the KID of each set with its error, the copies found and the cost of a picture."""
    device = torch.device("cpu")
    begin = time.perf_counter()
    reference = extractor(unseen, device)
    milliseconds = 1000 * (time.perf_counter() - begin) / len(unseen)
    training = extractor(seen, device)
    scale = extractor.scale(training)
    reference, training = scale(reference), scale(training)
    row = {"milliseconds a picture": round(milliseconds, 1)}
    for name, images in sets.items():
        made = scale(extractor(images, device))
        kid = compute_kid(reference, made)
        row[name] = f"{kid.value:.3f} ± {kid.error:.3f}"
        if name in ("real", "half copied"):
            share = memorised(nearest_pairs(made, training), nearest_pairs(reference, training))
            row[f"memorised, {name}"] = round(share, 3)
    return row


def main() -> None:
    """Measure and print."""
    arguments = options(__doc__, side=64, count=400)
    faces = draw(4 * arguments.count, arguments.side)
    unseen, others, seen = np.split(faces, [arguments.count, 2 * arguments.count])
    sets = spoilt(others, seen)
    extractors = {"random": build_extractor("random", 1)}
    extractors |= {name: vgg19_caffe_features(layers) for name, layers in LAYERS.items()}
    for name, extractor in extractors.items():
        row = judge(extractor, sets, unseen, seen)
        show({"name": name, "side": arguments.side, **row}, arguments.json)


if __name__ == "__main__":
    main()
