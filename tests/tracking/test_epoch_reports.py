"""Tests of the file in which a training reports its epochs."""

import json
from pathlib import Path

import pytest

from atelier.tracking.epoch_reports import (
    FILE_VARIABLE,
    EpochReport,
    has_ended,
    read_reports,
    read_seconds,
    report_epoch,
)


def test_epochs_and_their_duration_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.epochs"
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    report_epoch({1: [3.0, 0.1]})
    report_epoch({})  # an epoch without a measurement
    first = json.loads(file.read_text("utf-8").splitlines()[1])["seconds"]
    report_epoch({3: [2.0, 0.1]})
    assert read_reports(file) == [EpochReport(1, 3.0), EpochReport(3, 2.0)]
    seconds = [json.loads(line).get("seconds") for line in file.read_text("utf-8").splitlines()]
    assert read_seconds(file) == seconds[-1] >= first > 0
    assert len(seconds) == 5
    assert not has_ended(file)
    report_epoch({}, is_last=True)
    assert has_ended(file)


def test_nothing_is_reported_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    report_epoch({1: [3.0]})


def test_durations_of_attempts_are_added(tmp_path: Path) -> None:
    file = tmp_path / "a.epochs"
    lines = [
        '{"process": "one", "seconds": 2.0}', '{"process": "one", "seconds": 5.0}',
        '{"process": "two", "seconds": 1.5}', '{"process": "two", "sec', "7", "[]",
    ]  # fmt: skip
    file.write_text("\n".join(lines), "utf-8")
    assert read_seconds(file) == 6.5
    assert read_reports(file) == []
    assert read_seconds(tmp_path / "missing") == 0.0
