"""Latency of the explorer: sliders alone, during a painting, and other requests.

The server runs as `atelier explore` starts it. Each result is the median and the 95th percentile in
milliseconds, if not named otherwise. Requests go through HTTP; with chromium and its
driver, sliders are also timed in the browser, from the input event to the loaded image.

Usage: python benchmarks/explorer.py [--project FOLDER] [--requests 100] [--json]
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from command import options, show

ROOT = Path(__file__).resolve().parents[1]
BROWSER_SCRIPT = """
const done = arguments[1];
const slider = document.getElementById("direction-1");
const face = document.getElementById("face");
(async () => {
  const times = [];
  for (let step = 0; step < arguments[0]; step += 1) {
    const start = performance.now();
    slider.value = (step % 40) / 10 - 2;
    const loaded = new Promise((resolve) => face.addEventListener("load", resolve, { once: true }));
    slider.dispatchEvent(new Event("input"));
    await loaded;
    times.push(performance.now() - start);
  }
  done(times);
})();
"""


class Client:
    """Connection to the server."""

    def __init__(self, port: int) -> None:
        self.connection = HTTPConnection("127.0.0.1", port, timeout=300)

    def __call__(self, path: str, content: Any = None, method: str = "POST") -> bytes:
        """Send a request and return the content of the answer."""
        body = None if content is None else json.dumps(content)
        self.connection.request(method, path, body, {"content-type": "application/json"})
        response = self.connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        return answer


@contextmanager
def server(project: Path, port: int) -> Iterator[float]:
    """Start the command; yield the seconds until the page is served."""
    command = [sys.executable, "-m", "atelier.cli.app", "explore", "--port", str(port)]
    begin = time.perf_counter()
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("Open ")
            while True:
                try:
                    Client(port)("/", method="GET")
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None
                    threading.Event().wait(0.05)
            yield time.perf_counter() - begin
        finally:
            process.terminate()


def milliseconds(times: list[float]) -> list[float]:
    """Return median and 95th percentile of times in ms."""
    ordered = sorted(times)
    return [round(statistics.median(ordered), 1), round(ordered[int(0.95 * len(ordered))], 1)]


def timed(port: int, path: str, requests: list[Any]) -> list[float]:
    """Send requests one after the other; return median and 95th percentile in ms."""
    times, ask = [], Client(port)  # a new connection: the server closes idle ones
    for content in requests:
        begin = time.perf_counter()
        ask(path, content)
        times.append(1000 * (time.perf_counter() - begin))
    return milliseconds(times)


def faces(count: int) -> list[dict[str, Any]]:
    """Return positions of a slider."""
    return [{"seed": 5, "offsets": [step % 40 / 10 - 2]} for step in range(count)]


def browser_latency(port: int, count: int) -> list[float]:
    """Return median and 95th percentile from input to image in ms; empty without a browser."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        return []
    sys.path.insert(0, str(ROOT))
    from tests.support.browser import chromium

    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder)) as browser:
        browser.set_script_timeout(300)
        browser.get(f"http://127.0.0.1:{port}/#seed=5")
        browser.execute_async_script(BROWSER_SCRIPT, 10)
        return milliseconds(browser.execute_async_script(BROWSER_SCRIPT, count))


def main() -> None:
    """Measure and print the latencies."""
    arguments = options(__doc__, project=Path(), requests=100)
    count, port = arguments.requests, 8452
    with server(arguments.project, port) as seconds:
        moves = [{"face": face} for face in faces(count)]
        timed(port, "/image", moves[:10])
        result = {"name": "explorer", "seconds_to_start": round(seconds, 1)}
        result["slider_http"] = timed(port, "/image", moves)
        result["slider_browser"] = browser_latency(port, count)
        result["ends_of_10_sliders"] = timed(port, "/ends", moves[:10])
        neighbors = [{**move, "radius": 0.5} for move in moves[:10]]
        result["16_neighbors"] = timed(port, "/neighbors", neighbors)
        paths = [{"start": face, "end": {"seed": 6}, "frames": 33} for face in faces(10)]
        result["33_frames"] = timed(port, "/interpolation", paths)
        result["gif_of_46_frames"] = timed(
            port, "/gif", [{**path, "frames": 24} for path in paths[:3]]
        )
        result["first_search"] = timed(port, "/nearest", moves[:1])
        result["search"] = timed(port, "/nearest", moves[:10])
        begin = time.perf_counter()
        job = json.loads(Client(port)("/paintings", {"face": faces(1)[0], "style": 0}))
        result["slider_http_during_a_painting"] = timed(port, "/image", moves)
        result["slider_browser_during_a_painting"] = browser_latency(port, count)
        while json.loads(Client(port)(f"/jobs/{job['id']}", method="GET"))["status"] != "done":
            threading.Event().wait(0.2)
        result["seconds_of_a_painting"] = round(time.perf_counter() - begin, 1)
    show(result, arguments.json)


if __name__ == "__main__":
    main()
