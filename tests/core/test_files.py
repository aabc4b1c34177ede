import csv
import errno
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atelier.core.files import (
    atomic_merge_dir,
    atomic_replace_dir,
    atomic_write,
    details_path,
    write_csv,
    write_json,
    write_metrics,
)


def test_file_is_replaced_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(OSError, match="No space"), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == ["file.txt"]


def test_folder_is_replaced_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic_replace_dir(target) as temporary:
        (temporary / "old").touch()
    with pytest.raises(KeyboardInterrupt), atomic_replace_dir(target) as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert os.listdir(target) == ["old"]
    with atomic_replace_dir(target) as temporary:
        (temporary / "new").touch()
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["folder"]


def test_files_are_merged_into_folder_only_on_success(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with pytest.raises(RuntimeError), atomic_merge_dir(target) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    target.mkdir()
    for name in ("kept", "replaced"):
        (target / name).write_text("old")
    with atomic_merge_dir(target) as temporary:
        (temporary / "replaced").write_text("new")
        (temporary / "joined").write_text("new")
        assert (target / "replaced").read_text() == "old"
    contents = {file.name: file.read_text() for file in target.iterdir()}
    assert contents == {"kept": "old", "replaced": "new", "joined": "new"}
    assert os.listdir(tmp_path) == ["folder"]


def test_output_permissions_follow_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
        with atomic_replace_dir(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_json_keeps_unicode_and_rejects_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"näme": ["脸", "\n"]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"näme": ["脸", "\n"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_metrics_are_rounded_and_details_are_not(tmp_path: Path) -> None:
    target = tmp_path / "metrics/evaluate.json"
    values = {"kid": 651.455932, "precision": 0.0123456, "loss": 5601432320.5, "steps": 123456}
    rounded = write_metrics(target, values, {**values, "notes": ["few images"]})
    assert target.read_text("utf-8") == json.dumps(rounded, indent=2) + "\n"
    assert rounded == {"kid": 651.5, "precision": 0.01235, "loss": 5601000000, "steps": 123456}
    assert str(rounded["loss"]) == "5601000000"
    assert details_path(target) == tmp_path / "metrics/details/evaluate.json"
    assert json.loads(details_path(target).read_text("utf-8")) == {
        **values,
        "notes": ["few images"],
    }
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(target, {"kid": float("nan")}, {})


def test_csv_has_header_and_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("step", "loss"), [(1, 0.5), (2, 0.25)])
    assert (tmp_path / "a.csv").read_bytes() == b"step,loss\n1,0.5\n2,0.25\n"


@given(st.lists(st.lists(st.text(), min_size=1, max_size=3), min_size=1, max_size=3))
@example([["a\rb", "c"], ["\r", "\n"]])
def test_csv_has_the_text_that_was_written(rows: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        write_csv(path, rows[0], rows[1:])
        with path.open(encoding="utf-8", newline="") as file:
            assert list(csv.reader(file, strict=True)) == rows


class FileEvents:
    """Records which files are flushed and renamed, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, str]] = []
        flush, rename = os.fsync, os.replace

        def fsync(handle: int) -> None:
            self.events.append(("flush", os.readlink(f"/proc/self/fd/{handle}")))
            flush(handle)

        def replace(source: Path, target: Path) -> None:
            self.events.append((f"rename {source}", str(target)))
            rename(source, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)


def test_file_is_flushed_before_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power failure leaves the old file or the complete new one."""
    target, recorded = tmp_path / "file.txt", FileEvents(monkeypatch)
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".txt"
    assert recorded.events == [
        ("flush", str(temporary)),
        (f"rename {temporary}", str(target)),
        ("flush", str(tmp_path)),
    ]


def test_folder_is_flushed_after_last_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    with atomic_replace_dir(target) as temporary:
        (temporary / "a").touch()
    recorded = FileEvents(monkeypatch)
    with atomic_replace_dir(target) as temporary:
        (temporary / "b").touch()
    old = tmp_path / ".atelier-old-folder"
    assert recorded.events == [
        (f"rename {target}", str(old)),
        (f"rename {temporary}", str(target)),
        ("flush", str(tmp_path)),
    ]
    recorded.events.clear()
    with atomic_merge_dir(target) as temporary:
        (temporary / "c").touch()
    assert recorded.events == [(f"rename {temporary}/c", str(target / "c")), ("flush", str(target))]


def test_old_folder_is_restored_after_kill_between_renames(tmp_path: Path) -> None:
    target, old = tmp_path / "folder", tmp_path / ".atelier-old-folder"
    unfinished = tmp_path / ".atelier-new-folder-x"
    for folder in (old, unfinished):
        folder.mkdir()
    (old / "kept").touch()
    with pytest.raises(KeyboardInterrupt), atomic_replace_dir(target):
        raise KeyboardInterrupt
    assert os.listdir(target) == ["kept"]
    assert os.listdir(tmp_path) == ["folder"]
    # A process killed after both renames leaves only the old folder to remove.
    old.mkdir()
    with atomic_replace_dir(target) as temporary:
        (temporary / "new").touch()
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["folder"]
