import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.figures import report
from atelier.figures.gif import write_gif
from atelier.figures.montage import save_png
from atelier.figures.report import report_page

from ..support.arrays import random_image

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x>{{ 7*7 }}"


class Page(HTMLParser):
    """Tags of an HTML page with their attributes, and text by tag."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag and data.strip()]


def write(folder: Path, **changed: Any) -> str:
    write_gif([random_image(0, 32, 48), random_image(1, 32, 48)], folder / "training.gif", fps=4)
    save_png(random_image(2, 32, 48), folder / "losses.png")
    arguments = {
        "title": "Faces",
        "summary": "Ten images",
        "montages": ((epoch, random_image(epoch, 32, 48)) for epoch in (5, 10, 12)),
        "fps": 4.0,
        "gif": folder / "training.gif",
        "curves": folder / "losses.png",
        "comparison": random_image(3, 32, 48),
        "metrics": {
            "evaluate": {"kid": 0.012345678, "nested": {"deep": 1234567}, "files": ["a.jpg"]},
            "loose": 3,
        },
        "parameters": {"train": {"lr": 0.0002, "flag": True, "layers": {1: 1.0}, "none": []}},
    }
    report_page(folder / "report.html", **{**arguments, **changed})
    return (folder / "report.html").read_text(encoding="utf-8")


def test_page_is_self_contained(tmp_path: Path) -> None:
    page = Page(write(tmp_path))
    addresses = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "data", "action", "poster", "background")
    ]
    assert len(addresses) == 3 + 1 + 1 + 1 + 1 + 1
    assert all(address.startswith("data:") for address in addresses)
    assert not {"iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    style = "".join(page.text("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"fetch|XMLHttpRequest|import\s*\(|https?:", "".join(page.text("script")))


def test_every_image_has_its_declared_size_and_a_description(tmp_path: Path) -> None:
    images = Page(write(tmp_path)).all("img")
    assert len(images) == 6
    for image in images:
        kind, _, content = image["src"].partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as decoded:
            decoded.load()
            assert decoded.get_format_mimetype() == kind.removeprefix("data:")
            assert decoded.size == (int(image["width"]), int(image["height"]))
        assert len(image["alt"]) > 20


def test_slider_covers_every_epoch_and_last_epoch_is_visible_without_script(tmp_path: Path) -> None:
    page = Page(write(tmp_path))
    epochs = [image for image in page.all("img") if "data-epoch" in image]
    assert [image["data-epoch"] for image in epochs] == ["5", "10", "12"]
    assert ["hidden" in image for image in epochs] == [True, True, False]
    (slider,) = page.all("input")
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == (
        "range",
        "0",
        "2",
        "2",
    )
    assert slider["aria-label"] == "Epoch"
    assert page.text("output")[0] == "12"


def test_montage_on_the_page_equals_the_input(tmp_path: Path) -> None:
    original = np.full((40, 40, 3), (200, 30, 90), dtype=np.uint8)
    page = Page(write(tmp_path, montages=[(1, original)]))
    content = page.all("img")[0]["src"].partition("base64,")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as decoded:
        assert np.abs(np.asarray(decoded.convert("RGB")).astype(int) - original).max() <= 4


def test_content_security_policy_allows_only_the_pages_style_and_script(tmp_path: Path) -> None:
    html = write(tmp_path)
    page = Page(html)
    policy = dict(
        rule.strip().split(" ", 1)
        for rule in next(
            meta["content"]
            for meta in page.all("meta")
            if meta.get("http-equiv") == "Content-Security-Policy"
        ).split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not [1 for _, attributes in page.tags if "style" in attributes]


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    plain = Page(write(tmp_path))
    page = Page(
        write(
            tmp_path,
            title=HOSTILE,
            summary=HOSTILE,
            warnings=[HOSTILE],
            metrics={HOSTILE: {HOSTILE: HOSTILE}},
            parameters={HOSTILE: {HOSTILE: [HOSTILE]}},
        )
    )
    for tag in ("script", "img"):
        assert len(page.all(tag)) == len(plain.all(tag))
    assert page.text("h1") == [HOSTILE]
    assert page.text("caption") == [HOSTILE, HOSTILE]
    assert HOSTILE in page.text("td")


def test_metrics_and_settings_are_formatted(tmp_path: Path) -> None:
    page = Page(write(tmp_path))
    rows = dict(zip(page.text("th"), page.text("td"), strict=True))
    assert rows == {
        "loose": "3",
        "kid": "0.01235",
        "nested.deep": "1,234,567",
        "lr": "0.0002",
        "flag": "true",
        "layers.1": "1.0",
        "none": "[]",
    }
    assert page.text("caption") == ["evaluate", "train"]


def test_page_is_byte_reproducible(tmp_path: Path) -> None:
    assert write(tmp_path) == write(tmp_path)


def test_large_montage_is_shrunk_and_large_gif_is_only_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "GIF_BYTES", 10)
    tall = np.zeros((4000, 8, 3), dtype=np.uint8)
    html = write(tmp_path, montages=[(1, tall)])
    page = Page(html)
    assert page.all("img")[0]["height"] == str(report.LONGEST_SIDE)
    assert "image/gif" not in html
    assert "training.gif" in html


def test_warnings_follow_the_summary(tmp_path: Path) -> None:
    assert "Warning:" not in write(tmp_path)
    paragraphs = Page(write(tmp_path, warnings=["it is short.", "it is <b>grey</b>."])).text("p")
    start = paragraphs.index("Ten images")
    assert paragraphs[start + 1 : start + 3] == [
        "Warning: it is short.",
        "Warning: it is <b>grey</b>.",
    ]


def test_report_without_montages_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one montage"):
        write(tmp_path, montages=[])
    assert not (tmp_path / "report.html").exists()


def test_page_without_metrics_and_settings_has_no_empty_headings(tmp_path: Path) -> None:
    page = Page(write(tmp_path, metrics={}, parameters={}))
    assert page.text("h2") == [
        "Epoch by epoch",
        "Animation",
        "Real and generated",
        "Training curves",
    ]
