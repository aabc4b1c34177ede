"""PSNR of rows from JPEGs decoded at a reduced size, relative to full decoding.

Each case is a JPEG of an odd size, generated with the decreasing spectrum of photographs. Its row
is computed twice: from the file decoded at a reduced size, as in the convert stage, and from the
file decoded at full size. The signal is 255; the mean is over the PSNRs of all cases.

Usage: python benchmarks/decoding.py [--size 32] [--count 20] [--quality 90] [--json]
[--images FILE ...], where FILE is a JPEG to measure instead of the drawn ones.
"""

import argparse
import json
import statistics
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from atelier.data.image_file import decode
from atelier.data.rows import resize

SIZES = (
    (514, 928), (928, 514), (515, 771), (517, 519), (513, 513), (1025, 769), (2049, 1537),
    (999, 1001), (641, 427), (263, 395), (1283, 721), (4033, 3025), (331, 1999), (1999, 331),
    (777, 777), (129, 131), (135, 1081), (1081, 607), (1367, 911), (573, 765),
)  # fmt: skip
ENCODINGS: tuple[dict[str, object], ...] = (
    {"subsampling": 2},
    {"subsampling": 0},
    {"subsampling": 2, "progressive": True},
    {"subsampling": 1},
)
MODES: tuple[Literal["crop", "stretch", "pad"], ...] = ("crop", "stretch", "pad")
ORIENTATIONS = (1, 6, 3, 8, 2, 5, 4, 7)
# Smallest ratio of decoded to row size, equal to that of the convert stage.
MIN_DECODED = 2
# PSNR reported for two identical rows.
MAX_PSNR = 99.0


def draw(width: int, height: int, seed: int) -> Image.Image:
    """Generate an image like a photograph: smooth shapes, texture, grain."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((height, width, 3), np.float32)
    longer = max(width, height)
    for cells in (4, 12, 36, 108, 324):
        shape = (max(2, cells * height // longer), max(2, cells * width // longer), 3)
        coarse = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
        layer = coarse.resize((width, height), Image.Resampling.BICUBIC)
        canvas += (np.asarray(layer, np.float32) - 128) * (4 / cells) ** 0.5
    canvas += rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(canvas + 128, 0, 255).astype(np.uint8))


def encode(index: int, quality: int) -> tuple[str, bytes]:
    """Return the name and the bytes of a case."""
    width, height = SIZES[index]
    encoding = ENCODINGS[index % len(ENCODINGS)]
    orientation = ORIENTATIONS[index // 2 % len(ORIENTATIONS)] if index % 2 else 1
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = BytesIO()
    image = draw(width, height, index)
    image.save(stream, "JPEG", quality=quality, exif=exif, **encoding)
    subsampling = ["4:4:4", "4:2:2", "4:2:0"][int(str(encoding["subsampling"]))]
    progressive = ", progressive" if "progressive" in encoding else ""
    rotated = f", orientation {orientation}" if orientation > 1 else ""
    return f"{width}x{height}, {subsampling}{progressive}{rotated}", stream.getvalue()


def psnr(data: bytes, size: int, mode: Literal["crop", "stretch", "pad"]) -> float:
    """Return the PSNR between the rows of reduced and of full decoding."""
    reduced = resize(decode(data, "rgb", 100, MIN_DECODED * size), size, mode).astype(float)
    full = resize(decode(data, "rgb", 100), size, mode).astype(float)
    error = float(np.square(reduced - full).mean())
    return min(MAX_PSNR, 10 * np.log10(255**2 / error)) if error else MAX_PSNR


def measure(cases: list[tuple[str, bytes]], size: int) -> dict[str, object]:
    """Print the PSNR of each case and resize mode; return the summary."""
    rows = []
    print(f"{'case':<44}" + "".join(f"{mode:>9}" for mode in MODES))
    for name, data in cases:
        rows.append([psnr(data, size, mode) for mode in MODES])
        print(f"{name:<44}" + "".join(f"{value:>9.1f}" for value in rows[-1]))
    means = {mode: statistics.fmean(row[i] for row in rows) for i, mode in enumerate(MODES)}
    lowest = min(min(row) for row in rows)
    return {
        "name": "reduced decoding",
        "unit": "PSNR, dB",
        "size": size,
        "cases": len(cases),
        **{f"mean_{mode}": round(mean, 1) for mode, mean in means.items()},
        "lowest": round(lowest, 1),
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--count", type=int, default=len(SIZES))
    parser.add_argument("--quality", type=int, default=90)
    parser.add_argument("--images", type=Path, nargs="*", default=[])
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()
    files = [(path.stem, path.read_bytes()) for path in options.images]
    cases = files or [encode(i, options.quality) for i in range(min(options.count, len(SIZES)))]
    result = measure(cases, options.size)
    for name, value in result.items():
        print(f"{name:<32}{value}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
