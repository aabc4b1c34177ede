"""MLflow's pages in a browser: what they show first."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from selenium.common.exceptions import WebDriverException

from atelier.tracking.links import RunLocation, latest_location
from atelier.tracking.run_start import MAX_PARAMETERS
from atelier.tracking.store import open_store

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
STAGES = {"convert", "data_report", "download", "evaluate", "render", "stylize", "train"}
OTHER_FPS = 9.0
DIFFERENCES = "//*[@aria-label='Parameters - Show diff only']"
# MLflow opens an assistant beside the page, which takes a quarter of its width.
CLOSE_ASSISTANT = """
document.querySelectorAll("button[aria-label]").forEach((button) => {
  if (button.getAttribute("aria-label").toLowerCase().includes("close")) button.click();
});
"""


@dataclass(frozen=True)
class Pages:
    """Addresses of MLflow's pages on a server.

    Attributes:
        port: of the server.
        parents: ids of the runs of both pipelines, newer first.
        stages: ids of the runs of the older pipeline's stages.
        model: id of the logged model.
        location: of the latest run.
    """

    port: int
    parents: tuple[str, str]
    stages: dict[str, str]
    model: str
    location: RunLocation

    def of(self, path: str) -> str:
        page = f"#/experiments/{self.location.experiment}/{path}"
        return f"http://127.0.0.1:{self.port}/{page}?workflowType=machine_learning"


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Project after two pipelines; the second with another ``render.fps``."""
    project = _tracked.copy(tmp_path_factory.mktemp("pages") / "project")
    project.set(**{"render.fps": OTHER_FPS})
    assert project.repro() == ["render", "report"]
    project.delivered()
    return project


@pytest.fixture(scope="module")
def pages(project: Project) -> Iterator[Pages]:
    client, experiment = open_store(project.folder, "atelier")
    runs = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
    newer, older = (run.info.run_id for run in runs if "atelier.stage" not in run.data.tags)
    stages = {
        run.data.tags["atelier.stage"]: run.info.run_id
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == older
    }
    (model,) = client.search_logged_models([experiment])
    location = latest_location(project.folder)
    assert location is not None
    with mlflow_ui(project) as address:
        port = int(address.rpartition(":")[2])
        yield Pages(port, (newer, older), stages, model.model_id, location)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    with chromium(tmp_path / "profile") as browser:
        yield browser
        browser.save_screenshot(str(tmp_path / "page.png"))  # to look at, of any outcome


def visit(browser: Chrome, address: str, shown: str) -> None:
    """Open a page, wait until an element is there, and close MLflow's assistant.

    Args:
        browser: the browser.
        address: of the page.
        shown: XPath of the element.
    """
    browser.get(address)
    eventually(browser, lambda: browser.find_element(By.XPATH, shown).is_displayed())
    with suppress(WebDriverException):
        browser.execute_script(CLOSE_ASSISTANT)


@pytest.fixture
def runs(browser: Chrome, pages: Pages) -> Chrome:
    """Open the table of runs by the link that the program prints."""
    browser.get(pages.location.table(pages.port))
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


def headings(browser: Chrome) -> list[str]:
    """Return the headings of sections and charts on the page, from top to bottom."""
    elements = browser.find_elements(By.XPATH, "//h4[@title] | //*[@role='button']//div[@title]")
    return [str(element.get_attribute("title")) for element in elements]


def card(browser: Chrome, title: str) -> WebElement:
    """Return the tile with this title."""
    heading = browser.find_element(By.CSS_SELECTOR, f"h4[title='{title}']")
    return heading.find_element(By.XPATH, "ancestor::*[contains(@data-testid, 'runs-card')][1]")


def chart(browser: Chrome, title: str, part: str) -> WebElement:
    """Return a part of the tile with this title."""
    return card(browser, title).find_element(By.CSS_SELECTOR, part)


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
    """Return the URL of the picture in the samples chart if it is not in ``seen``."""
    image = chart(browser, "images/samples", "img")
    source = str(image.get_attribute("src"))
    return source if loaded(image) and source not in seen else None


def test_table_shows_pipelines_by_name_with_quality_and_settings(runs: Chrome) -> None:
    newer, older = names(runs, 2)
    assert ", 96 pictures, " in newer
    assert f"render.fps {OTHER_FPS}" in newer, "what changed since the pipeline before"
    assert "fps" not in older
    columns = [
        cell.text
        for cell in runs.find_elements(By.CSS_SELECTOR, ".ag-header-cell[col-id]")
        if cell.text
    ]
    assert columns[:5] == ["Run Name", "Created", "Duration", "quality/kid", "quality/precision"]
    assert "quality/kid" in runs.find_element(By.TAG_NAME, "main").text.split("Run Name")[0]
    click(runs, in_row(older, "button"))
    found = names(runs, 2 + len(STAGES))
    assert {name.partition(" ")[0] for name in found[2:]} == STAGES


