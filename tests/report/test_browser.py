"""Report page in a browser, on a wide screen and on a phone."""

from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from atelier.report.build import build_page
from atelier.report.page import Fact, write_page

from ..support.browser import (
    By,
    Chrome,
    Keys,
    chromium,
    eventually,
    external_requests,
    free_port,
    loaded,
    set_screen,
)
from ..support.pipeline_outputs import Outputs, sample_settings
from ..support.report_page import shown_epochs, use_slider

pytestmark = pytest.mark.slow
WIDTHS = [1440, 390]


@dataclass(frozen=True)
class Report:
    """Report page in a browser."""

    browser: Chrome
    file: Path

    def open(self, width: int, scheme: str = "light") -> None:
        """Open the page on a screen of this width, with a light or dark color scheme."""
        set_screen(self.browser, width, scheme)
        self.browser.get(self.file.as_uri())

    def texts(self, selector: str) -> list[str]:
        """Return the texts of elements, in the order of the page."""
        return [found.text for found in self.browser.find_elements(By.CSS_SELECTOR, selector)]

    def value(self, script: str) -> Any:
        """Return the value of an expression of JavaScript."""
        return self.browser.execute_script(f"return {script}")


@pytest.fixture(scope="module")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    outputs = Outputs(tmp_path_factory.mktemp("report"))
    settings, file = sample_settings(root), outputs.folder / "report.html"
    facts = [Fact("Training", "2 min 3 s, on the CPU")]
    with chdir(outputs.folder):
        values = settings.model_dump()
        write_page(file, build_page(settings, values, outputs.results, outputs.presets, facts))
    with chromium(outputs.folder / "profile") as browser:
        yield Report(browser, file)


@pytest.mark.parametrize("width", WIDTHS)
def test_most_important_results_come_first(report: Report, width: int) -> None:
    report.open(width)
    assert report.browser.title == "Sample data, preset sample"
    assert report.texts("h1") == ["Sample data, preset sample"]
    assert report.texts(".facts dt") == ["Data", "Training"]
    assert report.texts("h2") == [
        *("Visibly different from real images", "Generated and real images"),
        *("Stylized images", "Metrics", "Nearest training images", "Training curves", "Settings"),
    ]
    tops = report.value("[...document.querySelectorAll('h2')].map((h) => h.offsetTop)")
    assert tops == sorted(tops)
    assert report.texts(".reasons dd")[0] == "KID 2.7 ± 0.2; other real images have 0.03 ± 0.04."
    rows = [row.splitlines() for row in report.texts(".metrics tr")]
    assert " ".join(rows[0]) == "metric this generator real images better"
    assert rows[1][0] == "Distance (KID)"
    assert " ".join(rows[1]).endswith("2.7 ± 0.2 0.03 ± 0.04 lower")
    assert report.texts(".chart text")[-1] == "step"
    titles = ["Distance from real images (KID)", "Losses", "Scores of the discriminator"]
    assert report.texts("#curves h3") == titles


@pytest.mark.parametrize("width", WIDTHS)
def test_slider_and_play_button_change_the_image(report: Report, width: int) -> None:
    report.open(width)
    use_slider(report.browser, ["1", "2", "3"])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "section",
    ["epochs", "stylized", "nearest"],
)
def test_keyboard_enlarges_an_image_and_returns_the_focus(
    report: Report, width: int, section: str
) -> None:
    report.open(width)
    button = report.browser.find_element(By.CSS_SELECTOR, f"#{section} .zoom")
    button.send_keys(Keys.ENTER)
    dialog = report.browser.find_element(By.ID, "enlarged")
    assert dialog.is_displayed()
    image = dialog.find_element(By.TAG_NAME, "img")
    visible = f"document.querySelector('#{section} .zoom img:not([hidden])')"
    assert image.get_attribute("src") == report.value(f"{visible}.src")
    eventually(report.browser, lambda: loaded(image))
    assert image.size["width"] > 1.1 * report.value(f"{visible}.width")
    if section != "stylized":
        assert image.size["width"] % image.get_property("naturalWidth") == 0, "pixels of one size"
    assert report.value("document.activeElement.textContent") == "Close"
    report.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert report.browser.switch_to.active_element == button


def test_enlarged_image_closes_by_mouse(report: Report) -> None:
    report.open(1440)
    dialog = report.browser.find_element(By.ID, "enlarged")
    for part in ("button", "img"):
        report.browser.find_element(By.CSS_SELECTOR, "#stylized .zoom").click()
        assert dialog.is_displayed()
        dialog.find_element(By.TAG_NAME, part).click()
        assert not dialog.is_displayed()


@pytest.mark.parametrize(("width", "columns"), [(1440, 2), (390, 1)])
def test_page_fits_the_screen(report: Report, width: int, columns: int) -> None:
    report.open(width)
    assert report.value("document.documentElement.clientWidth") in (width, width - 15)
    assert report.value("document.documentElement.scrollWidth") <= width
    for image in report.browser.find_elements(By.CSS_SELECTOR, "main img"):
        if image.is_displayed():
            assert loaded(image)
            assert 0 < image.rect["x"] + image.size["width"] <= width
    places = report.value(
        "[...document.querySelectorAll('#epochs figure')].map((f) => f.getBoundingClientRect().x)"
    )
    assert len(set(places)) == columns
    sizes = "[...document.querySelectorAll('main *')].map((e) => parseFloat(getComputedStyle(e)"
    assert report.value(f"Math.min(...{sizes}.fontSize)))") >= 12


def test_small_images_are_enlarged_by_whole_factors(report: Report) -> None:
    for width in WIDTHS:
        report.open(width)
        for selector in ("#epochs img:not([hidden])", "#nearest img"):
            image = report.browser.find_element(By.CSS_SELECTOR, selector)
            assert image.size["width"] % image.get_property("naturalWidth") == 0
            assert image.value_of_css_property("image-rendering") == "pixelated"


def test_dark_scheme_has_light_text_on_dark_ground(report: Report) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        report.open(1440, scheme)
        style = "getComputedStyle(document.body)"
        for name in ("color", "backgroundColor"):
            channels = report.value(f"{style}.{name}.match(/\\d+/g).slice(0, 3).map(Number)")
            brightness[scheme, name] = sum(channels) / 3
    assert brightness["light", "backgroundColor"] - brightness["light", "color"] > 150
    assert brightness["dark", "color"] - brightness["dark", "backgroundColor"] > 150


def test_settings_open_for_printing(report: Report) -> None:
    report.open(1440)
    details = report.browser.find_element(By.TAG_NAME, "details")
    assert "image_size" not in details.text
    report.browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert "image_size" in details.text


def test_page_makes_no_request(report: Report, tmp_path: Path) -> None:
    report.open(390)
    use_slider(report.browser, ["1", "2", "3"])
    assert external_requests(report.browser) == set()
    image = f"http://127.0.0.1:{free_port()}/picture.png"
    leak = tmp_path / "leak.html"
    html = report.file.read_text("utf-8")
    leak.write_text(html.replace("</main>", f'<img src="{image}"></main>'), "utf-8")
    report.browser.get(leak.as_uri())
    assert shown_epochs(report.browser) == ["3"]
    assert external_requests(report.browser) == {image}, "a request of the page is detected"
