"""Loading and saving of images.npz: memory mapping and validation."""

import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.core.errors import AtelierError
from atelier.data.dataset import Images, load_images, save_images

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
NAMES = ["a", "лицо", "顔", "b" * 120, r"\udcff"]


def save(path: Path) -> None:
    save_images(path, io.BytesIO(PIXELS.tobytes()), (5, 4, 4, 3), NAMES)


def test_saved_pixels_are_memory_mapped(tmp_path: Path) -> None:
    save(tmp_path / "images.npz")
    images = load_images(tmp_path / "images.npz")
    assert isinstance(images.pixels, np.memmap)
    assert np.array_equal(images.pixels, PIXELS)
    assert images.names.tolist() == NAMES


def test_long_names_are_shortened(tmp_path: Path) -> None:
    endless = [*NAMES[:4], f"{'folder/' * 1000}last.jpg"]
    save_images(tmp_path / "images.npz", io.BytesIO(PIXELS.tobytes()), (5, 4, 4, 3), endless)
    names = load_images(tmp_path / "images.npz").names
    assert names.tolist() == [*NAMES[:4], f"…{endless[4][-120:]}"]
    assert names.nbytes == 5 * 4 * 121


LONG = "x" * 130


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (f"mine/cats/{LONG}.png", f"cats/…{'x' * 110}.png"),
        (f"mine/cats/{'x' * 111}.png", f"cats/{'x' * 111}.png"),
        (f"mine/{LONG}/a.png#12", f"…{'x' * 59}/a.png#12"),
        (f"mine/{LONG}/{LONG}#1", f"…{'x' * 59}/…{'x' * 56}#1"),
        (f"{LONG}/cats/a.png", f"…{'x' * 109}/cats/a.png"),
        (LONG, f"…{'x' * 120}"),
    ],
)
def test_long_names_keep_their_last_folder_and_their_end(
    tmp_path: Path, name: str, short: str
) -> None:
    save_images(tmp_path / "images.npz", [bytes(16)], (1, 4, 4, 1), [name])
    images = load_images(tmp_path / "images.npz")
    assert images.names.tolist() == [short]
    assert len(short) <= 121
    if "/" in name:
        assert images.classes()[0] == (short.split("/")[-2],)


def classes_of(*names: str) -> tuple[tuple[str, ...], list[int]]:
    found, indices = Images(np.zeros((len(names), 4, 4, 1), np.uint8), np.array(names)).classes()
    return found, indices.tolist()


def test_last_folder_of_a_name_is_the_class() -> None:
    assert classes_of("train/5/00000", "test/10/1", "train/5/2") == (("5", "10"), [0, 1, 0])
    assert classes_of("mine/dog/b.jpg", "9/a.jpg", "cat/c.jpg") == (("9", "cat", "dog"), [2, 0, 1])


@pytest.mark.parametrize("name", ["alone.jpg", "/alone.jpg"])
def test_image_in_no_folder_has_no_class(name: str) -> None:
    with pytest.raises(AtelierError, match=rf"^{name} is in no folder.*; sort the images"):
        classes_of("a/b.jpg", name)


def test_writing_to_pixels_does_not_change_the_file(tmp_path: Path) -> None:
    save(tmp_path / "images.npz")
    load_images(tmp_path / "images.npz").pixels[:] = 0
    assert np.array_equal(load_images(tmp_path / "images.npz").pixels, PIXELS)


@pytest.mark.parametrize("order", ["C", "F"])
def test_files_written_by_numpy_are_loaded(tmp_path: Path, order: Any) -> None:
    pixels = np.asarray(PIXELS, order=order)
    np.savez(tmp_path / "stored.npz", pixels, names=np.array(NAMES))
    np.savez_compressed(tmp_path / "packed.npz", pixels, names=np.array(NAMES))
    for name in ("stored", "packed"):
        assert np.array_equal(load_images(tmp_path / f"{name}.npz").pixels, PIXELS)


@pytest.mark.parametrize(
    "pixels",
    [
        PIXELS.astype(np.float32),
        PIXELS[0],
        PIXELS[:0],
        PIXELS[:, :, :, :2],
    ],
)
def test_other_arrays_are_rejected(tmp_path: Path, pixels: Any) -> None:
    np.savez(tmp_path / "images.npz", pixels, names=np.array(["a"] * len(pixels)))
    with pytest.raises(AtelierError, match=r"images are uint8 \[N, H, W, C\]"):
        load_images(tmp_path / "images.npz")


def test_number_of_names_must_match(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", PIXELS, names=np.array(["a"]))
    with pytest.raises(AtelierError, match="5 images but names of shape"):
        load_images(tmp_path / "images.npz")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", np.array([object()]), names=np.array(["a"]))
    with pytest.raises(AtelierError, match="run the convert stage again"):
        load_images(tmp_path / "images.npz")


def test_missing_or_damaged_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="does not exist"):
        load_images(tmp_path / "absent.npz")
    save(tmp_path / "images.npz")
    content = (tmp_path / "images.npz").read_bytes()
    for length in range(0, len(content), 37):
        (tmp_path / "images.npz").write_bytes(content[:length])
        with pytest.raises(AtelierError, match="not a readable array"):
            load_images(tmp_path / "images.npz")


def npy(shape: str, descr: str = "|u1", content: bytes = b"") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def archive_of(path: Path, pixels: bytes, names: bytes, method: int) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("arr_0.npy", pixels)
        archive.writestr("names.npy", names)
    return path


SHAPES = (
    "(768, 1048576, 1048576, 1)", "(-1, 4, 4, 3)", "(5, 4, 4)", "(9" + "9" * 400 + ", 4, 4, 3)",
    "(5, 4, 4, 3.0)", "(True, 4, 4, 3)", "()", "None", "(5, -4, -4, 3)", "(1000000000000, 0, 4, 3)",
    "(" * 300 + "5", "(5, 4, 4, 'a')", "[5, 4, 4, 3]",
)  # fmt: skip


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("descr", ["|u1", "|O", "<U0", "<f8", "<U99999999"])
@pytest.mark.parametrize("shape", SHAPES)
def test_hostile_headers_are_rejected(tmp_path: Path, shape: str, descr: str, method: int) -> None:
    names = io.BytesIO()
    np.save(names, np.array(NAMES))
    hostile = npy(shape, descr, PIXELS.tobytes())
    path = archive_of(tmp_path / "images.npz", hostile, names.getvalue(), method)
    with pytest.raises(AtelierError, match=r"images\.npz .*run the convert stage again") as caught:
        load_images(path)
    assert "\n" not in str(caught.value)
    pixels = npy("(5, 4, 4, 3)", "|u1", PIXELS.tobytes())
    path = archive_of(path, pixels, hostile, method)
    with pytest.raises(AtelierError, match=r"images\.npz .*run the convert stage again"):
        load_images(path)


def test_special_files_are_rejected_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "images.npz")
    with pytest.raises(AtelierError, match="it is a pipe, not a regular file"):
        load_images(tmp_path / "images.npz")


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_damaged_file_gives_images_or_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, packed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    (np.savez_compressed if packed else np.savez)(path, PIXELS, names=np.array(NAMES))
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(data)
    with suppress(AtelierError):
        assert load_images(path).pixels.shape == (5, 4, 4, 3)
