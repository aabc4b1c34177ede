"""Server of the explorer: answers, refusals and bounds."""

import base64
import io
import json
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.data.dataset import load_images, save_images
from atelier.latents.directions import Directions
from atelier.metrics.extractors import build_extractor
from atelier.metrics.reference import RealImages
from atelier.web.explorer.explored_generator import ExploredGenerator
from atelier.web.explorer.jobs import Job
from atelier.web.explorer.painting import Styles
from atelier.web.explorer.requests import MAX_LATENT_SIZE, Face, encode_latent
from atelier.web.explorer.routes import Explorer, create_explorer

from ..support.arrays import random_images
from ..support.explorer import CPU, explorer
from ..support.web_server import ask, serving

HTML = "<img src=x onerror=alert(1)>&'\""
SEED = {"seed": 5}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    folder = tmp_path_factory.mktemp("explorer")
    (folder / "pictures").mkdir()
    Image.fromarray(random_images(1, 40, 3)[0]).save(folder / "pictures" / f"{HTML}.png")
    (folder / "pictures/damaged.png").write_bytes(b"no image")
    (folder / "pictures/notes.txt").write_text("no image")
    Path(os.fsdecode(bytes(folder / "pictures") + b"/z\xe9.png")).write_bytes(b"no image")
    (folder / "secret.png").write_bytes(b"secret")
    (folder / "pictures/link.png").symlink_to(folder / "secret.png")
    small = explorer(folder, HTML)
    images = random_images(40, 16, 3)
    images[7] = small.explored.image(Face(seed=5))[:, ::-1]
    names = [f"{number} {HTML}" for number in range(40)]
    save_images(folder / "images.npz", [images.tobytes()], images.shape, names)
    yield small
    small.close()


@pytest.fixture(scope="module")
def port(small: Explorer) -> Iterator[int]:
    with serving(create_explorer(small)) as number:
        yield number


def post(port: int, path: str, content: Any) -> tuple[int, Any]:
    return ask(port, path, "POST", json.dumps(content).encode(), Content_Type="application/json")


def pixels(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def pixels_of_uri(uri: str) -> NDArray[np.uint8]:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return pixels(base64.b64decode(content))


def wait(port: int, job: dict[str, Any]) -> dict[str, Any]:
    """Ask for the state of a job until it is finished."""
    pause = threading.Event()
    for _ in range(3000):
        status, job = ask(port, f"/jobs/{job['id']}")
        assert status == 200
        if job["status"] not in ("waiting", "running"):
            return job
        pause.wait(0.02)
    pytest.fail(f"not finished: {job}")


def becomes_true(condition: Callable[[], bool]) -> bool:
    pause = threading.Event()
    return any(condition() or pause.wait(0.02) for _ in range(3000))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file that claims a size and has one row of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 + 3 * width))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_page_escapes_names_and_allows_only_itself(port: int) -> None:
    status, content = ask(port, "/")
    page = content.decode()
    assert status == 200
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;&amp;&#39;&#34;") >= 3
    assert "default-src 'none'; img-src 'self' data: blob:; connect-src 'self'" in page
    config = page.partition('<script type="application/json" id="config">')[2]
    values = json.loads(config.partition("</script>")[0])
    assert values["styles"] == [
        *("night_sky", "wave", "stained_glass"),
        *(f"{HTML}.png", "damaged.png", r"'z\udce9.png'"),
    ], "without the link that leaves the folder"
    assert len(values["explained"]) == 4
    assert (values["width"], values["classes"], values["truncation"]) == (16, 0, True)


def test_image_of_a_face(port: int, small: Explorer) -> None:
    face = {"seed": 5, "offsets": [1.5, -0.5], "truncation": 1.5, "label": None, "latent": None}
    status, content = post(port, "/image", {"face": face})
    assert status == 200
    expected = small.explored.image(Face(seed=5, offsets=[1.5, -0.5], truncation=1.5))
    np.testing.assert_array_equal(pixels(content), expected)
    _, enlarged = post(port, "/image", {"face": face, "factor": 3})
    np.testing.assert_array_equal(pixels(enlarged)[1::3, 1::3], expected)


