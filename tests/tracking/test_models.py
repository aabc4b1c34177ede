"""Logged generators in `atelier generate` and behind MLflow's HTTP server."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from atelier.core.arrays import to_uint8
from atelier.core.errors import AtelierError
from atelier.gan.generation import draw_latents
from atelier.gan.sampling import TrainedGenerator, generate_one_by_one, latents_for_seeds
from atelier.gan.serialization import load_generator
from atelier.tracking.models import load_model
from atelier.tracking.store import as_default_store, open_store

from ..support.project import Project

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CPU, TIMEOUT = torch.device("cpu"), 120.0


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Project after one pipeline."""
    return _tracked.copy(tmp_path_factory.mktemp("logged") / "project")


@pytest.fixture(scope="module")
def store(project: Project) -> tuple[Any, str]:
    """Store of the project, with the model registered as ``faces``."""
    client, experiment = open_store(project.folder, "atelier")
    (model,) = client.search_logged_models([experiment])
    client.create_registered_model("faces")
    address = f"models:/{model.model_id}"
    with as_default_store(client):
        client.create_model_version("faces", address, model.source_run_id, model_id=model.model_id)
    client.set_registered_model_alias("faces", "champion", "1")
    return client, experiment


@pytest.fixture(scope="module")
def runs(store: tuple[Any, str]) -> dict[str, str]:
    """Return the run IDs by stage; the parent run's key is ``pipeline``."""
    client, experiment = store
    found = client.search_runs([experiment])
    return {run.data.tags.get("atelier.stage", "pipeline"): run.info.run_id for run in found}


def sample_images(trained: TrainedGenerator) -> np.ndarray:
    """Return images of the seeds 1 to 4 as uint8 [4, 16, 16, 3]."""
    return np.stack(list(generate_one_by_one(trained, latents_for_seeds((1, 2, 3, 4), trained))))


def nearly_equal(images: np.ndarray, expected: np.ndarray) -> bool:
    """Return True if images are equal, except for rounding in less than 2 % of the values.

    The images of this short training are nearly gray. Images of other seeds also differ by about
    one level, but in half of their pixels.
    """
    assert images.shape == expected.shape
    return float((images != expected).mean()) < 0.02


@pytest.fixture(scope="module")
def expected_images(project: Project) -> np.ndarray:
    """Return images of the generator in the model file."""
    return sample_images(load_generator(project.folder / "models/generator.safetensors", CPU))


def test_every_reference_to_a_generator_gives_its_images(
    store: tuple[Any, str], runs: dict[str, str], expected_images: np.ndarray
) -> None:
    address_before = os.environ.get("MLFLOW_TRACKING_URI")
    assert not nearly_equal(expected_images[:1], expected_images[1:2]), (
        "images of different seeds must differ"
    )
    for source in (runs["train"], runs["pipeline"], "models:/faces/1"):
        logged = load_model(source, store[0])
        trained = TrainedGenerator.from_module(logged.network, logged.inputs, logged.about, CPU)
        assert nearly_equal(sample_images(trained), expected_images)
    assert os.environ.get("MLFLOW_TRACKING_URI") == address_before, "the address is restored"


def test_command_accepts_registered_model_and_does_not_change_the_store(
    project: Project, store: tuple[Any, str], expected_images: np.ndarray
) -> None:
    before = project.bytes("mlruns")
    options = ("--count", "4", "--columns", "4", "--tile-pixels", "16", "--out", "made.png")
    output = project.atelier("generate", *options, "--model", "models:/faces@champion")
    assert output == "Wrote made.png: seeds 1 to 4.\n"
    with Image.open(project.folder / "made.png") as sheet:
        assert nearly_equal(np.asarray(sheet), np.concatenate(expected_images, axis=1))
    assert project.bytes("mlruns") == before


def test_model_metadata_contains_the_architecture(
    project: Project, store: tuple[Any, str], runs: dict[str, str]
) -> None:
    logged = load_model(runs["train"], store[0])
    arch = load_generator(project.folder / "models/generator.safetensors").arch
    assert logged.about == arch.model_dump()
    assert logged.inputs == arch.latent_size


def test_missing_model_is_one_error_sentence(
    project: Project, store: tuple[Any, str], runs: dict[str, str]
) -> None:
    for source, sentence in (
        ("0" * 32, "not found"),
        ("models:/faces/7", "not found"),
        (runs["render"], "logged no generator"),
    ):
        with pytest.raises(AtelierError, match=sentence) as error:
            load_model(source, store[0])
        assert "\n" not in str(error.value)
    before = sorted(project.folder.glob("*"))
    arguments = ("generate", "--model", "models:/faces@nobody", "--out", "none.png")
    output = project.atelier(*arguments, ok=False)
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 1
    assert "alias nobody not found" in errors[0]
    assert "Traceback" not in output
    assert sorted(project.folder.glob("*")) == before


@contextmanager
def served(project: Project, model: str, log: Path) -> Iterator[str]:
    """Serve a model with `mlflow models serve` and yield the server's address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = f"models serve -m {model} --env-manager local --host 127.0.0.1 --port {port}"
    environment = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{project.folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with log.open("w") as file:
        server = subprocess.Popen(
            [Path(sys.executable).with_name("mlflow"), *command.split()],
            cwd=project.folder,
            env=os.environ | environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + TIMEOUT
        while not _answers(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(port: int) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"http://127.0.0.1:{port}/ping", timeout=10).ok
    return False


@pytest.mark.slow
def test_served_generator_returns_its_images(
    project: Project, store: tuple[Any, str], expected_images: np.ndarray, tmp_path: Path
) -> None:
    client, experiment = store
    (model,) = client.search_logged_models([experiment])
    arch = load_generator(project.folder / "models/generator.safetensors").arch
    latents = torch.cat([draw_latents(1, arch, seed) for seed in (1, 2, 3, 4)])
    address = f"models:/{model.model_id}"
    with served(project, address, tmp_path / "server.log") as server:
        request = {"inputs": latents.tolist()}
        response = requests.post(f"{server}/invocations", json=request, timeout=60)
        assert response.status_code == 200, response.text
        wrong = {"inputs": latents[:, :-1].tolist()}
        assert requests.post(f"{server}/invocations", json=wrong, timeout=60).status_code == 400
    images = to_uint8(torch.tensor(json.loads(response.text)["predictions"]), signed=True).numpy()
    assert nearly_equal(images, expected_images)
