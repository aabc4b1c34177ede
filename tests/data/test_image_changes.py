"""Comparison of two lists of images."""

from dataclasses import replace

from atelier.data.image_changes import File, compare_image_lists, file_name, file_state
from atelier.data.image_list import ImageEntry


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


def test_state_names_the_size_or_the_reason() -> None:
    dropped = replace(used("a", "1"), set="dropped", index=-1)
    assert file_state((used("a", "1"),)) == "640x480"
    assert file_state((dropped,)) == "640x480, dropped near-duplicate"
    assert file_state((used("a", "1"), dropped)) == "640x480"
    assert file_state((rejected("a"),)) == "rejected: truncated"
    assert file_name((used("a\x1b[31m", "1"),)) == r"a\x1b[31m"
