"""Compare page of real experiments in a browser, on a wide screen and on a phone."""

import io
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..support.browser import (
    By,
    Chrome,
    Keys,
    WebElement,
    chromium,
    eventually,
    external_requests,
    loaded,
    set_screen,
)
from ..support.project import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
RATES, SEEDS = ("0.01", "0.03"), (1, 2, 3)
EPOCHS = 3


@dataclass(frozen=True)
class Comparison:
    """Compare page of three seeds of two learning rates, and their metrics by rate."""

    file: Path
    kids: dict[str, list[float]]


@pytest.fixture(scope="module")
def comparison(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Train six experiments with the real dvc, and compare them from MLflow."""
    project = _tracked.copy(tmp_path_factory.mktemp("compare") / "project")
    project.commit()
    kids: dict[str, list[float]] = {rate: [] for rate in RATES}
    for seed in SEEDS:
        for rate in RATES:
            # Enough steps of these rates for visible differences between epochs and runs.
            changes = {"lr": rate, "seed": seed, "epochs": EPOCHS, "batch_size": 8}
            options = [w for name, v in changes.items() for w in ("-S", f"train.{name}={v}")]
            project.run("dvc", "exp", "run", "-q", "-n", f"rate{rate}-{seed}", *options)
            details = project.folder / "metrics/details/evaluate.json"
            kids[rate].append(json.loads(details.read_text("utf-8"))["kid"])
    project.delivered()
    output = project.atelier("compare", "--last", "6")
    assert "compare.html compares 6 runs" in output
    # The same experiments by name, from DVC's cache.
    names = [f"rate{rate}-{seed}" for rate in RATES for seed in SEEDS]
    project.atelier("compare", *names, "--out", "experiments.html")
    return Comparison(project.folder / "compare.html", kids)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def texts(browser: Chrome, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements(By.CSS_SELECTOR, selector)]


def rows(browser: Chrome, section: str) -> list[list[str]]:
    """Return the cells of the first table of a section, by row."""
    table = browser.find_element(By.CSS_SELECTOR, f"#{section} table")
    found = table.find_elements(By.CSS_SELECTOR, "tbody tr")
    return [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")] for row in found]


def assert_mean_and_deviation(text: str, values: list[float]) -> None:
    """Assert that ``2.50 ± 0.10`` are mean and sample deviation, up to its last digit."""
    for part, expected in zip(
        text.split(" ± "), (statistics.mean(values), statistics.stdev(values)), strict=True
    ):
        digits = len(part.partition(".")[2])
        assert float(part) == pytest.approx(expected, abs=0.51 * 10**-digits, rel=1e-3)


@pytest.mark.parametrize("name", ["compare.html", "experiments.html"])
def test_groups_have_mean_deviation_and_statement(
    comparison: Comparison, browser: Chrome, name: str
) -> None:
    browser.get(comparison.file.with_name(name).as_uri())
    assert texts(browser, "h1") == ["Comparison of 6 runs of 2 settings"]
    (first, second) = rows(browser, "metrics")
    for row, letter, rate in ((first, "A", RATES[0]), (second, "B", RATES[1])):
        assert row[0] == f"{letter} lr {rate}\n3 seeds"
        assert_mean_and_deviation(row[1], comparison.kids[rate])
    sentence = texts(browser, ".statements li")[0]
    difference = statistics.mean(comparison.kids[RATES[1]]) - statistics.mean(
        comparison.kids[RATES[0]]
    )
    errors = [statistics.variance(values) / 3 for values in comparison.kids.values()]
    # Welch's interval is between those with 4 and with 2 degrees of freedom.
    low, high = (quantile * sum(errors) ** 0.5 for quantile in (2.776, 4.303))
    start = f"Distance (KID): B (lr {RATES[1]}) is "
    assert sentence.startswith(start)
    amount, _, margin = sentence.removeprefix(start).split()[:3]
    digits = len(amount.partition(".")[2])
    assert float(amount) == pytest.approx(abs(difference), abs=0.51 * 10**-digits, rel=1e-3)
    assert 0.94 * low <= float(margin) <= 1.06 * high
    is_larger = float(amount) > float(margin)
    assert ("is larger than its error" if is_larger else "is not larger than its") in sentence
    assert ("lower" if difference < 0 else "higher") in sentence
    settings = {row[0]: row[1:] for row in rows(browser, "settings")}
    assert settings == {"train.lr": list(RATES), "train.seed": ["1, 2, 3", "1, 2, 3"]}
    assert len(rows(browser, "lineage")) == 6
    assert texts(browser, ".failed") == []
    contents = dict(zip(texts(browser, ".facts dt"), texts(browser, ".facts dd"), strict=True))
    assert contents["Contains"].endswith("no original photographs.")


def shown(browser: Chrome) -> list[WebElement]:
    """Return the visible samples, one per run."""
    images = browser.find_elements(By.CSS_SELECTOR, "#samples [data-epoch]")
    return [image for image in images if image.is_displayed()]


def screenshots(browser: Chrome) -> list[np.ndarray]:
    """Return the pixels of the visible samples, float64 [H, W, 3]."""
    files = [io.BytesIO(image.screenshot_as_png) for image in shown(browser)]
    return [np.asarray(Image.open(file).convert("RGB"), np.float64) for file in files]


def epochs(browser: Chrome) -> list[str]:
    return [str(image.get_attribute("data-epoch")) for image in shown(browser)]


def test_slider_changes_the_pixels_of_all_runs(comparison: Comparison, browser: Chrome) -> None:
    set_screen(browser, 1440)
    browser.get(comparison.file.as_uri())
    slider = browser.find_element(By.CSS_SELECTOR, "#samples input")
    assert epochs(browser) == ["3"] * 6
    assert all(loaded(image) for image in shown(browser))
    last = screenshots(browser)
    for number, image in enumerate(last):  # each run has its own samples
        assert all(np.abs(image - other).mean() > 1 for other in last[:number])
    slider.send_keys(Keys.HOME)
    assert epochs(browser) == ["1"] * 6
    assert texts(browser, "#samples figcaption") == ["after epoch 1 of 3"] * 6
    first = screenshots(browser)
    assert all(np.abs(a - b).mean() > 1 for a, b in zip(first, last, strict=True))
    slider.send_keys(Keys.RIGHT)
    assert slider.get_attribute("aria-valuetext") == "epoch 2"
    assert epochs(browser) == ["2"] * 6
    browser.find_element(By.CSS_SELECTOR, "#samples .controls button").click()
    eventually(browser, lambda: epochs(browser) == ["3"] * 6)
    np.testing.assert_array_equal(screenshots(browser), last)
    shown(browser)[0].click()
    assert browser.find_element(By.CSS_SELECTOR, "#enlarged img").is_displayed()


@pytest.mark.parametrize("width", [1440, 390])
def test_page_fits_the_screen_in_light_and_dark(
    comparison: Comparison, browser: Chrome, width: int
) -> None:
    colors = set()
    for scheme in ("light", "dark"):
        set_screen(browser, width, scheme)
        browser.get(comparison.file.as_uri())
        script = "return document.documentElement.scrollWidth <= innerWidth"
        assert browser.execute_script(script), "the page scrolls horizontally"
        script = "return getComputedStyle(document.body).backgroundColor"
        colors.add(browser.execute_script(script))
        areas = browser.find_elements(By.CSS_SELECTOR, "#curves .plot")
        assert len(areas) == 3
        assert all(area.size["width"] > 250 for area in areas)
        assert texts(browser, "#curves .ends")[0].split() in (["A", "B"], ["B", "A"])
    assert len(colors) == 2
    assert external_requests(browser) == set()


def test_first_column_stays_in_place_on_a_phone(comparison: Comparison, browser: Chrome) -> None:
    set_screen(browser, 390)
    browser.get(comparison.file.as_uri())
    area = browser.find_element(By.CSS_SELECTOR, "#lineage .wide")
    header = area.find_element(By.CSS_SELECTOR, "tbody th")
    script = "return arguments[0].getBoundingClientRect().x"
    before = browser.execute_script(script, header)
    browser.execute_script("arguments[0].scrollLeft = 200", area)
    assert browser.execute_script("return arguments[0].scrollLeft", area) == 200
    assert browser.execute_script(script, header) == before
    links = browser.find_elements(By.CSS_SELECTOR, "#lineage a")
    assert [str(link.get_attribute("href"))[:24] for link in links] == [
        "http://127.0.0.1:5000/#/"
    ] * 6
