"""Live state that stages write."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from atelier.core.progress import Progress, observed_progress, progress_bar
from atelier.core.settings import load
from atelier.tracking import live_state, run_state, stage
from atelier.tracking.environment import Process
from atelier.tracking.live_state import (
    CURVES,
    FOLDER,
    SAMPLES,
    LiveState,
    StageState,
    read_states,
    running,
)
from atelier.tracking.run import Run, sheet
from atelier.tracking.run_state import ResumeDir
from atelier.tracking.stage import _with_saved_work

from ..support.live import OWN, dead_key, state, write_state
from ..support.project import ROOT, Project

OUTPUTS = ("models", "samples", "plots/losses.csv", "metrics/train.json")


class Clock:
    """Clock that stands still; each write takes ``cpu`` seconds of the processor."""

    def __init__(self) -> None:
        self.now, self.cpu, self.spent = 128.0, 0.0, 0.0

    def monotonic(self) -> float:
        """Return the present time."""
        return self.now

    def thread_time(self) -> float:
        """Return the processor time; a write calls this twice."""
        self.spent += self.cpu
        return self.spent

    time = monotonic


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Clock of the module."""
    clock = Clock()
    monkeypatch.setattr(live_state, "time", clock)
    return clock


def only(private: Path) -> StageState:
    (found,) = read_states(private).values()
    return found


def test_training_is_described_while_it_runs_and_at_its_end(ready: Project) -> None:
    ready.set(**{"train.kid_every_epochs": 1})
    ready.stage("train")
    private = ready.folder / ".atelier"
    ((name, found),) = read_states(private).items()
    assert (found.stage, found.status, found.done, found.total) == ("train", "finished", 8, 8)
    assert (found.unit, found.images_per_unit, found.caption) == ("steps", 16, "after epoch 2")
    assert any("KID" in warning for warning in found.warnings)
    curves = json.loads((private / FOLDER / name / CURVES).read_text("utf-8"))
    with (ready.folder / "plots/losses.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert curves["steps"] == [int(row["step"]) for row in rows]
    for curve, column in (("loss/d", "loss_d"), ("loss/g", "loss_g"), ("scores/d_x", "d_x")):
        values = curves["values"][curves["names"].index(curve)]
        np.testing.assert_allclose(values, [float(row[column]) for row in rows], rtol=1e-3)
    with (ready.folder / "plots/quality.csv").open(encoding="utf-8") as lines:
        scores = [[int(row["epoch"]), float(row["kid"])] for row in csv.DictReader(lines)]
    np.testing.assert_allclose(curves["kid"], scores, rtol=1e-3)
    samples = np.load(ready.folder / "samples/epoch_0002.npy")
    with Image.open(private / FOLDER / name / SAMPLES) as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    expected = sheet(samples, min_width=1)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 12, "it is compressed"


def test_stage_does_not_depend_on_the_live_state(ready: Project) -> None:
    ready.stage("train")
    expected = ready.bytes(*OUTPUTS)
    for name in ("live", "live.html"):
        target = ready.folder / ".atelier" / name
        if target.is_dir():
            target.rename(target.with_name("moved"))
    (ready.folder / ".atelier/live").write_text("not a folder", "utf-8")
    ready.remove_outputs("train")
    ready.stage("train")
    assert ready.bytes(*OUTPUTS) == expected
    assert (ready.folder / ".atelier/live").read_text("utf-8") == "not a folder"


def test_images_of_the_user_are_not_shown(tmp_path: Path) -> None:
    run = Run(None, live=LiveState(tmp_path, state()))
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    for series in ("real", "augmented"):
        run.log_images(series, pixels)
    run.end("FINISHED")
    live = LiveState(tmp_path, state())
    Run(None, live=live).log_images("real", pixels)
    live.end("finished")
    assert only(tmp_path).samples == 0
    Run(None, live=live).log_images("samples", pixels, step=3)
    live.end("finished")
    assert (only(tmp_path).samples, only(tmp_path).caption) == (1, "after epoch 3")


@pytest.mark.parametrize(
    ("sharing", "contents", "number"),
    [
        ("none", ["generated"], 1),
        ("none", ["generated", "me.jpg"], 0),
        ("all", ["me.jpg"], 1),
    ],
)
def test_stylized_images_of_the_user_are_shown_if_images_are_shared(
    tmp_path: Path, sharing: str, contents: list[str], number: int
) -> None:
    settings = load(ROOT / "params.yaml")
    changes = {
        "convert": settings.convert.model_copy(update={"share_images": sharing}),
        "stylize": settings.stylize.model_copy(update={"contents": contents}),
    }
    live = stage._open_live_state("stylize", settings.model_copy(update=changes), None, tmp_path)
    assert live is not None
    live.set_images("paintings", np.zeros((1, 8, 8, 3), np.uint8), 0, 0)
    live.end("finished")
    assert only(tmp_path).samples == number


@pytest.mark.parametrize(
    ("experiment", "command"),
    [("", "`dvc repro`"), ("warm-fox", "the same `dvc exp run` command")],
)
def test_interrupted_stage_names_the_command_that_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: str, command: str
) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    if experiment:
        monkeypatch.setenv("DVC_EXP_NAME", experiment)
    code, message = stage._exit_code_and_message(KeyboardInterrupt("saved"), "train")
    assert (code, message) == (
        130,
        f"ERROR: interrupted before the stage was done; {command} resumes it.",
    )
    live = stage._open_live_state("train", load(ROOT / "params.yaml"), None, tmp_path)
    assert live is not None
    live.end("interrupted", is_saved=True)
    assert only(tmp_path).experiment == experiment


