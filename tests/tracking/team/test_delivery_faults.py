"""Delivery through a faulty proxy loses and duplicates nothing."""

import random
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from atelier.gan.networks import build_networks
from atelier.gan.serialization import save_network

from ...support.architectures import SMALL
from ...support.execution import (
    Server,
    assert_delivered,
    deliver,
    deliver_in_vain,
    rejected,
    write_execution,
)
from ...support.proxy import FAULTS, REQUESTS, Proxy

# Warnings of MLflow and its imports.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MODEL_REQUESTS = {
    "create model": "POST .*/logged-models$",
    "log outputs": "POST .*/runs/outputs",
    "tag model": "PATCH .*/logged-models/.*/tags",
    "list files": r"GET .*/artifacts\?path=.*models",
    "search models": "POST .*/logged-models/search",
    "finish model": "PATCH .*/logged-models/",
    "get model": "GET .*/logged-models/",
    "upload model": "PUT .*/artifacts/MLmodel",
    "find registered": "GET .*/registered-models/get",
    "register model": "POST .*/registered-models/create",
    "search versions": "GET .*/model-versions/search",
    "create version": "POST .*/model-versions/create",
    "tag version": "POST .*/model-versions/set-tag",
    "set alias": "POST .*/registered-models/alias",
}
MODEL_FAULTS = ("drop", "lose", "lost 500", "503", "html 400", "empty 200", "403", "429", "cut")
# 413 is permanent, because a file that is too large stays too large.
TEMPORARY_FAULTS = [fault for fault in FAULTS if fault != "413"]
SELECTED = [
    ("create run", "lose"),
    ("log batch", "empty 200"),
]


@pytest.fixture
def server(team_server: str, experiment: str) -> Server:
    return Server(MlflowClient(team_server), experiment)


@pytest.mark.parametrize(
    ("request_name", "fault"),
    SELECTED,
)
def test_entries_are_delivered_after_fault(
    request_name: str, fault: str, through_proxy: Path, team_proxy: Proxy, server: Server
) -> None:
    check_delivery(through_proxy, team_proxy, server, REQUESTS[request_name], fault)


@pytest.mark.parametrize(
    ("request_name", "fault"),
    # A file that is too large is rejected immediately, which another test checks.
    [(name, fault) for name in REQUESTS for fault in FAULTS if (name, fault) != ("upload", "413")],
)
def test_entries_are_delivered_after_every_fault(
    request_name: str, fault: str, through_proxy: Path, team_proxy: Proxy, server: Server
) -> None:
    # Once or twice, so that each request and each fault occurs with both counts.
    times = 1 + (list(REQUESTS).index(request_name) + FAULTS.index(fault)) % 2
    check_delivery(through_proxy, team_proxy, server, REQUESTS[request_name], fault, times)


def check_delivery(
    root: Path, proxy: Proxy, server: Server, request: str, fault: str, times: int = 1
) -> None:
    """Deliver an execution with faulty requests and check that all entries arrive once."""
    write_execution(root, server.experiment)
    proxy.add(fault, request, times)
    deliver(root)
    assert proxy.met() >= 1
    assert rejected(root) == []
    assert_delivered(server)


@pytest.mark.parametrize("seed", range(12))
def test_entries_are_delivered_through_unreliable_network(
    seed: int, through_proxy: Path, team_proxy: Proxy, server: Server
) -> None:
    rng = random.Random(seed)
    write_execution(through_proxy, server.experiment)
    for number in range(200):
        is_bad = number < 100 and rng.random() < 0.15
        team_proxy.add(rng.choice(TEMPORARY_FAULTS) if is_bad else "")
    deliver(through_proxy, attempts=60)
    assert team_proxy.met() >= 5
    assert rejected(through_proxy) == []
    assert_delivered(server)


@pytest.mark.parametrize("fault", ["413", "html 400"])
def test_file_that_server_never_accepts_is_rejected(
    fault: str, through_proxy: Path, team_proxy: Proxy, server: Server
) -> None:
    write_execution(through_proxy, server.experiment)
    team_proxy.add(fault, "PUT .*losses.csv$", 1000)
    deliver(through_proxy)
    (entry,) = rejected(through_proxy)
    assert entry["file"].endswith("losses.csv")
    assert entry["stage"] == "train"
    runs = server.runs()
    assert {name: [run.info.status for run in found] for name, found in runs.items()} == {
        "repro": ["FINISHED"],
        "train": ["FINISHED"],
        "evaluate": ["FINISHED"],
    }
    (train,) = runs["train"]
    assert "tables/losses.csv" not in server.files(train)
    assert train.data.tags["device"] == "cpu"  # logged after the file


@pytest.mark.parametrize(
    "fault",
    ["html 400", "413", "401", "drop"],
)
def test_entries_wait_while_server_accepts_nothing(
    fault: str, through_proxy: Path, team_proxy: Proxy, server: Server
) -> None:
    write_execution(through_proxy, server.experiment)
    team_proxy.add(fault, times=10_000)
    deliver_in_vain(through_proxy, attempts=7)
    assert rejected(through_proxy) == []
    team_proxy.clear()
    deliver(through_proxy)
    assert rejected(through_proxy) == []
    assert_delivered(server)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a minimal generator."""
    file = tmp_path_factory.mktemp("generator") / "generator.safetensors"
    save_network(build_networks(SMALL, seed=1)[0], SMALL, file)
    return file


@pytest.mark.parametrize(
    ("request_name", "fault"),
    [(name, fault) for name in MODEL_REQUESTS for fault in MODEL_FAULTS],
)
def test_models_are_delivered_after_every_fault(
    request_name: str,
    fault: str,
    generator: Path,
    through_proxy: Path,
    team_proxy: Proxy,
    server: Server,
) -> None:
    name = f"faces-{server.experiment}"
    write_execution(through_proxy, server.experiment, generator, register=name)
    team_proxy.add(fault, MODEL_REQUESTS[request_name])
    deliver(through_proxy)
    assert team_proxy.met() >= 1
    assert rejected(through_proxy) == []
    client = server.client
    found = client.get_experiment_by_name(server.experiment)
    assert found
    (model,) = client.search_logged_models([found.experiment_id])
    assert model.status == "READY"
    files = {file.path for file in client.list_logged_model_artifacts(model.model_id)}
    assert files >= {"MLmodel", "data", "requirements.txt"}
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert version.tags["kid"] == "2.5"
    assert version.source == f"models:/{model.model_id}"
    assert client.get_model_version_by_alias(name, "champion").version == version.version
