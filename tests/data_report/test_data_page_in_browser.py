"""Page of the report on the data in a browser, on a wide screen and on a phone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from atelier.core.settings import load
from atelier.data.image_list import ImageEntry
from atelier.data.manifest import Manifest
from atelier.data.raw import RawImages
from atelier.data_report.build import build_page
from atelier.data_report.findings import DataSet, examine
from atelier.data_report.page import write_page

from ..support.arrays import random_images
from ..support.browser import (
    By,
    Chrome,
    Keys,
    chromium,
    eventually,
    external_requests,
    loaded,
    set_screen,
)

pytestmark = pytest.mark.slow
WIDTHS = [1440, 390]
LONG = "a_very_long_name_without_any_space_that_a_camera_would_hardly_write_" * 2


@pytest.fixture(scope="module")
def page(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chrome, str]]:
    folder = tmp_path_factory.mktemp("page")
    rows = [
        ImageEntry(
            f"f/{LONG}{n}.jpg", f"{n}", 20, 30, "", f"f/{LONG}{n}.jpg", "training", n, n // 3, 20
        )
        for n in range(30)
    ]
    files = [ImageEntry(f"f/{LONG}{n}.txt", f"{n}", 0, 0, "not an image") for n in range(30)]
    pixels = {"training": random_images(30, 32, 3)}
    data = DataSet([*rows, *files], pixels)
    findings = examine(data, 30, lambda images: images.mean((1, 2), dtype=np.float32))
    raw = RawImages(folder, Manifest("folder", "zip", ()))
    write_page(folder / "report.html", build_page(load(root / "params.yaml"), data, findings, raw))
    with chromium(folder / "profile") as browser:
        yield browser, (folder / "report.html").as_uri()


@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_the_screen(page: tuple[Chrome, str], width: int) -> None:
    browser, address = page
    set_screen(browser, width, "light")
    browser.get(address)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    images = browser.find_elements(By.CSS_SELECTOR, "main img")
    assert len(images) > 40
    assert all(loaded(image) for image in images)
    titles = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert titles == [
        *("30 of 60 files are used", "Overview", "The images", "Rejected files"),
        *("Near-duplicates", "Outliers", "Enlarged images"),
    ]
    assert external_requests(browser) == set()


@pytest.mark.parametrize("width", WIDTHS)
def test_keyboard_enlarges_a_thumbnail(page: tuple[Chrome, str], width: int) -> None:
    browser, address = page
    set_screen(browser, width, "dark")
    browser.get(address)
    button = browser.find_element(By.CSS_SELECTOR, "#outliers .zoom")
    button.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.ID, "enlarged")
    image = dialog.find_element(By.TAG_NAME, "img")
    eventually(browser, lambda: loaded(image))
    assert image.size["width"] % 32 == 0, "pixels of one size"
    assert image.size["width"] > 96
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


def test_links_of_the_verdict_lead_to_its_sections(page: tuple[Chrome, str]) -> None:
    browser, address = page
    browser.get(address)
    links = browser.find_elements(By.CSS_SELECTOR, ".reasons a")
    assert [link.text for link in links] == [
        *("Rejected", "Near-duplicates", "Outliers", "Enlarged")
    ]
    for link in links:
        target = str(link.get_attribute("href")).partition("#")[2]
        assert browser.find_element(By.ID, target).tag_name == "section"
