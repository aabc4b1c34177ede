"""Files of samples: names, order and errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier.core.errors import AtelierError
from atelier.gan.sample_files import (
    epoch_files,
    load_augmented,
    load_epochs,
    load_samples,
    save_augmented,
    save_samples,
    step_files,
)


def test_sample_files_are_named_by_epoch_and_step(tmp_path: Path) -> None:
    first, second = (np.full((2, 4, 4, 3), value, np.uint8) for value in (1, 2))
    augmented = np.arange(3 * 2 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 2, 4, 4, 3)
    save_samples(12, first, {345: second}, tmp_path)
    save_samples(3, second, {}, tmp_path)
    save_augmented(augmented, tmp_path)
    names = ["augmented.npy", "epoch_0003.npy", "epoch_0012.npy", "step_00000345.npy"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    epochs = load_epochs(tmp_path)
    assert list(epochs) == [3, 12]
    assert np.array_equal(epochs[3], second)
    assert np.array_equal(epochs[12], first)
    assert list(epoch_files(tmp_path)) == [3, 12]
    ((step, file),) = step_files(tmp_path).items()
    assert step == 345
    assert np.array_equal(load_samples(file), second)
    loaded = load_augmented(tmp_path)
    assert loaded is not None
    assert np.array_equal(loaded, augmented)


def test_missing_augmented_and_step_files_are_none(tmp_path: Path) -> None:
    assert load_augmented(tmp_path) is None
    assert step_files(tmp_path) == {}


@pytest.mark.parametrize("damage", ["cut", "pickled", "folder"])
def test_damaged_sample_file_is_one_error_sentence(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "epoch_0001.npy"
    if damage == "folder":
        file.mkdir()
    elif damage == "pickled":
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    else:
        np.save(file, np.zeros((2, 4, 4, 3), np.uint8))
        file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(
        AtelierError, match=r"epoch_0001\.npy cannot be read as samples \(.+[^.]\); run the train"
    ):
        load_epochs(tmp_path)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 4, 4), np.uint8),
        ((2, 4, 5, 3), np.uint8),
        ((2, 4, 4, 4), np.uint8),
        ((0, 4, 4, 3), np.uint8),
        ((2, 4, 4, 3), np.float32),
    ],
)
def test_samples_of_other_shape_or_dtype_are_rejected(
    tmp_path: Path, shape: tuple[int, ...], dtype: Any
) -> None:
    np.save(tmp_path / "epoch_0001.npy", np.zeros(shape, dtype))
    with pytest.raises(AtelierError, match="samples are square images, uint8"):
        load_epochs(tmp_path)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 2, 4, 4, 2)])
def test_augmented_images_of_other_shape_are_rejected(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    np.save(tmp_path / "augmented.npy", np.zeros(shape, np.uint8))
    with pytest.raises(AtelierError, match="augmented images are uint8"):
        load_augmented(tmp_path)
