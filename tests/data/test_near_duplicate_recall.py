"""Precision and recall of near-duplicate groups, with files that the convert stage reads."""

import itertools
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from atelier.core.download_settings import DownloadSettings
from atelier.data.convert import convert
from atelier.data.image_list import read_image_list
from atelier.data.sources.download import download
from atelier.sample_faces.portrait import random_portrait

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]
Pairs = set[tuple[str, str]]


def rescale(image: Image.Image, random: np.random.Generator) -> Image.Image:
    factor = 2 ** random.uniform(-1, 1)
    return image.resize((round(image.width * factor), round(image.height * factor)))


def recompress(image: Image.Image, random: np.random.Generator) -> Image.Image:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=int(random.integers(50, 96)))
    return Image.open(stream)


def mirror(image: Image.Image, random: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image)


def crop_somewhere(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Remove 5% of the width and of the height, divided at random between opposite sides."""
    width, height = round(0.95 * image.width), round(0.95 * image.height)
    left = int(random.integers(image.width - width + 1))
    top = int(random.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def crop_each_side(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Remove 5% at each of the four sides."""
    x, y = round(0.05 * image.width), round(0.05 * image.height)
    return image.crop((x, y, image.width - x, image.height - y))


def change_brightness(image: Image.Image, random: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.8, 1.2))


EDITS: tuple[Edit, ...] = (
    *(rescale, recompress, mirror),
    *(crop_somewhere, crop_each_side, change_brightness),
)


def drawn_faces(count: int) -> Iterator[Image.Image]:
    for seed in range(count):
        yield Image.fromarray(random_portrait(120, 150, np.random.default_rng(seed)))


def photographed_faces(archive: Path, count: int) -> Iterator[Image.Image]:
    with zipfile.ZipFile(archive) as images:
        for name in sorted(images.namelist())[:count]:
            yield Image.open(BytesIO(images.read(name)))


def write_faces(folder: Path, faces: Iterator[Image.Image], count: int) -> dict[str, Pairs]:
    """Write faces and, of a tenth, an edited copy; return the pairs of each edit."""
    random = np.random.default_rng(0)
    folder.mkdir()
    pairs: dict[str, Pairs] = defaultdict(set)
    for number, face in enumerate(itertools.islice(faces, count - count // 10)):
        original = f"{number:05d}.jpg"
        face.save(folder / original, quality=95)
        if number % 9 == 0:
            edit = EDITS[number // 9 % len(EDITS)]
            copy = f"{number:05d}_copy.jpg"
            edit(face, random).save(folder / copy, quality=90)
            pairs[edit.__name__].add((f"mine/{original}", f"mine/{copy}"))
    return pairs


def found_pairs(images: Path) -> Pairs:
    """Return the pairs of names in one group; each pair and the names are sorted."""
    groups = defaultdict(list)
    for entry in read_image_list(images):
        if entry.group >= 0:
            groups[entry.group].append(entry.name)
    return {pair for names in groups.values() for pair in itertools.combinations(sorted(names), 2)}


def assert_groups_are_right(
    folder: Path, faces: Iterator[Image.Image], count: int, convert_folder: Callable[[Path], Path]
) -> None:
    pairs = write_faces(folder, faces, count)
    found = found_pairs(convert_folder(folder))
    expected = set().union(*pairs.values())
    assert len(expected) == count // 10
    recall = {edit: len(of_edit & found) / len(of_edit) for edit, of_edit in pairs.items()}
    precision = len(expected & found) / len(found)
    assert precision >= 0.98, found - expected
    assert len(expected & found) / len(expected) >= 0.95, recall
    assert min(recall.values()) >= 0.85, recall


@pytest.fixture
def convert_folder(
    tmp_path: Path, source: Callable[..., DownloadSettings], conversion: Callable[..., Any]
) -> Callable[[Path], Path]:
    """Return a function that converts a folder and returns the list of images."""

    def run(folder: Path) -> Path:
        download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
        convert(conversion(image_size=64), tmp_path / "raw", tmp_path / "images.npz")
        return tmp_path / "images.csv"

    return run


@pytest.mark.parametrize("count", [120, pytest.param(2000, marks=pytest.mark.slow)])
def test_edited_copies_of_drawn_faces_are_found(
    tmp_path: Path, convert_folder: Callable[[Path], Path], count: int
) -> None:
    assert_groups_are_right(tmp_path / "faces", drawn_faces(count), count, convert_folder)


@pytest.mark.slow
@pytest.mark.shared
def test_edited_copies_of_photographs_are_found(
    tmp_path: Path, convert_folder: Callable[[Path], Path], shared: Path
) -> None:
    faces = photographed_faces(shared / "celeba/img_align_celeba.zip", 2000)
    assert_groups_are_right(tmp_path / "faces", faces, 2000, convert_folder)
