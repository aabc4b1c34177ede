"""What every benchmark's command does: read its options, print what was measured."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def options(about: str | None, **numbers: int) -> argparse.Namespace:
    """Read ``--json`` and an option for each of ``numbers``, whose values are the defaults."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def products_per_second(device: "torch.device", dtype: "torch.dtype") -> float:
    """The rate of large matrix products: floating point operations a second, median of several.

    By two libraries, of which the faster counts: a convolution of one pixel is a product as well,
    and on processors of another maker than its library's one of them may be slow.
    """
    import torch

    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    picture = a.t().reshape(1, side, side, 1).contiguous(memory_format=torch.channels_last)

    def rate(product: Callable[[], torch.Tensor]) -> float:
        seconds = []
        for _ in range(9):
            begin = time.perf_counter()
            product().flatten()[0].item()  # waits for a device
            seconds.append(time.perf_counter() - begin)
        return float(2 * side**3 / statistics.median(seconds[2:]))

    filters = b.reshape(side, side, 1, 1)
    return max(rate(lambda: a @ b), rate(lambda: torch.conv2d(picture, filters)))


def now(device: "torch.device") -> float:
    """Seconds, after all that the device was asked to do."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def best_of(work: Callable[[], object], device: "torch.device", times: int = 5) -> float:
    """The least seconds of several, warm-up apart."""
    work()
    seconds = []
    for _ in range(times):
        began = now(device)
        work()
        seconds.append(now(device) - began)
    return min(seconds)


def limits(device: "torch.device") -> dict[str, float]:
    """Products of matrices, FLOP/s by precision, and bytes/s of a copy."""
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    rates = {name: products_per_second(device, dtype) for name, dtype in kinds.items()}
    long = torch.zeros(2**28 // 4, device=device)
    other = torch.empty_like(long)
    rates["copy"] = 2 * long.nbytes / best_of(lambda: other.copy_(long), device)
    return rates


def show(result: Mapping[str, object], as_json: bool) -> None:
    """Print a line for each value, and all as JSON in the last line where asked."""
    for name, value in result.items():
        print(f"{name:<32}{value}")
    if as_json:
        print(json.dumps(result))
