"""Speed of `convert.faces: align` on 2-megapixel photographs of groups, and its quality.

The photographs are composed of drawn faces, or of CelebA's aligned faces if --celeba names their
zip file. Each has one to six faces at random places and sizes, turned by up to 25 degrees, or all
by --tilt degrees. They are JPEGs, read from the page cache by the function of the convert stage,
with the settings of params.yaml and rows of 64x64 pixels. The reference is the same conversion
without a search of faces. `processor_ms` is the processor's time for a photograph; other programs
disturb it less than the speed.

With --celeba, the places of the eyes are known: recall, precision, and the median error of the eyes
in pixels of a row. --sheet writes the first rows as an image.

Usage: python benchmarks/faces.py [--photographs 60] [--height 1224] [--quality 90] [--rounds 2]
[--tilt 45] [--celeba img_align_celeba.zip] [--sheet rows.png] [--json]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from command import converted_rows, options, show
from convert import seconds, source
from numpy.typing import NDArray
from PIL import Image

from atelier.core.settings import ConvertSettings, load
from atelier.data.convert import convert
from atelier.data.faces.extraction import find_faces
from atelier.data.sources.download import download
from atelier.figures.montage import montage
from atelier.sample_faces.portrait import random_portrait

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.group_photographs import (  # noqa: E402
    GroupPhotograph,
    celeba_faces,
    evaluate,
    group_photographs,
)


def convert_settings(faces: str) -> ConvertSettings:
    """Return the convert settings of params.yaml for faces at 64x64."""
    defaults = load(ROOT / "params.yaml").convert
    return defaults.model_copy(update={"image_size": 64, "faces": faces})


def face_images(celeba: Path, count: int) -> list[NDArray[np.uint8]]:
    """Return drawn faces, or CelebA's if the file is named."""
    if celeba.is_file():
        return celeba_faces(celeba, count, start=4000)
    portraits = (random_portrait(120, 120, np.random.default_rng(i)) for i in range(count))
    return [np.asarray(Image.fromarray(p).crop((15, 5, 104, 114))) for p in portraits]


def measure(arguments: argparse.Namespace, work_dir: Path) -> dict[str, object]:
    """Compose photographs and convert them with and without a search of faces."""
    count, size = arguments.photographs, (arguments.height * 4 // 3, arguments.height)
    tilt = None if arguments.tilt < 0 else arguments.tilt
    faces = face_images(arguments.celeba, 4 * count)
    photographs = list(group_photographs(faces, count, size, seed=7, tilt=tilt))
    folder, raw = work_dir / "photographs", work_dir / "raw"
    folder.mkdir()
    for index, photograph in enumerate(photographs):
        image = Image.fromarray(photograph.pixels)
        image.save(folder / f"{index:06d}.jpg", quality=arguments.quality)
    download(source("folder", folders={"composed": str(folder)}), raw, work_dir / "cache")
    rates, processor = {}, {}
    for name in ("none", "align"):
        target = work_dir / name / "images.npz"
        target.parent.mkdir()
        started = time.process_time()
        durations = [
            seconds(lambda name=name, target=target: convert(convert_settings(name), raw, target))
            for _ in range(arguments.rounds)
        ]
        rates[name] = count / statistics.median(durations)
        processor[name] = (time.process_time() - started) / arguments.rounds / count
    rows = converted_rows(work_dir / "align")
    if arguments.sheet.name:
        Image.fromarray(montage(rows[:96], 12, 64)).save(arguments.sheet)
    return {
        "name": "faces",
        "unit": "photographs a second",
        "reference": round(rates["none"], 1),
        "ours": round(rates["align"], 1),
        "ratio": round(rates["align"] / rates["none"], 3),
        "limit_share": None,
        "cores": os.cpu_count() or 1,
        "opencv": cv2.__version__,
        "megapixels": round(size[0] * size[1] / 1e6, 2),
        "faces": sum(len(photograph.eyes) for photograph in photographs),
        "found": len(rows),
        "processor_ms": round(1000 * processor["align"]),
        "processor_ms_reference": round(1000 * processor["none"]),
        **(quality(photographs, arguments.quality) if arguments.celeba.is_file() else {}),
    }


def quality(photographs: list[GroupPhotograph], jpeg_quality: int) -> dict[str, object]:
    """Return recall, precision and the median error of the eyes."""
    settings = convert_settings("align")
    found = []
    for photograph in photographs:
        stream = BytesIO()
        Image.fromarray(photograph.pixels).save(stream, "JPEG", quality=jpeg_quality)
        found.append(find_faces(settings, np.asarray(Image.open(stream))))
    result = evaluate(photographs, found)
    return {
        "recall": round(result.recall, 3),
        "precision": round(result.precision, 3),
        "eye_error": round(result.eye_error, 2),
    }


def main() -> None:
    """Run the benchmark from the command line."""
    arguments = options(
        __doc__,
        photographs=60,
        height=1224,
        quality=90,
        rounds=2,
        tilt=-1.0,
        celeba=Path(),
        sheet=Path(),
    )
    with tempfile.TemporaryDirectory() as folder:
        show(measure(arguments, Path(folder)), arguments.json)


if __name__ == "__main__":
    main()
