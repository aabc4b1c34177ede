"""Page of the explorer in a browser, on a wide screen and on a phone."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from atelier.data.dataset import save_images
from atelier.web.explorer.requests import Face
from atelier.web.explorer.routes import Explorer, create_explorer

from ..support.arrays import random_images
from ..support.browser import (
    By,
    Chrome,
    Keys,
    chromium,
    eventually,
    external_requests,
    loaded,
    press,
    set_screen,
)
from ..support.explorer import explorer
from ..support.web_server import serving

pytestmark = pytest.mark.slow
WIDER = """
    return [...document.querySelectorAll("body *")]
      .filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5)
      .map((element) => element.outerHTML.slice(0, 100));
"""
HTML = "<b onclick=alert(1)>x"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    folder = tmp_path_factory.mktemp("explorer")
    (folder / "pictures").mkdir()
    Image.fromarray(random_images(1, 40, 3)[0]).save(folder / "pictures" / f"{HTML}.png")
    small = explorer(folder, iterations=30)
    images = random_images(40, 16, 3)
    names = [f"{number}{HTML}" for number in range(40)]
    save_images(folder / "images.npz", [images.tobytes()], images.shape, names)
    yield small
    small.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(small: Explorer) -> Iterator[str]:
    with serving(create_explorer(small)) as port:
        yield f"http://127.0.0.1:{port}/"


def pixels(browser: Chrome, element: str) -> NDArray[np.uint8]:
    """Return the pixels of a loaded image, as the page would draw them."""
    script = """
        const image = document.getElementById(arguments[0]);
        const canvas = document.createElement("canvas");
        canvas.width = image.naturalWidth;
        canvas.height = image.naturalHeight;
        canvas.getContext("2d").drawImage(image, 0, 0);
        return canvas.toDataURL("image/png");
    """
    uri = browser.execute_script(script, element)
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image.convert("RGB"))


def shows(browser: Chrome, element: str, expected: NDArray[np.uint8]) -> None:
    """Wait until an image has these pixels."""
    image = browser.find_element(By.ID, element)
    eventually(
        browser,
        lambda: loaded(image) and np.array_equal(pixels(browser, element), expected),
    )


def opened(browser: Chrome, address: str, fragment: str = "#seed=5") -> None:
    browser.get("about:blank")
    browser.get(address + fragment)
    eventually(browser, lambda: loaded(browser.find_element(By.ID, "face")))


def move(browser: Chrome, slider: str, *keys: str) -> None:
    press(browser, lambda: browser.find_element(By.ID, slider), *keys)


def click(browser: Chrome, element: str) -> None:
    eventually(browser, lambda: browser.find_element(By.ID, element).click() or True)


def text(browser: Chrome, element: str) -> str:
    return browser.find_element(By.ID, element).text


def test_slider_changes_the_picture_and_the_address(
    browser: Chrome, address: str, small: Explorer
) -> None:
    set_screen(browser, 1440)
    opened(browser, address)
    shows(browser, "face", small.explored.image(Face(seed=5)))
    move(browser, "direction-1", *8 * [Keys.ARROW_RIGHT])
    shows(browser, "face", small.explored.image(Face(seed=5, offsets=[0.4])))
    assert text(browser, "origin") == "Seed 5, moved"
    move(browser, "direction-3", Keys.HOME)
    moved = small.explored.image(Face(seed=5, offsets=[0.4, 0.0, -3.0]))
    shows(browser, "face", moved)
    eventually(browser, lambda: browser.current_url.endswith("#seed=5&offsets=0.4,0,-3,0"))
    browser.refresh()
    shows(browser, "face", moved)
    ends = browser.find_elements(By.CSS_SELECTOR, ".slider .end")
    assert len(ends) == 8
    eventually(browser, lambda: all(loaded(image) for image in ends))
    click(browser, "reset")
    shows(browser, "face", small.explored.image(Face(seed=5)))
    assert all(url.startswith((address, "about:")) for url in external_requests(browser))


def test_seeds_truncation_and_history(browser: Chrome, address: str, small: Explorer) -> None:
    opened(browser, address)
    click(browser, "next")
    shows(browser, "face", small.explored.image(Face(seed=6)))
    move(browser, "truncation", *23 * [Keys.ARROW_LEFT])
    shows(browser, "face", small.explored.image(Face(seed=6, truncation=0.8)))
    move(browser, "seed", Keys.CONTROL + "a", Keys.NULL, "123", Keys.ENTER)
    shows(browser, "face", small.explored.image(Face(seed=123, truncation=0.8)))
    browser.back()
    shows(browser, "face", small.explored.image(Face(seed=6, truncation=0.8)))
    move(browser, "seed", Keys.CONTROL + "a", Keys.NULL, "-4", Keys.ENTER)
    eventually(browser, lambda: text(browser, "message").startswith("A seed is a whole number"))


@pytest.mark.parametrize(
    "fragment",
    [
        "#seed=1e999&offsets=NaN,Infinity",
        "#seed=-1&class=4",
        "#latent=<script>",
        "#%%%&truncation=-1",
    ],
)
def test_invalid_address_shows_the_first_seed(
    browser: Chrome, address: str, small: Explorer, fragment: str
) -> None:
    opened(browser, address, fragment)
    shows(browser, "face", small.explored.image(Face(seed=1)))
    assert not browser.find_element(By.ID, "message").is_displayed()


def test_neighbor_becomes_the_face(browser: Chrome, address: str, small: Explorer) -> None:
    opened(browser, address)
    buttons = eventually(
        browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#neighbor-grid button")
    )
    assert len(buttons) == 16
    expected = small.explored.images(small.explored.neighbors(Face(seed=5), 0.5, 16, 0))[2]
    buttons[2].send_keys(Keys.ENTER)
    shows(browser, "face", expected)
    assert text(browser, "origin") == "Neighbor of seed 5"
    assert not browser.find_element(By.ID, "truncation").is_enabled(), "it is of seeds"
    eventually(browser, lambda: "#latent=" in browser.current_url)
    browser.refresh()
    shows(browser, "face", expected)
    browser.back()
    shows(browser, "face", small.explored.image(Face(seed=5)))


def test_scrubber_moves_between_two_faces(browser: Chrome, address: str, small: Explorer) -> None:
    opened(browser, address)
    click(browser, "tab-interpolation")
    frames = small.explored.images(small.explored.path(Face(seed=5), Face(seed=6), 33))
    shows(browser, "end", frames[-1])
    move(browser, "position", *5 * [Keys.ARROW_RIGHT])
    shows(browser, "frame", frames[5])
    click(browser, "play")
    eventually(browser, lambda: not np.array_equal(pixels(browser, "frame"), frames[5]))
    click(browser, "play")
    move(browser, "position", Keys.HOME, *16 * [Keys.ARROW_RIGHT])
    click(browser, "adopt")
    shows(browser, "face", frames[16])
    click(browser, "set-start")
    shows(browser, "start", frames[16])


def test_training_images_are_listed_with_their_names(browser: Chrome, address: str) -> None:
    opened(browser, address)
    press(browser, lambda: browser.find_element(By.ID, "tab-neighbors"), Keys.ARROW_LEFT)
    items = eventually(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#matches li"))
    assert len(items) == 6
    assert all(HTML in item.text for item in items), "a name is text"
    assert text(browser, "nearest-status") == "40 images searched."
    assert "no download contains them" in text(browser, "nearest")


def test_painting_appears_and_develops(browser: Chrome, address: str) -> None:
    opened(browser, address)
    click(browser, "tab-paint")
    styles = browser.find_elements(By.CSS_SELECTOR, ".styles label")
    assert [style.text for style in styles][-1] == f"{HTML}.png".replace("_", " ")
    styles[2].click()
    click(browser, "start-painting")
    image = browser.find_element(By.ID, "painting")
    eventually(browser, lambda: loaded(image) and image.is_displayed())
    first = pixels(browser, "painting")
    assert first.shape == (256, 256, 3)
    status = browser.find_element(By.CSS_SELECTOR, "#painting-work .status")
    eventually(browser, lambda: status.text == "Finished.")
    last = pixels(browser, "painting")
    assert not np.array_equal(first, last), "an intermediate image was visible"
    assert last.std() > 10
    assert browser.find_element(By.ID, "save-painting").is_displayed()
    assert browser.find_element(By.ID, "start-painting").is_enabled()


def test_painting_continues_after_failed_requests(browser: Chrome, address: str) -> None:
    opened(browser, address)
    click(browser, "tab-paint")
    browser.execute_script("""
        const request = window.fetch;
        window.failed = 0;
        window.fetch = (path, options) => {
          const isPoll = /^jobs\\/[0-9a-f]+$/.test(path) && !options;
          if (isPoll && window.failed < 3) {
            window.failed += 1;
            return Promise.reject(new TypeError("network"));
          }
          return request(path, options);
        };
    """)
    browser.find_element(By.CSS_SELECTOR, "#pixels option[value='128']").click()
    click(browser, "start-painting")
    status = browser.find_element(By.CSS_SELECTOR, "#painting-work .status")
    eventually(browser, lambda: status.text == "Finished.")
    assert browser.execute_script("return window.failed") == 3
    assert text(browser, "message") == ""


def test_painting_is_stopped(browser: Chrome, address: str, small: Explorer) -> None:
    opened(browser, address)
    click(browser, "tab-paint")
    browser.find_element(By.CSS_SELECTOR, "#pixels option[value='512']").click()
    click(browser, "start-painting")
    click(browser, "stop-painting")
    status = browser.find_element(By.CSS_SELECTOR, "#painting-work .status")
    eventually(browser, lambda: status.text == "Stopped.")
    eventually(browser, lambda: browser.find_element(By.ID, "start-painting").is_enabled())


def test_upload_is_inverted_and_explored(
    browser: Chrome, address: str, small: Explorer, tmp_path: Path
) -> None:
    photograph = small.explored.image(Face(seed=3))
    Image.fromarray(photograph).save(tmp_path / "me.png")
    set_screen(browser, 390)
    opened(browser, address)
    click(browser, "tab-photograph")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "me.png"))
    eventually(browser, lambda: text(browser, "origin") == "Uploaded face 1")
    shows(browser, "target", photograph)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    found = pixels(browser, "found").astype(int)
    shows(browser, "face", found.astype(np.uint8))
    assert np.square(found - photograph).mean() < 255**2 / 10**1.8, "a PSNR of more than 18 dB"
    move(browser, "direction-1", Keys.END)
    eventually(browser, lambda: not np.array_equal(pixels(browser, "face"), found))
    (tmp_path / "me.txt").write_text("no image")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "me.txt"))
    eventually(
        browser,
        lambda: text(browser, "message") == "Your photograph cannot be read (not an image).",
    )
    bounds = "return document.getElementById('message').getBoundingClientRect()"
    box, height = browser.execute_script(bounds), browser.execute_script("return innerHeight")
    assert 0 <= box["top"] < box["bottom"] <= height, "the message is on the screen"


def test_end_of_the_server_is_reported(browser: Chrome, tmp_path: Path) -> None:
    small = explorer(tmp_path)
    with serving(create_explorer(small)) as port:
        opened(browser, f"http://127.0.0.1:{port}/")
    small.close()
    move(browser, "direction-1", Keys.ARROW_RIGHT)
    eventually(browser, lambda: text(browser, "message").startswith("The server does not respond."))


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_screen(browser: Chrome, address: str, width: int, scheme: str) -> None:
    set_screen(browser, width, scheme)
    opened(browser, address)
    tabs = browser.find_elements(By.CSS_SELECTOR, "[role=tab]")
    for tab in tabs:
        eventually(browser, lambda tab=tab: tab.click() or True)  # type: ignore[misc]
        panel = browser.find_element(By.ID, str(tab.get_attribute("aria-controls")))
        assert panel.is_displayed()
        wide = browser.execute_script(WIDER)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert wide == [], panel.get_attribute("id")
    assert len(tabs) == 5
    ground: Any = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    levels = [int(part) for part in ground.strip("rgb()").split(",")]
    assert (max(levels) < 100) == (scheme == "dark")
    unnamed = browser.execute_script("""
        const isNamed = (element) => element.labels?.length || element.ariaLabel
          || element.textContent.trim();
        return [...document.querySelectorAll("input, select, button")]
          .filter((element) => !isNamed(element)).map((element) => element.outerHTML);
    """)
    assert unnamed == []
