"""Features of images for the search of outliers."""

import numpy as np
from numpy.typing import NDArray

from atelier.core.device import choose_device
from atelier.core.progress import Progress, ProgressCallback
from atelier.data_report.findings import Extract
from atelier.metrics.extractors import vgg19_caffe_features

# To relu4_1: docs/measurements/data-report.md compares features.
_LAYERS = 21
_BATCH = 64


def vgg19_features(device: str, report: ProgressCallback) -> Extract:
    """Return a function that computes features of VGG19 on a device of ``runtime.device``."""
    extractor, chosen = vgg19_caffe_features(_LAYERS), choose_device(device)

    def extract(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        features = []
        for start in range(0, len(images), _BATCH):
            features.append(extractor(images[start : start + _BATCH], chosen).numpy())
            report(Progress(min(start + _BATCH, len(images)), len(images)))
        return np.concatenate(features)

    return extract
