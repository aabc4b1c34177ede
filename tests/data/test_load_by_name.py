from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.data.color_managed import load_by_name

BUILT_IN = {"generated": lambda: {"face_01": np.zeros((4, 4, 3), np.uint8)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("L", (6, 5), 200).save(tmp_path / "wave.png")
    Image.new("RGB", (6, 5)).save(tmp_path / "wave.jpg")
    (tmp_path / "note.txt").write_text("not an image")
    return tmp_path


def test_files_and_builtin_images_are_loaded_by_name(folder: Path) -> None:
    found = load_by_name(["wave.png", "generated"], folder, 10, BUILT_IN)
    assert list(found) == ["wave", "face_01"]
    assert found["wave"].pixels.shape == (5, 6, 3)
    assert (found["wave"].pixels == 200).all()
    assert found["face_01"].alpha is None


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["none.png"], r"there is no image .*none\.png; check the path, or choose generated"),
        (["note.txt"], r"note\.txt cannot be read \(not an image\)"),
        (["wave.png", "wave.jpg"], "two images are called wave"),
    ],
)
def test_missing_unreadable_and_duplicate_images_are_errors(
    folder: Path, names: list[str], sentence: str
) -> None:
    with pytest.raises(AtelierError, match=sentence):
        load_by_name(names, folder, 10, BUILT_IN)
