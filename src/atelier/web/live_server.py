"""Server of the live page of a repository."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel

from atelier.core.errors import AtelierError
from atelier.tracking.live_page import served_page
from atelier.tracking.live_state import FOLDER, SAMPLES, read_regular, read_states, running
from atelier.tracking.live_stop import request_stop
from atelier.tracking.live_view import executions, live_view, read_curves
from atelier.web.server import create_app


class StopRequest(BaseModel):
    """Body of a request to stop a pipeline: folder of a state, as ``name`` of the view."""

    name: str


def live_app(private: Path) -> FastAPI:
    """Return the application that serves the live page, its data, and the stop of a stage.

    Args:
        private: the repository's folder ``.atelier/``.
    """
    app, page = create_app(), served_page()

    @app.get("/", response_class=HTMLResponse)
    def index() -> str:
        return page

    @app.get("/state")
    def state(name: str = "", curves: str = "") -> dict[str, Any]:
        """Return the view, and the curves unless the page has them: ``curves`` is their id."""
        view = live_view(private, name)
        found = view.get("curves")
        if not found or curves == f"{found['name']}:{found['number']}":
            return {"view": view, "curves": None}
        return {"view": view, "curves": read_curves(private, found["name"])}

    @app.get("/samples/{name}")
    def samples(name: str) -> Response:
        # Only names of known folders: others could leave the folder.
        if name in read_states(private):
            with suppress(OSError):
                content = read_regular(private / FOLDER / name / SAMPLES)
                return Response(content, media_type="image/webp")
        raise AtelierError("there are no samples of this stage yet; reload the page.")

    app.post("/stop")(_stop(private))
    return app


def _stop(private: Path) -> Callable[[StopRequest], dict[str, str]]:
    """Return the answer to a request to stop a stage."""

    def answer(body: StopRequest) -> dict[str, str]:
        # The stage may have ended since; then the next one of its pipeline is stopped.
        found = next((each for each in executions(private) if body.name in each.states), None)
        active = running(found.states) if found else []
        if not found or not active:
            raise AtelierError("this stage has ended; the page shows the next one in a moment.")
        stopping = [name for name in active if request_stop(private, name, found.states[name])]
        if not stopping:
            raise AtelierError("this stage has just ended; nothing was stopped.")
        return {"message": f"{found.states[stopping[-1]].stage} is stopping"}

    return answer
