"""Report page of a training: one HTML file that needs neither network nor server."""

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.core.files import write_text
from atelier.figures.montage import limit_size

LONGEST_SIDE = 1600
GIF_BYTES = 16 * 2**20


def report_page(
    target: Path,
    *,
    title: str,
    summary: str,
    montages: Iterable[tuple[int, NDArray[np.uint8]]],
    fps: float,
    gif: Path,
    curves: Path,
    comparison: NDArray[np.uint8],
    metrics: Mapping[str, Any],
    parameters: Mapping[str, Any],
    augmented: NDArray[np.uint8] | None = None,
    nearest: NDArray[np.uint8] | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Write the report page with all of its images embedded.

    All text is escaped. The page's content security policy forbids requests and other scripts.

    Args:
        target: the HTML file.
        title: the page's heading.
        summary: one line under the heading.
        montages: at least one of (epoch, uint8 [H, W, 3]), in the order of the slider;
            consumed one at a time.
        fps: epochs per second of the slider.
        gif: a GIF file; named instead of embedded above GIF_BYTES.
        curves: a PNG file.
        comparison: uint8 [H, W, 3], real next to generated images.
        metrics: numbers, nested by stage. Lists are left out, because they can be long.
        parameters: settings, nested by section.
        augmented: uint8 [H, W, 3], images and their augmentations.
        nearest: uint8 [H, W, 3], generated images next to their nearest training images.
        warnings: sentences below the summary.

    Raises:
        ValueError: there is no montage.
    """
    epochs = [{"number": number, **_webp(image)} for number, image in montages]
    if not epochs:
        raise ValueError("a report page needs at least one montage")
    page = _template().render(
        title=title,
        summary=summary,
        epochs=epochs,
        fps=fps,
        gif=_embed(gif, "image/gif") if gif.stat().st_size <= GIF_BYTES else None,
        gif_name=gif.name,
        curves=_embed(curves, "image/png"),
        comparison=_webp(comparison),
        augmented=None if augmented is None else _webp(augmented),
        nearest=None if nearest is None else _webp(nearest),
        metrics=_groups(metrics, leave_out=list),
        parameters=_groups(parameters),
        warnings=warnings,
    )
    write_text(target, page)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["digest"] = _digest
    environment.globals.update(format_metric=_format_metric, format_setting=_format_setting)
    return environment.get_template("report.html.j2")


def _digest(text: str) -> str:
    """Return the hash-source of a style or script (W3C CSP 3)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _webp(image: NDArray[np.uint8]) -> dict[str, Any]:
    """Return a data URI of an image, limited to LONGEST_SIDE, and its size in pixels."""
    image = limit_size(image, LONGEST_SIDE)
    height, width = image.shape[:2]
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="WEBP", quality=88)
    return {"uri": _data_uri(file.getvalue(), "image/webp"), "width": width, "height": height}


def _embed(path: Path, kind: str) -> dict[str, Any]:
    """Return a data URI of an image file and its size in pixels."""
    with Image.open(path) as image:
        width, height = image.size
    return {"uri": _data_uri(path.read_bytes(), kind), "width": width, "height": height}


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _groups(
    values: Mapping[str, Any], leave_out: type | tuple[type, ...] = ()
) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Return a table for each section, and one for values outside sections."""
    top = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    sections = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    tables = ([("", top)] if top else []) + list(sections.items())
    return [
        (name, [row for row in _rows(table) if not isinstance(row[1], leave_out)])
        for name, table in tables
    ]


def _rows(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested values as (dotted name, value)."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _format_metric(value: Any) -> str:
    """Format a metric: four significant digits, thousands separators."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


def _format_setting(value: Any) -> str:
    """Format a setting as in params.yaml."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
