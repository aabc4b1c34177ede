import errno
import json
import os
from pathlib import Path

import pytest

from atelier.files import adding_to, replacing, replacing_folder, write_csv, write_json


def test_a_file_is_replaced_only_when_all_went_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    with replacing(target) as temporary:
        temporary.write_text("old")
    with pytest.raises(OSError, match="No space"), replacing(target) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == ["file.txt"]


def test_a_folder_is_replaced_only_when_all_went_well(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with replacing_folder(target) as temporary:
        (temporary / "old").touch()
    with pytest.raises(KeyboardInterrupt), replacing_folder(target) as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert os.listdir(target) == ["old"]
    with replacing_folder(target) as temporary:
        (temporary / "new").touch()
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["folder"]


def test_files_join_a_folder_only_when_all_went_well(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with pytest.raises(RuntimeError), adding_to(target) as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    target.mkdir()
    for name in ("kept", "replaced"):
        (target / name).write_text("old")
    with adding_to(target) as temporary:
        (temporary / "replaced").write_text("new")
        (temporary / "joined").write_text("new")
        assert (target / "replaced").read_text() == "old"
    told = {file.name: file.read_text() for file in target.iterdir()}
    assert told == {"kept": "old", "replaced": "new", "joined": "new"}
    assert os.listdir(tmp_path) == ["folder"]


def test_outputs_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
        with replacing_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_json_keeps_any_script_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"näme": ["脸", "\n"]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"näme": ["脸", "\n"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_csv_is_a_header_and_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("step", "loss"), [(1, 0.5), (2, 0.25)])
    assert (tmp_path / "a.csv").read_bytes() == b"step,loss\n1,0.5\n2,0.25\n"
