"""Listing of folders: links, cycles, hidden and system files."""

import itertools
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atelier.core.download_settings import DownloadSettings
from atelier.core.errors import AtelierError
from atelier.data.archives import count_members, read_tar, read_zip
from atelier.data.manifest import Skipped
from atelier.data.members import Rejected
from atelier.data.raw import open_raw
from atelier.data.skipped import reasons_without_names, summarize_skipped
from atelier.data.sources import listing
from atelier.data.sources.download import download
from atelier.data.sources.listing import list_folder, walk


def write_files(folder: Path, *names: str) -> Path:
    """Write files whose content is their name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def listed(folder: Path, links_out: bool = True) -> list[str]:
    return [file.relative for file in walk(folder, links_out) if not file.skip_reason]


def skipped(folder: Path, links_out: bool = True) -> dict[str, str]:
    return {file.relative: file.skip_reason for file in walk(folder, links_out) if file.skip_reason}


def test_hugging_face_snapshot_is_read(
    tmp_path: Path, source: Callable[..., DownloadSettings]
) -> None:
    hub = write_files(tmp_path / "hub/datasets--me--faces", "blobs/0a", "blobs/1b", "blobs/2c")
    snapshot = hub / "snapshots/5f"
    (snapshot / "men").mkdir(parents=True)
    (snapshot / ".gitattributes").symlink_to("../../blobs/2c")
    (snapshot / "cover.png").symlink_to("../../blobs/0a")
    (snapshot / "men/1.png").symlink_to("../../../blobs/1b")
    (snapshot / "men/2.png").symlink_to("../../../blobs/1b")
    settings_ = source("folder", mine=str(snapshot))
    manifest = download(settings_, tmp_path / "raw", tmp_path / "scratch")
    assert list(open_raw(tmp_path / "raw")) == [
        ("mine/.gitattributes", Rejected("a hidden file")),
        ("mine/cover.png", b"blobs/0a"),
        ("mine/men/1.png", b"blobs/1b"),
        ("mine/men/2.png", b"blobs/1b"),
    ]
    assert manifest.skipped == (Skipped("mine/.gitattributes", "a hidden file"),)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write_files(tmp_path / "elsewhere", "women/1.png", "women/deep/2.png")
    write_files(tmp_path / "mine", "men/1.png")
    (tmp_path / "elsewhere/more").symlink_to(write_files(tmp_path / "third", "3.png"))
    (tmp_path / "mine/women").symlink_to(tmp_path / "elsewhere/women")
    (tmp_path / "mine/again").symlink_to("women")
    (tmp_path / "mine/same").symlink_to("men")
    (tmp_path / "mine/chain").symlink_to("../elsewhere/more")
    assert listed(tmp_path / "mine") == [
        "again/1.png",
        "again/deep/2.png",
        "chain/3.png",
        "men/1.png",
        "same/1.png",
        "women/1.png",
        "women/deep/2.png",
    ]
    assert skipped(tmp_path / "mine") == {}
    (tmp_path / "door").symlink_to(tmp_path / "mine")
    assert walk(tmp_path / "door") == walk(tmp_path / "mine")


def test_links_out_of_an_untrusted_folder_are_not_followed(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "mine", "a/1.png")
    (folder / "inside").symlink_to("a")
    (folder / "inside.png").symlink_to("a/1.png")
    (folder / "out").symlink_to(write_files(tmp_path / "minefield", "2.png"))
    (folder / "out.png").symlink_to("../minefield/2.png")
    assert listed(folder, links_out=False) == ["a/1.png", "inside.png", "inside/1.png"]
    assert set(skipped(folder, links_out=False).values()) == {"a link out of the folder"}


def test_cycle_of_links_lists_no_file_twice(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "mine", "a/1.png", "b/2.png", "b/deep/3.png", "4.png")
    (folder / "a/self").symlink_to(".")
    (folder / "b/deep/up").symlink_to("..")
    (folder / "b/parent").symlink_to(tmp_path)
    (folder / "a/other").symlink_to("../b")
    (folder / "b/other").symlink_to("../a")
    assert listed(folder) == ["4.png", "a/1.png", "b/2.png", "b/deep/3.png"]
    ancestor = "a link to a folder that contains it"
    included = "a link to a folder that is already included"
    assert skipped(folder) == {
        "a/other": included,
        "a/self": ancestor,
        "b/deep/up": ancestor,
        "b/other": included,
        "b/parent": ancestor,
    }


def test_cycle_through_outside_folders_is_followed_once(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "home/mine", "1.png")
    one, two = write_files(tmp_path / "one", "2.png"), write_files(tmp_path / "two", "3.png")
    (folder / "x").symlink_to(one)
    (one / "y").symlink_to(two)
    (two / "z").symlink_to(one)
    (two / "home").symlink_to(tmp_path / "home")
    write_files(tmp_path / "home", "sibling/4.png")
    assert listed(folder) == ["1.png", "x/2.png", "x/y/3.png", "x/y/home/sibling/4.png"]
    assert skipped(folder) == {"x/y/z": "a link to a folder that is already included"}


@settings(max_examples=30)
@given(links=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_any_graph_of_links_is_listed_completely(
    tmp_path_factory: pytest.TempPathFactory, links: set[tuple[int, int]]
) -> None:
    folder = write_files(
        tmp_path_factory.mktemp("mine"), *(f"{number}/p.png" for number in range(5))
    )
    for parent, target in links:
        (folder / f"{parent}/to{target}").symlink_to(f"../{target}")
    found = walk(folder)
    files = [file.relative for file in found if not file.skip_reason]
    assert {f"{number}/p.png" for number in range(5)} <= set(files)
    # No path contains a folder twice.
    for name in files:
        visited = [part[-1] for part in name.split("/")[:-1]]
        assert len(visited) == len(set(visited))
    mutual = {(a, b) for a, b in links if (b, a) in links}
    assert {f"{a}/to{b}" for a, b in mutual} <= {
        file.relative for file in found if file.skip_reason
    }


def test_number_of_linked_paths_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MAX_LINKS", 500)
    for level in range(40):
        (tmp_path / f"{level}").mkdir()
        for name in ("left", "right"):
            (tmp_path / f"{level}/{name}").symlink_to(f"../{level + 1}")
    write_files(tmp_path, "40/1.png")
    with pytest.raises(AtelierError, match="more than 500 paths through links to folders"):
        walk(tmp_path)


def layers(folder: Path, count: int) -> Path:
    """Create layers of two folders that have links to both folders of the next layer."""
    for layer, side in itertools.product(range(count), "ab"):
        write_files(folder, f"{layer}{side}/1.png")
        if layer + 1 < count:
            for other in "ab":
                (folder / f"{layer}{side}/to{other}").symlink_to(f"../{layer + 1}{other}")
    return folder


def test_folder_with_many_paths_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved: list[str] = []
    read: list[str] = []
    realpath, scandir = os.path.realpath, os.scandir

    def count_realpath(path: str, **options: bool) -> str:
        resolved.append(str(path))
        return realpath(path, **options)

    def count_scandir(path: str) -> Iterator[os.DirEntry[str]]:
        read.append(str(path))
        return scandir(path)

    visited: list[str] = []
    next_folders = listing._Walk._next_folders

    def count_next(self: listing._Walk, folder: str) -> Iterator[str]:
        visited.append(folder)
        return next_folders(self, folder)

    folder = layers(tmp_path / "mine", 8)
    (folder / "7a/file.png").symlink_to("1.png")
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    monkeypatch.setattr(os.path, "realpath", count_realpath)
    monkeypatch.setattr(os, "scandir", count_scandir)
    monkeypatch.setattr(listing._Walk, "_next_folders", count_next)
    found = walk(folder)
    # A folder has its own path, and two paths through each folder of the layers above.
    paths = [2 ** (layer + 1) - 1 for layer in range(8)]
    assert len(found) == 2 * sum(paths) + paths[-1]
    # The root can be resolved too.
    assert len(resolved) <= len(links) + 1
    assert sorted(read) == sorted({str(folder), *(str(path) for path in folder.glob("??"))})
    assert len(visited) == len(set(visited))


def test_number_of_linked_entries_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        (tmp_path / f"mine/many/{number}/empty").mkdir(parents=True)
        write_files(tmp_path / "mine", f"many/{number}/1.png")
    # Each link leads to 41 folders and 20 files.
    for number in range(3):
        (tmp_path / f"mine/to{number}").symlink_to("many")
    monkeypatch.setattr(listing, "_MAX_ENTRIES", 3 * 61)
    assert len(listed(tmp_path / "mine")) == 4 * 20
    monkeypatch.setattr(listing, "_MAX_ENTRIES", 3 * 61 - 1)
    with pytest.raises(
        AtelierError,
        match="more than 182 files and folders through links to folders; name the targets of the",
    ):
        walk(tmp_path / "mine")
    # Files and folders without links are not limited.
    monkeypatch.setattr(listing, "_MAX_ENTRIES", 10)
    assert len(listed(tmp_path / "mine/many")) == 20


def test_link_to_a_parent_folder_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_files(tmp_path / "home/mine", "a/1.png", "b/2.png")
    (folder / "a/up").symlink_to(tmp_path)
    (folder / "b/other").symlink_to("../a")
    read: list[str] = []
    scandir = os.scandir

    def count_scandir(path: str) -> Iterator[os.DirEntry[str]]:
        read.append(str(path))
        return scandir(path)

    with monkeypatch.context() as counted:
        counted.setattr(os, "scandir", count_scandir)
        assert listed(folder) == ["a/1.png", "b/2.png"]
    assert set(read) == {str(path) for path in (folder, folder / "a", folder / "b")}
    assert skipped(folder) == {
        "a/up": "a link to a folder that contains it",
        "b/other": "a link to a folder that is already included",
    }


def test_broken_links_and_special_files_are_skipped_with_reasons(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "mine", "1.png")
    (folder / "dead.png").symlink_to("nothing")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "below.png").symlink_to("1.png/x")
    os.mkfifo(folder / "pipe.png")
    (folder / "to_pipe.png").symlink_to("pipe.png")
    (folder / "null.png").symlink_to("/dev/null")
    assert listed(folder) == ["1.png"]
    assert skipped(folder) == {
        "below.png": "a broken link",
        "dead.png": "a broken link",
        "loop.png": "a broken link",
        "null.png": "not a regular file",
        "pipe.png": "not a regular file",
        "to_pipe.png": "not a regular file",
    }


def test_changed_link_target_changes_the_listing(tmp_path: Path) -> None:
    write_files(tmp_path / "far", "1.png", "deep/2.png")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file.png").symlink_to("../far/1.png")
    (tmp_path / "mine/deep").symlink_to("../far/deep")
    listings = [list_folder(tmp_path / "mine")]
    os.utime(tmp_path / "far/1.png", (1, 1))
    listings.append(list_folder(tmp_path / "mine"))
    (tmp_path / "far/deep/2.png").write_text("longer than before")
    listings.append(list_folder(tmp_path / "mine"))
    write_files(tmp_path / "far", "deep/3.png")
    listings.append(list_folder(tmp_path / "mine"))
    assert [[name for name, *_ in entries] for entries in listings] == [
        *3 * [["deep/2.png", "file.png"]],
        ["deep/2.png", "deep/3.png", "file.png"],
    ]
    assert all(one != other for one, other in itertools.pairwise(listings))


HIDDEN = {
    ".DS_Store": "a hidden file",
    "._1.png": "a hidden file",
    ".git": "a hidden folder",
    "__MACOSX": "a system folder",
    "men/.ipynb_checkpoints": "a hidden folder",
    "men/@eaDir": "a system folder",
    "men/Thumbs.db": "a system file",
    "men/desktop.ini": "a system file",
}
TREE = (
    *(".DS_Store", "._1.png", ".git/HEAD", ".git/objects/0a/1.png", "1.png", "__MACOSX/._1.png"),
    *("__MACOSX/men/._2.png", "men/.ipynb_checkpoints/2-checkpoint.png", "men/2.png"),
    *("men/.ipynb_checkpoints/3.png", "men/@eaDir/2.png/SYNOPHOTO_THUMB_M.jpg", "men/Thumbs.db"),
    *("men/desktop.ini", "men/a.b/3.png", "men/my.thumbs.db.png"),
)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_hidden_and_system_files_are_skipped(tmp_path: Path, kind: str) -> None:
    folder = write_files(tmp_path / ".cache/mine", *TREE)
    archive = tmp_path / f"a.{kind}"
    if kind == "folder":
        found = walk(folder)
        read = {
            f.relative: Rejected(f.skip_reason) if f.skip_reason else f.path.read_bytes()
            for f in found
        }
    elif kind == "zip":
        with zipfile.ZipFile(archive, "w") as store:
            for path in sorted(folder.rglob("*")):
                store.write(path, path.relative_to(folder))
        entries = list(read_zip(archive))
        assert count_members(archive) == len(entries)
        read = dict(entries)
    else:
        with tarfile.open(archive, f"w:{kind[4:]}") as stored:
            stored.add(folder, ".")
        entries = list(read_tar(archive))
        read = dict(entries)
        assert len(read) == len(entries)
    assert {name: p.reason for name, p in read.items() if isinstance(p, Rejected)} == HIDDEN
    assert {name: p for name, p in read.items() if not isinstance(p, Rejected)} == {
        name: name.encode() for name in ("1.png", "men/2.png", "men/a.b/3.png",
                                         "men/my.thumbs.db.png")
    }  # fmt: skip


def test_unreadable_hidden_folder_is_ignored(tmp_path: Path) -> None:
    write_files(tmp_path, "1.png", "lost+found/x")
    (tmp_path / "lost+found").chmod(0)
    assert listed(tmp_path) == ["1.png"]
    assert skipped(tmp_path) == {"lost+found": "a system folder"}
    (tmp_path / "lost+found").chmod(0o700)


def test_folder_of_only_skipped_files_is_rejected_with_reasons(
    tmp_path: Path, source: Callable[..., DownloadSettings]
) -> None:
    write_files(tmp_path / "mine", ".a.png", ".b.png")
    (tmp_path / "mine/dead.png").symlink_to("nothing")
    with pytest.raises(
        AtelierError, match=r"no files to read \(2 hidden files, 1 broken link\); put images"
    ):
        download(source("folder", mine=str(tmp_path / "mine")), tmp_path / "raw", tmp_path / "s")


def test_skipped_files_are_summarized_in_one_line() -> None:
    report = Path("metrics/details/convert.json")
    reasons = [*5 * ["a broken link"], *9 * ["a hidden file"], "an absolute path"]
    assert summarize_skipped(1203, "images", reasons, report) == (
        "1,203 images, 15 skipped (9 hidden files, 5 broken links, 1 absolute path):"
        " metrics/details/convert.json lists them"
    )
    many = [f"damaged: {number}" for number in range(6)]
    assert summarize_skipped(1191, "images", [], report, dropped=12) == (
        f"1,191 images, 12 near-duplicates dropped, none skipped: {report} lists them"
    )
    line = summarize_skipped(1, "images", [*2 * ["not an image"], *many], report)
    assert "(2 not an image, 1 damaged: 0, 1 damaged: 1, 1 damaged: 2, 3 for other" in line
    line = summarize_skipped(1, "images", [*2 * ["not an image"], *many[:4]], report)
    assert "(2 not an image, 1 damaged: 0, 1 damaged: 1, 1 damaged: 2, 1 damaged: 3)" in line
    assert "\x1b" not in summarize_skipped(0, "images", ["damaged: \x1b[31m"], report)
    assert summarize_skipped(80, "images", [], report) == "80 images, none skipped"


def test_files_over_a_limit_have_one_reason() -> None:
    sizes = ["92.4 megapixels, the limit is 80", "1,101.0 megapixels, the limit is 80"]
    reasons = [sizes[0], "a hidden file", sizes[1], "1,300 MiB, the limit is 1,024"]
    assert summarize_skipped(9, "images", reasons, Path("list.json")) == (
        "9 images, 4 skipped (2 larger than 80 megapixels, 1 hidden file, 1 larger than 1,024 MiB):"
        " list.json lists them"
    )
    assert reasons_without_names(reasons) == [
        {"reason": "larger than 80 megapixels", "files": 2},
        {"reason": "a hidden file", "files": 1},
        {"reason": "larger than 1,024 MiB", "files": 1},
    ]
