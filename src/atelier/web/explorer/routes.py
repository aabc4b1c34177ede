"""Server of the explorer's page: images of faces, and paintings and photographs as jobs."""

import asyncio
import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from atelier.core.errors import printable
from atelier.latents.bounds import image_shape
from atelier.latents.directions import MAX_LATENT_SIZE
from atelier.pages.html import render_html
from atelier.web.explorer.explored_generator import END_OFFSET, ExploredGenerator, Pixels, to_png
from atelier.web.explorer.jobs import Job, Jobs, QueueFullError, UnknownJobError, lower_priority
from atelier.web.explorer.painting import Painter, Styles
from atelier.web.explorer.photographs import MAX_BYTES, Photographs
from atelier.web.explorer.requests import (
    MAX_BODY,
    MAX_FRAMES,
    MAX_SEED,
    FaceRequest,
    GifRequest,
    ImageRequest,
    InterpolationRequest,
    NearestRequest,
    NeighborsRequest,
    PaintRequest,
)
from atelier.web.explorer.training_search import TrainingSearch
from atelier.web.server import Limits, create_app

T = TypeVar("T")

UPLOAD = "/photographs"
_MAX_UPLOADS = 2  # at the same time; each takes up to 32 MB of memory, and its image more
_MAX_TITLE = 200  # characters
_TEMPLATE = Path(__file__).parent / "explorer.html.j2"


class Workers:
    """Threads of the server's work, so that sliders do not wait for anything else.

    Attributes:
        slider: single images.
        batch: several images and uploaded files.
        thumbnails: of styles, at low priority.
        search: features of training images, at low priority.
    """

    def __init__(self) -> None:
        self.slider = ThreadPoolExecutor(1, "explorer-slider")
        self.batch = ThreadPoolExecutor(1, "explorer-batch")
        self.thumbnails, self.search = (
            ThreadPoolExecutor(1, f"explorer-{name}", initializer=lower_priority)
            for name in ("thumbnails", "search")
        )

    def close(self) -> None:
        """End the threads after their current work."""
        for pool in (self.slider, self.batch, self.thumbnails, self.search):
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Explorer:
    """Everything that the page shows.

    Attributes:
        title: name of the generator, as the user typed it.
        explored: the generator.
        styles: to choose from.
        painter: of faces.
        photographs: inversion of uploads.
        search: training images.
        jobs: paintings and inversions.
        workers: threads of all other work.
    """

    title: str
    explored: ExploredGenerator
    styles: Styles
    painter: Painter
    photographs: Photographs
    search: TrainingSearch
    jobs: Jobs = field(default_factory=Jobs)
    workers: Workers = field(default_factory=Workers)

    def close(self) -> None:
        """Stop all work."""
        self.search.close()
        self.jobs.close()
        self.workers.close()


def create_explorer(explorer: Explorer) -> FastAPI:
    """Return the application of the page."""
    limits = Limits(MAX_BODY, uploads={UPLOAD: MAX_BYTES}, concurrent_uploads=_MAX_UPLOADS)
    app = create_app(limits)
    app.add_exception_handler(QueueFullError, _with_status(503))
    app.add_exception_handler(UnknownJobError, _with_status(404))
    page = _page(explorer)

    @app.get("/")
    async def _start() -> HTMLResponse:
        return HTMLResponse(page)

    _add_images(app, explorer)
    _add_sets(app, explorer)
    _add_styles(app, explorer)
    _add_jobs(app, explorer)
    return app


def _add_images(app: FastAPI, explorer: Explorer) -> None:
    """Add the route of a single image."""
    explored, workers = explorer.explored, explorer.workers

    @app.post("/image")
    async def _image(request: ImageRequest) -> Response:
        def encode() -> bytes:
            return to_png(explored.image(request.face), request.factor)

        return _png(await _run(workers.slider, encode))


