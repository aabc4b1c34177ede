"""Live page of a real training in a browser."""

import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from atelier.tracking.environment import Process
from atelier.tracking.live_page import file_page
from atelier.tracking.live_state import CURVES, SAMPLES
from atelier.web.live_server import live_app

from ..support.browser import (
    By,
    Chrome,
    chromium,
    eventually,
    external_requests,
    loaded,
    set_screen,
)
from ..support.live import output_at_end, stoppable_process, write_state
from ..support.project import Project
from ..support.stage_runs import start
from ..support.web_server import serving

pytestmark = pytest.mark.slow
OUTPUTS = ("models", "samples", "plots/losses.csv", "metrics/train.json")
# Checkpoints after each step make the tiny training slow enough to be watched.
WATCHED: dict[str, Any] = {"train.epochs": 120, "runtime.checkpoint_seconds": 0.0}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Browser."""
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def served(ready: Project) -> Iterator[str]:
    """Address of the live page."""
    with serving(live_app(ready.folder / ".atelier")) as port:
        yield f"http://127.0.0.1:{port}/"


def text(browser: Chrome, name: str) -> str:
    return browser.find_element(By.ID, name).text


def status(browser: Chrome) -> str | None:
    return browser.find_element(By.ID, "status").get_attribute("data-status")


def steps(browser: Chrome) -> int:
    return int((text(browser, "steps").split() or ["0"])[0].replace(",", ""))


def pixels(browser: Chrome, selector: str) -> NDArray[np.uint8]:
    element = browser.find_element(By.CSS_SELECTOR, selector)
    # A screenshot has only the visible part.
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))


def has_color(image: NDArray[np.uint8], color: tuple[int, int, int]) -> bool:
    # Lines are two pixels wide, so that no pixel may have their pure color.
    return bool((np.abs(image.astype(int) - color).max(axis=-1) < 50).any())


def shows_samples(browser: Chrome, project: Project) -> bool:
    """Return true if the page shows the mean color of the samples in the stage's file."""
    (file,) = (project.folder / ".atelier/live").glob(f"train-*/{SAMPLES}")
    with Image.open(file) as image:
        expected = np.asarray(image.convert("RGB")).mean(axis=(0, 1))
    return bool(np.abs(pixels(browser, "#sheet").mean(axis=(0, 1)) - expected).max() < 6)


def has_overflow(browser: Chrome) -> bool:
    script = "const e = document.documentElement; return e.scrollWidth > e.clientWidth"
    return bool(browser.execute_script(script))


