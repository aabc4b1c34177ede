"""Use of the report page in a browser."""

from .browser import By, Chrome, Keys, eventually

# The page shows its epochs faster than a test can poll them.
_RECORD = """
window.recorded = [];
const output = document.querySelector("#epochs output");
new MutationObserver(() => recorded.push(output.textContent)).observe(output, {childList: true});
"""


def shown_epochs(browser: Chrome) -> list[str]:
    """Return the epochs of the visible montages."""
    images = browser.find_elements(By.CSS_SELECTOR, "#epochs [data-epoch]")
    return [str(image.get_attribute("data-epoch")) for image in images if image.is_displayed()]


def use_slider(browser: Chrome, epochs: list[str]) -> None:
    """Use the slider and the play button of the report page, which has these epochs."""
    slider = browser.find_element(By.CSS_SELECTOR, "#epochs input")
    *_, previous, last = epochs
    assert shown_epochs(browser) == [last]
    slider.send_keys(Keys.LEFT)
    assert shown_epochs(browser) == [previous]
    assert browser.find_element(By.CSS_SELECTOR, "#epochs output").text == previous
    slider.send_keys(Keys.RIGHT)
    assert shown_epochs(browser) == [last]
    browser.execute_script(_RECORD)
    browser.find_element(By.CSS_SELECTOR, "#epochs .controls button").click()
    eventually(browser, lambda: browser.execute_script("return recorded") == epochs)
    assert shown_epochs(browser) == [last]
