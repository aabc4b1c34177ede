"""The logged generator put to use: by `atelier generate`, and served to whoever asks by HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
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
from atelier.gan.sampling import SampledGenerator, generate_one_by_one, latents_for_seeds
from atelier.gan.serialization import load_generator
from atelier.tracking.models import load_model
from atelier.tracking.store import as_default_store, open_store

from ..support.project import Project

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CPU, PATIENCE = torch.device("cpu"), 120.0


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which the chain has run."""
    return _tracked.copy(tmp_path_factory.mktemp("logged") / "project")


@pytest.fixture(scope="module")
def store(project: Project) -> tuple[Any, str]:
    """Its store, with the model registered as ``faces``."""
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
    """The ids of the runs by stage, and of the pipeline's."""
    client, experiment = store
    found = client.search_runs([experiment])
    return {run.data.tags.get("atelier.stage", "pipeline"): run.info.run_id for run in found}


def pictures(trained: SampledGenerator) -> np.ndarray:
    """Pictures of the seeds 1 to 4, uint8 [4, 16, 16, 3]."""
    return np.stack(list(generate_one_by_one(trained, latents_for_seeds((1, 2, 3, 4), trained))))


def alike(made: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether pictures are the same, but for what rounds to the other side of one level.

    A generator that has learned so little makes them nearly grey; other ones differ by a level too,
    but in half of their pixels.
    """
    assert made.shape == wanted.shape
    return float((made != wanted).mean()) < 0.02


@pytest.fixture(scope="module")
def ours(project: Project) -> np.ndarray:
    """Those of the generator's own file."""
    return pictures(
        SampledGenerator.from_file(project.folder / "models/generator.safetensors", CPU)
    )


def test_every_reference_to_a_generator_gives_its_images(
    store: tuple[Any, str], runs: dict[str, str], ours: np.ndarray
) -> None:
    asked_before = os.environ.get("MLFLOW_TRACKING_URI")
    assert not alike(ours[:1], ours[1:2]), "or this would prove nothing"
    for source in (runs["train"], runs["pipeline"], "models:/faces/1"):
        logged = load_model(source, store[0])
        trained = SampledGenerator.from_module(logged.network, logged.inputs, logged.about, CPU)
        assert alike(pictures(trained), ours)
    assert os.environ.get("MLFLOW_TRACKING_URI") == asked_before, "or later runs go there"


def test_command_accepts_registered_model_and_does_not_change_the_store(
    project: Project, store: tuple[Any, str], ours: np.ndarray
) -> None:
    before = project.bytes("mlruns")
    options = ("--count", "4", "--columns", "4", "--tile-pixels", "16", "--out", "made.png")
    told = project.atelier("generate", *options, "--model", "models:/faces@champion")
    assert told == "Wrote made.png: seeds 1 to 4.\n"
    with Image.open(project.folder / "made.png") as sheet:
        assert alike(np.asarray(sheet), np.concatenate(ours, axis=1))
    assert project.bytes("mlruns") == before


def test_model_metadata_contains_the_architecture(
    project: Project, store: tuple[Any, str], runs: dict[str, str]
) -> None:
    logged = load_model(runs["train"], store[0])
    _, arch = load_generator(project.folder / "models/generator.safetensors")
    assert logged.about == asdict(arch)
    assert logged.inputs == arch.latent_size


def test_missing_model_is_one_sentence(
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
    asked = ("generate", "--model", "models:/faces@nobody", "--out", "none.png")
    told = project.atelier(*asked, ok=False)
    errors = [line for line in told.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 1
    assert "alias nobody not found" in errors[0]
    assert "Traceback" not in told
    assert sorted(project.folder.glob("*")) == before


@contextmanager
def served(project: Project, model: str, log: Path) -> Iterator[str]:
    """Serve a model as a user would; yield the server's address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = f"models serve -m {model} --env-manager local --host 127.0.0.1 --port {port}"
    ours = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{project.folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with log.open("w") as file:
        server = subprocess.Popen(
            [Path(sys.executable).with_name("mlflow"), *command.split()],
            cwd=project.folder,
            env=os.environ | ours,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE
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
    project: Project, store: tuple[Any, str], ours: np.ndarray, tmp_path: Path
) -> None:
    client, experiment = store
    (model,) = client.search_logged_models([experiment])
    _, arch = load_generator(project.folder / "models/generator.safetensors")
    latents = torch.cat([draw_latents(1, arch, seed) for seed in (1, 2, 3, 4)])
    address = f"models:/{model.model_id}"
    with served(project, address, tmp_path / "server.log") as server:
        asked = {"inputs": latents.tolist()}
        answer = requests.post(f"{server}/invocations", json=asked, timeout=60)
        assert answer.status_code == 200, answer.text
        wrong = {"inputs": latents[:, :-1].tolist()}
        assert requests.post(f"{server}/invocations", json=wrong, timeout=60).status_code == 400
    made = to_uint8(torch.tensor(json.loads(answer.text)["predictions"]), signed=True).numpy()
    assert alike(made, ours)
