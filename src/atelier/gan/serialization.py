"""Networks as safetensors files that hold what is needed to build them again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from atelier.core.errors import AtelierError
from atelier.core.files import atomic_write
from atelier.core.pretrained import check_safetensors, reject_not_finite
from atelier.gan.generate import draw_latents, generate
from atelier.gan.networks import Architecture, Generator

_KEY = "architecture"  # one key only: safetensors writes several in no fixed order
_METADATA = "marks"
# Names of fields in files that were saved before they were renamed.
_RENAMED_FIELDS = {
    "latents": "latent_distribution",
    "generator_width": "generator_channels",
    "discriminator_width": "discriminator_channels",
    "activation_first": "relu_before_norm",
}
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}
_LOAD_ERRORS = (
    *(AtelierError, OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError),
    OverflowError,
)


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
    described = _describe(arch) | ({_METADATA: dict(marks)} if marks else {})
    with atomic_write(target) as temporary:
        save_file(state, temporary, metadata={_KEY: json.dumps(described, sort_keys=True)})


def _describe(arch: Architecture) -> dict[str, Any]:
    """The architecture without what it does not have, as files have always said it."""
    usual = {field.name: field.default for field in fields(arch)}
    return {key: value for key, value in asdict(arch).items() if value != usual[key]}


def read_metadata(path: Path) -> dict[str, float]:
    """The numbers that a network's file is marked with; none where it has none."""
    check_safetensors(path)
    with safe_open(path, framework="pt") as file:
        marks: dict[str, float] = json.loads((file.metadata() or {})[_KEY]).get(_METADATA, {})
    return marks


def load_generator(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[Generator, Architecture]:
    """Rebuild a generator from its own file, in evaluation mode.

    The file's header is compared with the network's outline first, so that a wrong file costs no
    memory.

    Raises:
        AtelierError: the file is missing, damaged or holds another network.
    """
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt", device=str(device)) as file:
            arch = _architecture(file.metadata() or {})
            with torch.device("meta"):
                generator = Generator(arch)
            _compare(file, generator.state_dict())
            state = {name: file.get_tensor(name) for name in generator.state_dict()}
        reject_not_finite(state)
        generator = generator.to_empty(device=device)
        generator.load_state_dict(state)
    except _LOAD_ERRORS as error:
        reason = getattr(error, "reason", str(error)).partition("\n")[0]
        raise AtelierError(
            f"{path} holds no generator that can be rebuilt ({reason});"
            " run the train stage again, or `dvc checkout` to bring it back."
        ) from None
    return generator.eval(), arch


def _architecture(metadata: Mapping[str, str]) -> Architecture:
    """Read an architecture, of which every value is checked.

    Raises:
        ValueError: it is missing or damaged.
        AtelierError: there is no such network.
    """
    described = json.loads(metadata.get(_KEY, "null"))
    if not isinstance(described, dict):
        raise ValueError("its header describes no network")
    described.pop(_METADATA, None)
    described = {_RENAMED_FIELDS.get(name, name): value for name, value in described.items()}
    unknown = sorted(described.keys() - {field.name for field in fields(Architecture)})
    if unknown:
        raise ValueError(f"its header describes a network with an unknown {unknown[0]:.40}")
    try:
        return TypeAdapter(Architecture).validate_json(json.dumps(described), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, fault["loc"]))
        raise ValueError(f"its header's {name} is not valid: {fault['msg']}") from None


def _compare(file: Any, expected: Mapping[str, Tensor]) -> None:
    """Compare what a file's header lists with the tensors of a network.

    Raises:
        ValueError: they differ.
    """
    names = set(file.keys())
    if names != expected.keys():
        name = min(names ^ expected.keys())
        raise ValueError(f"{name:.80} belongs to only one of its tensors and its architecture")
    for name, tensor in expected.items():
        entry = file.get_slice(name)
        shape, kind = list(entry.get_shape()), entry.get_dtype()
        if (shape, kind) != (list(tensor.shape), _DTYPES.get(tensor.dtype)):
            raise ValueError(
                f"its {name} is {kind} {shape}, but its architecture needs"
                f" {_DTYPES.get(tensor.dtype)} {list(tensor.shape)}"
            )


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
