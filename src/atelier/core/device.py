"""What the work runs on, and what that can do."""

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Literal

import torch

from atelier.core.errors import AtelierError

# Multiply-accumulate on bfloat16 in the processor itself; elsewhere it is imitated, and slow.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")
_AMPERE = (8, 0)


# Of malloc.h, with values that no tensor of a step reaches.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = (-1, 2**31 - 1), (-3, 2**30)


def choose_device(name: str) -> torch.device:
    """Turn ``runtime.device`` into a device: ``auto`` takes the best there is.

    Raises:
        AtelierError: the named device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise AtelierError(
            f"runtime.device is {name}, but torch sees {there} {device.type} devices here;"
            " set it to auto or cpu."
        )
    return device


def native_bf16(device: torch.device) -> bool:
    """Whether ``device`` itself multiplies bfloat16: AVX512-BF16, AMX, Ampere and later.

    Elsewhere bfloat16 is slower than float32, or missing.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    return device.type == "cpu" and any(_capabilities().get(name) for name in _CPU_BF16)


def has_amx_bf16() -> bool:
    """Whether the processor multiplies tiles of bfloat16 (AMX), many times as fast as vectors."""
    return bool(_capabilities().get("amx_bf16"))


def disable_malloc_trim() -> None:
    """Let this process keep the memory that it frees, for what it needs next.

    glibc returns large blocks to the system, which hands them out again page by page, zeroed: for
    a training on a CPU a tenth of every step. Where there is no glibc, nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # Older ones refuse the first, without which the second would do harm.
    if mallopt and mallopt(*_MMAP_THRESHOLD):
        mallopt(*_TRIM_THRESHOLD)


@cache
def _capabilities() -> Mapping[str, object]:
    """What the processor can do, by torch's names; nothing where torch does not say."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


Precision = Literal["fp32", "tf32", "bf16"]


def choose_precision(
    wanted: Literal["auto", "fp32", "tf32", "bf16"], device: torch.device
) -> Precision:
    """Turn ``train.precision`` into one that ``device`` has.

    Micikevicius et al. 2018, "Mixed precision training" (https://arxiv.org/abs/1710.03740):
    products in the short format, sums and weights in float32. bfloat16 has float32's range, so
    that no loss needs scaling.

    Raises:
        AtelierError: tf32 is asked for where there are no such units.
    """
    if wanted == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    if wanted == "tf32" and not (device.type == "cuda" and native_bf16(device)):
        raise AtelierError(
            "train.precision is tf32, which only NVIDIA's GPUs since Ampere have, but the device is"
            f" {device.type}; set it to auto."
        )
    return wanted


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute what runs in the body in ``precision``; leave before an optimizer steps.

    The copies of the weights in bfloat16 are kept until then, and would be out of date.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def float32_matmul_precision(precision: Precision, device: torch.device) -> Iterator[None]:
    """Let float32 products on a GPU be rounded to tf32 in the body, or not at all."""
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn  # whose type hints lack these
    # All of them: torch refuses to read flags of its own that contradict each other.
    places = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [place.fp32_precision for place in places]
    wanted = "tf32" if precision == "tf32" else "ieee"
    for place in places:
        place.fp32_precision = wanted
    try:
        yield
    finally:
        for place, name in zip(places, before, strict=True):
            place.fp32_precision = name
