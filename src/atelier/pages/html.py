"""Self-contained HTML pages from templates."""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2

from atelier.core.files import write_text


def write_html(
    target: Path, template: Path, values: dict[str, Any], **filters: Callable[..., Any]
) -> None:
    """Write a page; the arguments are those of :func:`render_html`.

    Args:
        target: the file to write.
        template: of the page.
        values: of the template.
        filters: of the template, besides ``digest``.
    """
    write_text(target, render_html(template, values, **filters))


def render_html(template: Path, values: dict[str, Any], **filters: Callable[..., Any]) -> str:
    """Return the HTML of a page.

    All text is escaped. The page's content security policy forbids scripts of others, and requests
    unless the template allows them.

    Args:
        template: it can include the templates in the folder of this module.
        values: of the template.
        filters: of the template, besides ``digest``.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters, digest=_digest)
    return environment.get_template(template.name).render(values)


def _digest(text: str) -> str:
    """Return the hash-source of a style or script (W3C CSP 3)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
