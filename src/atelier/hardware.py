"""What the work runs on, and what that can do."""

import torch

from atelier.errors import AtelierError

# Multiply-accumulate on bfloat16 in the processor itself; elsewhere it is imitated, and slow.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")
_AMPERE = (8, 0)


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
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return device.type == "cpu" and any(capabilities.get(name) for name in _CPU_BF16)
