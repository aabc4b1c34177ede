"""``atelier data-diff`` in a repository with two committed versions of the data."""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image

from atelier.cli.data_diff_page import Version, write_data_diff
from atelier.core.errors import AtelierError
from atelier.core.settings import Settings
from atelier.data.convert import convert
from atelier.data.dataset import save_images
from atelier.data.image_changes import compare_image_lists
from atelier.data.image_list import ImageEntry, read_image_list, write_image_list
from atelier.data.rows import resize
from atelier.data.sources.download import download
from atelier.sample_faces.portrait import random_portrait
from atelier.tracking.recorded_outputs import RecordedOutputs, recorded_outputs

from ..conftest import BuildOnce
from ..support.arrays import random_images
from ..support.project import AUTHOR
from .conftest import CommandRunner

PIPELINE = """
stages:
  convert:
    cmd: convert
    outs: [data/images.csv, data/images.npz, data/test.npz, data/validation.npz]
"""
SPECIAL_NAME = "mine/<b>e&é.png"


def face(seed: int) -> Image.Image:
    return Image.fromarray(random_portrait(40, 48, np.random.default_rng(seed)))


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *AUTHOR, *arguments], cwd=folder, check=True, capture_output=True)


def commit_version(folder: Path, settings: Settings, tag: str) -> None:
    """Convert the images of ``mine`` and commit the outputs to DVC and git."""
    scratch = folder.parent / "scratch"
    download(settings.download, scratch / "raw", scratch)
    convert(settings.convert, scratch / "raw", folder / "data/images.npz", 1)
    if tag:
        with Repo(str(folder)) as repo:
            repo.commit(force=True)
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", tag)
        git(folder, "tag", tag)


