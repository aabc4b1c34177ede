"""In which numbers the networks are computed; weights and optimizers are float32 always."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch

from atelier.errors import AtelierError
from atelier.hardware import native_bf16

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
def products(precision: Precision, device: torch.device) -> Iterator[None]:
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
