"""Live page: ``.atelier/live.html``, and the page that ``atelier live`` serves."""

import base64
import functools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from atelier.tracking.live_state import (
    FOLDER,
    SAMPLES,
    StageState,
    Throttle,
    folder_name,
    read_regular,
    read_states,
    replace_file,
    running,
)
from atelier.tracking.live_view import STAGES, live_view, read_curves

PAGE = Path("live.html")
_TEMPLATE = Path(__file__).with_name("live.html.j2")
_MARK = "@DATA@"  # replaced by the data: rendering the template takes longer than writing the page
_FIRST_SECONDS = 2.0
_SECONDS = 5.0  # between two writes of the page; it reloads itself as often


def served_page() -> str:
    """Return the page that requests its data from the server."""
    return "".join(_parts(is_served=True))


def file_page(private: Path, name: str = "") -> str:
    """Return the page with its data; the arguments are those of :func:`live_view`."""
    view = live_view(private, name)
    curves, samples = view.get("curves"), view.get("samples")
    data: dict[str, Any] = {
        "view": view,
        "curves": read_curves(private, curves["name"]) if curves else None,
        "image": _data_uri(private / FOLDER / samples["name"] / SAMPLES) if samples else "",
    }
    head, tail = _parts(is_served=False)
    # In a script element, only "</" and "<!--" are special.
    return head + json.dumps(data).replace("<", "\\u003c") + tail


class PageWriter:
    """Writes ``.atelier/live.html`` of a running stage, unless a newer one is running."""

    def __init__(self, is_early: bool = False) -> None:
        """Plan the first page.

        Args:
            is_early: write it at the start; otherwise a stage that takes less than two seconds
                writes none, because loading the template takes 50 milliseconds.
        """
        self._pages = Throttle(_SECONDS, first=0.0 if is_early else _FIRST_SECONDS)
        self._is_written = False

    def __call__(self, private: Path, state: StageState) -> None:
        """Write the page if that is due, or if the stage has ended.

        Args:
            private: the repository's folder ``.atelier/``.
            state: of the stage, as it was saved.
        """
        has_ended = state.status != "running" and (self._is_written or state.status != "finished")
        if state.stage not in STAGES or not (has_ended or self._pages.is_due()):
            return
        _parts(is_served=False)  # takes long only once
        with self._pages.work():
            if not _has_newer(private, state):
                page = file_page(private, folder_name(state))
                replace_file(private / PAGE, lambda file: file.write_text(page, "utf-8"))
                self._is_written = True


def _has_newer(private: Path, state: StageState) -> bool:
    """Return true if a stage is running that was started later."""
    states = read_states(private)
    return any(states[name].started > state.started for name in running(states))


@functools.cache
def _parts(is_served: bool) -> tuple[str, str]:
    """Return the page before and after its data."""
    from atelier.pages.html import render_html

    values = {"is_served": is_served, "mark": _MARK, "seconds": _SECONDS, "factors": {}}
    head, _, tail = render_html(_TEMPLATE, values).partition(_MARK)
    return head, tail


def _data_uri(file: Path) -> str:
    with suppress(OSError):
        return f"data:image/webp;base64,{base64.b64encode(read_regular(file)).decode()}"
    return ""