def test_page_that_fails_does_not_fail_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("no page")

    monkeypatch.setattr(stage, "StageState", fail)
    settings = load(ROOT / "params.yaml")
    assert stage._open_live_state("train", settings, None, tmp_path) is None
    warning = "WARNING: the live page does not show this stage (no page).\n"
    assert capsys.readouterr().err == warning


def test_stop_signal_does_not_undo_a_finished_stage(
    ready: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = run_state.ResumeDir.mark_finished

    def stop(self: run_state.ResumeDir) -> None:
        finish(self)
        for number in run_state.STOP_SIGNALS:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(run_state.ResumeDir, "mark_finished", stop)
    ready.stage("render")
    assert only(ready.folder / ".atelier").status == "finished"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        ("raise AtelierError('the face is missing.')", "failed", "the face is missing."),
        ("raise KeyboardInterrupt", "interrupted", ""),
        ("1 / 0", "failed", "This is an error of the program; the terminal shows its traceback."),
    ],
)
def test_end_of_a_failed_stage_is_described(
    ready: Project, error: str, status: str, message: str
) -> None:
    script = ready.folder / "stages/render.py"
    text = script.read_text("utf-8").replace(
        "    from atelier.data.dataset import load_images\n",
        f"    from atelier.core.errors import AtelierError\n    {error}\n"
        "    from atelier.data.dataset import load_images\n",
    )
    script.write_text(text, "utf-8")
    ready.stage("render", ok=False)
    found = only(ready.folder / ".atelier")
    assert (found.status, found.message, found.is_saved) == (status, message, False)


def test_interruption_before_the_first_step_tells_of_an_earlier_checkpoint(tmp_path: Path) -> None:
    before, new = (ResumeDir(tmp_path, name, None, "cpu", None) for name in ("train", "stylize"))
    with before.checkpoints("attempt") as saved:
        saved.save(1, {"step": torch.tensor(1)})
    assert str(_with_saved_work(KeyboardInterrupt(), Run(None, before), False)) == "saved"
    assert str(_with_saved_work(KeyboardInterrupt(), Run(None, new), False)) == ""
    assert str(_with_saved_work(KeyboardInterrupt("saved"), Run(None, new), True)) == "saved"
    error = ValueError()
    assert _with_saved_work(error, Run(None, before), True) is error


@pytest.mark.parametrize(
    ("is_repetition", "command"), [(True, "`dvc repro -f -s train`"), (False, "`dvc repro`")]
)
def test_interrupted_repetition_names_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, is_repetition: bool, command: str
) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    for text, what in (("saved", "resumes it"), ("", "restarts it")):
        error = _with_saved_work(KeyboardInterrupt(text), Run(None), is_repetition)
        _, message = stage._exit_code_and_message(error, "train")
        assert message.endswith(f"; {command} {what}.")


def test_bars_that_are_not_shown_are_observed() -> None:
    seen: list[Any] = []
    with observed_progress(lambda unit, progress: seen.append((unit, progress))):
        for shown in (True, False):
            with progress_bar("train", "steps", shown=shown) as report:
                report(Progress(3, 4))
    with progress_bar("train", "steps", shown=False) as report:
        report(Progress(4, 4))
    assert seen == 2 * [("steps", Progress(3, 4))]


