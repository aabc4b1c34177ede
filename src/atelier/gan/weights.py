"""Networks as safetensors files that hold what is needed to build them again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from atelier.errors import AtelierError
from atelier.files import replacing
from atelier.gan.generate import draw_latents, generate
from atelier.gan.networks import Architecture, Generator

_KEY = "architecture"  # one key only: safetensors writes several in no fixed order
_MARKS = "marks"


def save_network(
    network: nn.Module,
    arch: Architecture,
    target: Path,
    marks: Mapping[str, float] | None = None,
) -> None:
    """Write a network's state and its architecture to ``target``, whole or not at all.

    Args:
        network: what to write.
        arch: what it was built by.
        target: where to.
        marks: numbers to tell the file by, such as the epoch and its KID.
    """
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    described = _described(arch) | ({_MARKS: dict(marks)} if marks else {})
    with replacing(target) as temporary:
        save_file(state, temporary, metadata={_KEY: json.dumps(described, sort_keys=True)})


def _described(arch: Architecture) -> dict[str, Any]:
    """The architecture without what it does not have, as files have always said it."""
    usual = {field.name: field.default for field in fields(arch)}
    return {key: value for key, value in asdict(arch).items() if value != usual[key]}


def read_marks(path: Path) -> dict[str, float]:
    """The numbers that a network's file is marked with; none where it has none."""
    with safe_open(path, framework="pt") as file:
        marks: dict[str, float] = json.loads((file.metadata() or {})[_KEY]).get(_MARKS, {})
    return marks


def load_generator(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[Generator, Architecture]:
    """Rebuild a generator from its own file, in evaluation mode.

    Raises:
        AtelierError: the file is missing, damaged or holds another network.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            described = dict(json.loads((file.metadata() or {})[_KEY]))
            described.pop(_MARKS, None)
            arch = Architecture(**described)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        generator = Generator(arch)
        generator.load_state_dict(state)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise AtelierError(
            f"{path} holds no generator that can be rebuilt ({reason});"
            " run the train stage again, or `dvc checkout` to bring it back."
        ) from None
    return generator.to(device).eval(), arch


def generate_from(path: Path, count: int, seed: int, device: torch.device) -> NDArray[np.uint8]:
    """Make pictures by the generator of a file, uint8 [count, H, W, C]; see :mod:`.generate`."""
    generator, arch = load_generator(path, device)
    return generate(generator, draw_latents(count, arch, seed))


def load_for_serving(path: Path) -> tuple[Generator, NDArray[np.float32], dict[str, Any]]:
    """Rebuild a generator, with an example of what it takes, and its architecture.

    Returns:
        The generator; float32 [2, latent_size + classes]; the fields of :class:`Architecture`.
    """
    generator, arch = load_generator(path)
    return generator, draw_latents(2, arch, seed=1).numpy(), asdict(arch)
