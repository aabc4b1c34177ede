"""Tests of MLflow's UI in a browser."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ..support.browser import (
    By,
    Chrome,
    Keys,
    WebElement,
    chromium,
    click,
    eventually,
    loaded,
    mlflow_ui,
    press,
)
from ..support.project import Project
from ..support.report_page import shown_epochs, use_slider

pytestmark = pytest.mark.slow
STAGES = ["convert", "download", "evaluate", "render", "stylize", "train"]
OTHER_FPS = 9.0
DIFFERENCES = "//*[@aria-label='Parameters - Show diff only']"


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Project after two pipelines; the second with another ``render.fps``."""
    project = _tracked.copy(tmp_path_factory.mktemp("pages") / "project")
    project.set(**{"render.fps": OTHER_FPS})
    assert project.repro() == ["render", "report"]
    return project


@pytest.fixture(scope="module")
def address(project: Project) -> Iterator[str]:
    with mlflow_ui(project) as address:
        yield address


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    with chromium(tmp_path / "profile") as browser:
        yield browser


@pytest.fixture
def runs(browser: Chrome, address: str) -> Chrome:
    """Open the table of runs by clicks from MLflow's start page."""
    browser.get(address)
    click(browser, "//*[text()='Model training']")
    click(browser, "//a[.='atelier']")
    names(browser, 2)
    return browser


def names(browser: Chrome, count: int) -> list[str]:
    """Wait until the table has ``count`` rows and return their names from top to bottom."""

    def read_rows() -> list[str] | None:
        rows = browser.find_elements(By.CSS_SELECTOR, ".ag-pinned-left-cols-container [role=row]")
        rows.sort(key=lambda row: int(row.get_attribute("row-index")))
        found = [row.find_element(By.CSS_SELECTOR, "a[href*='/runs/']").text for row in rows]
        return found if len(found) == count else None

    return eventually(browser, read_rows)


def in_row(name: str, element: str) -> str:
    """Return the XPath of an element in the row of a run."""
    return f"//*[@role='row' and .//a[.='{name}']]//{element}"


def open_child(browser: Chrome, name: str, tab: str) -> None:
    """Open a tab of the page of a child of the older pipeline."""
    _, older = names(browser, 2)
    click(browser, in_row(older, "button"))
    click(browser, f"//a[.='{name}']")
    click(browser, f"//*[@role='tab' and .='{tab}']")


def chart(browser: Chrome, title: str, part: str) -> WebElement:
    """Return a part of the chart with this title."""
    card = "ancestor::*[contains(@data-testid, 'runs-card')][1]"
    heading = browser.find_element(By.CSS_SELECTOR, f"h4[title='{title}']")
    return heading.find_element(By.XPATH, card).find_element(By.CSS_SELECTOR, part)


def search_charts(browser: Chrome, title: str) -> None:
    """Filter the charts of a run by title, because only visible ones are rendered."""
    box = partial(browser.find_element, By.XPATH, "//main//input[@role='searchbox']")
    press(browser, box, Keys.CONTROL, "a", Keys.NULL, title)


def compared(browser: Chrome) -> dict[str, list[str]]:
    """Return the parameters on the page that compares runs, with one value per run."""
    rows = browser.find_elements(By.XPATH, f"{DIFFERENCES}/following::table[1]//tr")
    cells = [row.find_elements(By.XPATH, "th|td") for row in rows]
    return {name.text: [value.text for value in values] for name, *values in cells}


def other_montage(browser: Chrome, seen: set[str]) -> str | None:
    """Return the URL of the montage in the samples chart if it is not in ``seen``."""
    image = chart(browser, "samples", "img")
    source = str(image.get_attribute("src"))
    return source if loaded(image) and source not in seen else None


def test_runs_table_shows_parents_and_their_children(runs: Chrome) -> None:
    newer, older = names(runs, 2)
    assert not {newer, older} & set(STAGES)
    click(runs, in_row(newer, "button"))
    assert names(runs, 3) == [newer, "render", older]
    click(runs, in_row(older, "button"))
    found = names(runs, 3 + len(STAGES))
    assert found[:3] == [newer, "render", older]
    assert sorted(found[3:]) == STAGES


def test_child_shows_its_curves_and_montages(runs: Chrome) -> None:
    open_child(runs, "train", "Model metrics")
    for name in ("loss/d", "loss/g"):
        search_charts(runs, name)
        line = eventually(runs, partial(chart, runs, name, ".scatterlayer path.js-line"))
        assert line.get_attribute("d").count("L") > 1, "a curve has many points"
    search_charts(runs, "samples")
    slider = partial(chart, runs, "samples", "[role=slider][aria-valuemax='2']")
    addresses: set[str] = set()
    for _ in range(2):
        press(runs, slider, Keys.RIGHT)
        addresses.add(eventually(runs, partial(other_montage, runs, addresses)))


def test_artifacts_of_child_open(runs: Chrome) -> None:
    open_child(runs, "render", "Artifacts")
    click(runs, "//*[@artifact-name='renders']")
    click(runs, "//*[@aria-label='training.gif']")
    gif = "//img[starts-with(@src, 'blob:')]"
    eventually(runs, lambda: loaded(runs.find_element(By.XPATH, gif)))


def test_report_of_parent_opens(runs: Chrome) -> None:
    _, older = names(runs, 2)
    click(runs, f"//a[.='{older}']")
    click(runs, "//*[@role='tab' and .='Artifacts']")
    click(runs, "//*[@aria-label='report.html']")
    runs.switch_to.frame(eventually(runs, lambda: runs.find_element(By.TAG_NAME, "iframe")))
    eventually(runs, lambda: shown_epochs(runs))
    use_slider(runs, ["1", "2"])


def test_two_parents_compare(runs: Chrome) -> None:
    for parent in names(runs, 2):
        click(runs, in_row(parent, "*[contains(@class, 'ag-selection-checkbox')]//input"))
    click(runs, "//button[.='Compare']")
    parameters = eventually(runs, lambda: compared(runs))
    newer, older = parameters["render.fps"]
    assert newer == str(OTHER_FPS) != older
    assert parameters["train.epochs"] == ["2", "2"]
    click(runs, DIFFERENCES)
    eventually(runs, lambda: compared(runs) == {"render.fps": [newer, older]})