@pytest.fixture
def project(
    build_once: BuildOnce,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Repository with the tags ``empty``, ``v1`` and ``v2``, and other data in its workspace."""

    def fill(top: Path) -> None:
        folder, mine = top / "project", top / "mine"
        settings = make_settings(
            download={"source": "folder", "folders": {"mine": str(mine)}},
            convert={"image_size": 16, "validation_fraction": 0.2, "test_fraction": 0.2},
        )
        mine.mkdir()
        (folder / "data").mkdir(parents=True)
        git(folder, "init", "-q")
        Repo.init(str(folder)).close()
        (folder / "params.yaml").touch()
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / "data/.gitignore").write_text("*.npz\n*.csv\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "empty")
        git(folder, "tag", "empty")
        for number, name in enumerate("abcdef"):
            face(number).save(mine / f"{name}.png")
        (mine / "bad.jpg").write_bytes(b"not an image")
        commit_version(folder, settings, "v1")
        (mine / "a.png").unlink()
        face(10).resize((80, 96)).save(mine / "b.png")
        (mine / "c.png").rename(mine / "moved.png")
        face(11).save(mine / Path(SPECIAL_NAME).name)
        (mine / "new.jpg").write_bytes(b"not an image either")
        commit_version(folder, settings, "v2")
        (mine / "d.png").unlink()
        commit_version(folder, settings, "")

    monkeypatch.chdir(tmp_path)
    shutil.copytree(build_once("data versions", fill) / "project", tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_changes_between_two_commits_are_listed(project: Path, atelier: CommandRunner) -> None:
    assert atelier("data-diff v1 v2") == (
        "7 files in v1, 8 in v2: 2 added, 1 removed, 1 changed, 1 renamed, 4 unchanged\n"
        "\n"
        "added:\n"
        f"  {SPECIAL_NAME} (40x48)\n"
        "  mine/new.jpg (rejected: not an image)\n"
        "\n"
        "removed:\n"
        "  mine/a.png (40x48)\n"
        "\n"
        "changed:\n"
        "  mine/b.png (80x96), before: 40x48\n"
        "\n"
        "renamed:\n"
        "  mine/c.png -> mine/moved.png (40x48)\n"
    )
    assert atelier("data-diff v2 v2") == (
        "8 files in v2, 8 in v2: 0 added, 0 removed, 0 changed, 0 renamed, 8 unchanged\n"
    )


def test_a_commit_is_compared_with_the_workspace(project: Path, atelier: CommandRunner) -> None:
    values = json.loads(atelier("data-diff HEAD --json"))
    assert (values["before"], values["after"]) == ("HEAD", "the workspace")
    counts = {"added": 0, "removed": 1, "changed": 0, "renamed": 0, "unchanged": 7}
    assert values["counts"] == counts
    [removed] = values["removed"]
    stream = io.BytesIO()
    face(3).save(stream, "PNG")
    assert removed["file"] == "mine/d.png"
    assert removed["sha256"] == hashlib.sha256(stream.getvalue()).hexdigest()
    assert (removed["width"], removed["height"], len(removed["rows"])) == (40, 48, 1)


def test_page_shows_the_thumbnails_of_both_versions(project: Path, atelier: CommandRunner) -> None:
    assert atelier("data-diff v1 v2 --html page.html").endswith("page.html shows them.\n")
    page = (project / "page.html").read_text("utf-8")
    assert "<b>e" not in page
    assert "mine/<wbr>&lt;b&gt;e&amp;é.png" in page
    assert "mine/<wbr>c.png →<br>mine/<wbr>moved.png" in page
    assert "rejected: not an image" in page
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    images = re.findall(r'<img src="data:image/webp;base64,([^"]+)" [^>]*alt="([^"]+)"', page)
    expected = [
        ("mine/&lt;b&gt;e&amp;é.png", face(11)),
        ("mine/a.png", face(0)),
        ("mine/b.png", face(1)),
        ("mine/b.png", face(10).resize((80, 96))),
        ("mine/moved.png", face(2)),
    ]
    assert [name for _, name in images] == [name for name, _ in expected]
    for (data, _), (_, original) in zip(images, expected, strict=True):
        thumbnail = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), np.float64)
        assert np.abs(thumbnail - resize(original, 16, "crop")).mean() < 12
    message = atelier("data-diff v1 v2 --html page.html", code=1)
    assert "page.html is there already" in message


def test_page_counts_the_faces_that_it_does_not_show(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    pixels = random_images(6, 16, 3)
    save_images(path, [pixels.tobytes()], pixels.shape, [f"a.jpg#{n}" for n in range(1, 7)])
    faces = [
        ImageEntry("a.jpg", "1", 64, 64, "", f"a.jpg#{n + 1}", "training", n) for n in range(6)
    ]
    versions = [Version("v1", lambda _: path, True), Version("v2", lambda _: path, True)]
    for count, text in {4: [], 5: ["1 more face"], 6: ["2 more faces"]}.items():
        write_data_diff(tmp_path / "page.html", versions, compare_image_lists([], faces[:count]))
        page = (tmp_path / "page.html").read_text("utf-8")
        assert re.findall(r"\d+ more faces?", page) == text
        assert page.count("<img ") == 4
        assert "This page contains your images. Keep it private." in page


def test_content_is_downloaded_from_the_remote_storage(
    project: Path, tmp_path: Path, atelier: CommandRunner
) -> None:
    expected = atelier("data-diff v1 v2")
    cache = project / ".dvc/cache"
    shutil.copytree(cache, tmp_path / "storage")
    shutil.rmtree(cache)
    message = atelier("data-diff v1 v2", code=1)
    assert message == (
        "ERROR: DVC's cache has no data/images.csv of v1, and it cannot be downloaded (DVC has no"
        " default remote storage); check out that commit and run `dvc repro convert` to make it"
        " again.\n"
    )
    outputs = RecordedOutputs("v1", {"samples": "0" * 32}, {"samples": "train"})
    with pytest.raises(AtelierError, match="run `dvc repro train` to make it again"):
        outputs.fetch("samples")
    (project / ".dvc/config").write_text(
        f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {tmp_path}/storage\n"
    )
    assert atelier("data-diff v1 v2") == expected


def cached_list(revision: str) -> Path:
    return recorded_outputs(revision).fetch("data/images.csv")


@pytest.mark.parametrize(
    ("command", "name", "action"),
    [
        ("data-diff v2 v1 --html page.html", "v1", "choose another version"),
        ("data-diff v2 --html page.html", "the workspace", "run the convert stage again"),
    ],
)
def test_a_list_of_more_images_than_there_are_is_one_sentence(
    project: Path, atelier: CommandRunner, command: str, name: str, action: str
) -> None:
    path = cached_list("v1") if name == "v1" else project / "data/images.csv"
    new = ImageEntry("new.png", "1", 40, 48, name="new.png", set="training", index=50, side=40)
    write_image_list(path, [*read_image_list(path), new])
    assert atelier(command, code=1) == (
        f"ERROR: data/images.csv of {name} lists more images than its data/images.npz has;"
        f" {action}, or leave out --html.\n"
    )


def test_a_damaged_list_of_a_commit_is_one_sentence(project: Path, atelier: CommandRunner) -> None:
    path = cached_list("v1")
    path.unlink()
    path.write_text("file\na.png\n")
    message = "ERROR: data/images.csv of v1 is damaged; choose another version.\n"
    assert atelier("data-diff v2 v1", code=1) == message


@pytest.mark.parametrize("recorded", ["../../../../outside.csv", "d41d8c\\n"])
def test_a_hash_that_is_no_hash_is_not_followed(
    project: Path, atelier: CommandRunner, recorded: str
) -> None:
    (project / "outside.csv").write_text("file,sha256,width,height\nsecret.png,1,2,3\n")
    lock = (project / "dvc.lock").read_text("utf-8")
    hash_ = recorded_outputs("HEAD").hashes["data/images.csv"]
    (project / "dvc.lock").write_text(lock.replace(hash_, f'"{recorded}"'))
    git(project, "commit", "-qam", "another hash")
    output = atelier("data-diff HEAD v1", code=1)
    assert output.startswith("ERROR: dvc.lock of HEAD has no valid hash of data/images.csv; choose")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("v3", "there is no revision 'v3'; choose a commit, a branch, a tag or an experiment"),
        ("-- --help", "there is no revision '--help'; choose a commit"),
        ("empty", "empty has no dvc.lock; choose a commit that was made after `dvc repro`."),
    ],
)
def test_a_missing_version_is_one_sentence(
    project: Path, atelier: CommandRunner, arguments: str, message: str
) -> None:
    output = atelier(f"data-diff {arguments}", code=1)
    assert output.startswith(f"ERROR: {message}")
    assert output.count("\n") == 1


@pytest.mark.parametrize("revisions", [("",), ("v1", ""), ("v1", " ")])
def test_an_empty_revision_does_not_exist(
    project: Path, atelier: CommandRunner, revisions: tuple[str, ...]
) -> None:
    output = atelier("data-diff", *revisions, code=1)
    assert output.startswith(f"ERROR: there is no revision {revisions[-1]!r}; choose a commit")


def test_missing_files_are_one_sentence(project: Path, atelier: CommandRunner) -> None:
    (project / "data/images.csv").unlink()
    output = atelier("data-diff v1", code=1)
    assert output == (
        "ERROR: data/images.csv does not exist; run the convert stage to create it.\n"
    )
    lock = (project / "dvc.lock").read_text("utf-8")
    (project / "dvc.lock").write_text(lock.replace("data/images.csv", "data/other.csv"))
    git(project, "commit", "-qam", "before the list existed")
    output = atelier("data-diff HEAD v1", code=1)
    assert output.startswith("ERROR: dvc.lock of HEAD does not record data/images.csv; choose a")
