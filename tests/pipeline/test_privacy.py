"""Photographs of a folder, their names and their EXIF in files that are meant for sharing."""

import base64
import io
import json
import re
import runpy
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from atelier.tracking.run import Run
from atelier.tracking.run_state import ResumeDir

from ..support import journals
from ..support.project import TRACKED, Project, clone

PLACE, NAME = b"48N51-secret-place", "zanzibar"
MAGENTA, GREEN = (255, 0, 255), (0, 255, 0)
STAGES = ("download", "convert", "data_report", "train", "evaluate", "render", "report")
SHARED = ("report.html", "renders", "plots", "styled", "metrics", ".atelier/journal", "mlruns")
SETTINGS = {
    "download.source": "folder",
    "convert.image_size": 16,
    "convert.duplicates": "drop",
    "train.augment": ["translation"],
    "train.discriminator_norm": False,
    "stylize.styles": ["wave"],
}


def write_photos(folder: Path) -> None:
    """Write patterns of magenta and green with a place in their EXIF, a copy, a damaged file."""
    folder.mkdir()
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.9), 27: b"ASCII\0\0\0" + PLACE})
    exif[0x010E] = PLACE.decode()
    rng = np.random.default_rng(1)
    for number in range(40):
        cells = rng.integers(0, 2, (4, 4)).repeat(16, axis=0).repeat(16, axis=1)
        pixels = np.array([MAGENTA, GREEN], np.uint8)[cells]
        file = folder / f"{NAME}_{number:02d}.jpg"
        Image.fromarray(pixels).save(file, exif=exif, quality=95, subsampling=0)
    assert PLACE in file.read_bytes()
    Image.open(file).resize((32, 32)).save(folder / f"{NAME}_copy.png")
    (folder / f"{NAME}_half.jpg").write_bytes(file.read_bytes()[:600])
    (folder / f".{NAME}").write_bytes(b"")


def project_of(folder: Path, **changes: Any) -> Project:
    write_photos(folder / "photos")
    folders = {"download.folders": {"photos": str(folder / "photos")}}
    return clone(folder / "project", **SETTINGS | folders | changes)


def run_main(project: Project, *stages: str) -> None:
    """Run stages in this process; they log to an outbox that no worker delivers."""
    settings = project.settings()
    for name in stages:
        script = runpy.run_path(str(project.folder / "stages" / f"{name}.py"))
        private = project.folder / ".atelier"
        run = Run(journals.start(project.folder, name), ResumeDir(private, name, None, "cpu", None))
        try:
            with chdir(project.folder):
                script["main"](settings, run)
        finally:
            run.end("FINISHED")


def has_pattern(image: Image.Image) -> bool:
    """Return whether a frame of an image has pixels of both colors of the photographs."""
    for frame in ImageSequence.Iterator(image):
        pixels = np.asarray(frame.convert("RGB")).astype(int)
        near = [(np.abs(pixels - color).max(axis=2) < 70).sum() for color in (MAGENTA, GREEN)]
        if min(near) > 8:
            return True
    return False


def embedded_images(file: Path) -> Iterator[Image.Image]:
    """Yield the image in a file, or all images in the data URIs of a page."""
    content = file.read_bytes()
    if file.suffix in (".png", ".gif", ".jpg", ".webp"):
        yield Image.open(io.BytesIO(content))
    for data in re.findall(rb"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)", content):
        yield Image.open(io.BytesIO(base64.b64decode(data)))


def leaks(project: Project) -> dict[str, set[str]]:
    """Return what each shared file has of the photographs, by the file's relative path."""
    found = {}
    for path in project.bytes(*SHARED):
        file = project.folder / path
        content, kinds = file.read_bytes(), set()
        images = list(embedded_images(file))
        if any(map(has_pattern, images)):
            kinds.add("pattern")
        if PLACE in content or any(len(image.getexif()) for image in images):
            kinds.add("place")
        if NAME.encode() in content and "metrics/details" not in path:
            kinds.add("name")
        if kinds:
            found[re.sub(r"\.atelier/journal/.*/", "journal/", path)] = kinds
    return found


def write_styled(project: Project) -> None:
    """Write a folder of stylized images, so that no style is transferred."""
    (project.folder / "styled/sources").mkdir(parents=True)
    (project.folder / "styled/sources/list.json").write_text("[]")


def test_private_photographs_reach_no_shared_file(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    project.stage("watch", DVC_STAGE="watch@photos")
    write_styled(project)
    run_main(project, *STAGES)
    assert leaks(project) == {}
    page = (project.folder / "report.html").read_text("utf-8")
    assert page.count("Real images are not shown here: convert.share_images") == 2
    journal = project.folder / ".atelier/journal"
    logged = {file.name: file for file in journal.rglob("*.json")}
    converted = json.loads(logged["convert.json"].read_text("utf-8"))
    assert (converted["near_duplicates_dropped"], converted["dropped_files"]) == (1, [])
    assert converted["rejected_files"] == [
        {"reason": "a hidden file", "files": 1},
        {"reason": "truncated", "files": 1},
    ]
    assert json.loads(logged["manifest.json"].read_text("utf-8"))["skipped"] == [
        {"reason": "a hidden file", "files": 1}
    ]
    assert f"{NAME}_half.jpg" in (project.folder / "data/report.html").read_text("utf-8")

    project.set(**{"convert.share_images": "all"})
    run_main(project, *STAGES)
    found = leaks(project)
    pattern = {file for file, kinds in found.items() if "pattern" in kinds}
    assert pattern == {
        "journal/images~augmented-00000000.png",
        "journal/images~real-00000000.png",
        "journal/augmented.png",
        "journal/nearest.png",
        "journal/real_and_generated.png",
        "journal/report.html",
        "plots/nearest.png",
        "renders/augmented.png",
        "renders/real_and_generated.png",
        "report.html",
    }
    assert all("place" not in kinds for kinds in found.values())


@pytest.mark.slow
def test_private_photographs_do_not_reach_mlflow(tmp_path: Path) -> None:
    project = project_of(tmp_path, **TRACKED)
    project.repro()
    project.delivered()
    assert list((project.folder / "mlruns").rglob("report.html"))
    assert list((project.folder / "mlruns").rglob("real_and_generated.png"))
    assert leaks(project) == {}
    assert NAME.encode() not in (project.folder / "mlflow.db").read_bytes()
    project.set(**{"convert.share_images": "all"})
    assert "train" not in project.repro(), "the setting changes no training"
    project.delivered()
    assert any("mlruns" in file for file in leaks(project))


@pytest.mark.slow
def test_stylized_photograph_has_no_exif(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    photo = next((tmp_path / "photos").glob(f"{NAME}_*.jpg"))
    (project.folder / "data/pictures/own.jpg").write_bytes(photo.read_bytes())
    project.set(**{"stylize.contents": ["own.jpg"]})
    quick = ("--size", "32", "--iterations", "3", "--params")
    project.atelier(
        "stylize", str(photo), "--style", "wave", "--out", str(tmp_path / "out"), *quick
    )
    run_main(project, "stylize")
    files = [project.folder / path for path in project.bytes("styled", ".atelier/journal")]
    files += [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert any(file.parent.name == "out" for file in files)
    assert any(file.name == "own-wave.png" for file in files)
    for file in files:
        assert PLACE not in file.read_bytes()
        assert not any(len(image.getexif()) for image in embedded_images(file))
