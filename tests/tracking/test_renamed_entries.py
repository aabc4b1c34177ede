"""Entries, runs and models with the names of an earlier version."""

from pathlib import Path

import pytest
import torch
from mlflow.entities import Param

from atelier.core.presets import preset_values
from atelier.core.settings import ConvertSettings, TrainSettings
from atelier.gan.networks import Architecture, build_networks
from atelier.gan.sampling import TrainedGenerator
from atelier.gan.serialization import load_generator, save_network
from atelier.tracking.delivery_worker import flush_backlog
from atelier.tracking.environment import Process, private_folder
from atelier.tracking.metric_names import KID, find_metric
from atelier.tracking.models import GENERATOR, log_model, register_model
from atelier.tracking.outbox import Outbox
from atelier.tracking.rejected import rejected_file
from atelier.tracking.renamed import current_loader, current_parameters
from atelier.tracking.run import Run
from atelier.tracking.store import open_store

from ..support.architectures import with_changes
from ..support.empty_store import _no_cached_client as _no_cached_client
from ..support.empty_store import runs

pytestmark = pytest.mark.filterwarnings("ignore")
OLD_LOADER = "atelier.gan.weights:load_for_serving"
LOADER = "atelier.gan.serialization:load_for_serving"
PRESETS = Path(__file__).parents[2] / "presets"


def save_generator(file: Path, seed: int) -> Path:
    """Save a small untrained generator."""
    convert = ConvertSettings.model_validate(preset_values("celeba64", PRESETS)["convert"])
    train = TrainSettings.model_validate(preset_values("celeba64", PRESETS)["train"])
    arch = Architecture.from_settings(train, convert.image_size, convert.channels)
    arch = with_changes(arch, image_size=16, latent_size=8, generator_channels=4)
    save_network(build_networks(arch, seed)[0], arch, file)
    return file


def test_current_names_are_unchanged() -> None:
    assert current_loader(LOADER) == LOADER
    assert current_loader("os:unlink") == "os:unlink"
    parameters = {"evaluate.samples": "24", "tracking.registered_model": "faces"}
    assert current_parameters(parameters) == parameters


@pytest.mark.slow
def test_entry_with_old_loader_is_delivered(tmp_path: Path) -> None:
    dead = Process(2**22 + 1, "0")
    outbox = Outbox(
        private_folder(tmp_path),
        dead,
        "train",
        experiment="atelier",
        pipeline="",
        parameters={},
        tags={"preset": "anna's v1.5"},  # characters that MLflow forbids in names of models
    )
    run = Run(outbox)
    run.log_model(save_generator(tmp_path / "generator.safetensors", 1), OLD_LOADER)
    run.end("FINISHED")
    assert flush_backlog(tmp_path) == 0
    assert not rejected_file(tmp_path).exists()
    client, experiment = open_store(tmp_path, "atelier")
    (model,) = client.search_logged_models([experiment])
    assert model.name == f"anna-s v1-5-{model.tags['content.md5'][:6]}"


@pytest.mark.slow
def test_metrics_of_an_earlier_version_get_their_present_names(tmp_path: Path) -> None:
    outbox = Outbox(
        private_folder(tmp_path),
        Process(2**22 + 1, "0"),
        "evaluate",
        experiment="atelier",
        pipeline="p",
        parameters={"evaluate.seed": "1", "train.lr": "0.1"},
        tags={},
    )
    outbox.write("metrics", names=["loss_d", "kid", "other"], rows=[[1, 5, [1.0, 2.0, 3.0]]])
    outbox.write("summary", values={"kid": 0.5, "real_kid": 0.25})
    outbox.write("end", status="FINISHED")
    outbox.close()
    assert flush_backlog(tmp_path) == 0
    run = runs(tmp_path)["evaluate"]
    assert run.data.metrics == {
        "loss/d": 1.0,
        "quality/validation_kid": 2.0,
        "other": 3.0,
        "quality/kid": 0.5,
        "evaluate.real_kid": 0.25,
    }
    assert run.data.params == {"evaluate.seed": "1"}, "all settings of the stage"


def test_a_metric_is_found_by_its_old_and_its_present_name() -> None:
    assert find_metric({"evaluate.kid": 2.0}, KID) == 2.0
    assert find_metric({"evaluate.kid": 2.0, KID: 1.0}, KID) == 1.0
    assert find_metric({"evaluate.fid": 2.0}, KID) is None


@pytest.mark.slow
def test_champion_is_chosen_among_versions_with_old_and_new_parameter_names(
    tmp_path: Path,
) -> None:
    private_folder(tmp_path)
    client, experiment = open_store(tmp_path, "atelier")
    names = ("evaluate.nearest_among", "evaluate.nearest_neighbor_pool")
    for number, (name, kid) in enumerate(zip(names, (0.1, 0.2), strict=True)):
        file = save_generator(tmp_path / f"{number}.safetensors", number)
        run = client.create_run(experiment).info.run_id
        client.log_batch(run, params=[Param(name, "100")])
        log_model(client, run, file, LOADER)
        (model,) = (
            model
            for model in client.search_logged_models([experiment])
            if model.source_run_id == run
        )
        evaluate = {"inputs": {GENERATOR: model.tags["content.md5"]}, "metrics": {"kid": kid}}
        register_model(client, evaluate, run, "faces")
        if number == 0:  # like an earlier version
            client.delete_model_version_tag("faces", "1", names[1])
            client.set_model_version_tag("faces", "1", names[0], "100")
    assert str(client.get_model_version_by_alias("faces", "champion").version) == "1"


def test_old_architecture_sets_latent_distribution(tmp_path: Path) -> None:
    loaded = load_generator(save_generator(tmp_path / "generator.safetensors", 1))
    network, arch = loaded.network, loaded.arch
    for field in ("latents", "latent_distribution"):
        for distribution in ("uniform", "normal"):
            generator = TrainedGenerator.from_module(
                network, arch.latent_size, {field: distribution}, torch.device("cpu")
            )
            assert generator.latent_distribution == distribution
