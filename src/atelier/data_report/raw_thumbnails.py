"""Thumbnails of raw files that are in no set."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.data.image_file import UnreadableError, decode, silence_pillow
from atelier.data.members import Payload, Rejected
from atelier.data.raw import RawImages

THUMBNAIL_SIDE = 96


def read_thumbnails(
    raw: RawImages, names: Collection[str], max_megapixels: int
) -> dict[str, NDArray[np.uint8]]:
    """Return thumbnails of files by name, uint8 [h, w, 3]; unreadable files are left out.

    The raw images are read once, up to the last of these files.

    Args:
        raw: all raw images.
        names: of the files.
        max_megapixels: limit for an image's size.
    """
    missing, found = set(names), {}
    if not missing:
        return {}
    with silence_pillow():
        for name, payload in raw:
            if name not in missing:
                continue
            missing.discard(name)
            thumbnail = _thumbnail(payload, max_megapixels)
            if thumbnail is not None:
                found[name] = thumbnail
            if not missing:
                break
    return found


def _thumbnail(payload: Payload, max_megapixels: int) -> NDArray[np.uint8] | None:
    if isinstance(payload, Rejected):
        return None
    if isinstance(payload, bytes):
        try:
            image = decode(payload, "rgb", max_megapixels, THUMBNAIL_SIDE).image
        except UnreadableError:
            return None
    else:
        image = Image.fromarray(payload.squeeze()).convert("RGB")
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return np.asarray(image)
