import io
import sys

import pytest

from atelier.core.progress import (
    Progress,
    duration_text,
    print_above_bars,
    progress_bar,
    status_line,
)


def test_delayed_bar_is_invisible_for_short_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for delay, is_visible in ((0.0, True), (3600.0, False)):
        with progress_bar("generate", "pictures", delay=delay) as report:
            for done in (1, 2):
                report(Progress(done, 2))
        assert ("2/2" in capsys.readouterr().err) == is_visible


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "a few seconds"),
        (7.4, "7 seconds"),
        (43.0, "45 seconds"),
        (89.9, "90 seconds"),
        (90.0, "2 minutes"),
        (350.0, "6 minutes"),
        (47 * 60.0, "45 minutes"),
        (100 * 60.0, "1.5 hours"),
        (47.6 * 3600, "48 hours"),
        (72 * 3600.0, "3 days"),
    ],
)
def test_durations_are_rounded(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("initial", "text"),
    [(0, "750/6000 [00:10<01:10, 75.00 steps/s]"), (700, "750/6000 [00:10<17:30,  5.00 steps/s]")],
)
def test_speed_and_remaining_time_are_those_of_this_attempt(
    initial: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds = 0.0
    monkeypatch.setattr("tqdm.std.time", lambda: seconds)
    with progress_bar("train", "steps") as report:
        report(Progress(initial + 1, 6000, initial=initial))
        seconds = 10.0
        report(Progress(750, 6000, initial=initial))
        assert capsys.readouterr().err.endswith(text)
        seconds = 20.0
        report(Progress(800, 6000, initial=initial))
    line = capsys.readouterr().err
    assert "800/6000 [00:20<" in line
    assert (" 5.00 steps/s" in line) == bool(initial)


def test_lines_are_printed_above_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("train", "steps") as report:
        print_above_bars("  steps  8", "  time   a second")
        report(Progress(8, 8))
    captured = capsys.readouterr()
    assert captured.out == "  steps  8\n  time   a second\n"
    assert "8/8" in captured.err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_status_line_is_for_terminals_only(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    with status_line() as show:
        show("Reading the runs")
        assert ("Reading the runs ..." in stream.getvalue()) == is_terminal
        show("Reading the cache")
    *_, last = stream.getvalue().split("\r")
    assert last.strip() == "", "the line disappears"
