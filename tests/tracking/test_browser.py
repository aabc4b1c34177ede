"""Tests of MLflow's UI and of the report page in a browser."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ..support.browser import (
    By,
    Chrome,
    Keys,
    WebElement,
    chromium,
    click,
    eventually,
    free_port,
    loaded,
    mlflow_ui,
    press,
    requested,
)
from ..support.project import Project

pytestmark = pytest.mark.slow
STAGES = ["convert", "download", "evaluate", "render", "stylize", "train"]
OTHER_FPS = 9.0
DIFFERENCES = "//*[@aria-label='Parameters - Show diff only']"
# The page shows its epochs faster than a test can poll them.
RECORD = """
window.recorded = [];
const output = document.querySelector("#epochs output");
new MutationObserver(() => recorded.push(output.textContent)).observe(output, {childList: true});
"""


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Project after two pipelines; the second with another ``render.fps``."""
    project = _tracked.copy(tmp_path_factory.mktemp("pages") / "project")
    project.set(**{"render.fps": OTHER_FPS})
    assert project.repro() == ["render"]
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


@pytest.fixture
def report(browser: Chrome, project: Project) -> Chrome:
    """Open the report page as a file."""
    browser.get((project.folder / "renders" / "report.html").as_uri())
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


def shown_epochs(browser: Chrome) -> list[str]:
    """Return the epochs of the visible montages."""
    images = browser.find_elements(By.CSS_SELECTOR, "#epochs img")
    return [image.get_attribute("data-epoch") for image in images if image.is_displayed()]


def use_report(browser: Chrome) -> None:
    """Use the slider, the play button and the settings of the report page."""
    slider = browser.find_element(By.CSS_SELECTOR, "#epochs input")
    assert shown_epochs(browser) == ["2"]
    slider.send_keys(Keys.LEFT)
    assert shown_epochs(browser) == ["1"]
    slider.send_keys(Keys.RIGHT)
    assert shown_epochs(browser) == ["2"]
    browser.execute_script(RECORD)
    browser.find_element(By.CSS_SELECTOR, "#epochs button").click()
    eventually(browser, lambda: browser.execute_script("return recorded") == ["1", "2"])
    assert shown_epochs(browser) == ["2"]
    browser.find_element(By.TAG_NAME, "summary").click()
    assert "train" in browser.find_element(By.TAG_NAME, "details").text


def external_requests(browser: Chrome) -> set[str]:
    """Return the URLs of all requests that are not to the page's own file."""
    own = {"file", "data", "blob"}
    return {address for address in requested(browser) if urlsplit(address).scheme not in own}


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
    click(runs, "//*[@aria-label='report.html']")
    runs.switch_to.frame(eventually(runs, lambda: runs.find_element(By.TAG_NAME, "iframe")))
    eventually(runs, lambda: shown_epochs(runs))
    use_report(runs)


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


def test_all_images_of_report_load(report: Chrome) -> None:
    images = report.find_elements(By.TAG_NAME, "img")
    assert len(images) >= 2 + 3, "two montages; the GIF, the comparison and the curves"
    assert all(map(loaded, images))


def test_slider_and_button_of_report_show_epochs(report: Chrome) -> None:
    use_report(report)


def test_report_makes_no_request(report: Chrome, tmp_path: Path) -> None:
    use_report(report)
    assert external_requests(report) == set()

    html = Path(urlsplit(report.current_url).path).read_text("utf-8")
    image = f"http://127.0.0.1:{free_port()}/picture.png"
    leak = tmp_path / "leak.html"
    leak.write_text(html.replace("</main>", f'<img src="{image}"></main>'), "utf-8")
    report.get(leak.as_uri())
    assert external_requests(report) == {image}, "a request of the page is detected"
