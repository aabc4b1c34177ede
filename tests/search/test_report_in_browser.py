"""Report of a study in a browser, on a wide screen and on a phone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from atelier.pages.images import Format, encode
from atelier.search.report import build_report
from atelier.search.report_page import render_report

from ..support.arrays import random_image
from ..support.browser import (
    By,
    Chrome,
    Keys,
    chromium,
    external_requests,
    set_screen,
)
from ..support.studies import KID, a_study, a_trial, random_study

pytestmark = pytest.mark.slow
WIDTHS = [1440, 390]
PAGES = ["one", "two"]
# Visible texts of a chart that overlap, in pairs.
OVERLAPS = """
const found = [];
for (const chart of document.querySelectorAll(".chart, .parallel")) {
  const texts = [...chart.querySelectorAll("text")].filter((t) => t.getClientRects().length);
  const boxes = texts.map((t) => [t.textContent, t.getBoundingClientRect()]);
  boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
    const width = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const height = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (width > 1 && height > 3) found.push(`${a} | ${b}`);
  }));
}
return found;
"""


@dataclass(frozen=True)
class Shown:
    """Reports in a browser, by name."""

    browser: Chrome
    files: dict[str, Path]

    def open(self, name: str, width: int, scheme: str = "light") -> None:
        set_screen(self.browser, width, scheme)
        self.browser.get(self.files[name].as_uri())

    def value(self, script: str) -> Any:
        return self.browser.execute_script(f"return {script}")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("reports")
    pairs = [(3.0 + n % 5, 100.0 - 3 * n) for n in range(12)]
    studies = {
        "one": random_study(40),
        "two": a_study([a_trial(*pair, experiments=["t"]) for pair in pairs], [KID, "seconds"]),
    }
    files = {}
    for name, study in studies.items():
        report = build_report(study, folder)
        for best in report.best:
            sheet = encode(random_image(best.trial.number, 96, 96), "Generated images", Format())
            object.__setattr__(best, "sheet", sheet)
        files[name] = folder / f"{name}.html"
        files[name].write_text(render_report(report), "utf-8")
    with chromium(folder / "profile") as browser:
        yield Shown(browser, files)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_the_screen_without_overlapping_labels(
    shown: Shown, name: str, width: int
) -> None:
    shown.open(name, width)
    assert shown.value("document.documentElement.scrollWidth") <= width
    assert shown.browser.execute_script(OVERLAPS) == []
    tops = shown.value("[...document.querySelectorAll('.cards img')].map((i) => i.offsetTop)")
    assert len(set(tops)) == 1, "the sheets of a row begin at the same height"
    sizes = "[...document.querySelectorAll('main *')].map((e) => parseFloat(getComputedStyle(e)"
    assert shown.value(f"Math.min(...{sizes}.fontSize)))") >= 12


@pytest.mark.parametrize("width", WIDTHS)
def test_names_of_parallel_axes_are_shown_once(shown: Shown, width: int) -> None:
    shown.open("one", width)
    names = [
        text.text
        for text in shown.browser.find_elements(By.CSS_SELECTOR, ".parallel text")
        if text.is_displayed() and not text.text.replace(".", "").isdigit()
    ]
    assert names == [
        *("train.lr", "train.ema_decay", "train.batch_size", "train.latent_size"),
        "validation KID",
    ]


def test_points_of_the_best_trial_are_larger_and_have_a_color_of_their_own(shown: Shown) -> None:
    for scheme in ("light", "dark"):
        shown.open("one", 1440, scheme)
        points = {
            kind: shown.browser.find_element(By.CSS_SELECTOR, f".plot .point.{kind}")
            for kind in ("best", "top", "finished", "pruned")
        }
        widths = {kind: point.rect["width"] for kind, point in points.items()}
        assert widths["best"] > widths["top"] > widths["finished"]
        fills = {kind: point.value_of_css_property("fill") for kind, point in points.items()}
        assert len(set(fills.values())) == 4
        ground = shown.value("getComputedStyle(document.body).backgroundColor")
        assert fills["pruned"] == ground, "pruned trials are circles"


def test_keyboard_enlarges_samples_and_scrolls_the_table(shown: Shown) -> None:
    shown.open("one", 390)
    button = shown.browser.find_element(By.CSS_SELECTOR, "#best .zoom")
    button.send_keys(Keys.ENTER)
    dialog = shown.browser.find_element(By.ID, "enlarged")
    assert dialog.is_displayed()
    shown.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert shown.browser.switch_to.active_element == button
    table = shown.browser.find_element(By.CSS_SELECTOR, "#trials .wide")
    assert table.get_attribute("aria-label") == "All trials"
    assert shown.value("document.querySelector('#trials .wide').tabIndex") == 0


def test_command_is_selected_as_a_whole(shown: Shown) -> None:
    shown.open("one", 1440)
    shown.browser.find_element(By.CSS_SELECTOR, ".use .command").click()
    assert shown.value("getSelection().toString()") == (
        shown.browser.find_element(By.CSS_SELECTOR, ".use .command").text
    )


def test_page_makes_no_request_and_violates_no_policy(shown: Shown) -> None:
    for name in PAGES:
        shown.open(name, 1440)
        assert external_requests(shown.browser) == set()
    assert shown.browser.get_log("browser") == []
