"""Stylized images of the report page, each with its content and its style."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.report.images import PageImage, encode, read_image

_MAX_IMAGES = 12
_SIDES = (512, 384, 256)  # of stylized images; the largest whose data URIs fit the budget
_CHARACTERS = 1_300_000  # of the data URIs of all stylized images
_SOURCE_SIDE = 192


@dataclass(frozen=True)
class Stylized:
    """Stylized image with its content and its style, and their names."""

    content_name: str
    style_name: str
    content: PageImage
    style: PageImage
    image: PageImage


def load_stylized(folder: Path) -> tuple[list[Stylized], int]:
    """Load the first stylized images, those of one content after another.

    Args:
        folder: output of the stylize stage.

    Returns:
        The images, and the number of all images in the folder.

    Raises:
        AtelierError: a file is missing or damaged.
    """
    sources = folder / "sources"
    entries = _read_list(sources / "list.json")
    contents = list(dict.fromkeys(content for content, _, _ in entries))
    entries.sort(key=lambda entry: contents.index(entry[0]))
    shown = entries[:_MAX_IMAGES]
    images = _encoded_images(folder, shown)
    stylized = [
        Stylized(
            content,
            style,
            _encoded_source(folder, "content", content),
            _encoded_source(folder, "style", style),
            image,
        )
        for (content, style, _), image in zip(shown, images, strict=True)
    ]
    return stylized, len(entries)


def _encoded_images(folder: Path, entries: Sequence[tuple[str, str, str]]) -> list[PageImage]:
    """Encode stylized images at the largest size that fits the page's budget."""
    pixels = [read_image(folder / f"{name}.png", "stylize") for _, _, name in entries]
    texts = [f"{content} in the style of {style}" for content, style, _ in entries]
    images: list[PageImage] = []
    for side in _SIDES:
        images = [encode(p, text, side) for p, text in zip(pixels, texts, strict=True)]
        if sum(len(image.uri) for image in images) <= _CHARACTERS:
            break
    return images


def _encoded_source(folder: Path, kind: str, name: str) -> PageImage:
    file = folder / "sources" / f"{kind}-{name}.png"
    return encode(read_image(file, "stylize"), f"{kind.capitalize()} {name}", _SOURCE_SIDE)


def _read_list(file: Path) -> list[tuple[str, str, str]]:
    try:
        entries = json.loads(file.read_text("utf-8"))
        return [(str(e["content"]), str(e["style"]), str(e["image"])) for e in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AtelierError(
            f"{file} cannot be read ({type(error).__name__}); run the stylize stage again."
        ) from None
