"""Order in which outboxes are delivered."""

import fcntl
import os
from pathlib import Path

import pytest

from atelier.tracking.environment import private_folder
from atelier.tracking.outbox import executions, has_earlier_attempt, outboxes


def add_outbox(root: Path, execution: str, name: str, store: str | None = "project") -> Path:
    """Write a closed outbox with one undelivered entry."""
    folder = private_folder(root) / "journal" / execution / name
    folder.mkdir(parents=True)
    (folder / "entries.jsonl").write_text('{"kind": "tags", "time": 1, "tags": {}}\n')
    if store:
        (folder.parent / "store.txt").write_text(store)
    return folder


@pytest.mark.parametrize(
    ("execution", "name", "store", "is_open", "waits"),
    [
        ("b", "100-train-x", "project", False, True),
        ("a", "100-train-x", "project", False, True),
        ("b", "300-train-x", "project", False, False),
        ("b", "100-evaluate-x", "project", False, False),
        ("b", "100-train-x", "project", True, False),
        ("b", "100-train-x", None, False, True),
        ("b", "100-train-x", "http://elsewhere", False, False),
    ],
    ids=["earlier", "same execution", "later", "other stage", "open", "old store", "other store"],
)
def test_resumed_run_is_delivered_after_earlier_attempts(
    tmp_path: Path, execution: str, name: str, store: str | None, is_open: bool, waits: bool
) -> None:
    resumed = add_outbox(tmp_path, "a", "200-train-x")
    # Unrelated outboxes that are listed earlier must not end the search.
    add_outbox(tmp_path, "0", "050-convert-x", "http://elsewhere")
    add_outbox(tmp_path, "1", "050-convert-x")
    other = add_outbox(tmp_path, execution, name, store)
    with (other / "entries.jsonl").open("a") as file:
        if is_open:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert has_earlier_attempt(private_folder(tmp_path), resumed, "train") is waits


def test_executions_and_outboxes_are_delivered_oldest_first(tmp_path: Path) -> None:
    for execution, name in (("a", "300-x"), ("b", "100-x"), ("a", "150-x"), ("c", "200-x")):
        add_outbox(tmp_path, execution, name)
    incomplete = add_outbox(tmp_path, "b", ".050-x")
    (incomplete.parent / "empty").mkdir()
    private = private_folder(tmp_path)
    (private / "journal" / "file").touch()
    found = executions(private)
    assert [folder.name for folder in found] == ["b", "a", "c"]
    assert [[path.name for path in outboxes(folder)] for folder in found] == [
        ["100-x"],
        ["150-x", "300-x"],
        ["200-x"],
    ]
    assert os.listdir(incomplete) == ["entries.jsonl"]
