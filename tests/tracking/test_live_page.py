"""Page `.atelier/live.html`."""

import base64
import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atelier.core.progress import Progress
from atelier.pages.html import _digest
from atelier.tracking import live_state
from atelier.tracking.environment import Process
from atelier.tracking.live_page import PAGE, PageWriter, file_page, served_page
from atelier.tracking.live_state import CURVES, SAMPLES, LiveState, read_states
from atelier.tracking.live_view import STAGES

from ..support.live import OWN, dead_key, state, write_state
from ..support.project import Project

HOSTILE = "</script><script>alert(1)</script><!-- \"'&"
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def data(page: str) -> Any:
    (text,) = DATA.findall(page)
    return json.loads(text)


def test_page_contains_the_state_the_curves_and_the_samples(tmp_path: Path) -> None:
    folder = write_state(tmp_path, samples=2, curves=3, caption="after epoch 2", done=5, total=9)
    curves = {"names": ["loss/d"], "steps": [1], "values": [[0.5]], "kid": []}
    (folder / CURVES).write_text(json.dumps(curves), "utf-8")
    (folder / SAMPLES).write_bytes(b"an image")
    found = data(file_page(tmp_path))
    assert found["curves"] == curves
    assert base64.b64decode(found["image"].removeprefix("data:image/webp;base64,")) == b"an image"
    assert (found["view"]["done"], found["view"]["total"]) == (5, 9)
    assert found["view"]["headline"] == "The stage train is running"


def test_page_without_results(tmp_path: Path) -> None:
    found = data(file_page(tmp_path))
    assert (found["view"]["status"], found["curves"], found["image"]) == ("none", None, "")
    write_state(tmp_path, samples=1, curves=1)  # its files are removed meanwhile
    found = data(file_page(tmp_path))
    assert (found["curves"], found["image"]) == (None, "")


def test_hostile_text_is_data(tmp_path: Path) -> None:
    harmless = file_page(tmp_path)
    texts = {"title": HOSTILE, "note": HOSTILE, "caption": HOSTILE, "warnings": [HOSTILE]}
    write_state(tmp_path, HOSTILE.replace("/", "-"), samples=1, **texts)
    page = file_page(tmp_path)
    assert page.count("<script") == harmless.count("<script")
    assert page.count("<!--") == harmless.count("<!--")
    view = data(page)["view"]
    assert (view["title"], view["note"], view["warnings"]) == (HOSTILE, HOSTILE, [HOSTILE])


@pytest.mark.parametrize("is_served", [True, False])
def test_page_runs_its_own_script_only(tmp_path: Path, is_served: bool) -> None:
    page = served_page() if is_served else file_page(tmp_path)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert f"script-src '{_digest(script)}'" in policy
    assert policy.startswith("default-src 'none'; img-src ")
    assert ("connect-src 'self'" in policy) == is_served
    assert ('id="stop"' in page) == is_served
    assert not re.search(r"""\s(on\w+|style)=["']""", page)


def test_training_writes_the_page(tmp_path: Path) -> None:
    live = LiveState(tmp_path, state(), show=PageWriter(is_early=True))
    assert data((tmp_path / PAGE).read_text("utf-8"))["view"]["status"] == "running"
    live.on_progress("steps", Progress(3, 4))
    live.end("finished")
    view = data((tmp_path / PAGE).read_text("utf-8"))["view"]
    assert (view["status"], view["done"]) == ("finished", 3)


def test_short_stage_writes_the_page_only_if_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0, thread_time=lambda: 1.0, time=lambda: 9.0)
    monkeypatch.setattr(live_state, "time", clock)
    LiveState(tmp_path, state("render"), show=PageWriter()).end("finished")
    assert not (tmp_path / PAGE).exists()
    helper = state("plots_script", started=2000.0)
    LiveState(tmp_path, helper, show=PageWriter(is_early=True)).end("failed")
    assert not (tmp_path / PAGE).exists(), "its progress is of no interest"
    failing = state("render", started=3000.0)
    LiveState(tmp_path, failing, show=PageWriter()).end("failed", "the disk is full")
    view = data((tmp_path / PAGE).read_text("utf-8"))["view"]
    assert (view["status"], view["message"]) == ("failed", "the disk is full")


def test_page_shows_the_newest_running_stage(tmp_path: Path) -> None:
    older = LiveState(tmp_path, state(title="older"), show=PageWriter(is_early=True))
    newer = write_state(tmp_path, "stylize", started=2000.0)
    (tmp_path / PAGE).unlink()
    older.end("interrupted")
    assert not (tmp_path / PAGE).exists()
    for file in newer.iterdir():
        file.unlink()
    newer.rmdir()
    write_state(tmp_path, "stylize", started=2000.0, process=dead_key())
    older.end("interrupted")
    assert data((tmp_path / PAGE).read_text("utf-8"))["view"]["title"] == "older"


@pytest.mark.slow
def test_stage_of_dvc_writes_the_page(ready: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    dvc = Process.of(os.getppid())
    monkeypatch.setattr("atelier.tracking.stage.dvc_process", lambda: dvc)
    ready.set(**{"train.lr": 0.0003})
    ready.stage("train", DVC_EXP_NAME="my-exp")
    view = data((ready.folder / ".atelier/live.html").read_text("utf-8"))["view"]
    assert (view["stage"], view["status"], view["done"]) == ("train", "between", 8)
    assert view["title"].endswith("more settings (my-exp)")
    assert {stage["name"] for stage in view["stages"]} == set(STAGES)
    (found,) = read_states(ready.folder / ".atelier").values()
    assert (found.process, found.pipeline) == (OWN, dvc.key)
    assert found.signal == signal.SIGINT