def until(browser: Chrome, dvc: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    def is_met() -> bool:
        assert dvc.poll() is None, dvc.communicate()[0]
        return condition()

    eventually(browser, is_met)


def test_training_is_watched_stopped_and_resumed(
    browser: Chrome, served: str, ready: Project, tmp_path: Path
) -> None:
    ready.set(**WATCHED)
    whole = ready.copy(tmp_path / "whole")
    whole.set(**{"runtime.checkpoint_seconds": 3600.0})
    whole.stage("train")
    set_screen(browser, 1440)
    browser.get(served)
    eventually(browser, lambda: status(browser) == "finished")
    assert text(browser, "headline") == "The pipeline is finished"
    shutil.rmtree(ready.folder / ".atelier/live")
    eventually(browser, lambda: status(browser) == "none")
    assert text(browser, "headline") == "Nothing is running"

    dvc = start(ready)  # the page is open already
    until(browser, dvc, lambda: status(browser) == "running" and steps(browser) > 0)
    assert text(browser, "headline") == "The stage train is running"
    first = steps(browser)
    until(browser, dvc, lambda: steps(browser) > first)
    until(browser, dvc, lambda: len(browser.find_elements(By.CSS_SELECTOR, ".plot")) == 2)
    assert "of 480 steps" in text(browser, "steps")
    assert "images per second" in text(browser, "numbers")
    assert "about " in text(browser, "numbers")
    assert "train running" in text(browser, "stages")
    assert has_color(pixels(browser, ".plot"), (0x00, 0x72, 0xB2)), "the discriminator's loss"
    until(browser, dvc, lambda: loaded(browser.find_element(By.ID, "sheet")))
    assert shows_samples(browser, ready)
    browser.save_screenshot(str(tmp_path / "running.png"))

    button = browser.find_element(By.ID, "stop")
    button.click()
    browser.find_element(By.CSS_SELECTOR, "#confirm [value=cancel]").click()
    assert dvc.poll() is None
    button.click()
    browser.find_element(By.CSS_SELECTOR, "#confirm [value=stop]").click()
    eventually(browser, lambda: status(browser) == "interrupted")
    assert text(browser, "message") == "A checkpoint is saved. To continue from it, type: dvc repro"
    output, _ = dvc.communicate(timeout=120)
    assert "`dvc repro` resumes it" in output
    assert dvc.returncode != 0
    assert not browser.find_element(By.ID, "stop").is_displayed()
    done = steps(browser)

    ready.set(**{"runtime.checkpoint_seconds": 3600.0})
    ready.repro("--no-run-cache", "train")
    eventually(browser, lambda: status(browser) == "finished")
    assert steps(browser) == 480 > done
    assert ready.bytes(*OUTPUTS) == whole.bytes(*OUTPUTS)
    assert all(address.startswith(served) for address in external_requests(browser))


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_screen(
    browser: Chrome, ready: Project, tmp_path: Path, width: int, scheme: str
) -> None:
    ready.set(**{"train.epochs": 30, "train.kid_every_epochs": 10})
    ready.stage("train")
    page = tmp_path / "live.html"
    page.write_text(file_page(ready.folder / ".atelier"), "utf-8")
    set_screen(browser, width, scheme)
    external_requests(browser)  # those of earlier tests
    browser.get(page.as_uri())
    assert status(browser) == "finished"
    assert len(browser.find_elements(By.CSS_SELECTOR, ".plot")) == 3
    assert not has_overflow(browser)
    screen = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    assert screen.getpixel((2, 2)) == (
        (0xFA, 0xF9, 0xF7) if scheme == "light" else (0x19, 0x18, 0x16)
    )
    blue = (0x00, 0x72, 0xB2) if scheme == "light" else (0x5D, 0xB7, 0xEA)
    assert all(has_color(pixels(browser, f"figure:nth-child({n}) .plot"), blue) for n in (1, 2, 3))
    sheet = browser.find_element(By.ID, "sheet")
    assert 300 <= sheet.size["width"] <= width
    assert shows_samples(browser, ready)
    assert external_requests(browser) == set()


def test_stop_applies_to_the_pipeline_in_the_question(browser: Chrome, tmp_path: Path) -> None:
    values = {"names": ["loss/d", "loss/g"], "steps": [1, 2], "values": [[1, 2], [2, 1]]}
    with (
        serving(live_app(tmp_path)) as port,
        stoppable_process() as process,
        stoppable_process() as other,
    ):
        key = Process.of(process.pid).key
        folder = write_state(tmp_path, process=key, curves=1, title="best32")
        # A KID that is not finite must not hide the losses and the button.
        (folder / CURVES).write_text(json.dumps(values | {"kid": [[1, None]]}), "utf-8")
        browser.get(f"http://127.0.0.1:{port}/")
        eventually(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ".plot")) == 1)
        browser.find_element(By.ID, "stop").click()
        assert text(browser, "question") == "Stop the stage train?"
        assert text(browser, "asked") == "best32"
        key = Process.of(other.pid).key
        write_state(tmp_path, "render", process=key, started=9000.0, title="newer")
        eventually(browser, lambda: "render" in text(browser, "headline"))
        browser.find_element(By.CSS_SELECTOR, "#confirm [value=stop]").click()
        assert process.stdout is not None
        assert process.stdout.readline() == "stop\n"
        assert output_at_end(other) == ""
        output_at_end(process)