def test_ends_and_neighbors(port: int, small: Explorer) -> None:
    status, content = post(port, "/ends", {"face": SEED})
    assert status == 200
    assert np.shape(content["ends"]) == (4, 2)
    high = small.explored.image(Face(seed=5, offsets=[0, 0, 0, 3.0]))
    np.testing.assert_array_equal(pixels_of_uri(content["ends"][3][1]), high)
    status, content = post(port, "/neighbors", {"face": SEED, "radius": 0.3, "count": 5})
    assert status == 200
    assert len(content["images"]) == len(content["faces"]) == 5
    face = Face.model_validate(content["faces"][4])
    np.testing.assert_array_equal(
        pixels_of_uri(content["images"][4]), small.explored.image(face)
    )  # fmt: skip
    center, latent = small.explored.latent(Face(seed=5)), small.explored.latent(face)
    assert float(torch.cosine_similarity(center, latent, dim=0)) == pytest.approx(np.cos(0.3))


def test_interpolation_and_gif(port: int, small: Explorer) -> None:
    request = {"start": SEED, "end": {"seed": 9}, "frames": 4}
    status, content = post(port, "/interpolation", request)
    assert status == 200
    for index, seed in ((0, 5), (3, 9)):
        image = small.explored.image(Face(seed=seed))
        np.testing.assert_array_equal(pixels_of_uri(content["images"][index]), image)
    middle = small.explored.image(Face.model_validate(content["faces"][2]))
    np.testing.assert_array_equal(pixels_of_uri(content["images"][2]), middle)
    status, content = post(port, "/gif", {**request, "fps": 20})
    with Image.open(io.BytesIO(content)) as gif:
        assert (status, gif.n_frames, gif.info["duration"]) == (200, 6, 50)


def test_nearest_training_images_are_those_of_a_complete_search(port: int, small: Explorer) -> None:
    status, content = post(port, "/nearest", {"face": SEED, "count": 3})
    assert status == 200
    assert content["searched"] == "40 images searched."
    first = content["matches"][0]
    assert (first["name"], first["mirrored"], first["distance"]) == (f"7 {HTML}", True, 0.0)
    face = small.explored.image(Face(seed=5))
    np.testing.assert_array_equal(pixels_of_uri(first["image"]), face)
    training = load_images(small.search.file)
    extractor = build_extractor("random", 1)
    features = extractor(training.pixels, CPU)
    real = RealImages.sample(small.search._settings, training.pixels, training.pixels[:0])
    scale = extractor.scale(features[torch.from_numpy(real.searched[real.scaling])])
    distances = {
        name: min(
            float((scale(extractor(image[None], CPU)) - row).norm())
            for image in (face, np.ascontiguousarray(face[:, ::-1]))
        )
        for name, row in zip(training.names.tolist(), scale(features), strict=True)
    }
    nearest = sorted(distances, key=distances.__getitem__)[:3]
    assert [match["name"] for match in content["matches"]] == nearest
    found = [match["distance"] for match in content["matches"]]
    assert found == pytest.approx([distances[name] for name in nearest], abs=0.01)


def test_style_thumbnails_are_of_the_listed_styles(port: int, small: Explorer) -> None:
    for index in (2, 3):
        status, content = ask(port, f"/styles/{index}")
        assert (status, pixels(content).shape) == (200, (96, 96, 3))
    mean = small.styles.image(3).mean(axis=(0, 1))
    np.testing.assert_allclose(pixels(content).mean(axis=(0, 1)), mean, atol=3)
    status, content = ask(port, "/styles/4")
    assert status == 400
    assert content["error"].endswith("damaged.png cannot be read (not an image).")
    status, content = ask(port, "/styles/5")
    assert status == 400
    assert content["error"].endswith(r"z\udce9.png' cannot be read (not an image).")
    assert ask(port, "/styles/6") == (400, {"error": "there is no style 6: there are 6."})
    assert ask(port, "/styles/-1")[0] == 400


