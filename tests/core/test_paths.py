"""Relative paths in settings, and files in them that git ignores."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from atelier.core.errors import AtelierError
from atelier.core.files import write_json
from atelier.core.paths import (
    check_named,
    hash_named,
    is_temporary_copy,
    link_all,
    link_named,
    list_path,
    project_root,
    reject_lost_experiment,
    user_path,
)
from atelier.core.settings import Settings

MakeSettings = Callable[..., Settings]
IMAGE = Path("data/pictures/sub/my stylé.png")


def project(folder: Path, dvc: Path | None = None) -> Path:
    """Create a minimal project, with ``.dvc`` in it or in another folder."""
    (folder / "data/pictures").mkdir(parents=True)
    (folder / "params.yaml").touch()
    ((dvc or folder) / ".dvc").mkdir(parents=True)
    return folder


def enter_copy(top: Path, subfolder: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a temporary copy of the project like DVC and change to it."""
    copy = top / ".dvc/tmp/exps/standalone/tmp123"
    folder = project(copy / subfolder, copy)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(top))
    return folder


@pytest.mark.parametrize("name", ["plain", "my disk %41 #1 ü"])
@pytest.mark.parametrize("subfolder", ["", "gan", "pipelines/gän"])
def test_relative_path_starts_at_main_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, subfolder: str
) -> None:
    top = tmp_path / name
    main = project(top / subfolder, top)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(main)
    assert (project_root(), is_temporary_copy()) == (main, False)
    monkeypatch.setenv("DVC_ROOT", str(top))
    assert (project_root(), is_temporary_copy()) == (main, False)
    enter_copy(top, subfolder, monkeypatch)
    assert (project_root(), is_temporary_copy()) == (main, True)
    assert user_path("../my faces #1") == main / "../my faces #1"
    assert user_path("/data/faces") == Path("/data/faces")
    assert user_path("~/faces") == Path.home() / "faces"


def test_worktree_falls_back_to_main_worktree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "repo"
    main = project(top / "gan")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init", "-q"), (*author, "commit", "-q", "--allow-empty", "-m", "x"),
                  ("worktree", "add", "-q", str(tmp_path / "far/off/tree"))):  # fmt: skip
        subprocess.run(["git", *arguments], cwd=top, check=True)
    tree = project(tmp_path / "far/off/tree/gan")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tree)
    (top / "faces").mkdir()
    assert user_path("../faces").resolve() == top / "faces"
    assert user_path("../none") == tree / "../none"
    (tree.parent / "faces").mkdir()
    assert user_path("../faces").resolve() == tree.parent / "faces"
    (main / "data/pictures/mine.png").write_bytes(b"1")
    assert user_path("data/pictures/mine.png") == main / "data/pictures/mine.png"


def test_temporary_copy_links_ignored_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_settings: MakeSettings
) -> None:
    named = str(IMAGE.relative_to("data/pictures"))
    settings = make_settings(stylize={"styles": [named]})
    main = project(tmp_path / "main")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(main)
    with pytest.raises(AtelierError, match=r"there is no data/pictures/sub/my stylé\.png"):
        hash_named(settings, "stylize")
    assert hash_named(settings, "evaluate") == {}
    for file in (IMAGE, Path("data/pictures/unused.png")):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"1")
    link_all(settings, "stylize")
    hashes = hash_named(settings, "stylize")
    assert hashes == {str(IMAGE): "c4ca4238a0b923820dcc509a6f75849b"}

    copy = enter_copy(main, "", monkeypatch)
    link_named(settings, "stylize")
    assert [file.name for file in (copy / "data/pictures").rglob("*.png")] == [IMAGE.name]
    link_all(settings, "stylize")
    assert {file.name for file in copy.rglob("*.png")} == {IMAGE.name, "unused.png"}
    assert hash_named(settings, "stylize") == hashes
    # Files of the copy, e.g. tracked images, are not replaced. Broken links are.
    IMAGE.unlink()
    IMAGE.write_bytes(b"2")
    link_named(settings, "stylize")
    assert IMAGE.read_bytes() == b"2"
    IMAGE.unlink()
    IMAGE.symlink_to("nowhere")
    link_named(settings, "stylize")
    assert IMAGE.read_bytes() == b"1"


def test_unlisted_file_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_settings: MakeSettings
) -> None:
    monkeypatch.chdir(project(tmp_path / "main"))
    monkeypatch.setenv("DVC_STAGE", "stylize")
    monkeypatch.setenv("DVC_ROOT", os.getcwd())
    settings = make_settings(stylize={"styles": ["mine.png"]})
    Path("data/pictures/mine.png").write_bytes(b"1")
    with pytest.raises(AtelierError, match=r"stylize\.json does not list data/pictures/mine\.png"):
        check_named(settings, "stylize")
    write_json(list_path("stylize"), hash_named(settings, "stylize"))
    check_named(settings, "stylize")
    check_named(make_settings(stylize={"styles": ["none.png"]}), "train")


def test_percent_sequence_in_path_is_rejected_in_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, is_rejected in (("100% mine", False), ("my%20disk", True)):
        top = project(tmp_path / name)
        monkeypatch.setenv("DVC_ROOT", str(top))
        monkeypatch.chdir(top)
        reject_lost_experiment()
        enter_copy(top, "", monkeypatch)
        if is_rejected:
            with pytest.raises(AtelierError, match="DVC cannot bring an experiment back to"):
                reject_lost_experiment()
        else:
            reject_lost_experiment()
