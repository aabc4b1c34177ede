"""Cache of the features of real images between runs."""

import hashlib
import inspect
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core import arrays
from atelier.core.checkpoints import Checkpoints
from atelier.metrics import extractors, features
from atelier.metrics.features import Extractor

CPU = torch.device("cpu")

_MAX_FILES = 20
_CODE = (features, extractors, arrays)


class FeatureCache:
    """Features of images, with a file for each set of images and extractor.

    The twenty most recently used files are kept. A damaged file is computed again. A folder that
    cannot be written is ignored.
    """

    def __init__(self, folder: Path | None = None, device: torch.device = CPU) -> None:
        """Extract features on ``device``, and store them in ``folder``, if there is one."""
        self._folder, self.device = folder, device

    def features(self, extractor: Extractor, images: NDArray[np.uint8]) -> Tensor:
        """Return the features of images, float32 [N, D], from the cache if possible.

        Args:
            extractor: of the features.
            images: uint8 [N, H, W, C].
        """
        if self._folder is None:
            return extractor(images, self.device)
        files, name = Checkpoints(self._folder), _name(extractor, images, self.device)
        stored = files.load_part(name) or {}
        if "features" not in stored:
            stored = {"features": extractor(images, self.device)}
            with suppress(OSError):
                files.save_part(name, stored)
        with suppress(OSError):
            os.utime(self._folder / f"{name}.safetensors")
            _remove_old(self._folder)
        return stored["features"]


def _name(extractor: Extractor, images: NDArray[np.uint8], device: torch.device) -> str:
    """Return a digest of everything that features depend on, to the last bit."""
    digest = hashlib.sha256()
    environment = (extractor.identity, torch.__version__, device.type, torch.get_num_threads())
    for value in (*environment, *images.shape):
        digest.update(f"{value}\n".encode())
    for module in _CODE:
        digest.update(inspect.getsource(module).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def _remove_old(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    for old in files[:-_MAX_FILES]:
        old.unlink(missing_ok=True)
