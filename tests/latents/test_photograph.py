"""Photographs as targets of an inversion."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.core.settings import ConvertSettings, load
from atelier.data.rows import resize
from atelier.gan.generation import TrainedGenerator
from atelier.latents.bounds import image_shape
from atelier.latents.photograph import prepare_target, read_photograph

from ..support.architectures import MNIST28, SMALL, vivid
from ..support.events import RecordedEvents
from ..support.image_files import chunk, saved


@pytest.fixture
def settings(root: Path) -> ConvertSettings:
    return load(root / "params.yaml").convert


def small_generator(channels: int = 3) -> TrainedGenerator:
    arch = SMALL if channels == 3 else MNIST28
    return TrainedGenerator(vivid(arch), arch.latent_size, "normal", 0, torch.device("cpu"))


def picture(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


def png_of_size(width: int, height: int) -> bytes:
    """Return a small file whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_photograph_is_cropped_as_by_convert(settings: ConvertSettings) -> None:
    image = picture()
    target = prepare_target(saved(image), small_generator(), settings)
    np.testing.assert_array_equal(target, resize(image, 16, "crop"))
    stretched = settings.model_copy(update={"resize_mode": "stretch"})
    target = prepare_target(saved(image), small_generator(), stretched)
    np.testing.assert_array_equal(target, resize(image, 16, "stretch"))


def test_size_and_channels_are_those_of_the_generator(settings: ConvertSettings) -> None:
    generator = small_generator(channels=1)
    assert image_shape(generator) == (28, 28, 1)
    target = prepare_target(saved(picture()), generator, settings)
    np.testing.assert_array_equal(target[:, :, 0], resize(picture().convert("L"), 28, "crop"))


def test_center_is_used_without_a_face(settings: ConvertSettings) -> None:
    faces, events = settings.model_copy(update={"faces": "align"}), RecordedEvents()
    target = prepare_target(
        saved(picture()), small_generator(), faces, name="tree.png", events=events
    )
    assert events.warnings == ["no face was found in tree.png; its center is used"]
    np.testing.assert_array_equal(target, resize(picture(), 16, "crop"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text", "not an image"),
        (saved(picture())[:300], "truncated|damaged"),
        (png_of_size(10_000, 10_000), r"100\.0 megapixels, the limit is 80"),
    ],
    ids=["text", "truncated", "100 megapixels"],
)
def test_unreadable_photograph_is_rejected(
    settings: ConvertSettings, content: bytes, reason: str
) -> None:
    with pytest.raises(AtelierError, match=rf"me\.jpg cannot be read \(({reason})\)"):
        prepare_target(content, small_generator(), settings, name="me.jpg")


def test_name_that_is_no_text_is_escaped(settings: ConvertSettings, tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match=r"x\\x1b\[31m\.png"):
        read_photograph(tmp_path / "x\x1b[31m.png")


def test_file_is_read_if_it_is_regular_and_not_too_large(tmp_path: Path) -> None:
    file = tmp_path / "me.png"
    file.write_bytes(saved(picture()))
    assert read_photograph(file) == saved(picture())
    with file.open("r+b") as stream:
        stream.truncate(2**28 + 1)
    with pytest.raises(AtelierError, match="256 MiB, the limit is 256"):
        read_photograph(file)
    with pytest.raises(AtelierError, match=r"there is no image .*none\.png; check the path"):
        read_photograph(tmp_path / "none.png")
    with pytest.raises(AtelierError, match="it is a folder"):
        read_photograph(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AtelierError, match="it is a pipe"):
        read_photograph(tmp_path / "pipe")
