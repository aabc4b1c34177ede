"""Parts of a compared run, from the content of the files that stages write."""

import csv
import io
import json
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from ruamel.yaml.error import YAMLError

from atelier.core.errors import AtelierError
from atelier.figures.curves import read_losses
from atelier.gan.sample_files import load_samples
from atelier.tracking.compared_run import Floats, Pixels
from atelier.tracking.redact import numbers

T = TypeVar("T")
LOSSES = ("step", "loss_d", "loss_g")
_REAL = "real_"  # prefix of the metrics of other real images
# Errors of parsers, if another person's file is damaged or was made to do harm.
DAMAGE = (
    *(AtelierError, OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError),
    *(ArithmeticError, EOFError, RecursionError, MemoryError, csv.Error, YAMLError),
)
_MAX_BYTES = 256_000_000  # of a file
_MAX_PIXELS = 64_000_000  # of an image
_MAX_EPOCH = 10**9


class Notes:
    """Sentences on parts of a run that are missing or damaged."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def read(
        self, part: str, load: Callable[[], bytes | None], parse: Callable[[bytes], T]
    ) -> T | None:
        """Return a parsed file; if it is missing or damaged, note that and return ``None``.

        Args:
            part: name of the part for the sentence.
            load: returns the content of the file; ``None`` if it is missing.
            parse: raises an error of Python or an ``AtelierError`` if the content is damaged.
        """
        try:
            content = load()
            if content is None:
                self.sentences.append(f"{part} missing")
                return None
            return parse(check_size(content))
        except DAMAGE:
            self.sentences.append(f"{part} damaged")
            return None


def check_size(content: bytes) -> bytes:
    """Return the content of a file; raise ``ValueError`` if it is too large for results."""
    if len(content) > _MAX_BYTES:
        raise ValueError(f"{len(content):,} bytes are too many")
    return content


def parse_evaluation(content: bytes) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metrics of the evaluate stage's file of details, and their conditions."""
    values: dict[str, Any] = json.loads(content)
    conditions = values.pop("measured_with", {})
    own = {key: value for key, value in numbers(values).items() if not key.startswith(_REAL)}
    return own, {key: str(value) for key, value in dict(conditions).items()}


def parse_style_loss(content: bytes) -> dict[str, float]:
    """Return the metric of the stylize stage's file of metrics."""
    return {"style_loss": numbers(json.loads(content))["style_loss"]}


def parse_validation(content: bytes) -> dict[str, float]:
    """Return the validation KID of the train stage's file of metrics, if it was measured."""
    found = numbers(json.loads(content))
    return {key: found[key] for key in found if key == "validation_kid"}


def parse_kid(content: bytes) -> list[tuple[int, float, float]]:
    """Return (epoch, KID, standard error) of ``plots/kid.csv``, without infinite KID."""
    return _epochs([(row["epoch"], row["kid"], row["error"]) for row in _rows(content)])


def parse_quality(content: bytes) -> list[tuple[int, float, float]]:
    """Return (epoch, KID, NaN) of ``plots/quality.csv``, as :func:`parse_kid` does."""
    return _epochs([(row["epoch"], row["kid"], "nan") for row in _rows(content)])


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def _epochs(cells: list[tuple[str, str, str]]) -> list[tuple[int, float, float]]:
    rows = [(int(epoch), float(kid), float(error)) for epoch, kid, error in cells]
    if any(not 0 <= epoch <= _MAX_EPOCH for epoch, _, _ in rows):
        raise ValueError("an epoch is out of range")
    return [row for row in rows if math.isfinite(row[1])]


def parse_losses(content: bytes) -> dict[str, Floats]:
    """Return the columns of ``plots/losses.csv`` that are compared."""
    table = _as_file(content, "losses.csv", read_losses)
    return {name: table[name] for name in LOSSES}


def parse_samples(content: bytes) -> Pixels:
    """Return the samples of an epoch, uint8 [N, H, W, C]."""
    return _as_file(check_size(content), "samples.npy", lambda file: np.array(load_samples(file)))


def parse_image(content: bytes) -> Pixels:
    """Return a PNG file's image, uint8 [H, W, 3].

    Raises:
        ValueError: it has too many pixels.
    """
    from PIL import Image

    too_large = Image.DecompressionBombError, Image.DecompressionBombWarning
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(check_size(content)), formats=["PNG"]) as image:
                if math.prod(image.size) > _MAX_PIXELS:
                    raise ValueError(f"{math.prod(image.size):,} pixels are too many")
                return np.asarray(image.convert("RGB"))
    except too_large as error:
        raise ValueError(str(error)) from None


def split_sheet(sheet: Pixels, side: int, count: int) -> Pixels:
    """Return the images of a sheet that :func:`atelier.tracking.run.sheet` arranged.

    Args:
        sheet: uint8 [H, W, 3], enlarged by a whole factor without smoothing.
        side: of the images, in pixels.
        count: number of images; the last cells may be empty.

    Returns:
        uint8 [N, side, side, 3].

    Raises:
        ValueError: the sheet does not have images of this size.
    """
    height, width, _ = sheet.shape
    for factor in range(width // side, 0, -1):
        if height % (factor * side) or width % (factor * side):
            continue
        small = sheet[::factor, ::factor]
        if np.array_equal(small.repeat(factor, 0).repeat(factor, 1), sheet):
            tiles = small.reshape(len(small) // side, side, -1, side, 3).swapaxes(1, 2)
            return tiles.reshape(-1, side, side, 3)[:count]
    raise ValueError(f"{width} x {height} pixels are not of images of {side} pixels")


def losses_of(points: Mapping[str, Mapping[int, float]]) -> dict[str, Floats]:
    """Return the columns of losses from values by step; empty without common steps.

    Args:
        points: values by step of ``loss_d`` and ``loss_g``.
    """
    steps = sorted(set.intersection(*(set(values) for values in points.values())))
    if not steps:
        return {}
    columns = {name: np.array([values[s] for s in steps]) for name, values in points.items()}
    return {"step": np.array(steps, np.float64), **columns}


def _as_file(content: bytes, name: str, read: Callable[[Path], T]) -> T:
    """Return what a function reads from a temporary file of this content."""
    with TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(content)
        return read(file)
