"""Thumbnails of raw files that are in no set."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.data.image_file import UnreadableError, decode, silence_pillow
from atelier.data.image_list import ImageEntry
from atelier.data.members import Rejected
from atelier.data.raw import RawImages

THUMBNAIL_SIDE = 96


def read_thumbnails(
    raw: RawImages, entries: Iterable[ImageEntry], max_megapixels: int
) -> dict[str, NDArray[np.uint8]]:
    """Return thumbnails by the SHA-256 of the file, uint8 [h, w, 3], without unreadable files.

    The raw images are read once, up to the last of these files. Archives can have several files of
    one name, so that a name is not sufficient.

    Args:
        raw: all raw images.
        entries: of the files.
        max_megapixels: limit for an image's size.
    """
    files = {(entry.file, entry.sha256) for entry in entries}
    names, missing = {name for name, _ in files}, {sha256 for _, sha256 in files}
    found: dict[str, NDArray[np.uint8]] = {}
    if not missing:
        return found
    with silence_pillow():
        for name, payload in raw:
            if isinstance(payload, Rejected) or name not in names:
                continue
            content = payload if isinstance(payload, bytes) else payload.tobytes()
            sha256 = hashlib.sha256(content).hexdigest()
            if sha256 not in missing:
                continue
            missing.discard(sha256)
            thumbnail = _thumbnail(payload, max_megapixels)
            if thumbnail is not None:
                found[sha256] = thumbnail
            if not missing:
                break
    return found


def _thumbnail(payload: bytes | NDArray[np.uint8], max_megapixels: int) -> NDArray[np.uint8] | None:
    if isinstance(payload, bytes):
        try:
            image = decode(payload, "rgb", max_megapixels, THUMBNAIL_SIDE).image
        except UnreadableError:
            return None
    else:
        image = Image.fromarray(payload.squeeze()).convert("RGB")
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return np.asarray(image)
