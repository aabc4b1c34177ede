"""How fast 2-megapixel JPEGs become rows, against the loop of the documents behind the presets.

The reference is that loop in our own words: one file after the other is opened with Pillow,
decoded whole, made RGB, resized, kept in a list, and the list is saved with NumPy. Ours is the
convert stage's function, from data/raw, which the download stage's function fills beforehand;
that is not timed, as the reference finds its files unpacked too. Both read from the page cache.

The limit is what the decoder alone does: libjpeg at an eighth of the size, on all cores, from
memory, without resizing, reading or writing. Ours cannot be faster than that.

The ratio falls as files grow, since nothing saves the decoder from reading all of a file: try
--quality (of the JPEGs, 1 to 95).

Usage: python benchmarks/convert.py [--pictures 300] [--size 32] [--height 1224] [--quality 80]
[--rounds 5] [--json], or, for the peak of memory that so many small pictures take,
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

from atelier.core.hashing import file_digest
from atelier.core.settings import ConvertSettings, DownloadSettings, load
from atelier.data.convert import convert
from atelier.data.sources.download import download

ROOT = Path(__file__).resolve().parents[1]
MOST_MEGABYTES = 600  # that 200,000 pictures may take
MEASURE = """
import sys; from pathlib import Path
sys.path.insert(0, "benchmarks"); import convert
convert.measured(Path(sys.argv[1]), int(sys.argv[2]))
"""


def photographs(folder: Path, count: int, quality: int, height: int) -> None:
    """Draw pictures with the falling spectrum of photographs: smooth shapes, texture, grain."""
    rng = np.random.default_rng(0)
    shape = (height, height * 4 // 3)
    canvas = np.zeros((2 * shape[0], 2 * shape[1], 3), np.float32)
    for cells in (4, 12, 36, 108, 324):
        coarse = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        layer = Image.fromarray(coarse).resize(canvas.shape[1::-1], Image.Resampling.BICUBIC)
        canvas += (np.asarray(layer, np.float32) - 128) * (4 / cells) ** 0.5
    canvas += rng.normal(0, 6, canvas.shape[:2]).astype(np.float32)[:, :, None]
    scene = np.clip(canvas + 128, 0, 255).astype(np.uint8)
    for index in range(count):
        top, left = (int(rng.integers(side)) for side in shape)
        view = Image.fromarray(scene[top : top + shape[0], left : left + shape[1]])
        view.save(folder / f"{index:06d}.jpg", quality=quality)


def seeds_loop(folder: Path, size: int, target: Path) -> None:
    """Convert a folder as the documents do."""
    rows = []
    for name in sorted(os.listdir(folder)):
        try:
            image = Image.open(folder / name).convert("RGB").resize((size, size))
        except OSError:
            continue
        rows.append(np.asarray(image))
    np.savez(target, np.stack(rows))


def decode(data: bytes) -> None:
    """Decode at an eighth of the size, at one go, and do nothing else."""
    with JpegImageFile(BytesIO(data)) as image:
        image.draft("RGB", (image.width // 8, image.height // 8))
        image.decodermaxblock = len(data)
        image.load()


def seconds(work: Callable[[], object]) -> float:
    """Say how long a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def source(name: str, **values: object) -> DownloadSettings:
    """The settings of params.yaml, with another source."""
    usual = load(ROOT / "params.yaml").download.model_dump()
    return DownloadSettings.model_validate(usual | {"source": name, **values})


def wanted(size: int) -> ConvertSettings:
    """The settings of params.yaml, with another size and, like the documents, stretched."""
    usual = load(ROOT / "params.yaml").convert
    return usual.model_copy(update={"image_size": size, "resize_mode": "stretch"})


def speed(given: argparse.Namespace, place: Path) -> dict[str, object]:
    """Let reference, ours and the limit take turns."""
    count, size, rounds = given.pictures, given.size, given.rounds
    folder, converted = place / "photographs", place / "converted"
    folder.mkdir()
    converted.mkdir()
    photographs(folder, count, given.quality, given.height)
    download(source("folder", folders={"drawn": str(folder)}), place / "raw", place / "scratch")
    data = [path.read_bytes() for path in sorted(folder.iterdir())]
    cores = os.cpu_count() or 1
    theirs, ours = place / "theirs.npz", converted / "images.npz"
    with ThreadPoolExecutor(cores) as pool:
        turns: dict[str, Callable[[], object]] = {
            "reference": lambda: seeds_loop(folder, size, theirs),
            "ours": lambda: convert(wanted(size), place / "raw", ours),
            "limit": lambda: list(pool.map(decode, data)),
        }
        taken = [{name: seconds(turn) for name, turn in turns.items()} for _ in range(rounds + 1)]
    rates = {name: count / statistics.median(t[name] for t in taken[1:]) for name in turns}
    rates["limit"] = count / min(turn["limit"] for turn in taken)  # not of a disturbed round
    # Convert sets images aside for evaluation; the reference has all in one array.
    difference = np.abs(np.load(theirs)["arr_0"] - converted_rows(converted).astype(float)).mean()
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


def small_pictures(archive: Path, count: int) -> None:
    """Write a zip of ``count`` JPEGs of 64 by 64 pixels, all distinct."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(archive, "w") as stored:
        for index in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            stream = BytesIO()
            coarse.resize((64, 64), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
            stored.writestr(f"pictures/{index:09d}.jpg", stream.getvalue())


def peak() -> float:
    """The most memory that this process has held, in MB; ``ru_maxrss`` would count its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6


def measured(place: Path, size: int) -> None:
    """Convert what lies in ``place`` and print the peak before and after, and the seconds."""
    before = peak()
    taken = seconds(lambda: convert(wanted(size), place / "raw", place / "images.npz"))
    print(before, peak(), taken)


def memory(count: int, size: int, place: Path) -> dict[str, object]:
    """Convert ``count`` small pictures in a process of its own."""
    archive = place / "small.zip"
    small_pictures(archive, count)
    about = {"location": str(archive), "sha256": file_digest(archive)}
    download(source("archive", archive=about), place / "raw", place / "scratch")
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(place), str(size)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    before, most, taken = map(float, told.stdout.split())
    return {
        "name": "convert memory, MB",
        "reference": MOST_MEGABYTES,
        "ours": round(most),
        "ratio": round(most / MOST_MEGABYTES, 2),
        "limit_share": None,
        "pictures": count,
        "peak_megabytes_before": round(before),
        "pictures_a_second": round(count / taken),
    }


def main() -> None:
    """Measure and print."""
    given = options(__doc__, pictures=300, size=32, height=1224, quality=80, rounds=5, memory=0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        result = memory(given.memory, given.size, place) if given.memory else speed(given, place)
    show(result, given.json)


if __name__ == "__main__":
    main()