def test_page_of_a_pipeline_begins_with_kid_and_links_to_the_report(
    browser: Chrome, pages: Pages
) -> None:
    visit(browser, pages.of(f"runs/{pages.parents[0]}"), "//a[.='quality/kid']")
    metrics = browser.find_elements(By.XPATH, "//a[starts-with(., 'quality/')]")
    assert [metric.text for metric in metrics][:2] == ["quality/kid", "quality/kid_error"]
    before = set(browser.window_handles)
    click(browser, "//a[.='Report']")
    new = eventually(browser, lambda: set(browser.window_handles) - before)
    browser.switch_to.window(new.pop())
    browser.switch_to.frame(
        eventually(browser, lambda: browser.find_element(By.TAG_NAME, "iframe"))
    )
    eventually(browser, lambda: shown_epochs(browser))
    use_slider(browser, ["1", "2"])


def test_page_of_a_training_begins_with_a_picture_that_no_text_covers(
    browser: Chrome, pages: Pages
) -> None:
    address = pages.of(f"runs/{pages.stages['train']}/model-metrics")
    visit(browser, address, "//h4[@title='images/samples']")
    image = eventually(browser, lambda: _loaded(chart(browser, "images/samples", "img")))
    titles = [
        heading.get_attribute("title")
        for heading in browser.find_elements(By.CSS_SELECTOR, "h4[title]")
    ]
    assert titles[0].startswith("images/")
    tile, area = card(browser, "images/samples").rect, image.rect
    visible = tile["y"] + tile["height"] - area["y"]
    assert visible > 0.55 * area["height"], "the parameters above it leave room for the picture"
    tile_of_samples = card(browser, "images/samples")
    parameters = tile_of_samples.find_element(By.XPATH, ".//*[contains(text(), '=')]").rect
    assert parameters["y"] + parameters["height"] <= area["y"], "no text is over the picture"
    assert min(image.get_property("naturalWidth"), area["width"]) > 250
    text = card(browser, "images/samples").text
    assert text.count("=") <= MAX_PARAMETERS
    assert chart(browser, "images/samples", "[role=slider]").get_attribute("aria-valuenow") == "0"
    slider = partial(chart, browser, "images/samples", "[role=slider][aria-valuemax='2']")
    addresses = {str(image.get_attribute("src"))}
    press(browser, slider, Keys.RIGHT)
    eventually(browser, partial(other_montage, browser, addresses))


def _loaded(image: WebElement) -> WebElement | None:
    return image if loaded(image) else None


def test_training_has_curves_by_section(browser: Chrome, pages: Pages) -> None:
    visit(browser, pages.of(f"runs/{pages.stages['train']}/model-metrics"), "//main//input")
    for name in ("d", "g"):
        search_charts(browser, f"loss/{name}")
        line = eventually(
            browser, partial(chart, browser, f"loss/{name}", ".scatterlayer path.js-line")
        )
        assert line.get_attribute("d").count("L") > 1, "a curve has many points"


def test_two_pipelines_compare_by_kid_first(runs: Chrome) -> None:
    for parent in names(runs, 2):
        click(runs, in_row(parent, "*[contains(@class, 'ag-selection-checkbox')]//input"))
    click(runs, "//button[.='Compare']")
    axes = partial(runs.find_elements, By.CSS_SELECTOR, ".parcoords .axis-title")
    eventually(runs, lambda: [axis.text for axis in axes()][-1:] == ["quality/kid"])
    size = runs.find_element(By.CSS_SELECTOR, ".parcoords").size
    assert size["width"] > 300
    parameters = eventually(runs, lambda: compared(runs))
    newer, older = parameters["render.fps"]
    assert newer == str(OTHER_FPS) != older
    assert parameters["train.epochs"] == ["2", "2"]
    click(runs, DIFFERENCES)
    eventually(runs, lambda: compared(runs) == {"render.fps": [newer, older]})


def test_page_of_a_model_has_metrics_data_and_settings(
    browser: Chrome, pages: Pages, project: Project
) -> None:
    visit(
        browser, pages.of(f"models/{pages.model}"), "//td[.='quality/kid'] | //*[.='quality/kid']"
    )
    text = browser.find_element(By.TAG_NAME, "main").text
    lock = (project.folder / "dvc.lock").read_text()
    name = browser.find_element(By.CSS_SELECTOR, "h1, h2").text.split()[0]
    preset, _, digits = name.rpartition("-")
    assert preset
    assert f"md5: {digits}" in lock, "the name has the first digits of the file's hash"
    assert "atelier generate --model" in text
    assert "data/test.npz" in text
    assert "train.batch_size" in text


def test_artifacts_of_a_stage_open(browser: Chrome, pages: Pages) -> None:
    address = pages.of(f"runs/{pages.stages['render']}/artifacts")
    visit(browser, address, "//*[@artifact-name='renders']")
    click(browser, "//*[@artifact-name='renders']")
    click(browser, "//*[@aria-label='training.gif']")
    gif = "//img[starts-with(@src, 'blob:')]"
    eventually(browser, lambda: loaded(browser.find_element(By.XPATH, gif)))
