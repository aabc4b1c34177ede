"""Comparison of two lists of images."""

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image

from atelier.core.settings import Settings
from atelier.data.convert import convert
from atelier.data.image_changes import File, compare_image_lists, file_name, file_state
from atelier.data.image_list import ImageEntry, read_image_list
from atelier.data.manifest import Manifest, raw_file, write_manifest

from ..support.arrays import random_images
from ..support.image_files import saved


def used(file: str, content: str, number: int = 0) -> ImageEntry:
    name = f"{file}#{number}" if number else file
    return ImageEntry(file, content, 640, 480, name=name, set="training", index=0)


def rejected(file: str, content: str = "") -> ImageEntry:
    return ImageEntry(file, content, 0, 0, reason="truncated")


def names(files: tuple[File, ...]) -> list[str]:
    return [file_name(file) for file in files]


def test_files_with_several_rows_are_compared_once() -> None:
    before = [used("group", "1", 1), used("group", "1", 2), used("gone", "2", 1)]
    after = [used("group", "1", 1), used("new", "3", 1), used("new", "3", 2)]
    changes = compare_image_lists(before, after)
    assert (names(changes.added), names(changes.removed)) == (["new"], ["gone"])
    assert [entry.name for entry in changes.added[0]] == ["new#1", "new#2"]
    assert changes.unchanged == 1
    rows = changes.as_json()["added"][0]["rows"]
    assert rows == [{"name": "new#1", "set": "training"}, {"name": "new#2", "set": "training"}]


def test_copies_are_renamed_in_the_order_of_their_names() -> None:
    before = [used("b", "1"), used("a", "1"), used("same", "1"), used("c", "1")]
    after = [used("same", "1"), used("z", "1"), used("y", "1")]
    changes = compare_image_lists(before, after)
    pairs = [(file_name(old), file_name(new)) for old, new in changes.renamed]
    assert pairs == [("a", "y"), ("b", "z")]
    assert names(changes.removed) == ["c"]
    assert changes.counts() == {
        "added": 0,
        "removed": 1,
        "changed": 0,
        "renamed": 2,
        "unchanged": 1,
    }


def test_files_that_were_not_read_are_no_renames() -> None:
    changes = compare_image_lists([rejected("a")], [rejected("b"), used("a", "1")])
    assert [file_name(old) for old, _ in changes.changed] == ["a"]
    assert names(changes.added) == ["b"]
    assert changes.renamed == ()
    changes = compare_image_lists([rejected("a"), rejected("c")], [rejected("b"), rejected("c")])
    assert (names(changes.removed), names(changes.added)) == (["a"], ["b"])
    assert (changes.renamed, changes.unchanged) == ((), 1)


def test_state_names_the_size_or_the_reason() -> None:
    dropped = replace(used("a", "1"), set="dropped", index=-1)
    assert file_state((used("a", "1"),)) == "640x480"
    assert file_state((dropped,)) == "640x480, dropped near-duplicate"
    assert file_state((used("a", "1"), dropped)) == "640x480"
    assert file_state((rejected("a"),)) == "rejected: truncated"
    assert file_name((used("a\x1b[31m", "1"),)) == r"a\x1b[31m"


def test_files_of_one_name_count_one_by_one() -> None:
    before = [used("a", "1"), used("a", "2"), used("b", "3")]
    changes = compare_image_lists(before, [used("a", "1"), used("a", "4"), used("b", "3")])
    assert [(old[0].sha256, new[0].sha256) for old, new in changes.changed] == [("2", "4")]
    assert (changes.unchanged, changes.added, changes.removed) == (2, (), ())
    changes = compare_image_lists(before, [used("a", "2"), used("c", "1")])
    assert [(old[0].file, new[0].file) for old, new in changes.renamed] == [("a", "c")]
    assert (changes.unchanged, names(changes.removed), changes.changed) == (1, ["b"], ())
    changes = compare_image_lists([used("a", "1", 1)], [used("a", "1", 1), rejected("a", "2")])
    assert (names(changes.added), changes.unchanged) == (["a"], 1)
    changes = compare_image_lists([used("a", "1")], before)
    assert names(changes.added) == ["a", "b"]
    assert changes.added[0][0].sha256 == "2"


def test_a_file_that_is_in_an_archive_twice_counts_twice() -> None:
    twice = [used("a", "1", 1), used("a", "1", 2), used("a", "1", 1), used("a", "1", 2)]
    changes = compare_image_lists([*twice, rejected("b"), rejected("b")], twice[:2])
    assert names(changes.removed) == ["a", "b", "b"]
    assert [entry.name for entry in changes.removed[0]] == ["a#1", "a#2"]
    assert changes.unchanged == 1


def test_lists_of_tar_files_with_repeated_names_are_compared(
    tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    """``tar -r`` appends a second file of the same name."""
    settings = make_settings(convert={"image_size": 16}).convert
    images = [saved(Image.fromarray(pixels)) for pixels in random_images(4, 20, 3)]

    def listed(version: str, numbers: list[int]) -> list[ImageEntry]:
        raw = tmp_path / version
        raw.mkdir()
        with tarfile.open(raw / "pictures.tar", "w") as archive:
            for name, number in zip(("x/a.png", "x/b.png", "x/a.png"), numbers, strict=True):
                member = tarfile.TarInfo(name)
                member.size = len(images[number])
                archive.addfile(member, io.BytesIO(images[number]))
        write_manifest(raw, Manifest("archive", "tar", (raw_file(raw / "pictures.tar"),)))
        convert(settings, raw, raw / "images.npz", workers=1)
        return read_image_list(raw / "images.csv")

    changes = compare_image_lists(listed("before", [0, 1, 2]), listed("after", [0, 1, 3]))
    assert changes.counts() == {
        "added": 0,
        "removed": 0,
        "changed": 1,
        "renamed": 0,
        "unchanged": 2,
    }
    assert [file_name(after) for _, after in changes.changed] == ["x/a.png"]