def test_panorama_is_limited_in_pixels(tmp_path: Path) -> None:
    Image.new("L", (12_000, 400), 90).save(tmp_path / "wide.png")
    styles = Styles(tmp_path, 80, seed=8)
    height, width, _ = styles.image(3).shape
    assert 4_100_000 < height * width <= 2048**2 + width
    assert width / height == pytest.approx(30, rel=0.01)
    assert pixels(styles.thumbnail(3)).shape == (96, 96, 3)


def test_painting_develops_to_the_end(port: int) -> None:
    face = {"face": SEED, "style": 2, "pixels": 128}
    status, job = post(port, "/paintings", face)
    assert status == 200
    last = wait(port, job)
    assert (last["status"], last["fraction"], last["error"]) == ("done", 1, "")
    assert last["version"] >= 2, "an intermediate image and the final one"
    assert last["result"] == {"width": 128, "height": 128}
    status, content = ask(port, f"/jobs/{job['id']}/image")
    painting = pixels(content)
    assert (status, painting.shape) == (200, (128, 128, 3))
    weak = wait(port, post(port, "/paintings", {**face, "strength": 0.0})[1])
    _, content = ask(port, f"/jobs/{weak['id']}/image")
    assert not np.array_equal(pixels(content), painting)


def test_photograph_becomes_a_face(port: int, small: Explorer) -> None:
    photograph = small.explored.image(Face(seed=3))
    file = io.BytesIO()
    Image.fromarray(photograph).save(file, "PNG")
    status, job = ask(port, "/photographs", "POST", file.getvalue())
    assert status == 200
    last = wait(port, job)
    assert last["status"] == "done"
    result = last["result"]
    assert result["psnr"] > 18
    assert result["description"].startswith(f"PSNR {result['psnr']:.1f} dB: ")
    assert result["warnings"] == []
    found = small.explored.image(Face.model_validate(result["face"]))
    error = np.square(found.astype(float) - photograph).mean()
    assert 10 * np.log10(255**2 / error) == pytest.approx(result["psnr"], abs=0.01)
    _, content = ask(port, f"/jobs/{job['id']}/image")
    np.testing.assert_array_equal(pixels(content), photograph)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png_header(10_000, 10_000), r"100.0 megapixels, the limit is 80"),
        (b"GIF89a", "damaged|not an image|truncated"),
        (b"", "not an image"),
        (b"<svg onload=alert(1)>", "not an image"),
    ],
)
def test_hostile_photograph_is_refused(port: int, content: bytes, reason: str) -> None:
    status, answer = ask(port, "/photographs", "POST", content)
    assert status == 400
    pattern = rf"your photograph cannot be read \((?:{reason})\)\."
    assert re.fullmatch(pattern, answer["error"]), answer


def test_large_bodies_are_refused(port: int) -> None:
    declared = ask(port, "/photographs", "POST", b"", Content_Length=str(32 * 2**20 + 1))
    assert declared == (413, {"error": "the request is larger than 33,554,432 bytes."})
    assert post(port, "/image", {"face": {"latent": "A" * 200_000}})[0] == 413


