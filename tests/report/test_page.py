"""Report page as a file: content, escaping, policy and size."""

import base64
import hashlib
import io
import re
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from atelier.report.build import build_page
from atelier.report.page import Changed, Fact, Page, write_page
from atelier.report.verdict import Verdict

from ..support.pipeline_outputs import Outputs, sample_settings

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x>{{ 7*7 }}"


class Html(HTMLParser):
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


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Page:
    outputs = Outputs(tmp_path_factory.mktemp("outputs"))
    settings = sample_settings(root)
    facts = [Fact("Machine", "EPYC"), Fact("MLflow", "open the run", "http://host/#/run")]
    with chdir(outputs.folder):
        return build_page(settings, settings.model_dump(), outputs.results, outputs.presets, facts)


@pytest.fixture
def write(tmp_path: Path, page: Page) -> Callable[..., str]:
    """Return a function that writes the page with changes and returns its HTML."""

    def write(**changed: Any) -> str:
        write_page(tmp_path / "report.html", replace(page, **changed))
        return (tmp_path / "report.html").read_text("utf-8")

    return write


def test_page_contains_everything_that_it_loads(write: Callable[..., str]) -> None:
    html = Html(write())
    loaded = {
        value
        for _, attributes in html.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "action", "poster", "background")
    }
    assert len(loaded) == 3 + 1 + 12 + 4 + 4, "frames, real, pairs, sources and stylized images"
    assert all(address.startswith("data:image/webp;base64,") for address in loaded if address)
    links = [link["href"] for link in html.all("a")]
    assert links[0] == "http://host/#/run"
    assert str(links[1]).startswith("data:image/gif;base64,")
    assert not {"iframe", "object", "embed", "base", "form"} & {tag for tag, _ in html.tags}
    style = "".join(html.text("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"fetch|XMLHttpRequest|import\s*\(|https?:", "".join(html.text("script")))


def test_every_image_has_its_declared_size_and_a_description(write: Callable[..., str]) -> None:
    images = [image for image in Html(write()).all("img") if "src" in image]
    assert len(images) == 3 + 1 + 12 + 3 * 4
    for image in images:
        kind, _, content = str(image["src"]).partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as decoded:
            decoded.load()
            assert decoded.get_format_mimetype() == kind.removeprefix("data:")
            assert decoded.size == (int(image["width"] or 0), int(image["height"] or 0))
        assert len(image["alt"] or "") > 10


def test_every_visible_image_can_be_enlarged(write: Callable[..., str]) -> None:
    buttons = [button for button in Html(write()).all("button") if button.get("class") == "zoom"]
    assert len(buttons) == 1 + 1 + 12 + 3 * 4
    assert all(str(button["aria-label"]).startswith("Enlarge") for button in buttons)


def test_last_epoch_is_visible_without_script(write: Callable[..., str]) -> None:
    html = Html(write())
    frames = [image for image in html.all("img") if "data-epoch" in image]
    assert [frame["data-epoch"] for frame in frames] == ["1", "2", "3"]
    assert ["hidden" in frame for frame in frames] == [True, True, False]
    (slider,) = html.all("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", "2")
    assert html.text("output") == ["3", " of 3"]


def test_content_security_policy_allows_only_the_pages_style_and_script(
    write: Callable[..., str],
) -> None:
    text = write()
    html = Html(text)
    policy = dict(
        rule.strip().split(" ", 1)
        for rule in str(
            next(
                meta["content"]
                for meta in html.all("meta")
                if meta.get("http-equiv") == "Content-Security-Policy"
            )
        ).split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not [name for _, attributes in html.tags for name in attributes if name.startswith("on")]
    assert not [1 for _, attributes in html.tags if "style" in attributes]


def test_hostile_text_is_escaped(write: Callable[..., str], page: Page) -> None:
    plain = Html(write())
    images = {"alt": HOSTILE}
    hostile = Html(
        write(
            title=HOSTILE,
            facts=[Fact(HOSTILE, HOSTILE, f"http://host/{HOSTILE}")],
            verdict=Verdict("poor", HOSTILE, ((HOSTILE, HOSTILE),)),
            warnings=[HOSTILE],
            measured_with=HOSTILE,
            preset=HOSTILE,
            changed=[Changed(HOSTILE, HOSTILE, [HOSTILE])],
            settings={HOSTILE: {HOSTILE: HOSTILE}},
            real=replace(page.real, **images),
            stylized=[replace(page.stylized[0], content_name=HOSTILE, style_name=HOSTILE)],
            charts=[replace(page.charts[0], title=HOSTILE, note=HOSTILE)],
        )
    )
    assert len(hostile.all("script")) == len(plain.all("script")) == 1
    assert all(str(image.get("src", "data:")).startswith("data:") for image in hostile.all("img"))
    for tag in ("h1", "h2", "h3", "dd", "dt", "td", "caption", "title"):
        assert HOSTILE in hostile.text(tag), tag


def test_settings_that_differ_come_before_all_settings(write: Callable[..., str]) -> None:
    changed = [Changed("train.lr", 0.0004, 0.001), Changed("stylize.content_layers", {21: 9.0}, {})]
    html = Html(write(preset="best32", changed=changed))
    texts = [text.strip() for _, text in html.texts if text.strip()]
    start = texts.index("These settings differ from the preset best32.")
    assert texts[start + 1 : start + 10] == [
        "setting",
        "this run",
        "preset",
        "train.lr",
        "0.0004",
        "0.001",
        "stylize.content_layers",
        "{21: 9.0}",
        "{}",
    ]
    assert texts.index("All settings") > start
    assert "All settings are those of the preset best32." in write(preset="best32", changed=[])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0002, "0.0002"),
        (True, "true"),
        ("sample", "sample"),
        ("", "''"),
        (["night_sky", "wave"], "[night_sky, wave]"),
        ({1: 0.25, 6: 0.5}, "{1: 0.25, 6: 0.5}"),
        ([], "[]"),
    ],
)
def test_settings_look_as_in_params_yaml(
    write: Callable[..., str], value: object, text: str
) -> None:
    html = Html(write(changed=[], settings={"train": {"one": value, "nested": {"two": value}}}))
    names = [name for name in html.text("th") if name in ("one", "nested.two")]
    assert names == ["one", "nested.two"]
    assert html.text("td")[-2:] == [text, text]


def test_warnings_follow_the_verdict(write: Callable[..., str]) -> None:
    assert "Warning:" not in write(warnings=[])
    html = Html(write(warnings=["it is short.", "it is <b>grey</b>."]))
    assert html.text("p")[:2] == ["Warning: it is short.", "Warning: it is <b>grey</b>."]


def test_page_without_optional_parts_has_no_empty_headings(write: Callable[..., str]) -> None:
    html = Html(write(stylized=[], metrics=[], nearest=[], augmented=None, charts=[]))
    assert html.text("h2")[1:] == ["Generated and real images", "Settings"]


def test_page_is_byte_reproducible(write: Callable[..., str]) -> None:
    assert write() == write()
