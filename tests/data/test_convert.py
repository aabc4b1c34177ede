"""Conversion of raw images to arrays: complete counts and reproducible bytes."""

import hashlib
import json
import os
import resource
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from atelier.core.download_settings import DownloadSettings
from atelier.core.errors import AtelierError
from atelier.core.hashing import file_digest
from atelier.core.progress import Progress
from atelier.core.settings import ConvertSettings
from atelier.data.convert import ConversionReport, convert
from atelier.data.dataset import load_images
from atelier.data.image_list import read_image_list
from atelier.data.rows import convert_file, resize
from atelier.data.sources.download import download
from atelier.sample_faces.portrait import random_portrait


@pytest.fixture
def raw(
    tmp_path: Path, source: Callable[..., DownloadSettings], image_bytes: Callable[..., bytes]
) -> Path:
    """Return a raw folder of thirty images and four files that are not images."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for i in range(30):
        kind = ("PNG", "JPEG")[i % 2]
        (folder / f"{i:02d}.{kind.lower()}").write_bytes(image_bytes(20 + i, 40 - i, kind, i))
    (folder / "05_half.jpeg").write_bytes(image_bytes(90, 90, "JPEG")[:3000])
    (folder / "07_page.jpg").write_bytes(b"<html>")
    (folder / os.fsdecode(b"08_\xff\n.png")).write_bytes(b"")
    (folder / "09_large.png").write_bytes(image_bytes(1100, 1000))
    download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
    return tmp_path / "raw"


def test_every_file_is_accepted_or_rejected_with_a_reason(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    reports: list[Progress] = []
    report = convert(conversion(), raw, tmp_path / "images.npz", 2, reports.append)
    assert (report.found, report.accepted) == (34, 30)
    assert report.rejected == (
        ("mine/05_half.jpeg", "truncated"),
        ("mine/07_page.jpg", "not an image"),
        (r"mine/08_\udcff\n.png", "not an image"),
        ("mine/09_large.png", "1.1 megapixels, the limit is 1"),
    )
    assert reports[-1] == Progress(34, 34, "4 rejected")
    metrics = json.loads(json.dumps(report.details(), allow_nan=False))
    assert list(metrics) == [
        *("found", "accepted", "training", "validation", "test", "near_duplicate_groups"),
        *("near_duplicates_dropped", "rejected", "dropped_files", "rejected_files"),
    ]
    assert metrics["rejected_files"][1] == {"name": "mine/07_page.jpg", "reason": "not an image"}


def test_rows_are_the_images_in_order(
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


def test_three_sets_divide_rows_in_order(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    convert(conversion(), raw, tmp_path / "all.npz")
    for name in ("validation", "test"):
        assert len(load_images(tmp_path / f"{name}.npz", may_be_empty=True).names) == 0
    everything = load_images(tmp_path / "all.npz")
    report = convert(
        conversion(validation_fraction=0.2, test_fraction=0.3), raw, tmp_path / "images.npz", 2
    )
    assert (report.accepted, report.training, report.validation, report.test) == (30, 15, 6, 9)
    assert (report.groups, report.largest_group) == (0, 1)
    sets = [load_images(tmp_path / f"{name}.npz") for name in ("images", "validation", "test")]
    rows = {
        name: row for images in sets for name, row in zip(images.names, images.pixels, strict=True)
    }
    assert len(rows) == 30
    for images, count in zip(sets, (15, 6, 9), strict=True):
        assert images.names.tolist() == sorted(images.names.tolist())
        assert len(images.pixels) == count
    for name, row in zip(everything.names, everything.pixels, strict=True):
        assert np.array_equal(rows[name], row)


def test_list_names_every_file_and_the_place_of_every_row(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    convert(conversion(validation_fraction=0.2), raw, tmp_path / "images.npz", 2)
    entries = read_image_list(tmp_path / "images.csv")
    assert len(entries) == 34
    files = {"training": "images", "validation": "validation", "test": "test"}
    sets = {
        name: load_images(tmp_path / f"{file}.npz", may_be_empty=True)
        for name, file in files.items()
    }
    with zipfile.ZipFile(raw / "pictures.zip") as archive:
        for entry in entries:
            if entry.reason:
                assert (entry.name, entry.set, entry.index) == ("", "", -1)
                continue
            data = archive.read(entry.file)
            assert entry.sha256 == hashlib.sha256(data).hexdigest()
            assert (entry.width, entry.height) == Image.open(BytesIO(data)).size
            images = sets[entry.set]
            assert entry.name == entry.file == images.names[entry.index]
            row = resize(np.asarray(Image.open(BytesIO(data))), 16, "crop")
            assert np.array_equal(images.pixels[entry.index], row)
    truncated = next(entry for entry in entries if "05_half" in entry.file)
    assert (truncated.reason, truncated.width, len(truncated.sha256)) == ("truncated", 0, 64)


@pytest.mark.parametrize(("mode", "side"), [("crop", 30), ("stretch", 30), ("pad", 40)])
def test_side_is_that_of_the_part_that_became_the_row(
    conversion: Callable[..., ConvertSettings],
    image_bytes: Callable[..., bytes],
    mode: str,
    side: int,
) -> None:
    file = convert_file(conversion(resize_mode=mode), ("a.png", image_bytes(30, 40)))
    assert [row.side for row in file.rows] == [side]


def test_list_numbers_groups_of_near_duplicates(tmp_path: Path, copies: Callable[..., Any]) -> None:
    faces = [portrait(seed) for seed in range(3)]
    copies([*faces, ImageOps.mirror(faces[1])])
    groups = [entry.group for entry in read_image_list(tmp_path / "images.csv")]
    assert groups[0] == groups[2] == -1
    assert groups[1] == groups[3] >= 0


def portrait(seed: int, side: int = 96) -> Image.Image:
    return Image.fromarray(random_portrait(side, side, np.random.default_rng(seed)))


def test_only_the_largest_near_duplicate_is_used(
    tmp_path: Path, copies: Callable[..., Any]
) -> None:
    small, others = portrait(0), [portrait(seed) for seed in range(1, 10)]
    large = small.resize((200, 200))
    report, warnings = copies([small, large, *others, ImageOps.mirror(small)], duplicates="drop")
    assert warnings == []
    assert (report.found, report.accepted, report.training) == (12, 10, 6)
    assert (report.validation, report.test, report.groups) == (2, 2, 1)
    used = "mine/001.jpg"
    assert report.dropped == (("mine/000.jpg", used), ("mine/011.jpg", used))
    details = report.details()
    assert details["near_duplicates_dropped"] == 2
    assert details["dropped_files"][0] == {"name": "mine/000.jpg", "used": used}
    entries = read_image_list(tmp_path / "images.csv")
    dropped = [entry for entry in entries if entry.set == "dropped"]
    assert [(entry.name, entry.index) for entry in dropped] == [
        ("mine/000.jpg", -1),
        ("mine/011.jpg", -1),
    ]
    assert {entry.group for entry in dropped} == {entries[1].group}
    rows = [
        name
        for file in ("images", "validation", "test")
        for name in load_images(tmp_path / f"{file}.npz").names.tolist()
    ]
    assert sorted(rows) == [entry.name for entry in entries if entry.set != "dropped"]


def used_names(tmp_path: Path) -> list[str]:
    entries = read_image_list(tmp_path / "images.csv")
    return [entry.name for entry in entries if entry.set != "dropped"]


def test_least_compressed_of_equally_large_near_duplicates_is_used(
    tmp_path: Path, copies: Callable[..., Any]
) -> None:
    images = [portrait(seed) for seed in range(6)]
    copies([*images, *images], duplicates="drop", qualities=[60] * 3 + [75] * 3 + [92] * 6)
    assert used_names(tmp_path) == [f"mine/{number:03d}.jpg" for number in range(6, 12)]


def test_hardly_larger_crop_does_not_replace_the_image(
    tmp_path: Path, copies: Callable[..., Any]
) -> None:
    """The parts that became rows have equal sides; the cropped file has more bytes."""
    wide = [ImageOps.expand(portrait(seed), (40, 0), "gray") for seed in range(4)]
    crops = [image.crop((20, 0, image.width - 20, image.height)) for image in wide]
    copies([*crops, *wide], duplicates="drop", qualities=[99] * 4 + [75] * 4)
    assert used_names(tmp_path) == [f"mine/{number:03d}.jpg" for number in range(4, 8)]


def test_side_that_is_a_tenth_smaller_counts_as_equal(
    tmp_path: Path, copies: Callable[..., Any]
) -> None:
    images = [portrait(seed, 100) for seed in range(2)]
    images += [image.resize((95, 120)) for image in images]
    images += [image.resize((80, 200)) for image in images[:2]]
    copies(images, duplicates="drop", resize_mode="stretch")
    assert used_names(tmp_path) == ["mine/002.jpg", "mine/003.jpg"]


def test_content_decides_which_near_duplicate_is_used(
    tmp_path: Path, copies: Callable[..., Any]
) -> None:
    images = [portrait(0), ImageOps.mirror(portrait(0)), *map(portrait, range(1, 6))]
    hashes = set()
    for number, ordered in enumerate((images, images[::-1])):
        copies(ordered, folder=f"order {number}", qualities=[90] * 7, duplicates="drop")
        entries = read_image_list(tmp_path / "images.csv")
        hashes.add(frozenset(entry.sha256 for entry in entries if entry.set == "dropped"))
    assert len(hashes) == 1
    assert len(next(iter(hashes))) == 1


@pytest.fixture
def copies(
    tmp_path: Path, source: Callable[..., DownloadSettings], conversion: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a function that converts JPEGs, 20 % for validation and 20 % for testing."""

    def make(
        images: list[Image.Image],
        folder: str = "copies",
        qualities: Sequence[int] = (),
        **values: Any,
    ) -> Any:
        files = tmp_path / folder
        files.mkdir()
        for number, image in enumerate(images):
            quality = qualities[number] if qualities else 75 + number % 20
            image.save(files / f"{number:03d}.jpg", quality=quality)
        download(source("folder", mine=str(files)), tmp_path / "raw", tmp_path / "s")
        fractions = {"validation_fraction": 0.2, "test_fraction": 0.2}
        settings = conversion(image_size=64, **fractions, **values)
        report = convert(settings, tmp_path / "raw", tmp_path / "images.npz")
        return report, report.warnings(settings)

    return make


