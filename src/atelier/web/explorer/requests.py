"""Requests of the explorer's page; values outside of their bounds are refused.

A face is described by its request alone: the server stores no state between requests.
"""

import base64
import binascii
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from atelier.gan.sampling import MIN_TRUNCATION

MAX_SEED = 2**53 - 1
"""Largest seed: JavaScript has no larger whole numbers."""

MAX_DIRECTIONS = 16
MAX_OFFSET = 6.0
MAX_FRAMES = 48
MAX_LATENT_VALUE = 100.0
MAX_LATENT_SIZE = 8192
"""Number of values of a latent; the page's address contains them as text."""

_MAX_LATENT_TEXT = -(-MAX_LATENT_SIZE * 4 * 4 // 3)  # base64 of float32
MAX_BODY = 2 * _MAX_LATENT_TEXT + 16 * 1024
"""Bytes of a request: two faces and options."""

Finite = Field(allow_inf_nan=False)


def _check_latent(text: str) -> str:
    decode_latent(text)
    return text


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Face(_Request):
    """Point in the latent space whose image is requested.

    Attributes:
        seed: of the latent, as for ``atelier generate --seed``.
        latent: the latent itself instead of a seed, see :func:`encode_latent`.
        truncation: threshold beyond which values of a seed's latent are drawn again.
        offsets: steps along the principal directions, in standard deviations.
        label: class of the image; by default that of the seed.
    """

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    latent: (
        Annotated[str, Field(max_length=_MAX_LATENT_TEXT), AfterValidator(_check_latent)] | None
    ) = None
    truncation: Annotated[float, Field(ge=MIN_TRUNCATION, le=10), Finite] | None = None
    offsets: Annotated[
        list[Annotated[float, Field(ge=-MAX_OFFSET, le=MAX_OFFSET), Finite]],
        Field(max_length=MAX_DIRECTIONS),
    ] = []
    label: Annotated[int, Field(ge=0, le=65_535)] | None = None

    @model_validator(mode="after")
    def _check_origin(self) -> "Face":
        if (self.seed is None) == (self.latent is None):
            raise ValueError("a face has either a seed or a latent")
        if self.latent is not None and self.truncation is not None:
            raise ValueError("truncation is of seeds only")
        return self


class FaceRequest(_Request):
    """A face."""

    face: Face


class ImageRequest(_Request):
    """One image; ``factor`` enlarges its pixels."""

    face: Face
    factor: Annotated[int, Field(ge=1, le=16)] = 1


class NeighborsRequest(_Request):
    """Variations of a face.

    Attributes:
        face: the face.
        radius: angle in radians between the latents of face and variation.
        count: number of variations.
        seed: of the variations.
    """

    face: Face
    radius: Annotated[float, Field(ge=0, le=1.6), Finite]
    count: Annotated[int, Field(ge=1, le=16)] = 16
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0


class InterpolationRequest(_Request):
    """Images on the path between two faces, both included."""

    start: Face
    end: Face
    frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 24


class GifRequest(InterpolationRequest):
    """Animation from a face to another and back."""

    fps: Annotated[int, Field(ge=1, le=50)] = 12


class NearestRequest(_Request):
    """Training images that are nearest to a face."""

    face: Face
    count: Annotated[int, Field(ge=1, le=12)] = 6


class PaintRequest(_Request):
    """Style transfer of a face; ``style`` is the index of a style in the page's list."""

    face: Face
    style: Annotated[int, Field(ge=0, le=999)]
    strength: Annotated[float, Field(ge=0, le=1), Finite] = 1.0
    pixels: Literal[128, 256, 512] = 256


def encode_latent(values: np.ndarray) -> str:
    """Return a latent, float32 [latent_size], as URL-safe base64 of its bytes, little-endian."""
    content = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def decode_latent(text: str) -> np.ndarray:
    """Return the latent, float32 [latent_size], of a text of :func:`encode_latent`.

    Raises:
        ValueError: the text is no base64, or a value is not finite or beyond 100.
    """
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        values = np.frombuffer(content, "<f4")
    except (binascii.Error, ValueError):
        raise ValueError("the latent is not base64 of float32 numbers") from None
    if not values.size or not bool((np.abs(values) <= MAX_LATENT_VALUE).all()):
        raise ValueError(f"the latent has a value that is not from -{MAX_LATENT_VALUE:g} to 100")
    return values.astype(np.float32)
