"""Source ``sample``: reproducible, varied and partly broken files."""

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.core.download_settings import DownloadSettings
from atelier.core.hashing import file_digest
from atelier.core.settings import ConvertSettings
from atelier.data.convert import convert
from atelier.data.dataset import load_images
from atelier.data.image_file import read_image
from atelier.data.rows import resize
from atelier.data.safe_names import MAX_LENGTH, sanitize_name
from atelier.data.sources.download import download
from atelier.data.sources.listing import list_folder
from atelier.data.sources.sample import sample_file
from atelier.sample_faces.hair import HAIR_STYLES
from atelier.sample_faces.portrait import portrait, random_portrait
from atelier.sample_faces.traits import random_traits


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    """The first 250 files of the source."""
    return [sample_file(1, index)[1] for index in range(250)]


def test_single_image_can_be_drawn_again(
    tmp_path: Path, source: Callable[..., DownloadSettings]
) -> None:
    download(source("sample", count=70, seed=3), tmp_path / "raw", tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "raw" / "pictures.zip") as archive:
        for index in (0, 41, 69):
            name, data = sample_file(3, index)
            assert archive.read(name) == data


def test_bytes_depend_on_the_seed_only(
    tmp_path: Path, source: Callable[..., DownloadSettings]
) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        download(source("sample", seed=seed), tmp_path / name, tmp_path / "s")
    one, two, three = (file_digest(tmp_path / n / "pictures.zip") for n in ("one", "two", "three"))
    assert one == two != three


@pytest.mark.slow
def test_all_faces_are_readable_and_six_files_are_not(
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
) -> None:
    download(source("sample", count=200), tmp_path / "raw", tmp_path / "s")
    report = convert(conversion(), tmp_path / "raw", tmp_path / "images.npz")
    assert (report.found, report.accepted) == (206, 200)
    assert all(name.startswith("broken/") for name, _ in report.rejected)
    pixels = load_images(tmp_path / "images.npz").pixels.astype(float)
    # The position of the head is constant; its features vary.
    assert pixels.std(axis=0).min() > 10
    assert len(np.unique(pixels.reshape(200, -1), axis=0)) == 200


def test_sizes_formats_and_color_models_are_mixed(files: list[bytes]) -> None:
    images = [Image.open(BytesIO(data)) for data in files]
    assert {image.format for image in images} == {"PNG", "JPEG"}
    assert {image.mode for image in images} == {"RGB", "L", "P", "RGBA", "CMYK"}
    assert {image.getexif().get(0x0112, 1) for image in images} == {1, 3, 6, 8}
    sides = [side for image in images for side in image.size]
    assert min(sides) >= 64
    assert max(sides) <= 280
    assert any(image.width != image.height for image in images)


def test_face_is_in_the_center() -> None:
    face = random_traits(np.random.default_rng(0))
    pixels = portrait(face, 90, 120, np.random.default_rng(1)).astype(int)
    cheek, corner = pixels[62, 38], pixels[2, 2]
    assert np.abs(cheek - face.skin).max() < np.abs(corner - face.skin).max()


def test_rotated_images_are_read_upright(files: list[bytes]) -> None:
    rotated = [f for f in files if Image.open(BytesIO(f)).getexif().get(0x0112, 1) != 1]
    small = [resize(read_image(f, "grey", 1), 16, "crop").astype(float) for f in files[:60]]
    mean = np.mean(small, axis=0)
    correlations = np.zeros(4)
    for data in rotated:
        row = resize(read_image(data, "grey", 1), 16, "crop").astype(float)
        for turn in range(4):
            correlations[turn] += np.corrcoef(np.rot90(row, turn).ravel(), mean.ravel())[0, 1]
    assert len(rotated) >= 5
    assert correlations.argmax() == 0


@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 64), (64, 280), (16, 16)])
def test_any_size_can_be_drawn(width: int, height: int) -> None:
    pixels = random_portrait(width, height, np.random.default_rng(0))
    assert pixels.shape == (height, width, 3)
    assert pixels.std() > 20


def test_every_hair_style_is_drawn() -> None:
    faces = [random_traits(np.random.default_rng(i)) for i in range(400)]
    assert {face.hair_style for face in faces} == set(HAIR_STYLES)
    assert {face.hat for face in faces} > {"none", "beanie", "cap", "straw", "party", "bow"}
    assert {face.glasses for face in faces} == {"none", "round", "square", "cat", "sun"}


def test_added_and_changed_files_change_the_listing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.png").write_bytes(b"12")
    (tmp_path / "a.png").write_bytes(b"1")
    before = list_folder(tmp_path)
    assert [(name, size) for name, size, _ in before] == [("a.png", 1), ("b/x.png", 2)]
    (tmp_path / "b" / "c.png").write_bytes(b"123")
    (tmp_path / "a.png").write_bytes(b"12")
    after = list_folder(tmp_path)
    assert [(n, s) for n, s, _ in after] == [("a.png", 2), ("b/c.png", 3), ("b/x.png", 2)]


@pytest.mark.parametrize("name", ["лицо/顔.png", "a b.jpg", "x" * MAX_LENGTH])
def test_printable_name_is_unchanged(name: str) -> None:
    assert sanitize_name(name) == name


def test_sanitized_names_are_printable_short_and_distinct() -> None:
    assert sanitize_name("a\n\x1b[31m\udcff\u202e") == r"a\n\x1b[31m\udcff\u202e"
    long = [sanitize_name("x" * 5000 + end) for end in ("a", "b")]
    assert long[0] != long[1]
    assert max(map(len, long)) <= MAX_LENGTH
    assert [sanitize_name(name) for name in long] == long
