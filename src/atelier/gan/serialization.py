"""Networks as safetensors files, with the architecture from which they can be rebuilt."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from atelier.core.errors import AtelierError
from atelier.core.files import atomic_write
from atelier.core.pretrained import check_safetensors, reject_not_finite
from atelier.gan.generation import (
    TrainedGenerator,
    draw_latents,
    generate,
    with_current_names,
)
from atelier.gan.networks import Architecture, Generator, build_discriminator

CPU = torch.device("cpu")

_HEADER_KEY = "architecture"  # a single key, since safetensors writes several in random order
_METADATA_KEY = "marks"
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}
_LOAD_ERRORS = (
    *(AtelierError, OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError),
    OverflowError,
)


def save_network(
    network: nn.Module,
    arch: Architecture,
    target: Path,
    metadata: Mapping[str, float] | None = None,
) -> None:
    """Write a network's state and its architecture atomically.

    Args:
        network: the generator or the discriminator.
        arch: the architecture from which it was built.
        target: the safetensors file.
        metadata: numbers to store with it, for example the epoch and its KID.
    """
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    # Without defaults, so that files of older versions and of this one are equal.
    header = arch.model_dump(exclude_defaults=True)
    if metadata:
        header[_METADATA_KEY] = dict(metadata)
    with atomic_write(target) as temporary:
        save_file(state, temporary, metadata={_HEADER_KEY: json.dumps(header, sort_keys=True)})


def read_metadata(path: Path) -> dict[str, float]:
    """Return the metadata of a network's file; empty if it has none."""
    check_safetensors(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {})[_HEADER_KEY])
    metadata: dict[str, float] = header.get(_METADATA_KEY, {})
    return metadata


def load_generator(path: Path, device: torch.device = CPU) -> TrainedGenerator:
    """Rebuild a generator from its file, in evaluation mode.

    The file's header is compared with a network without memory (PyTorch's meta device) first, so
    that a wrong file allocates nothing.

    Raises:
        AtelierError: the file is missing, damaged or holds another network.
    """
    try:
        arch, generator, state = _read(path, Generator, device)
        generator = generator.to_empty(device=device)
        generator.load_state_dict(state)
    except _LOAD_ERRORS as error:
        raise AtelierError(
            f"{path} holds no generator that can be rebuilt ({_reason(error)});"
            " run the train stage again, or `dvc checkout` to restore it."
        ) from None
    return TrainedGenerator(
        generator.eval(), arch.latent_size, arch.latent_distribution, arch.classes, device, arch
    )


def read_state(
    path: Path, kind: Literal["generator", "discriminator"]
) -> tuple[Architecture, dict[str, Tensor]]:
    """Return the architecture and the state of a network's file, on the CPU.

    The file is checked as by :func:`load_generator`.

    Raises:
        AtelierError: the file is missing, damaged or holds another network.
    """
    try:
        arch, _, state = _read(path, Generator if kind == "generator" else build_discriminator)
    except _LOAD_ERRORS as error:
        raise AtelierError(f"{path} holds no {kind} that can be used ({_reason(error)}).") from None
    return arch, state


def _reason(error: BaseException) -> str:
    reason: str = getattr(error, "reason", str(error)).partition("\n")[0]
    return reason


def _read(
    path: Path, build: Callable[[Architecture], nn.Module], device: torch.device = CPU
) -> tuple[Architecture, nn.Module, dict[str, Tensor]]:
    """Return the architecture, the network without memory and the checked state of a file."""
    check_safetensors(path)
    with safe_open(path, framework="pt", device=str(device)) as file:
        arch = _read_architecture(file.metadata() or {})
        with torch.device("meta"):
            network = build(arch)
        _compare(file, network.state_dict())
        state = {name: file.get_tensor(name) for name in network.state_dict()}
    reject_not_finite(state)
    return arch, network, state


def generate_from(path: Path, count: int, seed: int, device: torch.device) -> NDArray[np.uint8]:
    """Generate images with the generator of a file, uint8 [count, H, W, C]."""
    trained = load_generator(path, device)
    return generate(trained.network, draw_latents(count, trained, seed))


def load_for_serving(path: Path) -> tuple[nn.Module, NDArray[np.float32], dict[str, Any]]:
    """Rebuild a generator, with an example input and its architecture.

    Returns:
        The generator; float32 [2, latent_size + classes]; the fields of :class:`Architecture`.
    """
    trained = load_generator(path)
    about = {} if trained.arch is None else trained.arch.model_dump()
    return trained.network, draw_latents(2, trained, seed=1).numpy(), about


def _read_architecture(metadata: Mapping[str, str]) -> Architecture:
    """Read and validate the architecture in a file's header.

    Raises:
        ValueError: it is missing or damaged.
        AtelierError: no network has this architecture.
    """
    header = json.loads(metadata.get(_HEADER_KEY, "null"))
    if not isinstance(header, dict):
        raise ValueError("its header describes no network")
    header.pop(_METADATA_KEY, None)
    values = with_current_names(header)
    unknown = sorted(values.keys() - Architecture.model_fields.keys())
    if unknown:
        raise ValueError(f"its header describes a network with an unknown {unknown[0]:.40}")
    try:
        return Architecture.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or _HEADER_KEY
        raise ValueError(f"its header's {name} is not valid: {first['msg']}") from None


def _compare(file: Any, expected: Mapping[str, Tensor]) -> None:
    """Compare the tensors listed in a file's header with those of a network.

    Raises:
        ValueError: names, shapes or dtypes differ.
    """
    names = set(file.keys())
    if names != expected.keys():
        name = min(names ^ expected.keys())
        raise ValueError(f"{name:.80} belongs to only one of its tensors and its architecture")
    for name, tensor in expected.items():
        entry = file.get_slice(name)
        shape, dtype = list(entry.get_shape()), entry.get_dtype()
        if (shape, dtype) != (list(tensor.shape), _DTYPES.get(tensor.dtype)):
            raise ValueError(
                f"its {name} is {dtype} {shape}, but its architecture needs"
                f" {_DTYPES.get(tensor.dtype)} {list(tensor.shape)}"
            )
