"""Source ``sample``: drawn faces in varied image files.

The images differ in size, shape, format and color model, and a few files are broken, like in a
folder of real photographs.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from atelier.core.download_settings import SampleSettings
from atelier.core.progress import Progress, ProgressCallback
from atelier.data.manifest import Manifest, raw_file
from atelier.data.sources.zip_writer import ZipWriter
from atelier.sample_faces.portrait import random_portrait

_SIDES = (64, 200)
_BATCH = 32
_MIN_FACES_PER_PROCESS = 256
_KINDS = {
    "jpeg": 0.52, "png": 0.34, "grey": 0.02, "palette": 0.03, "transparent": 0.03, "cmyk": 0.02,
    "turned": 0.04,
}  # fmt: skip
_ORIENTATION = 0x0112
# EXIF orientations, and the transposition that each of them undoes.
_ROTATIONS = {
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


def fetch_sample(settings: SampleSettings, target: Path, report: ProgressCallback) -> Manifest:
    """Draw ``settings.count`` faces, and pack them and a few broken files into one zip.

    The i-th image depends only on the seed and on i.
    """
    with ZipWriter(target) as archive, _draw_files(settings) as files:
        for done, (name, data) in enumerate(files, start=1):
            archive.add(name, data)
            report(Progress(done, settings.count, "faces"))
        for name, data in _broken_files(settings.seed):
            archive.add(name, data)
    return Manifest("sample", "zip", (raw_file(archive.path),), members=archive.members)


@contextmanager
def _draw_files(settings: SampleSettings) -> Iterator[Iterator[tuple[str, bytes]]]:
    """Yield an iterator over the files in order.

    Processes draw them, because drawing is mostly Python code, which threads do not run in
    parallel. A process is started only for at least 256 faces.
    """
    draw = partial(sample_file, settings.seed)
    workers = min(os.cpu_count() or 1, settings.count // _MIN_FACES_PER_PROCESS)
    if workers < 2:
        yield map(draw, range(settings.count))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool.map(draw, range(settings.count), chunksize=_BATCH)


def sample_file(seed: int, index: int) -> tuple[str, bytes]:
    """Draw one face; return the name and bytes of its file."""
    # Equal to SeedSequence(seed).spawn(...)[index], without creating the sequences before it.
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    width, height = _size(random)
    kind = str(random.choice(list(_KINDS), p=list(_KINDS.values())))
    image = Image.fromarray(random_portrait(width, height, random))
    suffix = "png" if kind in ("png", "palette", "transparent") else "jpg"
    return f"face_{index:05d}.{suffix}", _encoded(image, kind, random)


def _size(random: np.random.Generator) -> tuple[int, int]:
    side = int(random.integers(*_SIDES, endpoint=True))
    if random.random() < 0.6:
        return side, side
    longer = int(side * random.uniform(1.05, 1.4))
    return (side, longer) if random.random() < 0.7 else (longer, side)


def _encoded(image: Image.Image, kind: str, random: np.random.Generator) -> bytes:
    quality = int(random.integers(84, 95))
    stream = BytesIO()
    match kind:
        case "png":
            image.save(stream, "PNG", compress_level=3)
        case "palette":
            image.quantize(128, Image.Quantize.FASTOCTREE).save(stream, "PNG")
        case "transparent":
            image.putalpha(_rounded_mask(image.size))
            image.save(stream, "PNG", compress_level=3)
        case "grey":
            image.convert("L").save(stream, "JPEG", quality=quality)
        case "cmyk":
            image.convert("CMYK").save(stream, "JPEG", quality=quality)
        case "turned":
            orientation = int(random.choice(list(_ROTATIONS)))
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            rotated = image.transpose(_ROTATIONS[orientation])
            rotated.save(stream, "JPEG", quality=quality, exif=exif)
        case _:
            image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _rounded_mask(size: tuple[int, int]) -> Image.Image:
    """Return a mask of mode L with rounded corners."""
    width, height = size
    mask = Image.new("L", (4 * width, 4 * height), 0)
    ImageDraw.Draw(mask).rounded_rectangle(
        (0, 0, 4 * width - 1, 4 * height - 1), radius=min(size), fill=255
    )
    return mask.resize(size, Image.Resampling.BOX)


def _broken_files(seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of files that are not readable images."""
    random = np.random.default_rng(np.random.SeedSequence(seed))
    stream = BytesIO()
    Image.fromarray(random_portrait(160, 160, random)).save(stream, "JPEG")
    jpeg = stream.getvalue()
    yield "broken/half_fetched.jpg", jpeg[: len(jpeg) // 2]
    yield "broken/empty.jpg", b""
    yield "broken/not_found.jpg", b"<!DOCTYPE html><html><title>404 Not Found</title></html>\n"
    yield "broken/notes.txt", b"Faces for the exhibition, second selection.\n"
    yield "broken/noise.png", random.bytes(4096)
    yield "broken/wrong_header.png", b"\x89PNG\r\n\x1a\n" + jpeg[8:]
