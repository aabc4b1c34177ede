"""A headless Chromium, and MLflow's UI served to it: pages as a user sees them.

Tests that import this module skip where selenium, Chromium or its driver is missing.
"""
# ruff: noqa: E402 - what skips stands above the imports that would fail

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import TypeVar

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("there is no chromium, or no chromedriver", allow_module_level=True)

from selenium.common import exceptions
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver import Keys as Keys  # for the tests
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from .project import Project

T = TypeVar("T")

PATIENCE = 60.0
# The sandbox needs rights that containers lack, and the pages are our own. Without the last
# four the browser asks its maker for this and that.
ARGUMENTS = (
    "--headless",
    "--window-size=1600,1200",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What an element answers that is not there yet, covered, or just being redrawn.
UNREADY = (
    exceptions.NoSuchElementException,
    exceptions.StaleElementReferenceException,
    exceptions.ElementNotInteractableException,
    exceptions.ElementClickInterceptedException,
)


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """Open a browser whose profile, an empty folder, was never used."""
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = Chrome(options, ChromeService(DRIVER))
    try:
        # The browser's own first page makes requests; they are told apart by the tab.
        browser.switch_to.new_window("tab")
        yield browser
    finally:
        browser.quit()


@contextmanager
def mlflow_ui(project: Project) -> Iterator[str]:
    """Serve a project's runs as ``make ui`` does; yield the address."""
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    ours = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(
        [Path(sys.executable).with_name("mlflow"), *f"ui --workers 1 --port {port}".split()],
        cwd=project.folder,
        env=inherited | ours,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_health(server, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _await_health(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert server.poll() is None, f"mlflow ui ended with {server.returncode}"
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection, suppress(OSError):
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
            return
        time.sleep(0.1)
    pytest.fail("mlflow ui does not answer")


def eventually(browser: Chrome, look: Callable[[], T]) -> T:
    """Look at a page, again and again, until what is looked for is there; return it."""
    try:
        return WebDriverWait(browser, PATIENCE, 0.1, UNREADY).until(lambda _: look())
    except exceptions.TimeoutException:
        text = browser.find_element(By.TAG_NAME, "body").text
        pytest.fail(f"not seen on {browser.current_url}, which shows:\n{text}")


def click(browser: Chrome, xpath: str) -> None:
    """Click on an element as soon as it can be clicked."""
    eventually(browser, lambda: browser.find_element(By.XPATH, xpath).click() or True)


def press(browser: Chrome, find: Callable[[], WebElement], *keys: str) -> None:
    """Press keys on an element as soon as it takes them."""
    eventually(browser, lambda: find().send_keys(*keys) or True)


def loaded(picture: WebElement) -> bool:
    """Whether an ``<img>`` holds a picture, not the sign of a missing one."""
    return bool(picture.get_property("complete") and picture.get_property("naturalWidth"))


def requested(browser: Chrome) -> set[str]:
    """Every address that this tab has asked for since the last call, granted or not."""
    entries = [json.loads(entry["message"]) for entry in browser.get_log("performance")]
    return {
        entry["message"]["params"]["request"]["url"]
        for entry in entries
        if entry["webview"] == browser.current_window_handle
        and entry["message"]["method"] == "Network.requestWillBeSent"
    }
