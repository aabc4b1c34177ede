"""Functions that all benchmarks share: options, rates of the hardware, output."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def options(about: str | None, **values: float | str | Path) -> argparse.Namespace:
    """Read ``--json`` and an option for each of ``values``, which are the defaults."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    for name, value in values.items():
        kind = Path if isinstance(value, Path) else type(value)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    return parser.parse_args()


def converted_rows(folder: Path) -> NDArray[np.uint8]:
    """Return the images of all arrays in ``folder`` that convert wrote, sorted by name."""
    from atelier.data.dataset import load_images

    arrays = [load_images(file, may_be_empty=True) for file in sorted(folder.glob("*.npz"))]
    names = np.concatenate([array.names for array in arrays])
    rows: NDArray[np.uint8] = np.concatenate([array.pixels for array in arrays])[names.argsort()]
    return rows


def products_per_second(device: "torch.device", dtype: "torch.dtype", side: int) -> float:
    """Return the highest rate of multiply-adds in floating point operations a second.

    The highest of a matrix product and two convolutions without padding: torch computes them by
    different libraries, of which one may be slow. MKL's float32 products reach 80% of the rate of
    oneDNN's convolutions on an AMD EPYC. The convolutions have a batch of 16, because torch gives
    a 1x1 convolution of fewer images to MKL if it has one thread.
    """
    import torch

    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    pixels = a.reshape(16, 1, side // 16, side).permute(0, 3, 1, 2)  # channels last
    channels, size = side // 8, 34
    images = torch.randn(16, channels, size, size, device=device).to(dtype)
    filters = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
    products: dict[Callable[[], object], float] = {
        lambda: a @ b: side**3,
        lambda: torch.conv2d(pixels, b[:, :, None, None]): side**3,
        lambda: torch.conv2d(images, filters): 16 * (size - 2) ** 2 * channels**2 * 9,
    }
    return max(2 * count / best_of(work, device) for work, count in products.items())


def now(device: "torch.device") -> float:
    """Return the time in seconds, after all work of the device has finished."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def best_of(work: Callable[[], object], device: "torch.device", times: int = 5) -> float:
    """Return the shortest time of several calls, after one call as a warm-up."""
    work()
    seconds = []
    for _ in range(times):
        began = now(device)
        work()
        seconds.append(now(device) - began)
    return min(seconds)


def limits(device: "torch.device", side: int = 0) -> dict[str, float]:
    """Return FLOP/s of products by precision, and bytes/s of a copy.

    Args:
        device: where to measure.
        side: of the matrices; 0 takes 2048 on a CPU and 8192 on a GPU.
    """
    import torch

    from atelier.core.device import float32_matmul_precision

    side = side or (8192 if device.type == "cuda" else 2048)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    with float32_matmul_precision("fp32", device):  # cuDNN would round float32 to TF32
        rates = {name: products_per_second(device, dtype, side) for name, dtype in kinds.items()}
    source = torch.zeros(16 * min(side, 2048) ** 2, device=device)
    target = torch.empty_like(source)
    rates["copy"] = 2 * source.nbytes / best_of(lambda: target.copy_(source), device)
    return rates


def show(result: Mapping[str, object], as_json: bool) -> None:
    """Print a line for each value, and optionally all values as one JSON object.

    Exits with 1 and without the JSON object if ``limit_share`` is above 1.
    """
    for name, value in result.items():
        print(f"{name:<32}{value}")
    share = result.get("limit_share")
    if isinstance(share, float) and share > 1:
        sys.exit(
            f"ERROR: limit_share is {share:.0%}, but nothing is faster than its limit; one of the"
            " two was measured wrongly, so run the benchmark again while nothing else runs."
        )
    if as_json:
        print(json.dumps(result))
