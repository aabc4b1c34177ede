"""DVC's page of plots, drawn by a browser without a network."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support.browser import By, Chrome, chromium, eventually, loaded, requested
from ..support.project import Project

OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Page:
    """Page of plots in a browser that has no network, and the project that it shows."""

    browser: Chrome
    project: Project

    def resize(self, width: int) -> None:
        """Show the page as on a screen of this width."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of elements, in the order of the page."""
        return [found.text for found in self.browser.find_elements(By.CSS_SELECTOR, selector)]

    def number(self, script: str) -> float:
        """Return the value of an expression of JavaScript."""
        value: float = self.browser.execute_script(f"return {script}")
        return value

    def lines(self, plot: str) -> int:
        """Return the number of lines of a curve that have an extent."""
        lines = f"[...document.querySelectorAll('#{plot} .mark-line path')]"
        return int(self.number(f"{lines}.filter((line) => line.getBBox().width > 50).length"))


@pytest.fixture(scope="module")
def page(_ready: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Page that ``dvc plots show`` wrote to another folder of the project's root."""
    folder = tmp_path_factory.mktemp("plots")
    project = _ready.copy(folder / "project")
    project.run("dvc", "plots", "show", "--out", "elsewhere")
    with chromium(folder / "profile") as browser:
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
        page = Page(browser, project)
        page.resize(1440)
        browser.get((project.folder / "elsewhere/index.html").as_uri())
        eventually(browser, lambda: page.lines("style_losses"))
        yield page


def test_most_important_plots_come_first(page: Page) -> None:
    assert page.texts("h2") == ["Quality", "Training", "Images", "Details"]
    titles = [title.splitlines()[0].partition(" styled/")[0] for title in page.texts("h3")]
    titles = [title.partition(" renders/")[0].partition(" plots/")[0] for title in titles]
    assert titles == [
        *("KID", "KID while training", "Losses", "Discriminator scores"),
        *("Stylized images", "Real and generated images", "Progress of the training"),
        *("Nearest training images", "Animation of the training"),
        *("Sliced Wasserstein distance", "Style transfer"),
    ]


def test_every_curve_is_drawn_without_a_network(page: Page) -> None:
    # A line of each network and its mean; D(x), D(G(z)) twice, and their means.
    expected = {"KID": 1, "losses": 4, "scores": 6, "style_losses": 3}
    assert {plot: page.lines(plot) for plot in expected} == expected
    # The small images have a single scale: a point of generated and one of other real images.
    points = "#sliced_Wasserstein_distance .mark-symbol.role-mark path"
    assert page.number(f"document.querySelectorAll('{points}').length") == 2
    legend = page.texts("#losses .mark-text.role-legend-label")
    assert [label for text in legend for label in text.splitlines()] == [
        "discriminator",
        "generator",
    ]
    assert "cannot be drawn" not in page.browser.find_element(By.TAG_NAME, "body").text


def test_curve_without_points_has_a_sentence(page: Page) -> None:
    (card,) = [text for text in page.texts(".card") if text.startswith("KID while training")]
    assert "There are no values: no epoch was measured." in card


def test_no_request_leaves_the_page(page: Page) -> None:
    addresses = requested(page.browser)
    folder = page.project.folder / "elsewhere"
    files = {Path(address.removeprefix("file://")) for address in addresses if "file:" in address}
    assert folder / "index.html" in files
    script = page.project.folder / "plots/vega.js"
    assert script in files
    assert all(file.is_relative_to(folder) for file in files - {script})
    assert not [address for address in addresses if not address.startswith(("file:", "data:"))]
    page.browser.execute_async_script(
        "const done = arguments[0];"
        "fetch('http://127.0.0.1:1/').then(() => done('sent'), () => done('refused'));"
    )
    assert not [address for address in requested(page.browser) if "127.0.0.1" in address]


@pytest.mark.parametrize("width", [1440, 390])
def test_page_fits_the_screen_and_is_short(page: Page, width: int) -> None:
    page.resize(width)
    eventually(page.browser, lambda: page.number("document.documentElement.clientWidth") <= width)
    assert page.number("document.documentElement.scrollWidth") <= width
    assert page.number("document.documentElement.scrollHeight") < 7000
    images = page.browser.find_elements(By.TAG_NAME, "img")
    assert len(images) == 5
    for image in images:
        eventually(page.browser, lambda image=image: loaded(image))  # type: ignore[misc]
        assert image.size["width"] <= width


def test_page_in_a_folder_without_the_script_shows_images_and_a_sentence(
    page: Page, tmp_path: Path
) -> None:
    folder = tmp_path / "mailed" / "page"
    shutil.copytree(page.project.folder / "elsewhere", folder)
    page.browser.get((folder / "index.html").as_uri())
    cards = page.texts(".card")
    assert "This curve needs plots/vega.js" in cards[0]
    images = page.browser.find_elements(By.TAG_NAME, "img")
    assert len(images) == 5
    eventually(page.browser, lambda: all(map(loaded, images)))
