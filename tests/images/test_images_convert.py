"""From raw pictures to one array: every picture counted, every byte reproducible."""

import hashlib
import json
import os
import resource
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atelier.errors import AtelierError
from atelier.images.checksum import digest
from atelier.images.convert import convert, split
from atelier.images.dataset import load_images
from atelier.images.download import download
from atelier.images.resize import resize
from atelier.progress import Progress
from atelier.settings import ConvertSettings, DownloadSettings


@pytest.fixture
def raw(
    tmp_path: Path, source: Callable[..., DownloadSettings], picture: Callable[..., bytes]
) -> Path:
    """Thirty pictures and four files that are none."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(30):
        kind = ("PNG", "JPEG")[i % 2]
        (folder / f"{i:02d}.{kind.lower()}").write_bytes(picture(20 + i, 40 - i, kind, i))
    (folder / "05_half.jpeg").write_bytes(picture(90, 90, "JPEG")[:3000])
    (folder / "07_page.jpg").write_bytes(b"<html>")
    (folder / os.fsdecode(b"08_\xff\n.png")).write_bytes(b"")
    (folder / "09_large.png").write_bytes(picture(1100, 1000))
    download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
    return tmp_path / "raw"


def test_every_file_is_accepted_or_rejected_with_a_reason(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    seen: list[Progress] = []
    done = convert(conversion(), raw, tmp_path / "images.npz", 2, seen.append)
    assert (done.found, done.accepted) == (34, 30)
    assert done.rejected == (
        ("mine/05_half.jpeg", "truncated"),
        ("mine/07_page.jpg", "not a picture"),
        (r"mine/08_\udcff\n.png", "not a picture"),
        ("mine/09_large.png", "1.1 megapixels, the limit is 1"),
    )
    assert seen[-1] == Progress(34, 34, "4 rejected")
    metrics = json.loads(json.dumps(done.metrics(), allow_nan=False))
    assert list(metrics) == ["found", "accepted", "held_out", "rejected", "rejected_files"]
    assert metrics["rejected_files"][1] == {"name": "mine/07_page.jpg", "reason": "not a picture"}


def test_rows_are_the_pictures_in_order(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    convert(conversion(image_size=32), raw, tmp_path / "images.npz")
    images = load_images(tmp_path / "images.npz")
    assert images.pixels.shape == (30, 32, 32, 3)
    assert images.names.tolist() == sorted(images.names.tolist())
    with zipfile.ZipFile(raw / "pictures.zip") as archive:
        for name, row in zip(images.names, images.pixels, strict=True):
            pixels = np.asarray(Image.open(BytesIO(archive.read(name))))
            assert np.array_equal(row, resize(pixels, 32, "crop"))


def test_a_share_is_held_out_by_content_alone(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    convert(conversion(), raw, tmp_path / "all.npz")
    assert len(load_images(tmp_path / "held_out.npz", may_be_empty=True).names) == 0
    everything = load_images(tmp_path / "all.npz")
    done = convert(conversion(held_out=0.25), raw, tmp_path / "images.npz", 2)
    assert (done.accepted, done.held_out) == (30, 8)
    kept, held = load_images(tmp_path / "images.npz"), load_images(tmp_path / "held_out.npz")
    hashes = [hashlib.sha256(row.tobytes()).digest() for row in everything.pixels]
    lowest = np.sort(np.argsort(np.array(hashes))[:8])
    assert np.array_equal(held.pixels, everything.pixels[lowest])
    assert np.array_equal(kept.pixels, np.delete(everything.pixels, lowest, axis=0))
    assert held.names.tolist() == everything.names[lowest].tolist()
    assert kept.names.tolist() == np.delete(everything.names, lowest).tolist()


def test_copies_of_a_picture_fall_on_the_same_side(
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
    picture: Callable[..., bytes],
) -> None:
    (tmp_path / "f").mkdir()
    for i in range(20):
        for copy in "ab":
            (tmp_path / "f" / f"{copy}{i:02d}.png").write_bytes(picture(seed=i))
    download(source("folder", mine=str(tmp_path / "f")), tmp_path / "raw", tmp_path / "s")
    convert(conversion(held_out=0.5), tmp_path / "raw", tmp_path / "images.npz")
    held = load_images(tmp_path / "held_out.npz")
    kept = load_images(tmp_path / "images.npz")
    seen = {row.tobytes() for row in kept.pixels}
    assert len(held.pixels) == len(kept.pixels) == 20
    assert not seen & {row.tobytes() for row in held.pixels}


@pytest.mark.parametrize(
    ("letters", "share", "held_out"),
    [
        ("abc", 0.34, "a"),
        ("aab", 0.34, ""),
        ("baab", 0.25, ""),
        ("baab", 0.5, "aa"),
        ("aaa", 0.4, ""),
    ],
)
def test_the_border_parts_no_copies(letters: str, share: float, held_out: str) -> None:
    hashes = [letter.encode() for letter in letters]
    kept, held = split(hashes, share)
    assert "".join(letters[place] for place in held) == held_out
    assert sorted(kept + held) == list(range(len(letters)))
    assert not {letters[place] for place in kept} & {letters[place] for place in held}


def test_bytes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    digests = set()
    for workers in (1, 2, 7):
        convert(conversion(color="grey"), raw, tmp_path / "images.npz", workers)
        digests.add(digest(tmp_path / "images.npz"))
    assert len(digests) == 1


def test_numpy_reads_the_file_without_pickle(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    convert(conversion(), raw, tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"arr_0", "names"}
        assert arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_0"], load_images(tmp_path / "images.npz").pixels)


def test_nothing_readable_is_told_with_the_reasons(
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
) -> None:
    (tmp_path / "f").mkdir()
    for i in range(3):
        (tmp_path / "f" / f"{i}.txt").write_text("words")
    download(source("folder", mine=str(tmp_path / "f")), tmp_path / "raw", tmp_path / "s")
    with pytest.raises(AtelierError, match=r"none of the 3 files found .* not a picture \(3\)"):
        convert(conversion(), tmp_path / "raw", tmp_path / "images.npz")
    assert not (tmp_path / "images.npz").exists()


def test_a_full_disk_is_told_and_leaves_what_was_there(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    for name in ("images.npz", "held_out.npz"):
        (tmp_path / name).write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(AtelierError, match="no room to write"):
            convert(conversion(), raw, tmp_path / "images.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for name in ("images.npz", "held_out.npz"):
        assert (tmp_path / name).read_bytes() == b"before"
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_crop_is_the_middle_square_resized() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    middle = Image.fromarray(np.ascontiguousarray(pixels[:, 10:40]))
    assert np.array_equal(
        resize(pixels, 16, "crop"), np.asarray(middle.resize((16, 16), Image.Resampling.BICUBIC))
    )


def test_pad_keeps_the_whole_picture_on_black() -> None:
    padded = resize(np.full((20, 10, 3), 200, np.uint8), 8, "pad")
    assert (padded[:, 2:6] == 200).all()
    assert (padded[:, :2] == 0).all()
    assert (padded[:, 6:] == 0).all()


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["crop", "stretch", "pad"]))
def test_any_shape_becomes_a_square_and_flat_colours_stay(
    width: int, height: int, fit: Any
) -> None:
    flat = np.full((height, width, 3), (10, 120, 250), np.uint8)
    row = resize(flat, 9, fit)
    assert row.shape == (9, 9, 3)
    assert (row[4, 4] == (10, 120, 250)).all()
    if fit != "pad":
        assert (row == row[4, 4]).all()


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_a_thread_of_a_picture_is_resized_too(fit: Any) -> None:
    assert resize(np.full((1, 5000), 7, np.uint8), 16, fit).max() == 7


@pytest.mark.shared
def test_real_faces_and_digits(
    tmp_path: Path,
    shared: Path,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
) -> None:
    faces = shared / "celeba" / "img_align_celeba.zip"
    settings = source("archive", location=str(faces), sha256=digest(faces))
    download(settings, tmp_path / "raw", tmp_path / "s")
    done = convert(conversion(image_size=16), tmp_path / "raw", tmp_path / "images.npz", 2)
    assert (done.found, done.accepted) == (8000, 8000)
    mean = load_images(tmp_path / "images.npz").pixels.mean(axis=(0, 1, 2))
    # Faces are lit, and skin is redder than blue.
    assert 80 < mean[2] < mean[1] < mean[0] < 180
