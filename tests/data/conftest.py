"""Fixtures: settings, encoded images and a local web server."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.core.download_settings import DownloadSettings
from atelier.core.settings import ConvertSettings

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("no real data in ../shared/data")
    return SHARED


@pytest.fixture
def source() -> Callable[..., DownloadSettings]:
    """Return a factory of download settings: ``source("archive", location=..., sha256=...)``."""

    def make(name: str, **values: Any) -> DownloadSettings:
        sections: dict[str, Any] = {
            "sample": {"count": 16, "seed": 1},
            "folders": {},
            "archive": {"location": "unset", "sha256": ""},
            "kaggle": {"handle": "owner/faces"},
            "torchvision": {"dataset": "MNIST", "split": "all", "root": "", "mirror": ""},
        }
        section = "folders" if name == "folder" else name
        sections[section] = {**sections[section], **values}
        return DownloadSettings(source=name, **sections)

    return make


@pytest.fixture
def conversion() -> Callable[..., ConvertSettings]:
    def make(**values: Any) -> ConvertSettings:
        values_by_default = {
            "image_size": 16,
            "color": "rgb",
            "resize_mode": "crop",
            "max_megapixels": 1,
        }
        values_by_default["duplicates"] = "keep"
        values_by_default |= {"validation_fraction": 0.0, "test_fraction": 0.0}
        return ConvertSettings(**{**values_by_default, **values})

    return make


@pytest.fixture
def image_bytes() -> Callable[..., bytes]:
    """Return a factory of encoded images of noise."""

    def make(width: int = 20, height: int = 16, kind: str = "PNG", seed: int = 0) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        return stream.getvalue()

    return make


class Site:
    """Web server on loopback that calls ``answer(handler)`` for each request."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: None
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.requests.append({"path": self.path, **dict(self.headers)})
                site.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.close()


@pytest.fixture
def reply() -> Callable[..., Callable[[BaseHTTPRequestHandler], None]]:
    """Return a factory of answers with a body, a status and headers."""

    def make(
        body: bytes, status: int = 200, **headers: str
    ) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in {"Content_Length": str(len(body)), **headers}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        return answer

    return make
