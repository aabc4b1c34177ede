"""Latents as safetensors files, with the generator to which they belong."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atelier.core.errors import AtelierError, printable
from atelier.core.files import NotRegularError, atomic_write
from atelier.core.pretrained import check_safetensors, reject_not_finite
from atelier.gan.generation import TrainedGenerator
from atelier.gan.sampling import slerp, within_training

SUFFIX = ".latent.safetensors"

_NAME = "latent"
_HEADER_KEY = "generator"
_LARGEST_FILE = 2**20  # bytes; a latent has at most 131,072 values
_MAX_NAME = 500  # characters of a path in messages
_READ_ERRORS = (NotRegularError, SafetensorError, OSError, LookupError, TypeError, ValueError)


def save_latent(latent: Tensor, generator: TrainedGenerator, target: Path) -> None:
    """Write a generator's input atomically, with the SHA-256 of the generator's weights.

    Args:
        latent: float32 [latent_size + classes].
        generator: the generator.
        target: the file.
    """
    metadata = {_HEADER_KEY: json.dumps({"sha256": generator.weights_digest()})}
    with atomic_write(target) as temporary:
        save_file({_NAME: latent.contiguous().cpu()}, temporary, metadata=metadata)


def load_latent(path: Path, generator: TrainedGenerator) -> Tensor:
    """Read a file of :func:`save_latent`.

    Returns:
        float32 [latent_size + classes], on the CPU.

    Raises:
        AtelierError: the file is missing or damaged, or belongs to another generator.
    """
    shown = printable(path, _MAX_NAME)
    try:
        digest, latent = _read(path, generator.latent_size + generator.classes)
    except FileNotFoundError:
        raise AtelierError(f"there is no latent {shown}; `atelier invert` writes one.") from None
    except _READ_ERRORS as error:
        reason = getattr(error, "reason", str(error)).partition("\n")[0].rstrip(".")
        raise AtelierError(
            f"{shown} holds no latent of this generator ({reason}); write one with"
            " `atelier invert`."
        ) from None
    if digest != generator.weights_digest():
        raise AtelierError(
            f"{shown} is a latent of another generator, whose weights have the SHA-256"
            f" {digest!s:.16}...; name that generator by --model, or run `atelier invert` again."
        )
    return latent


def vary_latent(latent: Tensor, other: Tensor, share: float, generator: TrainedGenerator) -> Tensor:
    """Move a latent towards another one on a great circle; its label stays.

    Args:
        latent: [latent_size + classes].
        other: likewise.
        share: of the way, from 0 to 1.
        generator: the generator of both.
    """
    size = generator.latent_size
    moved = within_training(slerp(latent[:size], other[:size], share), generator)
    return torch.cat([moved, latent[size:]])


def _read(path: Path, size: int) -> tuple[object, Tensor]:
    """Return the SHA-256 of the generator's weights, and the checked latent."""
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError("the file is too large")
    check_safetensors(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})[_HEADER_KEY])
        entry = file.get_slice(_NAME)
        shape, dtype = entry.get_shape(), entry.get_dtype()
        if dtype != "F32" or list(shape) != [size]:
            raise ValueError(f"it has {dtype} {list(shape)} instead of F32 [{size}]")
        latent: Tensor = file.get_tensor(_NAME)
    reject_not_finite({_NAME: latent})
    return header["sha256"], latent
