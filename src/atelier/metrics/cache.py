"""Features of real pictures, kept from one run to the next."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.checkpoints import Checkpoints
from atelier.metrics.features import Extractor

_MAX_FILES = 20
_CODE = ("features.py", "extractors.py")


class FeatureCache:
    """A folder of features, named by the content of the pictures and by what looked at them.

    The last twenty sets that were asked for are kept. A file that is damaged is made anew; a
    folder that cannot be written is no fault.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Keep features in ``folder``; without one, extract them each time."""
        self._folder = folder

    def features(
        self, extractor: Extractor, pictures: NDArray[np.uint8], device: torch.device
    ) -> Tensor:
        """Features as the extractor gives them, float32 [N, D], or as it gave them before."""
        if self._folder is None:
            return extractor(pictures, device)
        files, name = Checkpoints(self._folder), _name(extractor, pictures, device)
        kept = files.load_part(name) or {}
        if "features" not in kept:
            kept = {"features": extractor(pictures, device)}
            with suppress(OSError):
                files.save_part(name, kept)
        with suppress(OSError):
            os.utime(self._folder / f"{name}.safetensors")
            _remove_old(self._folder)
        return kept["features"]


def _name(extractor: Extractor, pictures: NDArray[np.uint8], device: torch.device) -> str:
    """Tell apart all that changes features, in their last bits too."""
    digest = hashlib.sha256()
    for word in (
        *(extractor.identity, torch.__version__, device.type, torch.get_num_threads()),
        *pictures.shape,
    ):
        digest.update(f"{word}\n".encode())
    for file in _CODE:
        digest.update(Path(__file__).with_name(file).read_bytes())
    digest.update(np.ascontiguousarray(pictures).data)
    return digest.hexdigest()


def _remove_old(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    for old in files[:-_MAX_FILES]:
        old.unlink(missing_ok=True)
