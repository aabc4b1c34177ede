"""What a user sees in a browser: MLflow's UI after two pipelines, and the report page."""

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
# The report page plays faster than one can look from outside.
RECORD = """
window.recorded = [];
const output = document.querySelector("#epochs output");
new MutationObserver(() => recorded.push(output.textContent)).observe(output, {childList: true});
"""


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which the chain has run, and once more with another ``render.fps``."""
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
    """A browser on the table of runs, reached as a user reaches it."""
    browser.get(address)
    click(browser, "//*[text()='Model training']")
    click(browser, "//a[.='atelier']")
    names(browser, 2)
    return browser


@pytest.fixture
def report(browser: Chrome, project: Project) -> Chrome:
    """A browser on the report page, opened as a file."""
    browser.get((project.folder / "renders" / "report.html").as_uri())
    return browser


def names(browser: Chrome, count: int) -> list[str]:
    """The names of the runs, from top to bottom, as soon as the table shows so many."""

    def look() -> list[str] | None:
        rows = browser.find_elements(By.CSS_SELECTOR, ".ag-pinned-left-cols-container [role=row]")
        rows.sort(key=lambda row: int(row.get_attribute("row-index")))
        told = [row.find_element(By.CSS_SELECTOR, "a[href*='/runs/']").text for row in rows]
        return told if len(told) == count else None

    return eventually(browser, look)


def in_row(name: str, what: str) -> str:
    """The XPath of something in the row of a run."""
    return f"//*[@role='row' and .//a[.='{name}']]//{what}"


def open_child(browser: Chrome, name: str, tab: str) -> None:
    """Go from the table of runs to a tab of a child's page; a child of the older pipeline."""
    _, older = names(browser, 2)
    click(browser, in_row(older, "button"))
    click(browser, f"//a[.='{name}']")
    click(browser, f"//*[@role='tab' and .='{tab}']")


def chart(browser: Chrome, title: str, part: str) -> WebElement:
    """A part of the chart with a title."""
    card = "ancestor::*[contains(@data-testid, 'runs-card')][1]"
    heading = browser.find_element(By.CSS_SELECTOR, f"h4[title='{title}']")
    return heading.find_element(By.XPATH, card).find_element(By.CSS_SELECTOR, part)


def search_charts(browser: Chrome, title: str) -> None:
    """Search the charts of a run, since only those in view are drawn."""
    box = partial(browser.find_element, By.XPATH, "//main//input[@role='searchbox']")
    press(browser, box, Keys.CONTROL, "a", Keys.NULL, title)


def compared(browser: Chrome) -> dict[str, list[str]]:
    """The parameters on the page that compares runs: a value for each run."""
    rows = browser.find_elements(By.XPATH, f"{DIFFERENCES}/following::table[1]//tr")
    cells = [row.find_elements(By.XPATH, "th|td") for row in rows]
    return {name.text: [value.text for value in values] for name, *values in cells}


def other_montage(browser: Chrome, seen: set[str]) -> str | None:
    """The address of the montage that the chart of samples shows, unless it was seen before."""
    picture = chart(browser, "samples", "img")
    source = str(picture.get_attribute("src"))
    return source if loaded(picture) and source not in seen else None


def shown_epochs(browser: Chrome) -> list[str]:
    """The epochs whose montages the report page shows."""
    pictures = browser.find_elements(By.CSS_SELECTOR, "#epochs img")
    return [picture.get_attribute("data-epoch") for picture in pictures if picture.is_displayed()]


def use_report(browser: Chrome) -> None:
    """Do all that can be done on the report page: the slider, the film and the settings."""
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


def leaving(browser: Chrome) -> set[str]:
    """The requests of a page that reach beyond its own file."""
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
    for name in ("loss_d", "loss_g"):
        search_charts(runs, name)
        line = eventually(runs, partial(chart, runs, name, ".scatterlayer path.js-line"))
        assert line.get_attribute("d").count("L") > 1, "a curve has many points"
    search_charts(runs, "samples")
    slider = partial(chart, runs, "samples", "[role=slider][aria-valuemax='2']")
    seen: set[str] = set()
    for _ in range(2):
        press(runs, slider, Keys.RIGHT)
        seen.add(eventually(runs, partial(other_montage, runs, seen)))


def test_artifacts_of_a_child_open(runs: Chrome) -> None:
    open_child(runs, "render", "Artifacts")
    click(runs, "//*[@artifact-name='renders']")
    click(runs, "//*[@aria-label='training.gif']")
    film = "//img[starts-with(@src, 'blob:')]"
    eventually(runs, lambda: loaded(runs.find_element(By.XPATH, film)))
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


def test_every_image_of_the_report_loads(report: Chrome) -> None:
    pictures = report.find_elements(By.TAG_NAME, "img")
    assert len(pictures) >= 2 + 3, "two montages; the film, the comparison and the curves"
    assert all(map(loaded, pictures))


def test_slider_and_button_of_the_report_show_its_epochs(report: Chrome) -> None:
    use_report(report)


def test_report_makes_no_request(report: Chrome, tmp_path: Path) -> None:
    use_report(report)
    assert leaving(report) == set()

    html = Path(urlsplit(report.current_url).path).read_text("utf-8")
    picture = f"http://127.0.0.1:{free_port()}/picture.png"
    leak = tmp_path / "leak.html"
    leak.write_text(html.replace("</main>", f'<img src="{picture}"></main>'), "utf-8")
    report.get(leak.as_uri())
    assert leaving(report) == {picture}, "a page that asks for more would have been noticed"
