"""Headless Chromium and a server of MLflow's UI.

Tests that import this module are skipped if selenium, Chromium or its driver is missing.
"""
# ruff: noqa: E402 - skips come before imports that would fail

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("chromium or chromedriver is not installed", allow_module_level=True)

from selenium.common import exceptions
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver import Keys as Keys  # for the tests
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from .project import Project
from .servers import free_port as free_port

T = TypeVar("T")

TIMEOUT_SECONDS = 60.0
# The sandbox needs privileges that containers lack; it is off because all pages are trusted.
# The last four options turn off the browser's own requests to its vendor.
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
# Errors of an element that is missing, covered, or being redrawn.
UNREADY = (
    exceptions.NoSuchElementException,
    exceptions.StaleElementReferenceException,
    exceptions.ElementNotInteractableException,
    exceptions.ElementClickInterceptedException,
)


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """Open a browser with a new profile in an empty folder."""
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = Chrome(options, ChromeService(DRIVER))
    try:
        # The browser's first page makes requests of its own; another tab separates them.
        browser.switch_to.new_window("tab")
        yield browser
    finally:
        browser.quit()


@contextmanager
def mlflow_ui(project: Project) -> Iterator[str]:
    """Serve a project's runs like ``make ui``; yield the URL."""
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    changes = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(
        [Path(sys.executable).with_name("mlflow"), *f"ui --workers 1 --port {port}".split()],
        cwd=project.folder,
        env=inherited | changes,
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


def _await_health(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, f"mlflow ui exited with {server.returncode}"
        with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection, suppress(OSError):
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
            return
        time.sleep(0.1)
    pytest.fail("mlflow ui does not respond")


def eventually(browser: Chrome, condition: Callable[[], T]) -> T:
    """Call a function until its result is true; return the result, or fail after a timeout."""
    try:
        return WebDriverWait(browser, TIMEOUT_SECONDS, 0.1, UNREADY).until(lambda _: condition())
    except exceptions.TimeoutException:
        text = browser.find_element(By.TAG_NAME, "body").text
        pytest.fail(f"not found on {browser.current_url}, which shows:\n{text}")


def click(browser: Chrome, xpath: str) -> None:
    """Click on an element when it is clickable."""
    eventually(browser, lambda: browser.find_element(By.XPATH, xpath).click() or True)


def press(browser: Chrome, find: Callable[[], WebElement], *keys: str) -> None:
    """Press keys on an element when it accepts input."""
    eventually(browser, lambda: find().send_keys(*keys) or True)


def loaded(image: WebElement) -> bool:
    """Return True if the file of an ``<img>`` element is loaded."""
    return bool(image.get_property("complete") and image.get_property("naturalWidth"))


def set_screen(browser: Chrome, width: int, scheme: str = "light") -> None:
    """Show pages as on a screen of this width, with a light or dark color scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def external_requests(browser: Chrome) -> set[str]:
    """Return the URLs that this tab has requested and that are not in a file or in the page."""
    own = {"file", "data", "blob"}
    return {address for address in requested(browser) if urlsplit(address).scheme not in own}


def requested(browser: Chrome) -> set[str]:
    """Return all URLs that this tab has requested since the last call, successfully or not."""
    entries = [json.loads(entry["message"]) for entry in browser.get_log("performance")]
    return {
        entry["message"]["params"]["request"]["url"]
        for entry in entries
        if entry["webview"] == browser.current_window_handle
        and entry["message"]["method"] == "Network.requestWillBeSent"
    }
