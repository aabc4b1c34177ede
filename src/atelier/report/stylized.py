"""Stylized images of the report page, each with its content and its style."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.pages.images import Format, PageImage, encode_within, read_image

_MAX_IMAGES = 12
# Formats of stylized images and of their sources.
_FORMATS = (Format(512), Format(384), Format(256), Format(256, 60))
_SOURCE_FORMATS = (Format(192), Format(128), Format(128, 60))
_SOURCES_SHARE = 0.3  # of the characters of stylized images with their sources


@dataclass(frozen=True)
class Stylized:
    """Stylized image with its content and its style, and their names."""

    content_name: str
    style_name: str
    content: PageImage
    style: PageImage
    image: PageImage


def load_stylized(folder: Path, characters: int) -> tuple[list[Stylized], int]:
    """Load the first stylized images, those of one content after another.

    Args:
        folder: output of the stylize stage.
        characters: limit of the sum of all data URIs.

    Returns:
        The images, and the number of all images in the folder.

    Raises:
        AtelierError: a file is missing or damaged.
    """
    entries = _read_list(folder / "sources/list.json")
    contents = list(dict.fromkeys(content for content, _, _ in entries))
    entries.sort(key=lambda entry: contents.index(entry[0]))
    first = entries[:_MAX_IMAGES]
    sources = _encoded_sources(folder, first, int(_SOURCES_SHARE * characters))
    left = characters - sum(len(image.uri) for pair in sources for image in pair)
    images = encode_within(
        [read_image(folder / f"{name}.png", "stylize") for _, _, name in first],
        [f"{content} in the style of {style}" for content, style, _ in first],
        left,
        _FORMATS,
    )
    stylized = [
        Stylized(content, style, *pair, image)
        for (content, style, _), pair, image in zip(first, sources, images, strict=True)
    ]
    return stylized, len(entries)


def _encoded_sources(
    folder: Path, entries: Sequence[tuple[str, str, str]], characters: int
) -> list[tuple[PageImage, PageImage]]:
    """Return the content and the style of each stylized image."""
    names = [(("content", content), ("style", style)) for content, style, _ in entries]
    flat = [source for pair in names for source in pair]
    files = [folder / "sources" / f"{kind}-{name}.png" for kind, name in flat]
    encoded = encode_within(
        [read_image(file, "stylize") for file in files],
        [f"{kind.capitalize()} {name}" for kind, name in flat],
        characters,
        _SOURCE_FORMATS,
    )
    return list(zip(encoded[::2], encoded[1::2], strict=True))


def _read_list(file: Path) -> list[tuple[str, str, str]]:
    try:
        entries = json.loads(file.read_text("utf-8"))
        return [(str(e["content"]), str(e["style"]), str(e["image"])) for e in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AtelierError(
            f"{file} cannot be read ({type(error).__name__}); run the stylize stage again."
        ) from None