def test_writes_are_a_second_apart(tmp_path: Path, clock: Clock) -> None:
    live = LiveState(tmp_path, state(), describe=lambda: "best32")
    assert only(tmp_path).title == "", "short stages do not read the presets"
    for done in range(1, 61):
        live.on_progress("steps", Progress(done, 600))
        clock.now += 1 / 16
        expected = 0 if done <= 16 else 1 + 16 * ((done - 1) // 16)
        assert (only(tmp_path).done or 0) == expected
    assert only(tmp_path).title == "best32"


def test_slow_writes_are_rarer(tmp_path: Path, clock: Clock) -> None:
    live = LiveState(tmp_path, state())
    clock.cpu, clock.now = 0.1, clock.now + 1
    live.on_progress("steps", Progress(1, 600))
    for seconds, done in ((49.9, 1), (0.2, 3)):
        clock.now += seconds
        live.on_progress("steps", Progress(3, 600))
        assert only(tmp_path).done == done


def test_samples_are_rarer_than_progress(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveState(tmp_path, state())
    encode = live_state._save_webp

    def slow(pixels: Any, file: Path) -> None:
        clock.spent += 0.02
        encode(pixels, file)

    monkeypatch.setattr(live_state, "_save_webp", slow)
    numbers = []
    for second in range(1, 26):
        clock.now += 1
        live.set_images("samples", np.zeros((4, 8, 8, 3), np.uint8), second, 0)
        live.add_steps(second, ("loss/d",), np.ones((1, 1), np.float32))
        live.on_progress("steps", Progress(second, 600))
        numbers.append((only(tmp_path).done, only(tmp_path).samples, only(tmp_path).curves))
    # Each encoding is followed by 500 times its processor time.
    assert numbers == [
        (second, 1 + (second - 1) // 10, 1 + (second - 1) // 10) for second in range(1, 26)
    ]
    live.end("finished")
    assert only(tmp_path).samples == 4


def test_speed_and_remaining_time(tmp_path: Path, clock: Clock) -> None:
    live = LiveState(tmp_path, state(images_per_unit=32))
    for done in range(100, 160):  # a resumed training; two steps a second at first
        live.on_progress("steps", Progress(done, 1000))
        clock.now += 0.5 if done < 120 else 2.0
    found = only(tmp_path)
    assert found.done == 159
    assert found.rate == pytest.approx(59 / 88, rel=0.05)
    assert found.remaining == pytest.approx(841 * 88 / 59, rel=0.05)
    live.end("finished")
    assert only(tmp_path).rate is not None


def test_final_state_has_the_last_progress(tmp_path: Path) -> None:
    live = LiveState(tmp_path, state())
    for done in (1, 2, 3):
        live.on_progress("images", Progress(done, 3, f"{done} of them"))
    live.end("interrupted", is_saved=True)
    found = only(tmp_path)
    assert (found.done, found.total, found.note) == (3, 3, "3 of them")
    assert (found.status, found.is_saved, found.remaining) == ("interrupted", True, None)


def test_warnings_are_shown_once(tmp_path: Path) -> None:
    live = LiveState(tmp_path, state())
    run = Run(None, live=live)
    for warning in ("first", "second", "first"):
        run.warn(warning)
    live.end("finished")
    assert only(tmp_path).warnings == ["first", "second"]


def test_number_of_warnings_is_limited(tmp_path: Path) -> None:
    live = LiveState(tmp_path, state())
    for number in range(30):
        live.warn(str(number))
    live.end("finished")
    assert only(tmp_path).warnings == [str(number) for number in range(20)]


def test_note_stays_until_the_next_one(tmp_path: Path, clock: Clock) -> None:
    live = LiveState(tmp_path, state())
    for done, note, expected in ((1, "a.jpg", "a.jpg"), (2, "", "a.jpg"), (3, "b.jpg", "b.jpg")):
        clock.now += 2
        live.on_progress("images", Progress(done, 9, note))
        assert only(tmp_path).note == expected


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path, clock: Clock) -> None:
    live = LiveState(tmp_path, state(title="of \udcff"))
    assert only(tmp_path).title == "of \\udcff"
    live.warn("\udcfe.jpg is damaged")
    clock.now += 2
    live.on_progress("images", Progress(1, 3, "\udcfd.jpg"))
    live.end("failed", "\udcfc.jpg")
    found = only(tmp_path)
    assert found.warnings == ["\\udcfe.jpg is damaged"]
    assert (found.note, found.message) == ("\\udcfd.jpg", "\\udcfc.jpg")


def test_no_error_fails_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError

    monkeypatch.setattr(live_state, "remove_ended", fail)
    live = LiveState(tmp_path, state(), describe=fail, show=fail)
    live.on_progress("steps", Progress(1, 3))
    live.end("finished")
    assert only(tmp_path).stage == "train"


def test_writes_are_tried_again_after_a_full_disk(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveState(tmp_path, state())
    attempts = []

    def fail(*_: object) -> None:
        attempts.append(clock.now)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(live_state, "replace_file", fail)
        live.set_images("samples", np.zeros((4, 8, 8, 3), np.uint8), 1, 0)
        for done in range(1, 31):
            clock.now += 1
            live.on_progress("steps", Progress(done, 600))
    assert len(attempts) == 1, "a disk that fails is not used every second"
    clock.now += 60
    live.on_progress("steps", Progress(31, 600))
    assert (only(tmp_path).done, only(tmp_path).samples) == (31, 1)


def test_blocked_disk_takes_one_percent_of_the_time(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, blocked = live_state.replace_file, 0.0

    def block(*arguments: Any) -> None:
        nonlocal blocked
        write(*arguments)
        clock.now, blocked = clock.now + 2.0, blocked + 2.0

    monkeypatch.setattr(live_state, "replace_file", block)
    pages = live_state.Throttle(5.0)

    def show(*_: object) -> None:
        if pages.is_due():
            with pages.work():
                block(tmp_path / "page", lambda file: file.write_text("", "utf-8"))

    began = clock.now
    live = LiveState(tmp_path, state(), show=show)
    for step in range(4_000):
        clock.now += 1
        live.add_steps(step, ("loss/d",), np.ones((1, 1), np.float32))
        live.on_progress("steps", Progress(step, 600))
    assert 0.005 < blocked / (clock.now - began) < 0.0105


def test_states_of_ended_pipelines_are_removed(tmp_path: Path) -> None:
    pipeline = dead_key(9)
    write_state(tmp_path, "download", process=dead_key(1), pipeline=dead_key(2))
    write_state(tmp_path, "convert", process=dead_key(3), pipeline=pipeline)
    write_state(tmp_path, "stylize", process=dead_key(4), pipeline=OWN)
    write_state(tmp_path, "render", process=OWN)
    LiveState(tmp_path, state(pipeline=pipeline, started=2000.0))
    names = [each.stage for each in read_states(tmp_path).values()]
    assert sorted(names) == ["convert", "render", "stylize", "train"]
    LiveState(tmp_path, state("evaluate", started=3000.0))
    assert "convert" not in [each.stage for each in read_states(tmp_path).values()]


def test_damaged_states_are_skipped(tmp_path: Path) -> None:
    folder = write_state(tmp_path)
    write_state(tmp_path, "render", process=dead_key())
    for content in ("", "{", "[]", '{"stage": 1}'):
        (folder / live_state.STATE).write_text(content, "utf-8")
        assert [each.stage for each in read_states(tmp_path).values()] == ["render"]


def test_hostile_states_are_skipped(tmp_path: Path) -> None:
    folder = write_state(tmp_path)
    write_state(tmp_path, "render", process=dead_key())
    file = folder / live_state.STATE
    for content in (
        state(samples=1).model_dump_json().replace('"signal":2', '"signal":9'),
        state(samples=1).model_dump_json().replace("1060.0", "NaN"),
        '{"stage": ' + 100_000 * "[",
        state(samples=1).model_dump_json() + 16_000_000 * " ",
    ):
        file.write_text(content, "utf-8")
        assert [each.stage for each in read_states(tmp_path).values()] == ["render"]
    file.unlink()
    os.mkfifo(file)
    assert [each.stage for each in read_states(tmp_path).values()] == ["render"]
    file.unlink()
    (tmp_path / "elsewhere").write_text(state().model_dump_json(), "utf-8")
    file.symlink_to(tmp_path / "elsewhere")
    assert [each.stage for each in read_states(tmp_path).values()] == ["render"]


@pytest.mark.parametrize("pid", ["\u00b2", "\u0664", "9" * 5000, "", "-1"])
def test_key_with_a_damaged_number_is_of_no_local_process(pid: str) -> None:
    assert Process.from_key(f"{OWN.rsplit('-', 2)[0]}-{pid}-1") is None


def test_state_of_another_machine_is_removed_after_days(tmp_path: Path) -> None:
    now, fields = live_state.time.time(), {"process": "elsewhere-7-1"}
    write_state(tmp_path, "train", updated=now - 86_400, **fields)
    write_state(tmp_path, "render", updated=now - 7 * 86_400, **fields)
    live_state.remove_ended(tmp_path, "")
    assert [each.stage for each in read_states(tmp_path).values()] == ["train"]


def test_old_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER / "train-x"
    folder.mkdir(parents=True)
    files = [folder / ".state.json-7", tmp_path / ".live.html-7", tmp_path / ".live.html-8"]
    for file in files:
        file.touch()
    for path in (folder, files[1]):
        os.utime(path, (1000.0, 1000.0))
    live_state.remove_ended(tmp_path, "")
    assert (folder.exists(), *(file.exists() for file in files)) == (False, False, False, True)


def test_running_states(tmp_path: Path) -> None:
    write_state(tmp_path, "convert", process=dead_key())
    write_state(tmp_path, "render", status="finished")
    name = write_state(tmp_path, "train").name
    assert running(read_states(tmp_path)) == [name]
    other = SimpleNamespace(process="other-host-12-34", updated=live_state.time.time())
    assert live_state.is_alive(other.process, other.updated)
    assert not live_state.is_alive(other.process, other.updated - 3600)
    assert not live_state.is_alive("", other.updated)
