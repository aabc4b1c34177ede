"""Choosing the device that work runs on."""

import torch

from atelier.errors import AtelierError


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
