"""Conversion speed of 2-megapixel JPEGs, compared with the tutorials behind the presets.

The reference is a loop like that of the tutorials: it opens one file after the other with Pillow,
decodes it at full size, converts it to RGB, resizes it, and saves all rows with NumPy. "Ours" is
the function of the convert stage. It reads data/raw, which the function of the download stage fills
before the measurement. Both read from the page cache.

The limit is the speed of the decoder alone: libjpeg at an eighth of the size, on all cores, from
memory, without resizing, reading and writing. "Ours" cannot be faster.

The ratio decreases with the size of the files, because the decoder has to read all of a file. Vary
it by --quality (1 to 95).

Usage: python benchmarks/convert.py [--pictures 300] [--size 32] [--height 1224] [--quality 80]
[--rounds 5] [--json], or, for the peak memory of the conversion of many small images,
python benchmarks/convert.py --memory 200000 [--json]
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from command import converted_rows, options, show
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from atelier.core.download_settings import DownloadSettings
from atelier.core.hashing import file_digest
from atelier.core.settings import ConvertSettings, load
from atelier.data.convert import convert
from atelier.data.sources.download import download

ROOT = Path(__file__).resolve().parents[1]
MAX_MEGABYTES = 600  # limit of the peak memory for 200,000 images
MEASURE = """
import sys; from pathlib import Path
sys.path.insert(0, "benchmarks"); import convert
convert.print_peaks(Path(sys.argv[1]), int(sys.argv[2]))
"""


def write_photographs(folder: Path, count: int, quality: int, height: int) -> None:
    """Write JPEGs with the decreasing spectrum of photographs: smooth shapes, texture, grain."""
    rng = np.random.default_rng(0)
    shape = (height, height * 4 // 3)
    canvas = np.zeros((2 * shape[0], 2 * shape[1], 3), np.float32)
    for cells in (4, 12, 36, 108, 324):
        coarse = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        layer = Image.fromarray(coarse).resize(canvas.shape[1::-1], Image.Resampling.BICUBIC)
        canvas += (np.asarray(layer, np.float32) - 128) * (4 / cells) ** 0.5
    canvas += rng.normal(0, 6, canvas.shape[:2]).astype(np.float32)[:, :, None]
    mosaic = np.clip(canvas + 128, 0, 255).astype(np.uint8)
    for index in range(count):
        top, left = (int(rng.integers(side)) for side in shape)
        crop = Image.fromarray(mosaic[top : top + shape[0], left : left + shape[1]])
        crop.save(folder / f"{index:06d}.jpg", quality=quality)


def reference_loop(folder: Path, size: int, target: Path) -> None:
    """Convert a folder like the tutorials."""
    rows = []
    for name in sorted(os.listdir(folder)):
        try:
            image = Image.open(folder / name).convert("RGB").resize((size, size))
        except OSError:
            continue
        rows.append(np.asarray(image))
    np.savez(target, np.stack(rows))


def decode(data: bytes) -> None:
    """Decode a JPEG at an eighth of its size, in one block."""
    with JpegImageFile(BytesIO(data)) as image:
        image.draft("RGB", (image.width // 8, image.height // 8))
        image.decodermaxblock = len(data)
        image.load()


def seconds(work: Callable[[], object]) -> float:
    """Return the duration of a call in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def source(name: str, **values: object) -> DownloadSettings:
    """Return the download settings of params.yaml with another source."""
    defaults = load(ROOT / "params.yaml").download.model_dump()
    return DownloadSettings.model_validate(defaults | {"source": name, **values})


def convert_settings(size: int) -> ConvertSettings:
    """Return the convert settings of params.yaml with another size and stretched images."""
    defaults = load(ROOT / "params.yaml").convert
    return defaults.model_copy(update={"image_size": size, "resize_mode": "stretch"})