@pytest.mark.parametrize(
    ("path", "content", "place"),
    [
        ("/image", {"face": {"seed": -1}}, "face.seed"),
        ("/image", {"face": {"seed": 1, "offsets": [float("nan")]}}, "face.offsets.0"),
        ("/image", {"face": {"seed": 1, "offsets": [float("inf")]}}, "face.offsets.0"),
        ("/image", {"face": {"seed": 1, "truncation": 1e-9}}, "face.truncation"),
        ("/image", {"face": {"seed": 1, "path": "/etc/passwd"}}, "face.path"),
        ("/image", {"face": {"latent": "../../etc/passwd"}}, "face.latent"),
        ("/image", {"face": SEED, "factor": 1000}, "factor"),
        ("/image", [], "the body"),
        ("/ends", {"face": {}}, "face"),
        ("/neighbors", {"face": SEED, "radius": 9.0}, "radius"),
        ("/neighbors", {"face": SEED, "radius": 0.1, "count": 1000}, "count"),
        ("/interpolation", {"start": SEED, "end": SEED, "frames": 10_000}, "frames"),
        ("/gif", {"start": SEED, "end": SEED, "frames": 10_000}, "frames"),
        ("/gif", {"start": SEED, "end": SEED, "fps": 0}, "fps"),
        ("/nearest", {"face": SEED, "count": 10_000}, "count"),
        ("/paintings", {"face": SEED, "style": "../secret.png"}, "style"),
        ("/paintings", {"face": SEED, "style": 0, "pixels": 10_000}, "pixels"),
        ("/paintings", {"face": SEED, "style": 0, "strength": 2.0}, "strength"),
    ],
)
def test_value_out_of_bounds_is_one_sentence(
    port: int, path: str, content: Any, place: str
) -> None:
    status, answer = post(port, path, content)
    assert status == 422
    assert answer["error"].startswith(f"{place} is not valid: ")
    assert answer["error"].count("\n") == 0


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "..%2fsecret.png", "%2e%2e/secret.png", "..%5csecret.png", "/etc/passwd"],
)
@pytest.mark.parametrize("path", ["/styles/{}", "/jobs/{}", "/jobs/{}/image", "/{}"])
def test_paths_outside_are_not_served(port: int, path: str, name: str) -> None:
    status, content = ask(port, path.format(name))
    assert status in (404, 422)
    assert b"secret" not in json.dumps(content).encode()
    assert "root:" not in json.dumps(content)


def test_two_latents_of_the_largest_size_fit_into_a_request(port: int) -> None:
    face = {"latent": encode_latent(np.zeros(MAX_LATENT_SIZE))}
    status, answer = post(port, "/interpolation", {"start": face, "end": face})
    assert status == 400
    assert answer["error"].startswith("the latent has 8192 numbers, but this generator needs 8;")


def test_uploads_at_the_same_time_are_bounded(port: int, small: Explorer) -> None:
    release = threading.Event()
    small.workers.batch.submit(release.wait, 60)
    busy = (503, {"error": "other files are being uploaded; try again in a moment."})
    try:
        with ThreadPoolExecutor(2) as pool:
            uploads = [pool.submit(ask, port, "/photographs", "POST", b"x") for _ in range(2)]
            assert becomes_true(lambda: small.workers.batch._work_queue.qsize() == 2)
            assert ask(port, "/photographs", "POST", bytes(100_000)) == busy
            assert ask(port, "/styles/1")[0] == 200, "thumbnails do not wait for them"
            release.set()
            assert [upload.result()[0] for upload in uploads] == [400, 400]
    finally:
        release.set()
    assert ask(port, "/photographs", "POST", b"x")[0] == 400, "both have left"


def test_closed_explorer_stops_the_search_and_the_jobs(tmp_path: Path) -> None:
    closed = explorer(tmp_path)
    images = random_images(40, 16, 3)
    save_images(tmp_path / "images.npz", [images.tobytes()], images.shape, ["x"] * 40)
    job = closed.jobs.submit(lambda job: {})
    closed.close()
    assert job.stop_requested()
    with pytest.raises(AtelierError, match="the server ends"):
        closed.search.nearest(images[0], 1)


