"""Devices, their capabilities, and the precision of computations on them."""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Literal

import torch

from atelier.core.errors import AtelierError

Precision = Literal["fp32", "tf32", "bf16"]

# CPU instructions that multiply bfloat16; without them it is emulated, which is slow.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")
_AMPERE = (8, 0)  # CUDA compute capability

# Parameters of mallopt (malloc.h), with values above the size of any tensor of a step.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2**31 - 1), (-3, 2**30)


def choose_device(name: str) -> torch.device:
    """Return the device of ``runtime.device``; ``auto`` prefers CUDA, then MPS, then the CPU.

    Raises:
        AtelierError: the named device does not exist.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= available:
        raise AtelierError(
            f"runtime.device is {name}, but torch finds {available} {device.type} devices here;"
            " set it to auto or cpu."
        )
    return device


def device_name(device: torch.device) -> str:
    """Return a device in words: the name of a GPU, or the number of the CPU's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU with {threads} thread{'s' * (threads > 1)}"
    return device.type.upper()


def native_bf16(device: torch.device) -> bool:
    """Return whether ``device`` has bfloat16 instructions (AVX512-BF16, AMX, Ampere and later).

    On other devices bfloat16 is slower than float32, or missing.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    return device.type == "cpu" and any(_capabilities().get(name) for name in _CPU_BF16)


def has_amx_bf16() -> bool:
    """Return whether the CPU has AMX instructions for bfloat16, which multiply whole tiles."""
    return bool(_capabilities().get("amx_bf16"))


def disable_malloc_trim() -> None:
    """Keep freed memory in this process for later allocations.

    glibc returns large blocks to the system, which zeroes every page before it is used again. That
    takes a tenth of each training step on a CPU. Without glibc this function does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # Older versions reject the first parameter, and the second alone makes allocation slower.
    if mallopt and mallopt(*_MMAP_THRESHOLD):
        mallopt(*_TRIM_THRESHOLD)


@cache
def _capabilities() -> Mapping[str, object]:
    """Return the CPU's capabilities by torch's names; empty if this torch has no list."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def choose_precision(
    setting: Literal["auto", "fp32", "tf32", "bf16"], device: torch.device
) -> Precision:
    """Return the precision that ``train.precision`` means on ``device``.

    Micikevicius et al. 2018, "Mixed precision training" (https://arxiv.org/abs/1710.03740):
    products in the short format, sums and weights in float32. bfloat16 has float32's range, so
    that the loss needs no scaling.

    Raises:
        AtelierError: the setting is tf32, but the device does not support it.
    """
    if setting == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    if setting == "tf32" and not (device.type == "cuda" and native_bf16(device)):
        raise AtelierError(
            "train.precision is tf32, which only NVIDIA's GPUs since Ampere have, but the device is"
            f" {device.type}; set it to auto."
        )
    return setting


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Run the body in ``precision``; the body must not contain an optimizer step.

    Autocast caches bfloat16 copies of the weights, which a step would make stale.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def float32_matmul_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Round float32 products on a GPU to tf32 in the body if ``precision`` is tf32, else not."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn  # its type hints lack these attributes
    # Set all of them: torch raises an error if they contradict each other.
    backends = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    previous = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for backend, name in zip(backends, previous, strict=True):
            backend.fp32_precision = name
