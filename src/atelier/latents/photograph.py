"""Photographs as targets of an inversion."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError, printable
from atelier.core.events import Events
from atelier.core.files import NotRegularError, open_regular
from atelier.core.settings import ConvertSettings
from atelier.data.image_file import silence_pillow
from atelier.data.members import MEMBER_LIMIT, Payload, too_large
from atelier.data.rows import NO_FACE, ConvertedFile, convert_file
from atelier.gan.generation import TrainedGenerator
from atelier.latents.bounds import image_shape

_MAX_NAME = 500  # characters of a path in messages


def read_photograph(file: Path) -> bytes:
    """Return the content of a file of at most 256 MiB.

    Raises:
        AtelierError: the file is missing, larger, or not a regular file.
    """
    shown = printable(file, _MAX_NAME)
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > MEMBER_LIMIT:
                raise AtelierError(f"{shown} cannot be read ({too_large(size).reason}).")
            return stream.read(MEMBER_LIMIT)
    except FileNotFoundError:
        raise AtelierError(f"there is no image {shown}; check the path.") from None
    except NotRegularError as error:
        raise AtelierError(f"{shown} cannot be read ({error.reason}).") from None


def prepare_target(
    photograph: bytes,
    generator: TrainedGenerator,
    settings: ConvertSettings,
    *,
    name: str = "the image",
    face_weights: bytes = b"",
    events: Events | None = None,
) -> NDArray[np.uint8]:
    """Return a photograph in the generator's size and channels, as the convert stage crops it.

    If ``settings.faces`` is not ``none``, it is the largest face. A photograph without a face is
    cropped to its center, with a warning.

    Args:
        photograph: content of an image file, which is not trusted.
        generator: the generator.
        settings: crop, faces and limits.
        name: of the photograph, for messages.
        face_weights: content of the face detector's file if the detector is ``yunet``.
        events: receives the warning.

    Returns:
        uint8 [H, W, C].

    Raises:
        AtelierError: the photograph is not a readable image or exceeds the limits.
    """
    size, _, channels = image_shape(generator)
    color: Literal["rgb", "grey"] = "rgb" if channels == 3 else "grey"
    changes = {"image_size": size, "color": color, "faces_per_image": "largest"}
    settings = settings.model_copy(update=changes)
    converted = _convert(settings, photograph, face_weights)
    if converted.reason == NO_FACE:
        (events or Events()).warn(
            f"no face was found in {printable(name, _MAX_NAME)}; its center is used"
        )
        converted = _convert(settings.model_copy(update={"faces": "none"}), photograph, b"")
    if converted.reason:
        raise AtelierError(f"{printable(name, _MAX_NAME)} cannot be read ({converted.reason}).")
    return converted.rows[0].pixels


def _convert(settings: ConvertSettings, payload: Payload, face_weights: bytes) -> ConvertedFile:
    with silence_pillow():
        return convert_file(settings, ("photograph", payload), face_weights)
