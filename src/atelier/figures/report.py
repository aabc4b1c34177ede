"""The report page: one HTML file that shows a training, offline and without a server."""

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
from atelier.figures.grid import limit_size

LONGEST_SIDE = 1600
GIF_BYTES = 16 * 2**20


def report_page(
    target: Path,
    *,
    title: str,
    summary: str,
    montages: Iterable[tuple[int, NDArray[np.uint8]]],
    fps: float,
    film: Path,
    curves: Path,
    comparison: NDArray[np.uint8],
    metrics: Mapping[str, Any],
    parameters: Mapping[str, Any],
    augmented: NDArray[np.uint8] | None = None,
    nearest: NDArray[np.uint8] | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Write the report page, with everything that it shows inside it.

    All text is escaped, and the page's own policy forbids the browser any request and any
    script but the page's.

    Args:
        target: the HTML file.
        title: the page's heading.
        summary: one line under the heading.
        montages: at least one of (epoch, uint8 [H, W, 3]), in the order of the slider. Taken
            one at a time.
        fps: epochs a second when the slider plays.
        film: a GIF file. One of more than FILM_BYTES is named instead of embedded.
        curves: a PNG file.
        comparison: uint8 [H, W, 3], real beside generated pictures.
        metrics: numbers, nested by stage. Lists, such as those of rejected files, are left
            out: they can be longer than all the rest.
        parameters: settings, nested by section.
        augmented: uint8 [H, W, 3], pictures as the discriminator saw them.
        nearest: uint8 [H, W, 3], generated pictures beside their nearest in the training.
        warnings: sentences under the summary.

    Raises:
        ValueError: there is no montage.
    """
    epochs = [{"number": number, **_webp(picture)} for number, picture in montages]
    if not epochs:
        raise ValueError("a report page needs at least one montage")
    page = _template().render(
        title=title,
        summary=summary,
        epochs=epochs,
        fps=fps,
        film=_embedded(film, "image/gif") if film.stat().st_size <= GIF_BYTES else None,
        film_name=film.name,
        curves=_embedded(curves, "image/png"),
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
    environment.globals.update(spoken=_format_metric, written=_format_setting)
    return environment.get_template("report.html.j2")


def _digest(text: str) -> str:
    """Name a style or script in a content security policy (W3C CSP 3, hash-source)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _webp(picture: NDArray[np.uint8]) -> dict[str, Any]:
    """Embed a picture, no larger than a screen can show, with its size in pixels."""
    picture = limit_size(picture, LONGEST_SIDE)
    height, width = picture.shape[:2]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="WEBP", quality=88)
    return {"uri": _data_uri(file.getvalue(), "image/webp"), "width": width, "height": height}


def _embedded(path: Path, kind: str) -> dict[str, Any]:
    """Embed a picture file as it is, with its size in pixels."""
    with Image.open(path) as picture:
        width, height = picture.size
    return {"uri": _data_uri(path.read_bytes(), kind), "width": width, "height": height}


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _groups(
    values: Mapping[str, Any], leave_out: type | tuple[type, ...] = ()
) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Turn nested values into one table for each section, and one for what has no section."""
    loose = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    sections = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    tables = ([("", loose)] if loose else []) + list(sections.items())
    return [
        (name, [row for row in _rows(table) if not isinstance(row[1], leave_out)])
        for name, table in tables
    ]


def _rows(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Walk nested values as (dotted name, value)."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _format_metric(value: Any) -> str:
    """Say a metric: four significant digits, thousands set apart."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


def _format_setting(value: Any) -> str:
    """Say a setting as params.yaml has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
