"""Boundary cases of outboxes, rejected entries and MLflow names."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from atelier.tracking import mlflow_names as names
from atelier.tracking import rejected
from atelier.tracking.batch_logger import send_in_parts
from atelier.tracking.environment import PRIVATE, Process
from atelier.tracking.outbox import (
    Outbox,
    count_pending,
    entries,
    execution_folder,
    executions,
    is_open,
    outboxes,
    pending,
    problem,
    record_problem,
    record_start,
    recorded_start,
    remove,
    unwritten,
)

pytestmark = pytest.mark.filterwarnings("ignore")


def _checksum(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:10]


@pytest.mark.parametrize(
    ("convert", "length"),
    [(names.key, 250), (names.image_key, 100), (names.run_name, 250), (names.experiment_name, 200),
     (names.model_name, 200)],
)  # fmt: skip
def test_name_is_cut_at_the_legal_length(convert: Any, length: int) -> None:
    longest = "n" * length
    assert convert(longest) == longest
    assert convert(longest + "n") == f"{'n' * (length - 11)}-{_checksum(longest + 'n')}"


def test_legal_characters_of_names_are_unchanged() -> None:
    assert names.key("a?b") == f"a_b-{_checksum('a?b')}"
    assert names.key("a/../b") == f"a/__/b-{_checksum('a/../b')}"
    assert names.key("..a") == f"__a-{_checksum('..a')}"
    assert names.key("") == f"_-{_checksum('')}"
    assert names.image_key("é") == f"_-{_checksum('é')}"
    assert names.experiment_name(".hidden") == f"_hidden-{_checksum('.hidden')}"
    assert names.model_name(".hidden") == f"_hidden-{_checksum('.hidden')}"
    assert names.model_name("a:b") == f"a_b-{_checksum('a:b')}"
    assert names.experiment_name("plain") == names.model_name("plain") == "plain"
    # A folder's name may have 200 bytes, which are 100 letters of two bytes each.
    assert names.experiment_name("é" * 100) == "é" * 100
    assert names.experiment_name("é" * 101) == f"{'é' * 94}-{_checksum('é' * 101)}"


def test_paths_keep_folder_and_suffix() -> None:
    assert names.artifact_path("a/b.png") == "a/b.png"
    assert names.artifact_path("a/b#.png") == f"a/b_-{_checksum('a/b#.png')}.png"
    assert names.artifact_path("b#.png") == f"b_-{_checksum('b#.png')}.png"
    assert names.artifact_path(".mlflow/x") == f"_.mlflow/x-{_checksum('.mlflow/x')}"
    long = "n" * 151 + ".png"
    assert names.artifact_path(long) == f"{'n' * 100}-{_checksum(long)}"
    assert names.artifact_path("n" * 150) == "n" * 150
    deep = "/".join(["f" * 99] * 5)  # 499 characters
    assert names.artifact_path(deep) == deep
    assert (
        names.artifact_path("ab" + deep)
        == f"{('ab' + deep)[:200]}/{'f' * 99}-{_checksum('ab' + deep)}"
    )
    ending = "#." + "e" * 9
    assert names.artifact_path(ending) == f"_-{_checksum(ending)}.{'e' * 9}"
    ending += "e"
    assert names.artifact_path(ending) == f"_.{'e' * 10}-{_checksum(ending)}"


@pytest.mark.parametrize(("convert", "length"), [(names.parameter, 6000), (names.tag, 8000)])
def test_long_values_are_cut_and_marked(convert: Any, length: int) -> None:
    assert convert("v" * length) == "v" * length
    assert convert("v" * (length + 1)) == "v" * (length - 6) + " [cut]"
    assert convert("a\0b\ud800") == "a\ufffdb\ufffd"


def test_rejected_entries_are_written_once_with_their_files(tmp_path: Path) -> None:
    file = tmp_path / "journal" / "a.png"
    file.parent.mkdir()
    file.write_bytes(b"image")
    assert rejected.read(tmp_path) == rejected.unreported_rejections(tmp_path) == []
    assert not (tmp_path / PRIVATE).exists()
    rejected.reject(tmp_path, "run/1", "too large.\nmore", {"kind": "image"}, file)
    rejected.reject(tmp_path, "run/1", "again", {"kind": "image"}, file)
    rejected.reject(tmp_path, "run/2", "bad", {"kind": "tag"}, None)
    path = f"{PRIVATE}/refused/run_1/a.png"
    first = {"reason": "too large.\nmore", "name": "run/1", "kind": "image", "kept": path}
    second = {"reason": "bad", "name": "run/2", "kind": "tag"}
    assert rejected.read(tmp_path) == [first, second]
    assert (tmp_path / path).read_bytes() == b"image"
    assert rejected.unreported_rejections(tmp_path) == [first, second]
    assert rejected.unreported_rejections(tmp_path) == []
    rejected.reject(tmp_path, "run/3", "bad", {}, tmp_path / "absent")
    third = {"reason": "bad", "name": "run/3"}
    assert rejected.unreported_rejections(tmp_path) == [third]
    # After a user removed the file, new rejections are reported.
    rejected.rejected_file(tmp_path).write_text(json.dumps(second) + "\nno json\n", "utf-8")
    assert rejected.unreported_rejections(tmp_path) == [second]
    location = f", kept in {PRIVATE}/refused.jsonl"
    assert rejected.summary([first]) == f"1 entry was rejected by MLflow (too large){location}"
    assert rejected.summary([second, first]) == f"2 entries were rejected by MLflow (bad){location}"
    assert rejected.summary([{"reason": "r" * 201}]).count("r" * 200 + ")") == 1
    assert rejected.summary([{}]) == f"1 entry was rejected by MLflow (){location}"


class _TooLargeError(Exception):
    def __init__(self) -> None:
        super().__init__("API request to x failed with error code 413")


@pytest.mark.parametrize(
    ("bad", "expected"),
    [([], []), ([0], [0]), ([4], [4]), ([2, 3], [2, 3]), ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])],
)
@pytest.mark.parametrize("size", [False, True])
def test_only_rejected_items_of_a_request_are_recorded(
    bad: list[int], expected: list[int], size: bool
) -> None:
    sent: list[int] = []
    rejected_items: list[int] = []

    def send(items: Sequence[int]) -> None:
        wrong = [item for item in items if item in bad]
        if wrong and size:
            raise _TooLargeError
        if wrong:
            raise MlflowException(f"Invalid value 'item {wrong[0]}'", error_code=1000)
        sent.extend(items)

    send_in_parts(
        range(5),
        send,
        lambda item, error: rejected_items.append(item),
        lambda item: [f"item {item}"],
    )
    assert rejected_items == expected
    assert sent == [item for item in range(5) if item not in bad]


def test_error_without_quoted_content_is_raised() -> None:
    calls: list[int] = []

    def send(items: Sequence[int]) -> None:
        calls.append(len(items))
        raise MlflowException("an HTML page", error_code=1000)

    rejected_items: list[int] = []
    with pytest.raises(MlflowException, match="an HTML page"):
        send_in_parts(
            [1, 2], send, lambda item, error: rejected_items.append(item), lambda item: ["x"]
        )
    assert (calls, rejected_items) == ([2, 1], [])

    def unreachable(items: Sequence[int]) -> None:
        raise ConnectionError("no route")

    with pytest.raises(ConnectionError):
        send_in_parts(
            [1, 2], unreachable, lambda item, error: rejected_items.append(item), lambda item: []
        )
    assert rejected_items == []


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / PRIVATE).mkdir()
    return tmp_path / PRIVATE


def test_outbox_is_read_entry_by_entry_until_it_is_removed(private: Path, tmp_path: Path) -> None:
    process = Process(1, "a")
    journal = Outbox(private, process, "train", parameters={"a": 1})
    execution = execution_folder(private, process)
    assert execution == private / "journal" / process.key
    assert executions(private) == [execution]
    assert outboxes(execution) == [journal.folder]
    assert is_open(journal.folder)
    journal.write("metrics", values=[1])
    file = tmp_path / "a.png"
    file.write_bytes(b"image")
    attached = [journal.attach(file), journal.attach(file)]
    assert attached == ["file-000001/a.png", "file-000002/a.png"]
    assert (journal.folder / attached[1]).read_bytes() == b"image"
    journal.close()
    assert not is_open(journal.folder)
    found = list(entries(journal.folder))
    assert [entry["kind"] for entry, _ in found] == ["start", "metrics"]
    assert (found[0][0]["stage"], found[0][0]["parameters"]) == ("train", {"a": 1})
    assert list(entries(journal.folder, found[0][1])) == found[1:]
    assert count_pending(journal.folder) == 2
    with (journal.folder / "entries.jsonl").open("ab") as lines:
        lines.write(b'{"kind": "x"}\n[]\n{"kind": "cut", "time"')
    unreadable = [entry for entry, _ in entries(journal.folder)][2:]
    assert [entry["kind"] for entry in unreadable] == ["unreadable"] * 2
    assert unreadable[1] == {"kind": "unreadable", "time": 0, "line": repr(b"[]\n")}
    (journal.folder / "delivered.json").write_text(json.dumps({"offset": found[1][1]}), "utf-8")
    assert count_pending(journal.folder) == 2
    assert problem(execution) is None
    record_problem(execution, "no route")
    assert problem(execution) == "no route"
    (pending_outbox,) = pending(tmp_path)
    assert (
        pending_outbox.stage,
        pending_outbox.outbox,
        pending_outbox.entries,
        pending_outbox.reason,
    ) == (
        "train",
        journal.folder,
        2,
        "no route",
    )
    record_problem(execution, None)
    assert pending(tmp_path)[0].reason == ""
    assert unwritten(tmp_path) == []
    record_start(execution, {"problem": "later", "setting": "\ud800"})
    assert recorded_start(execution) == {"problem": "later", "setting": "\ud800"}
    remove(journal.folder)
    assert outboxes(execution) == pending(tmp_path) == []
    assert [
        (pending_outbox.execution, pending_outbox.reason) for pending_outbox in unwritten(tmp_path)
    ] == [(execution, "later")]
    record_start(execution, None)
    assert recorded_start(execution) is None
    assert unwritten(tmp_path) == []
