"""Faces that are in no set, cut again from their photographs."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.core.settings import ConvertSettings
from atelier.data.faces.yunet import face_detector_weights
from atelier.data.image_file import silence_pillow
from atelier.data.image_list import ImageEntry
from atelier.data.raw import RawImages
from atelier.data.rows import convert_file

_WEIGHTS = Path("data/weights")


def read_dropped_faces(
    raw: RawImages, entries: Iterable[ImageEntry], settings: ConvertSettings
) -> dict[tuple[str, str], NDArray[np.uint8]]:
    """Return faces by the hash of their file and their name, uint8 [H, H, C].

    The raw images are read once, up to the last of these files.

    Args:
        raw: all raw images.
        entries: of the faces.
        settings: of the conversion that found them.
    """
    found: dict[tuple[str, str], NDArray[np.uint8]] = {}
    missing = {(entry.sha256, entry.name) for entry in entries}
    if not missing:
        return found
    files = {entry.file for entry in entries}
    weights = face_detector_weights(settings, _WEIGHTS)
    with silence_pillow():
        for member in raw:
            if member[0] not in files:
                continue
            file = convert_file(settings, member, weights)
            faces = {(file.sha256, row.name): row.pixels for row in file.rows}
            found |= {key: pixels for key, pixels in faces.items() if key in missing}
            if len(found) == len(missing):
                break
    return found
