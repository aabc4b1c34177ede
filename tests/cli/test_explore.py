"""`atelier explore`: refusals, and the server that it starts."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from atelier.cli.explore import build_explorer
from atelier.cli.generators import load_generator
from atelier.core.errors import AtelierError
from atelier.core.progress import Progress
from atelier.core.settings import load
from atelier.data.dataset import save_images
from atelier.gan.serialization import save_network
from atelier.web.explorer.requests import Face
from atelier.web.explorer.routes import Explorer, create_explorer

from ..support.architectures import SMALL, vivid
from ..support.arrays import random_images
from ..support.servers import free_port
from ..support.web_server import ask, serving
from .conftest import CommandRunner

MODEL = "models/generator.safetensors"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with settings and a generator."""
    params = (root / "params.yaml").read_text()
    assert "  features: vgg19_caffe " in params
    params = params.replace("  features: vgg19_caffe ", "  features: random ")  # the fastest
    (tmp_path / "params.yaml").write_text(params)
    shutil.copytree(root / "presets", tmp_path / "presets")
    save_network(vivid(SMALL), SMALL, tmp_path / MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def built(checkout: Path) -> Iterator[Explorer]:
    (checkout / "data/pictures").mkdir(parents=True)
    Image.fromarray(random_images(1, 40, 3)[0]).save("data/pictures/sea.png")
    images = random_images(30, 16, 3)
    save_images(Path("data/images.npz"), [images.tobytes()], images.shape, list("x" * 30))
    reports: list[Progress] = []
    explorer = build_explorer(load_generator(MODEL), MODEL, load(), report=reports.append)
    assert reports[-1] == Progress(2048, 2048), "images for the directions"
    yield explorer
    explorer.close()


def test_missing_model_is_one_sentence(atelier: CommandRunner, checkout: Path) -> None:
    port = free_port()
    (checkout / MODEL).unlink()
    output = atelier("explore", "--port", port, code=1)
    assert output == f"ERROR: there is no {MODEL}; run `dvc repro train`.\n"
    output = atelier("explore --model none.safetensors", "--port", port, code=1)
    assert output.startswith("ERROR: there is no none.safetensors; --model takes a .safetensors")
    assert output.count("\n") == 1
    assert "no MLflow store here" in atelier(
        "explore --model models:/faces@champion", "--port", port, code=1
    )


def test_busy_port_is_one_sentence(atelier: CommandRunner) -> None:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        output = atelier("explore", "--port", port, code=1)
    assert output.startswith(f"ERROR: port {port} is in use by another program; type: atelier exp")
    assert output.count("\n") == 1


def test_generator_of_another_version_is_one_sentence(
    atelier: CommandRunner, checkout: Path
) -> None:
    with safe_open(checkout / MODEL, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()["architecture"].replace(
            '"latent_size"', '"future": 1, "latent_size"'
        )
    save_file(tensors, checkout / MODEL, metadata={"architecture": header})
    output = atelier("explore", "--port", free_port(), code=1)
    assert output.startswith(f"ERROR: {MODEL} holds no generator that can be rebuilt (")
    assert "unknown future" in output
    assert output.count("\n") == 1


def test_explorer_uses_the_files_and_settings_of_the_folder(built: Explorer) -> None:
    assert built.styles.names == ["night_sky", "wave", "stained_glass", "sea.png"]
    assert len(built.explored.directions.vectors) == SMALL.latent_size, "at most the latent's size"
    settings = built.painter.settings
    assert (settings.weights, settings.content_layers) == ("vgg19_caffe", {21: 10.0}), "of photo"
    assert settings.iterations == 60
    assert built.photographs.settings == load().convert
    with serving(create_explorer(built)) as port:
        status, page = ask(port, "/")
        assert status == 200
        assert MODEL in page.decode()
        body = b'{"face": {"seed": 3}}'
        status, content = ask(port, "/image", "POST", body, Content_Type="application/json")
        assert (status, content[:4]) == (200, b"\x89PNG")
        matches = built.search.nearest(built.explored.image(Face(seed=3)), 2)
    assert [match.name for match in matches] == ["x", "x"]
    assert built.search.describe() == "30 images searched."


@pytest.mark.parametrize(
    ("model", "title"),
    [
        (MODEL, "Training images"),
        ("models/best.safetensors", "Training images"),
        ("other/generator.safetensors", "Images of data/images.npz"),
        ("models:/faces@champion", "Images of data/images.npz"),
    ],
)
def test_images_are_called_training_images_of_models_of_this_folder(model: str, title: str) -> None:
    built = build_explorer(load_generator(MODEL), model, load())
    with serving(create_explorer(built)) as port:
        page = ask(port, "/")[1].decode()
    built.close()
    assert f"{title} whose features are nearest" in page
    assert (">Training images</button>" in page) == (title == "Training images")
    assert (">Similar images</button>" in page) == (title != "Training images")


def test_large_latents_are_refused_at_the_start() -> None:
    generator = replace(load_generator(MODEL), latent_size=8193)
    with pytest.raises(AtelierError, match=r"have 8,193 values, but at most 8,192 can be explored"):
        build_explorer(generator, MODEL, load())


def test_face_detector_needs_its_weights() -> None:
    settings = load()
    convert = settings.convert.model_copy(update={"faces": "crop", "face_detector": "yunet"})
    with pytest.raises(AtelierError, match="face_detection_yunet"):
        build_explorer(
            load_generator(MODEL), MODEL, settings.model_copy(update={"convert": convert})
        )


def test_training_images_are_optional_and_must_fit(built: Explorer) -> None:
    with pytest.raises(Exception, match="the training images have 16 x 16 pixels and 3 channels"):
        built.search.nearest(np.zeros((32, 32, 3), np.uint8), 1)
    Path("data/images.npz").unlink()
    other = build_explorer(load_generator(MODEL), MODEL, load())
    try:
        with pytest.raises(
            Exception, match=r"there is no data/images.npz; run `dvc repro convert`"
        ):
            other.search.nearest(np.zeros((16, 16, 3), np.uint8), 1)
    finally:
        other.close()


@pytest.mark.slow
def test_command_serves_the_page_until_it_is_interrupted() -> None:
    port = free_port()
    command = [sys.executable, "-m", "atelier.cli.app", "explore", "--port", str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == f"Open http://127.0.0.1:{port}\n"
            answer = None
            while answer is None:
                assert server.poll() is None
                try:
                    answer = ask(port, "/")
                except ConnectionRefusedError:
                    continue
            assert answer[0] == 200
            server.send_signal(2)
            _, errors = server.communicate(timeout=60)
        finally:
            server.kill()
    assert "Traceback" not in errors