def test_near_duplicates_are_in_one_set(tmp_path: Path, copies: Callable[..., Any]) -> None:
    faces = [random_portrait(96, 96, np.random.default_rng(seed)) for seed in range(20)]
    images = [Image.fromarray(face) for face in faces]
    images += [ImageOps.mirror(image) for image in images[:10]]
    images += [image.resize((70, 70)) for image in images[10:20]]
    report, warnings = copies(images)
    assert (report.training, report.validation, report.test) == (24, 8, 8)
    assert (report.groups, warnings) == (20, [])
    for name in ("images", "validation", "test"):
        numbers = [int(path[-7:-4]) for path in load_images(tmp_path / f"{name}.npz").names]
        assert {number + 20 for number in numbers if number < 20} == {n for n in numbers if n >= 20}


def test_copies_of_one_image_are_all_for_training(
    copies: Callable[..., Any],
) -> None:
    face = Image.fromarray(random_portrait(96, 96, np.random.default_rng(1)))
    report, warnings = copies([face] * 30)
    assert (report.training, report.validation, report.test, report.groups) == (30, 0, 0, 1)
    assert warnings == [
        "the validation set has 0 of 6 images and the test set has 0 of 6 images, because 30 of"
        " the 30 images are near-duplicates of one another and stay in one set; add different"
        " images."
    ]