def measure_speed(arguments: argparse.Namespace, work_dir: Path) -> dict[str, object]:
    """Measure reference, "ours" and limit in turn."""
    count, size, rounds = arguments.pictures, arguments.size, arguments.rounds
    folder, converted = work_dir / "photographs", work_dir / "converted"
    raw = work_dir / "raw"
    folder.mkdir()
    converted.mkdir()
    write_photographs(folder, count, arguments.quality, arguments.height)
    download(source("folder", folders={"drawn": str(folder)}), raw, work_dir / "cache")
    data = [path.read_bytes() for path in sorted(folder.iterdir())]
    cores = os.cpu_count() or 1
    reference_file, our_file = work_dir / "reference.npz", converted / "images.npz"
    with ThreadPoolExecutor(cores) as pool:
        functions: dict[str, Callable[[], object]] = {
            "reference": lambda: reference_loop(folder, size, reference_file),
            "ours": lambda: convert(convert_settings(size), raw, our_file),
            "limit": lambda: list(pool.map(decode, data)),
        }
        durations = [
            {name: seconds(function) for name, function in functions.items()}
            for _ in range(rounds + 1)
        ]
    rates = {name: count / statistics.median(d[name] for d in durations[1:]) for name in functions}
    # The fastest round is the least disturbed one.
    rates["limit"] = count / min(duration["limit"] for duration in durations)
    # The rows of "ours" are in three files, those of the reference in one.
    difference = np.abs(
        np.load(reference_file)["arr_0"] - converted_rows(converted).astype(float)
    ).mean()
    return {
        "name": "convert",
        "unit": "pictures a second",
        "reference": round(rates["reference"], 1),
        "ours": round(rates["ours"], 1),
        "ratio": round(rates["ours"] / rates["reference"], 2),
        "limit": round(rates["limit"], 1),
        "limit_share": round(rates["ours"] / rates["limit"], 3),
        "cores": cores,
        "kilobytes_a_picture": round(sum(map(len, data)) / count / 1000),
        "mean_difference_of_pixels": round(float(difference), 2),
    }


def write_small_images(archive: Path, count: int) -> None:
    """Write a zip of ``count`` different JPEGs of 64 by 64 pixels."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(archive, "w") as stored:
        for index in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            stream = BytesIO()
            coarse.resize((64, 64), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
            stored.writestr(f"pictures/{index:09d}.jpg", stream.getvalue())


def peak() -> float:
    """Return this process's peak memory in MB; ``ru_maxrss`` would include its parent's."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    if found is None:
        raise RuntimeError("/proc/self/status has no VmHWM; run the benchmark on Linux.")
    return int(found[1]) * 1024 / 1e6


def print_peaks(work_dir: Path, size: int) -> None:
    """Convert ``work_dir/raw``; print the peak memory before and after it, and the seconds."""
    before = peak()
    target = work_dir / "images.npz"
    duration = seconds(lambda: convert(convert_settings(size), work_dir / "raw", target))
    print(before, peak(), duration)


def measure_memory(count: int, size: int, work_dir: Path) -> dict[str, object]:
    """Convert ``count`` small images in a separate process."""
    archive = work_dir / "small.zip"
    write_small_images(archive, count)
    location = {"location": str(archive), "sha256": file_digest(archive)}
    download(source("archive", archive=location), work_dir / "raw", work_dir / "cache")
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, str(work_dir), str(size)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    peak_before, peak_after, duration = map(float, process.stdout.split())
    return {
        "name": "convert memory, MB",
        "reference": MAX_MEGABYTES,
        "ours": round(peak_after),
        "ratio": round(peak_after / MAX_MEGABYTES, 2),
        "limit_share": None,
        "pictures": count,
        "peak_megabytes_before": round(peak_before),
        "pictures_a_second": round(count / duration),
    }


def main() -> None:
    """Run the benchmark from the command line."""
    arguments = options(__doc__, pictures=300, size=32, height=1224, quality=80, rounds=5, memory=0)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory:
            result = measure_memory(arguments.memory, arguments.size, Path(folder))
        else:
            result = measure_speed(arguments, Path(folder))
    show(result, arguments.json)


if __name__ == "__main__":
    main()
