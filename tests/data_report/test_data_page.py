"""Report on the data of a folder with known problems."""

import base64
import hashlib
import io
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from atelier.core.settings import Settings, check
from atelier.core.yaml_files import read_yaml
from atelier.data.convert import convert
from atelier.data.dataset import load_images
from atelier.data.image_difference import image_difference
from atelier.data.image_list import ImageEntry, read_image_list
from atelier.data.manifest import Manifest, raw_file
from atelier.data.raw import RawImages, open_raw
from atelier.data.sources.download import download
from atelier.data_report.build import MAX_CHARACTERS, NOTICE, build_page
from atelier.data_report.findings import DataSet, Findings, examine, spread
from atelier.data_report.page import Page, Section, write_page
from atelier.data_report.raw_thumbnails import read_thumbnails
from atelier.data_report.verdict import FEW, verdict
from atelier.sample_faces.portrait import random_portrait

from ..conftest import BuildOnce
from ..support.arrays import random_images
from ..support.drawn_group import drawn_group
from ..support.image_files import saved

HOSTILE = "<b>&amp;\"'.png"


def write_photos(folder: Path) -> None:
    """Write 24 faces in two folders, one image with each problem, and unreadable files."""
    for kind in ("family", "holiday"):
        (folder / kind).mkdir(parents=True)
    faces = [
        Image.fromarray(random_portrait(72, 72, np.random.default_rng(seed))) for seed in range(30)
    ]
    for number, face in enumerate(faces[:24]):
        face.save(folder / ("family" if number % 3 else "holiday") / f"{number:02d}.png")
    family = folder / "family"
    faces[24].filter(ImageFilter.GaussianBlur(6)).save(family / "blurred.png")
    ImageEnhance.Brightness(faces[25]).enhance(0.22).save(family / "dark.png")
    faces[26].point([215 + value // 7 for value in range(256)] * 3).save(family / "bright.png")
    Image.new("RGB", (60, 60), "gray").save(family / "flat.png")
    faces[27].resize((20, 24)).save(family / "tiny.png")
    ImageOps.mirror(faces[1]).save(family / "mirrored.jpg", quality=85)
    faces[28].save(family / HOSTILE)
    (folder / "notes.txt").write_text("a text")
    (folder / "half.png").write_bytes(saved(faces[0])[:900])
    for side in (1001, 1200):
        Image.new("RGB", (side, side)).save(folder / f"huge_{side}.png")
    (folder / ".hidden").write_text("")


Report = tuple[Settings, DataSet, Path]


@pytest.fixture(scope="module")
def photos(build_once: BuildOnce) -> Path:
    return build_once("photos", write_photos)


@pytest.fixture(scope="module")
def make_data(
    photos: Path, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Report]:
    """Return a function that converts the photographs; arguments change its settings."""

    @cache
    def make(color: str = "rgb", image_size: int = 32) -> Report:
        folder = tmp_path_factory.mktemp("data")
        values = read_yaml(root / "params.yaml")
        values["download"] |= {"source": "folder", "folders": {"mine": str(photos)}}
        conversion = {"image_size": image_size, "color": color, "max_megapixels": 1}
        values["convert"] |= conversion
        settings = check(values, "params.yaml")
        download(settings.download, folder / "raw", folder / "cache")
        convert(settings.convert, folder / "raw", folder / "images.npz", workers=1)
        files = {"training": "images", "validation": "validation", "test": "test"}
        pixels = {
            name: load_images(folder / f"{file}.npz", may_be_empty=True).pixels
            for name, file in files.items()
        }
        data = DataSet(read_image_list(folder / "images.csv"), pixels)
        return settings, data, folder / "raw"

    return make


def names(measured: list[tuple[ImageEntry, float]]) -> list[str]:
    return [entry.name.rpartition("/")[2] for entry, _ in measured]


def section(page: Page, name: str) -> Section:
    return next(each for each in page.sections if each.id == name)


def mean_colors(images: np.ndarray) -> np.ndarray:
    """Return features of images for tests: their mean color."""
    return images.mean(axis=(1, 2), dtype=np.float32)


def test_findings_are_the_known_problems(make_data: Callable[..., Report]) -> None:
    _, data, _ = make_data()
    findings = examine(data, 1000, mean_colors)
    assert (findings.found, findings.used, findings.rows) == (36, 31, 31)
    assert names(findings.blurred) == ["blurred.png"]
    assert names(findings.dark) == ["dark.png"]
    assert names(findings.bright) == ["bright.png"]
    assert names(findings.flat) == ["flat.png"]
    assert [(entry.file, size) for entry, size in findings.enlarged] == [
        ("mine/family/tiny.png", 20.0)
    ]
    (group,) = findings.groups
    assert {entry.name for entry in group} == {"mine/family/01.png", "mine/family/mirrored.jpg"}
    assert {reason: len(files) for reason, files in findings.rejected.items()} == {
        "not an image": 1,
        "truncated": 1,
        "a hidden file": 1,
        "1.0 megapixels, the limit is 1": 1,
        "1.4 megapixels, the limit is 1": 1,
    }
    assert findings.classes == {"family": 23, "holiday": 8}
    assert sum(findings.sets.values()) == 31
    rows = np.concatenate(list(data.pixels.values()))
    assert np.abs(findings.average - rows.mean(axis=0)).max() <= 0.5
    assert (findings.searched, len(findings.outliers)) == (31, 31)
    assert findings.counts()["outliers"] == len(findings.far)
    assert all(isinstance(count, int) for count in findings.counts().values())


def test_rows_made_from_fewer_pixels_are_enlarged(make_data: Callable[..., Report]) -> None:
    _, data, _ = make_data()
    sides = [31, 32, 9, 500]
    entries = [replace(data.rows[n], side=side) for n, side in enumerate(sides)]
    findings = examine(DataSet(entries, data.pixels))
    assert findings.enlarged == [(entries[2], 9.0), (entries[0], 31.0)]


@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_page_shows_all_problems_with_images(
    make_data: Callable[..., Report], tmp_path: Path, color: str
) -> None:
    settings, data, raw = make_data(color=color, image_size=16 if color == "grey" else 32)
    findings = examine(data, 1000, mean_colors)
    page = build_page(settings, data, findings, open_raw(raw))
    write_page(tmp_path / "report.html", page)
    html = (tmp_path / "report.html").read_text("utf-8")
    assert page.title == "Folder mine: the images"
    assert page.notice == NOTICE
    assert NOTICE in html
    assert page.verdict.headline == "31 of 36 files are used"
    named = {remark.name: remark for remark in page.verdict.remarks}
    assert named["Rejected"].text.startswith("5 files. Read the reasons")
    assert named["Near-duplicates"].text.startswith("1 image in 1 group repeats another one.")
    assert named["Dark, bright, empty"].text == "1 dark, 1 bright, 1 empty. Remove them."
    ids = set(re.findall(r'<section id="([^"]+)"', html))
    assert {remark.section for remark in named.values() if remark.section} <= ids
    (blurred,) = section(page, "blurred").galleries
    assert blurred.thumbnails[0].short_name == "blurred.png"
    image = blurred.thumbnails[0].image
    assert image is not None
    row = data.row(findings.blurred[0][0])
    assert np.array_equal(decoded(image.uri), np.broadcast_to(row, (*row.shape[:2], 3)))
    too_large = section(page, "rejected").galleries
    totals = {gallery.title: gallery.total for gallery in too_large}
    assert totals["larger than 1 megapixels"] == 2
    assert [bar.count for bar in page.sizes] == [1, 1, 29]
    assert page.sizes[0].label == "16 to 31"


def decoded(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_names_are_escaped_and_the_page_makes_no_request(
    make_data: Callable[..., Report], tmp_path: Path
) -> None:
    settings, data, raw = make_data()
    hostile = [entry for entry in data.rows if entry.file.endswith(HOSTILE)]
    findings = replace(examine(data), blurred=[(hostile[0], 0.01)])
    write_page(tmp_path / "report.html", build_page(settings, data, findings, open_raw(raw)))
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "<b>" not in html
    assert "&lt;b&gt;&amp;amp;" in html
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html
    assert set(re.findall(r'(?:src|href)="([^":]*):', html)) == {"data"}


def test_public_images_need_no_notice(
    make_data: Callable[..., Report], make_settings: Callable[..., Settings]
) -> None:
    _, data, raw = make_data()
    page = build_page(make_settings(), data, examine(data), open_raw(raw))
    assert page.notice == ""
    assert page.title == "Sample data: the images"
    assert not any(each.id == "outliers" for each in page.sections), "they were not searched"


def synthetic(count: int, side: int = 16) -> DataSet:
    """Return random images that are all near-duplicates in groups of five."""
    entries = [
        ImageEntry(
            file=f"{number}.png",
            sha256=f"{number:064x}",
            width=64,
            height=48,
            name=f"{number}.png",
            set="training",
            index=number % 300,
            group=number // 5,
        )
        for number in range(count)
    ]
    empty = np.zeros((0, side, side, 3), np.uint8)
    return DataSet(entries, {"training": random_images(300, side, 3), "test": empty})


@pytest.mark.parametrize("side", [16, pytest.param(128, marks=pytest.mark.slow)])
def test_large_data_is_sampled_and_the_page_stays_small(
    make_data: Callable[..., Report],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    side: int,
) -> None:
    monkeypatch.setattr("atelier.data_report.findings.MAX_MEASURED", 200)
    settings, _, raw = make_data()
    data = synthetic(5000, side)
    findings = examine(data, 50, mean_colors)
    assert (findings.measured, findings.searched) == (200, 50)
    findings = replace(findings, dark=findings.outliers * 2, bright=findings.outliers * 2)
    page = build_page(settings, data, findings, open_raw(raw))
    assert page.sampled == (
        "Of 5,000 images, evenly spread ones were examined: sharpness, brightness and the average"
        " of 200, outliers among 50."
    )
    near = section(page, "near-duplicates")
    assert (len(near.galleries), near.omitted) == (24, "Not shown: 976 smaller groups.")
    uris = sum(
        len(each.image.uri)
        for every in page.sections
        for gallery in every.galleries
        for each in gallery.thumbnails
        if each.image
    )
    assert uris <= MAX_CHARACTERS
    write_page(tmp_path / "report.html", page)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_five_images_have_a_report(make_data: Callable[..., Report], tmp_path: Path) -> None:
    settings, _, raw = make_data()
    data = synthetic(5)
    findings = examine(data, 1000, mean_colors)
    assert findings.far == []
    write_page(tmp_path / "report.html", build_page(settings, data, findings, open_raw(raw)))
    remarks = {remark.name: remark.text for remark in verdict(findings, 16).remarks}
    assert remarks["Number"] == "5 images. Add more, if you can."


def test_data_without_problems_is_good() -> None:
    data = synthetic(FEW)
    entries = [replace(entry, group=-1) for entry in data.entries]
    found = verdict(examine(DataSet(entries, data.pixels)), 16)
    assert (found.level, found.headline) == ("good", f"All {FEW} files are used")
    assert [(remark.name, remark.text) for remark in found.remarks] == [
        ("Problems", "None was found.")
    ]


def test_level_follows_the_largest_share_of_problems() -> None:
    data = synthetic(FEW)
    entries = [replace(entry, group=-1) for entry in data.entries]
    good = examine(DataSet(entries, data.pixels))

    def level(findings: Findings) -> str:
        return verdict(findings, 16).level

    some = [(entry, 1.0) for entry in entries]
    assert level(replace(good, blurred=some[:2])) == "good"
    assert level(replace(good, blurred=some[:3])) == "fair"
    assert level(replace(good, blurred=some[:3], dark=some[:3])) == "fair"
    assert level(replace(good, dark=some[:51])) == "poor"
    assert level(replace(good, used=40)) == "poor"
    assert level(replace(good, rows=99)) == "fair"


def test_page_of_faces_has_the_advice_on_faces(
    make_data: Callable[..., Report], make_settings: Callable[..., Settings]
) -> None:
    _, data, raw = make_data()
    settings = make_settings(convert={"faces": "crop"})
    page = build_page(settings, data, examine(data), open_raw(raw))
    assert page.verdict.headline == "31 of 36 files are used, with 31 faces"
    assert section(page, "blurred").title == "Blurred faces"
    assert page.average.alt == "Average of all faces"
    assert page.nouns == "faces"
    assert sum(bar.count for bar in page.face_sizes) == 31


def test_examples_are_from_the_smallest_to_the_largest(
    make_data: Callable[..., Report],
) -> None:
    settings, _, raw = make_data()
    data = synthetic(95)
    sides = [40 + (7 * number) % 95 for number in range(95)]  # each from 40 to 134 once
    rows = [replace(e, side=side) for e, side in zip(data.entries, sides, strict=True)]
    page = build_page(
        settings, DataSet(rows, data.pixels), examine(DataSet(rows, data.pixels)), raw
    )
    (gallery,) = section(page, "examples").galleries
    assert gallery.total == 95
    assert [each.note for each in gallery.thumbnails] == [f"{s} pixels" for s in range(40, 136, 2)]
    assert all(each.image for each in gallery.thumbnails)
    assert page.face_sizes == []


def test_several_rows_of_a_file_are_one_file() -> None:
    data = synthetic(20)
    entries = [
        replace(entry, file=f"{index // 4}.jpg", sha256="a")
        for index, entry in enumerate(data.entries)
    ]
    findings = examine(DataSet(entries, data.pixels))
    assert (findings.found, findings.used, findings.rows) == (5, 5, 20)
    assert verdict(findings, 16).headline == "All 5 files are used, with 20 images"


def test_decodable_rejected_files_have_thumbnails(make_data: Callable[..., Report]) -> None:
    settings, data, raw = make_data()
    rejected = [
        replace(entry, reason="an image without a face", name="", set="", index=-1)
        for entry in data.rows[:14]
    ]
    data = DataSet([*rejected, *data.entries[14:]], data.pixels)
    page = build_page(settings, data, examine(data), open_raw(raw))
    gallery = section(page, "rejected").galleries[0]
    assert (gallery.title, gallery.total) == ("an image without a face", 14)
    assert len(gallery.thumbnails) == 12
    assert all(each.image for each in gallery.thumbnails)


def test_dropped_near_duplicates_are_not_used(make_data: Callable[..., Report]) -> None:
    settings, data, raw = make_data()
    copied = [entry for entry in data.entries if entry.group >= 0]
    dropped = replace(copied[1], set="dropped", index=-1)  # type: ignore[arg-type]
    entries = [dropped if entry == copied[1] else entry for entry in data.entries]
    data = DataSet(entries, data.pixels)
    findings = examine(data)
    assert (findings.found, findings.used, findings.rows, findings.copies) == (36, 30, 30, 0)
    remarks = {remark.name: remark.text for remark in verdict(findings, 32).remarks}
    assert "Near-duplicates" not in remarks
    assert remarks["Dropped"].startswith("1 near-duplicate, because another image")
    page = build_page(settings, data, findings, open_raw(raw))
    (group,) = section(page, "near-duplicates").galleries
    assert {each.note for each in group.thumbnails} == {copied[0].set, "dropped"}
    assert all(each.image for each in group.thumbnails), "one comes from the raw file"


def test_dropped_faces_are_shown_as_faces(
    tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    """A thumbnail of the whole photograph would not show which of its faces was dropped."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    photograph = drawn_group((500, 320), [(10, 20, 150), (290, 60, 190)])
    photograph.save(folder / "a.png")
    ImageOps.mirror(photograph).resize((350, 224)).save(folder / "b.png")
    settings = make_settings(
        convert={"faces": "align", "duplicates": "drop", "color": "grey"},
        download={"source": "folder", "folders": {"mine": str(folder)}},
    )
    download(settings.download, tmp_path / "raw", tmp_path / "cache")
    convert(settings.convert, tmp_path / "raw", tmp_path / "images.npz", workers=1)
    pixels = {"training": load_images(tmp_path / "images.npz").pixels}
    data = DataSet(read_image_list(tmp_path / "images.csv"), pixels)
    page = build_page(settings, data, examine(data), open_raw(tmp_path / "raw"))
    groups = section(page, "near-duplicates").galleries
    shown = {each.name: each for group in groups for each in group.thumbnails}
    assert {name: each.note for name, each in shown.items()} == {
        "mine/a.png#1": "training",
        "mine/a.png#2": "training",
        "mine/b.png#1": "dropped",
        "mine/b.png#2": "dropped",
    }
    faces = {name: decoded(each.image.uri) for name, each in shown.items() if each.image}
    for number in (1, 2):
        used, dropped = faces[f"mine/a.png#{number}"], faces[f"mine/b.png#{number}"]
        other = faces[f"mine/a.png#{3 - number}"]
        difference, usual = image_difference(used, dropped[:, ::-1]), image_difference(used, other)
        assert difference < usual / 2


def test_spread_entries_include_both_ends() -> None:
    entries = synthetic(10).rows
    assert [entry.file for entry in spread(entries, 3)] == ["0.png", "4.png", "9.png"]
    assert spread(entries, 20) == entries
    assert spread(entries, 0) == spread([], 5) == []


def test_thumbnails_of_raw_files_are_small(make_data: Callable[..., Report], photos: Path) -> None:
    _, data, raw = make_data()
    names = ("family/01.png", "notes.txt", "half.png", "huge_1200.png")
    entries = {each.file: each for each in data.entries if each.file.endswith(names)}
    photo = entries["mine/family/01.png"]
    found = read_thumbnails(open_raw(raw), entries.values(), 1)
    assert (len(entries), list(found)) == (4, [photo.sha256])
    with Image.open(photos / "family/01.png") as image:
        assert np.array_equal(found[photo.sha256], np.asarray(image))
    (large,) = read_thumbnails(open_raw(raw), [entries["mine/huge_1200.png"]], 2).values()
    assert large.shape == (96, 96, 3)


def test_thumbnails_of_files_with_one_name_are_their_own(
    tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    colors = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
    contents = {name: saved(Image.new("RGB", (20, 20), color)) for name, color in colors.items()}
    with tarfile.open(tmp_path / "pictures.tar", "w") as archive:
        for content in contents.values():
            member = tarfile.TarInfo("x/a.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    raw = RawImages(tmp_path, Manifest("archive", "tar", (raw_file(tmp_path / "pictures.tar"),)))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    used = ImageEntry("x/a.png", hashes["red"], 20, 20, "", "x/a.png", "training", 0, group=0)
    dropped = replace(used, sha256=hashes["blue"], set="dropped", index=-1)
    (thumbnail,) = read_thumbnails(raw, [dropped], 1).values()
    assert thumbnail.mean((0, 1)).tolist() == list(colors["blue"])
    data = DataSet([used, dropped], {"training": np.full((1, 16, 16, 3), 250, np.uint8)})
    page = build_page(make_settings(), data, examine(data), raw)
    (group,) = section(page, "near-duplicates").galleries
    (_, image) = [each.image for each in group.thumbnails]
    assert image is not None
    assert decoded(image.uri).mean((0, 1)).tolist() == list(colors["blue"])
