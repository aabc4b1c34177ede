"""Faces of composed group photographs, compared with their known places."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from atelier.core.download_settings import DownloadSettings
from atelier.core.settings import ConvertSettings
from atelier.data.convert import convert
from atelier.data.faces.extraction import find_faces
from atelier.data.image_list import read_image_list
from atelier.data.rows import convert_file, resize
from atelier.data.sources.download import download

from ..support.group_photographs import celeba_faces, evaluate, group_photographs

ARCHIVE = "celeba/img_align_celeba.zip"


@pytest.mark.shared
@pytest.mark.parametrize(
    ("count", "size"), [(5, (480, 360)), pytest.param(60, (1024, 768), marks=pytest.mark.slow)]
)
def test_faces_of_group_photographs_are_found(
    shared: Path, conversion: Callable[..., ConvertSettings], count: int, size: tuple[int, int]
) -> None:
    faces = celeba_faces(shared / ARCHIVE, 4 * count, start=4000)
    settings = conversion(faces="align")
    photographs = list(group_photographs(faces, count, size, seed=7))
    found = [find_faces(settings, photograph.pixels) for photograph in photographs]
    result = evaluate(photographs, found)
    assert result.recall >= 0.85
    assert result.precision >= 0.95
    assert result.eye_error <= 1.5


@pytest.mark.shared
def test_aligned_images_stay_nearly_the_same(
    shared: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    """Rows of CelebA's aligned images resemble their centers more than shifted centers."""
    settings = conversion(image_size=64, faces="align", faces_per_image="largest")
    aligned, shifted = [], []
    for face in celeba_faces(shared / ARCHIVE, 30):
        for row in convert_file(settings, ("face", face)).rows:
            center, right = resize(face, 64, "crop"), resize(face[:, 8:], 64, "crop")
            aligned.append(np.abs(row.pixels.astype(int) - center).mean())
            shifted.append(np.abs(row.pixels.astype(int) - right).mean())
    assert len(aligned) >= 29
    assert np.median(aligned) < 15
    assert np.mean(np.less(aligned, shifted)) >= 0.9


@pytest.mark.shared
@pytest.mark.parametrize("count", [3, pytest.param(24, marks=pytest.mark.slow)])
def test_only_the_faces_of_the_better_copies_are_used(
    shared: Path,
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
    count: int,
) -> None:
    faces, folder = celeba_faces(shared / ARCHIVE, 6 * count, start=3000), tmp_path / "photographs"
    folder.mkdir()
    for number in range(count):
        own = faces[6 * number : 6 * number + 6]
        (photograph,) = group_photographs(own, 1, (640, 480), seed=number)
        image = Image.fromarray(photograph.pixels)
        image.save(folder / f"{number}.jpg", quality=92)
        image.save(folder / f"{number}_compressed.jpg", quality=30)
        ImageOps.mirror(image).save(folder / f"{number}_mirrored.jpg", quality=85)
    download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
    settings = conversion(image_size=64, faces="align", duplicates="drop")
    convert(settings, tmp_path / "raw", tmp_path / "images.npz")
    entries = [entry for entry in read_image_list(tmp_path / "images.csv") if entry.name]
    originals = [entry for entry in entries if "_" not in entry.file]
    copies = [entry for entry in entries if "_" in entry.file]
    assert len(originals) >= 2 * count
    assert np.mean([entry.set == "training" for entry in originals]) >= 0.95
    assert np.mean([entry.set == "dropped" for entry in copies]) >= 0.95