def _add_sets(app: FastAPI, explorer: Explorer) -> None:
    """Add the routes of several images."""
    explored, workers = explorer.explored, explorer.workers

    def with_faces(latents: list[Any]) -> dict[str, Any]:
        return {
            "images": [_data_uri(image) for image in explored.images(latents)],
            "faces": [explored.face_of(latent).model_dump() for latent in latents],
        }

    @app.post("/ends")
    async def _ends(request: FaceRequest) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            pairs = explored.ends(request.face)
            return {"ends": [[_data_uri(low), _data_uri(high)] for low, high in pairs]}

        return await _run(workers.batch, compute)

    @app.post("/neighbors")
    async def _neighbors(request: NeighborsRequest) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            options = (request.radius, request.count, request.seed)
            return with_faces(explored.neighbors(request.face, *options))

        return await _run(workers.batch, compute)

    @app.post("/interpolation")
    async def _interpolation(request: InterpolationRequest) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            return with_faces(explored.path(request.start, request.end, request.frames))

        return await _run(workers.batch, compute)

    @app.post("/gif")
    async def _gif(request: GifRequest) -> Response:
        return Response(
            await _run(workers.batch, lambda: explored.gif(request)), 200, None, "image/gif"
        )

    @app.post("/nearest")
    async def _nearest(request: NearestRequest) -> dict[str, Any]:
        def find() -> dict[str, Any]:
            matches = explorer.search.nearest(explored.image(request.face), request.count)
            return {
                "searched": explorer.search.describe(),
                "matches": [
                    {
                        "image": _data_uri(match.image),
                        "name": printable(match.name),
                        "distance": round(match.distance, 2),
                        "mirrored": match.mirrored,
                    }
                    for match in matches
                ],
            }

        return await _run(workers.search, find)


def _add_styles(app: FastAPI, explorer: Explorer) -> None:
    @app.get("/styles/{index}")
    async def _style(index: int) -> Response:
        return _png(await _run(explorer.workers.thumbnails, explorer.styles.thumbnail, index))


def _add_jobs(app: FastAPI, explorer: Explorer) -> None:
    """Add the routes of paintings and photographs."""
    explored, jobs, batch = explorer.explored, explorer.jobs, explorer.workers.batch

    def state(job: Job) -> dict[str, Any]:
        return {**job.describe(), "position": jobs.position(job)}

    @app.post("/paintings")
    async def _paint(request: PaintRequest) -> dict[str, Any]:
        def prepare() -> tuple[Pixels, Pixels]:
            return explored.image(request.face), explorer.styles.image(request.style)

        face, style = await _run(batch, prepare)
        size, strength = request.pixels, request.strength
        job = jobs.submit(lambda job: explorer.painter.paint(job, face, style, strength, size))
        return state(job)

    @app.post(UPLOAD)
    async def _upload(request: Request) -> dict[str, Any]:
        target = await _run(batch, explorer.photographs.target, await request.body())
        return state(jobs.submit(lambda job: explorer.photographs.invert(job, target)))

    @app.get("/jobs/{job_id}")
    async def _state(job_id: str) -> dict[str, Any]:
        return state(jobs.find(job_id))

    @app.get("/jobs/{job_id}/image")
    async def _job_image(job_id: str) -> Response:
        image = jobs.find(job_id).image
        if image is None:
            raise UnknownJobError("there is no image of this work yet.")
        return _png(image)

    @app.delete("/jobs/{job_id}")
    async def _stop(job_id: str) -> dict[str, Any]:
        job = jobs.find(job_id)
        job.stop()
        return state(job)


async def _run(pool: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


def _page(explorer: Explorer) -> str:
    generator, directions = explorer.explored.generator, explorer.explored.directions
    height, width, channels = image_shape(generator)
    config = {
        "explained": [float(share) for share in directions.explained],
        "classes": generator.classes,
        "truncation": generator.latent_distribution == "normal",
        "width": width,
        "endOffset": END_OFFSET,
        "maxSeed": MAX_SEED,
        "maxFrames": MAX_FRAMES,
        "maxBytes": MAX_BYTES,
        "styles": [printable(name) for name in explorer.styles.names],
    }
    facts = {
        "images": f"{width} x {height} pixels, {'color' if channels == 3 else 'grayscale'}",
        "searched": explorer.search.title,
        "tab": "Training images" if explorer.search.are_training else "Similar images",
        "max_latent_size": MAX_LATENT_SIZE,
        "latents": f"{generator.latent_size} numbers, {generator.latent_distribution}",
    }
    title = printable(explorer.title, _MAX_TITLE)
    values = {"title": title, "config": config, "facts": facts, "factors": {}}
    return render_html(_TEMPLATE, values)


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")


def _data_uri(image: Pixels) -> str:
    return f"data:image/png;base64,{base64.b64encode(to_png(image)).decode()}"


def _with_status(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def answer(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status)

    return answer
