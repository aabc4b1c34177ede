"""Search for the training images that are nearest to a generated image."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.errors import AtelierError, count_text
from atelier.core.settings import EvaluateSettings
from atelier.data.dataset import Images, load_images
from atelier.metrics.cache import FeatureCache
from atelier.metrics.features import Extractor, Standardizer
from atelier.metrics.reference import RealImages

Pixels = NDArray[np.uint8]

MAX_SEARCHED = 20_000
"""Number of training images that are searched; of more, this many are drawn."""


@dataclass(frozen=True)
class Match:
    """A training image near to a generated one.

    Attributes:
        image: uint8 [H, W, C], mirrored if its mirror image is nearer.
        name: of the training image.
        distance: Euclidean distance of the standardized features.
        mirrored: true if the image is mirrored.
    """

    image: Pixels
    name: str
    distance: float
    mirrored: bool


class TrainingSearch:
    """Training images and their features, which are computed at the first search.

    If the evaluate stage has run, its stored features are used.

    Args:
        files: of the training images and of the test images, which may be missing.
        settings: the ``evaluate`` section.
        extractor: returns the extractor of the features.
        cache: of features.
        limit: number of images that are searched.
        are_training: true if the generator was trained on these images; another generator can
            have been trained on others.
    """

    def __init__(
        self,
        files: tuple[Path, Path],
        settings: EvaluateSettings,
        extractor: Callable[[], Extractor],
        *,
        cache: FeatureCache,
        limit: int = MAX_SEARCHED,
        are_training: bool = True,
    ) -> None:
        self.are_training = are_training
        self.title = "Training images" if are_training else f"Images of {files[0]}"
        self.file, self._test = files
        self._settings, self._build, self._cache = settings, extractor, cache
        self._limit = limit
        self._lock, self._closed = Lock(), Event()
        self._index: _Index | None = None

    def close(self) -> None:
        """End the computation of features after the current batch."""
        self._closed.set()

    def prepare(self) -> None:
        """Compute the features of the training images.

        Raises:
            AtelierError: there are no training images, or no weights of the extractor.
        """
        with self._lock:
            if self._index is not None:
                return
            if not self.file.exists():
                raise AtelierError(
                    f"there is no {self.file}; run `dvc repro convert` to get the training images."
                )
            images = load_images(self.file)
            rows, scaling = self._searched(images.pixels)
            extractor = self._build()
            extractor.network.register_forward_pre_hook(lambda *_: self._raise_if_closed())
            features = self._cache.features(extractor, images.pixels[rows])
            is_scaling = np.isin(rows, scaling)
            if is_scaling.sum() == len(scaling):
                scale = extractor.scale(features[torch.from_numpy(is_scaling)])
            else:  # beyond the limit
                scale = extractor.scale(self._cache.features(extractor, images.pixels[scaling]))
            self._index = _Index(images, rows, extractor, scale, scale(features).double())

    def _searched(self, training: Pixels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows to search, and those from which features are scaled.

        Both are those of the evaluate stage, so that distances are the same. The first ones are in
        its order and up to the limit.
        """
        test = training[:0]
        if self._test.exists():
            test = load_images(self._test, may_be_empty=True).pixels
        real = RealImages.sample(self._settings, training, test)
        scaling = real.searched[real.scaling]
        if self._settings.reference == "training" and len(training) <= self._limit:
            return np.arange(len(training)), scaling
        return real.searched[: self._limit], scaling

    def _raise_if_closed(self) -> None:
        if self._closed.is_set():
            raise AtelierError("the server ends.")

    def describe(self) -> str:
        """Return a sentence on the images that are searched."""
        if self._index is None:
            return ""
        searched, total = len(self._index.rows), len(self._index.images.pixels)
        if searched == total:
            return f"{count_text(total, 'image')} searched."
        return f"{searched:,} of {total:,} images searched, drawn at random."

    def nearest(self, image: Pixels, count: int) -> list[Match]:
        """Return the nearest training images, nearest first.

        Args:
            image: uint8 [H, W, C], of the training images' size.
            count: number of matches.

        Raises:
            AtelierError: the image has another size than the training images.
        """
        self.prepare()
        assert self._index is not None  # noqa: S101 - set by prepare
        return self._index.nearest(image, count, self._cache.device)


@dataclass(frozen=True)
class _Index:
    images: Images
    rows: NDArray[np.int64]
    extractor: Extractor
    scale: Standardizer
    features: Tensor

    def nearest(self, image: Pixels, count: int, device: torch.device) -> list[Match]:
        shape = self.images.pixels.shape[1:]
        if image.shape != shape:
            raise AtelierError(
                f"the training images have {shape[1]} x {shape[0]} pixels and {shape[2]} channels,"
                f" but the generator's have {image.shape[1]} x {image.shape[0]} and"
                f" {image.shape[2]}; it was trained on other images."
            )
        both = np.stack([image, image[:, ::-1]])
        features = self.scale(self.extractor(both, device))
        distances = torch.cdist(features.double(), self.features)
        nearest, flipped = distances.min(dim=0)
        order = nearest.argsort(stable=True)[:count].tolist()
        return [
            Match(
                self._pixels(index, bool(flipped[index])),
                str(self.images.names[self.rows[index]]),
                float(nearest[index]),
                bool(flipped[index]),
            )
            for index in order
        ]

    def _pixels(self, index: int, mirrored: bool) -> Pixels:
        pixels = self.images.pixels[self.rows[index]]
        return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)