def test_bytes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    digests = set()
    for workers in (1, 2, 7):
        convert(conversion(color="grey"), raw, tmp_path / "images.npz", workers)
        digests.add(file_digest(tmp_path / "images.npz"))
    assert len(digests) == 1


def test_numpy_reads_the_file_without_pickle(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    convert(conversion(), raw, tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"arr_0", "names"}
        assert arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_0"], load_images(tmp_path / "images.npz").pixels)


def test_no_readable_image_is_an_error_with_reasons(
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
) -> None:
    (tmp_path / "f").mkdir()
    for i in range(3):
        (tmp_path / "f" / f"{i}.txt").write_text("words")
    download(source("folder", mine=str(tmp_path / "f")), tmp_path / "raw", tmp_path / "s")
    with pytest.raises(AtelierError, match=r"none of the 3 files found .* not an image \(3\)"):
        convert(conversion(), tmp_path / "raw", tmp_path / "images.npz")
    assert not (tmp_path / "images.npz").exists()


def test_full_disk_keeps_the_previous_files(
    tmp_path: Path, raw: Path, conversion: Callable[..., ConvertSettings]
) -> None:
    for name in ("images.npz", "validation.npz", "test.npz"):
        (tmp_path / name).write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(AtelierError, match="no room to write"):
            convert(conversion(), raw, tmp_path / "images.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for name in ("images.npz", "validation.npz", "test.npz"):
        assert (tmp_path / name).read_bytes() == b"before"
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_crop_resizes_the_center_square() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    middle = Image.fromarray(np.ascontiguousarray(pixels[:, 10:40]))
    assert np.array_equal(
        resize(pixels, 16, "crop"), np.asarray(middle.resize((16, 16), Image.Resampling.BICUBIC))
    )


def test_pad_keeps_the_whole_image_on_black() -> None:
    padded = resize(np.full((20, 10, 3), 200, np.uint8), 8, "pad")
    assert (padded[:, 2:6] == 200).all()
    assert (padded[:, :2] == 0).all()
    assert (padded[:, 6:] == 0).all()


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(["crop", "stretch", "pad"]))
def test_any_shape_becomes_a_square_of_the_same_color(width: int, height: int, mode: Any) -> None:
    flat = np.full((height, width, 3), (10, 120, 250), np.uint8)
    row = resize(flat, 9, mode)
    assert row.shape == (9, 9, 3)
    assert (row[4, 4] == (10, 120, 250)).all()
    if mode != "pad":
        assert (row == row[4, 4]).all()


@pytest.mark.parametrize("mode", ["crop", "stretch", "pad"])
def test_very_narrow_image_is_resized(mode: Any) -> None:
    assert resize(np.full((1, 5000), 7, np.uint8), 16, mode).max() == 7


@pytest.mark.shared
def test_real_faces_are_converted(
    tmp_path: Path,
    shared: Path,
    source: Callable[..., DownloadSettings],
    conversion: Callable[..., ConvertSettings],
) -> None:
    faces = shared / "celeba" / "img_align_celeba.zip"
    settings = source("archive", location=str(faces), sha256=file_digest(faces))
    download(settings, tmp_path / "raw", tmp_path / "s")
    report = convert(conversion(image_size=16), tmp_path / "raw", tmp_path / "images.npz", 2)
    assert (report.found, report.accepted) == (8000, 8000)
    mean = load_images(tmp_path / "images.npz").pixels.mean(axis=(0, 1, 2))
    # Faces are bright, and skin is more red than blue.
    assert 80 < mean[2] < mean[1] < mean[0] < 180


def test_small_set_gives_a_warning_with_the_exact_count() -> None:
    """0.29 of 100 images is 29, although the float is smaller; 14 is less than half of 29."""
    settings = ConvertSettings(
        image_size=16,
        color="rgb",
        resize_mode="crop",
        max_megapixels=1,
        validation_fraction=0.29,
        test_fraction=0.0,
    )
    conversion = ConversionReport(
        found=100, accepted=100, training=86, validation=14, test=0,
        groups=1, largest_group=40, rejected=(),
    )  # fmt: skip
    (warning,) = conversion.warnings(settings)
    assert warning.startswith("the validation set has 14 of 29 images, because 40 of the 100")