def test_page_without_directions_has_no_sliders(tmp_path: Path) -> None:
    without = explorer(tmp_path, "\udce9.safetensors")
    none = Directions(torch.zeros(0, 8), torch.zeros(0), torch.zeros(0))
    without.explored = ExploredGenerator(without.explored.generator, none)
    with serving(create_explorer(without)) as port:
        status, content = ask(port, "/")
        page = content.decode()
        assert post(port, "/ends", {"face": SEED}) == (200, {"ends": []})
    without.close()
    assert status == 200
    assert 'class="direction"' not in page
    assert "no sliders: directions of latents with more than 2,048 values" in page
    assert r"Explorer: &#39;\udce9.safetensors&#39;" in page


def test_unknown_work_and_foreign_latents_are_sentences(port: int) -> None:
    missing = (404, {"error": "there is no such painting or photograph; start it again."})
    assert ask(port, f"/jobs/{'0' * 32}") == missing
    assert ask(port, f"/jobs/{'0' * 32}/image") == missing
    assert ask(port, f"/jobs/{'0' * 32}", "DELETE") == missing
    status, answer = post(port, "/image", {"face": {"latent": encode_latent(np.zeros(100))}})
    assert status == 400
    assert answer["error"].startswith("the latent has 100 numbers, but this generator needs 8;")
    status, answer = post(port, "/paintings", {"face": SEED, "style": 700})
    assert (status, answer) == (400, {"error": "there is no style 700: there are 6."})


def test_other_sites_are_refused(port: int) -> None:
    body = json.dumps({"face": SEED}).encode()
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert ask(port, "/image", "POST", body, **headers)[0] == 403
        assert ask(port, "/photographs", "POST", b"", **headers)[0] == 403
        assert ask(port, "/", **headers)[0] == 403


def test_queue_is_bounded_and_its_work_can_be_stopped(port: int, small: Explorer) -> None:
    release, request = threading.Event(), {"face": SEED, "style": 2, "pixels": 128}

    def block(job: Job) -> dict[str, Any]:
        assert release.wait(60)
        return {}

    blocking = small.jobs.submit(block)
    while blocking.status == "waiting":
        pass
    try:
        accepted = [post(port, "/paintings", request) for _ in range(4)]
        assert [status for status, _ in accepted] == 4 * [200]
        assert [job["position"] for _, job in accepted] == [1, 2, 3, 4]
        sentence = "4 paintings or photographs are waiting already; try again when one is finished."
        assert post(port, "/paintings", request) == (503, {"error": sentence})
        file = io.BytesIO()
        Image.fromarray(small.explored.image(Face(seed=3))).save(file, "PNG")
        upload = ask(port, "/photographs", "POST", file.getvalue())
        assert upload == (503, {"error": sentence})
        for _, job in accepted[1:]:
            assert ask(port, f"/jobs/{job['id']}", "DELETE")[0] == 200
        assert post(port, "/paintings", request)[0] == 200, "stopped jobs leave the queue"
    finally:
        release.set()
    assert [wait(port, job)["status"] for _, job in accepted] == ["done", *3 * ["stopped"]]


@pytest.mark.slow
def test_thousand_requests_need_no_more_threads_or_memory(port: int) -> None:
    process = psutil.Process()

    def request(number: int) -> int:
        if number % 4 == 0:
            face = {"seed": number, "offsets": [number / 1000]}
            return post(port, "/image", {"face": face})[0]
        if number % 4 == 1:
            return post(port, "/neighbors", {"face": {"seed": number}, "radius": 0.1, "count": 1})[
                0
            ]
        path = "/" if number % 4 == 2 else f"/jobs/{number}"
        return ask(port, path)[0]

    def send(count: int) -> list[int]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(request, range(count)))

    send(100)
    before, threads = process.memory_info().rss, threading.active_count()
    assert send(1000) == 250 * [200, 200, 200, 404]
    assert threading.active_count() <= threads + 4, "those of the work, which start when needed"
    assert process.memory_info().rss - before < 50 * 2**20
