"""Networks of earlier trainings: references, folders, errors, and the copies of the start stage."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.utils.file_utils import local_file_uri_to_path

from atelier.core.errors import AtelierError
from atelier.core.files import write_json
from atelier.core.hashing import file_digest
from atelier.core.paths import NETWORKS, ORIGIN, START, list_path
from atelier.gan.networks import build_networks
from atelier.gan.serialization import save_network
from atelier.tracking.lineage import find_lineage
from atelier.tracking.run import Run
from atelier.tracking.store import as_default_store, open_store
from atelier.tracking.trained_networks import (
    Origin,
    copy_networks,
    load_start,
    reject_own_alias,
)

from ..support.architectures import SMALL
from ..support.project import Project

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STAGE = {"DVC_STAGE": "start@first"}


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Project after one pipeline, whose model is registered as ``faces``; the current folder."""
    project = _tracked.copy(tmp_path_factory.mktemp("networks") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        client, experiment = open_store(project.folder, "atelier")
        (model,) = client.search_logged_models([experiment])
        register(client, model.source_run_id, model.model_id)
        patch.chdir(project.folder)
        yield project


def register(client: Any, run: str, model: str | None = None) -> str:
    """Register a run's model as the champion; return its version."""
    if not client.search_registered_models("name = 'faces'"):
        client.create_registered_model("faces")
    with as_default_store(client):
        source = f"models:/{model}" if model else f"runs:/{run}/networks"
        version = client.create_model_version("faces", source, run, model_id=model)
    client.set_registered_model_alias("faces", "champion", version.version)
    return str(version.version)


@pytest.fixture(scope="module")
def client(project: Project) -> Any:
    return open_store(project.folder, "atelier")[0]


@pytest.fixture(scope="module")
def runs(client: Any) -> dict[str, str]:
    """Return the run IDs by stage; the parent run's key is ``pipeline``."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments)
    return {run.data.tags.get("atelier.stage", "pipeline"): run.info.run_id for run in found}


@pytest.fixture
def other_run(client: Any, runs: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """Run of another training of the same architecture, registered as a new champion."""
    experiment = client.get_run(runs["train"]).info.experiment_id
    run = client.create_run(experiment).info.run_id
    arch = SMALL.model_copy(update={"image_size": 16})
    for name, network in zip(NETWORKS, build_networks(arch, seed=9), strict=True):
        save_network(network, arch, tmp_path / "other" / name)
        client.log_artifact(run, str(tmp_path / "other" / name), "networks")
    version = register(client, run)
    yield run
    client.delete_model_version("faces", version)
    client.set_registered_model_alias("faces", "champion", "1")


def models(project: Project) -> dict[str, bytes]:
    return {name: (project.folder / "models" / name).read_bytes() for name in NETWORKS}


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".gitignore"}


def error_of(place: str, folder: Path) -> str:
    with pytest.raises(AtelierError) as caught:
        copy_networks(place, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_runs_models_and_folders_give_the_files_of_the_training(
    project: Project, client: Any, runs: dict[str, str], tmp_path: Path
) -> None:
    train, address = runs["train"], client.get_model_version("faces", "1").source
    copied = tmp_path / "my models ü"
    shutil.copytree(project.folder / "models", copied)
    places = {
        train: Origin(train, train),
        runs["pipeline"]: Origin(runs["pipeline"], train),
        "models:/faces/1": Origin("models:/faces/1", train, "faces/1"),
        "models:/faces@champion": Origin("models:/faces@champion", train, "faces/1"),
        address: Origin(address, train, address.removeprefix("models:/")),
        str(copied): Origin(str(copied)),
        os.path.relpath(copied): Origin(os.path.relpath(copied)),  # relative to the project
    }
    for number, (place, expected) in enumerate(places.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert copy_networks(place, folder) == expected
        assert content(folder) == models(project), place


def test_start_without_networks_is_one_sentence(
    project: Project, client: Any, runs: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(project.folder / "models" / NETWORKS[0], half)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / NETWORKS[0])
    advice = (
        "name a folder with generator.safetensors and discriminator.safetensors, for example"
        " data/weights/celeba, the id of an MLflow run, or a model, e.g. models:/celeba@champion."
    )
    expected = {
        "models": "which this pipeline itself replaces",
        "models/generator.safetensors": "which this pipeline itself replaces; copy both networks",
        str(half / NETWORKS[0]): f"which is a file; {advice}",
        str(tmp_path / "none"): f"but there is no such folder; {advice}",
        "models:faces@champion": "which lacks a slash; write models:/faces@champion.",
        str(half): "has no discriminator.safetensors; training from a generator without its",
        str(tmp_path / "pipe"): "it is a pipe",
        runs["render"]: "has no networks/generator.safetensors",
        "0" * 32: "not found",
        "models:/faces@nobody": "alias nobody not found",
        "models:/none/1": "not found",
    }
    for place, sentence in expected.items():
        assert sentence in error_of(place, tmp_path / "out")


def test_generator_of_another_run_is_not_that_of_the_model(
    client: Any, other_run: str, tmp_path: Path
) -> None:
    version = client.get_model_version_by_alias("faces", "champion").version
    client.set_model_version_tag("faces", version, "content.md5", "0" * 32)
    sentence = error_of("models:/faces@champion", tmp_path)
    assert (
        f"the generator of the run {other_run} is not the one of models:/faces@champion" in sentence
    )


def test_start_stage_follows_an_alias(
    project: Project, runs: dict[str, str], request: pytest.FixtureRequest
) -> None:
    project.set(**{"train.start_from": {"first": "models:/faces@champion"}})
    start = project.folder / "data/start"
    output = project.stage("start", **STAGE)
    digest = file_digest(start / NETWORKS[0], "md5")
    about = f"models:/faces@champion (model faces/1, run {runs['train']})"
    assert output == f"start: {about}, generator {digest}\n"
    assert content(start) == models(project)
    request.getfixturevalue("other_run")
    project.stage("start", **STAGE)
    assert content(start).keys() == models(project).keys()
    assert not set(content(start).values()) & set(models(project).values())
    record = json.loads((project.folder / "data/start.json").read_text())
    assert record["md5"] == {name: file_digest(start / name, "md5") for name in NETWORKS}
    project.set(**{"tracking.registered_model": "faces"})
    output = project.stage("start", ok=False, **STAGE)
    assert "name a version, for example models:/faces/3" in output
    project.set(**{"tracking.registered_model": "", "train.start_from": {}})


@pytest.mark.parametrize("place", ["models:/faces@champion", "0123456789abcdef" * 2])
def test_unreachable_server_is_one_sentence_without_secrets(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden")
    sentence = error_of(place, tmp_path)
    assert (
        f"returns no networks for train.start_from: {place} (no answer from http://127" in sentence
    )
    assert "hidden" not in sentence


@pytest.mark.slow
def test_failed_start_keeps_the_earlier_copy(
    project: Project, request: pytest.FixtureRequest
) -> None:
    project.set(**{"train.start_from": {"first": "models:/faces@champion"}})
    start = project.folder / "data/start"
    project.stage("start", **STAGE)
    project.stage("inputs", "train", DVC_STAGE="train_inputs")
    before = content(start)
    address = "http://127.0.0.1:1"
    output = project.stage("start", ok=False, **STAGE, MLFLOW_TRACKING_URI=address)
    assert "the earlier copy in data/start is kept, and `dvc repro -s train` uses it" in output
    assert output.count("\n") == 1
    assert content(start) == before
    request.getfixturevalue("other_run")
    project.set(**{"train.discriminator_channels": 8})
    output = project.stage("start", ok=False, **STAGE)
    assert "set train.discriminator_channels to 4, or choose other networks" in output
    assert content(start) == before
    project.set(**{"train.discriminator_channels": 4, "train.start_from": {}})


def test_training_rejects_copies_of_another_start(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.folder / "models", tmp_path / "mine")
    project.set(**{"train.start_from": {"first": str(tmp_path / "mine")}})
    project.stage("start", **STAGE)
    place = {"first": str(tmp_path / "mine")}
    networks = load_start(place, Run(None))
    assert networks
    assert networks.arch.image_size == 16
    assert load_start({}, Run(None)) is None
    with pytest.raises(AtelierError, match="has other networks than"):
        load_start({"first": "models:/faces@champion"}, Run(None))
    shutil.copy(
        project.folder / "models" / NETWORKS[0], project.folder / "data/start" / NETWORKS[1]
    )
    with pytest.raises(AtelierError, match="has other networks than"):
        load_start(place, Run(None))
    project.set(**{"train.start_from": {}})


def save_networks(folder: Path, seed: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, network in zip(NETWORKS, build_networks(SMALL, seed=seed), strict=True):
        save_network(network, SMALL, folder / name)


def write_list() -> None:
    """Write what the stage train_inputs writes."""
    digests = {(START / name).as_posix(): file_digest(START / name, "md5") for name in NETWORKS}
    write_json(list_path("train"), digests)


def write_origin(place: str) -> None:
    """Write what the stage start writes."""
    digests = {name: file_digest(START / name, "md5") for name in NETWORKS}
    write_json(ORIGIN, Origin(place, "2" * 32, "faces/3").as_json() | {"md5": digests})


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with the outputs of the stages start and train_inputs, in a stage of DVC."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "train")
    save_networks(START)
    write_origin("0" * 32)
    write_list()
    return tmp_path


def test_copies_must_be_those_that_dvc_compares(copies: Path) -> None:
    place = {"first": "0" * 32}
    assert load_start(place, Run(None))
    save_networks(START, seed=2)  # as the start stage does without train_inputs
    write_origin("0" * 32)
    with pytest.raises(AtelierError, match="run `dvc repro train`, without -s"):
        load_start(place, Run(None))
    write_list()
    assert load_start(place, Run(None))


def test_copies_need_no_origin_after_dvc_pull(copies: Path) -> None:
    ORIGIN.unlink()
    with pytest.raises(AtelierError, match="has other networks than"):
        load_start({"first": "0" * 32}, Run(None))
    Path("dvc.lock").write_text(LOCK)
    assert load_start({"first": "/home/me/celeba/models"}, Run(None))
    with pytest.raises(AtelierError, match="has other networks than"):
        load_start({"first": "/home/me/other"}, Run(None))
    list_path("train").unlink()
    with pytest.raises(AtelierError, match="has other networks than"):
        load_start({"first": "/home/me/celeba/models"}, Run(None))


def test_only_copies_of_the_same_place_are_offered(
    copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    offer = "the earlier copy in data/start is kept, and `dvc repro -s train` uses it"
    write_origin("models:/faces@champion")
    assert offer in error_of("models:/faces@champion", copies)
    assert offer not in error_of("models:/faces@other", copies)
    save_networks(START, seed=2)
    assert offer not in error_of("models:/faces@champion", copies)


@pytest.mark.parametrize(
    ("place", "is_fixed"),
    [
        ("0" * 32, True),
        ("models:/faces/3", True),
        ("models:/m-0a1b2c", True),
        ("models:/faces@champion", False),
        ("models:/faces/latest", False),
    ],
)
def test_earlier_copy_of_a_fixed_place_replaces_an_unreachable_server(
    copies: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    is_fixed: bool,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    write_origin(place)
    out = copies / "out"
    out.mkdir()
    if not is_fixed:
        assert "is kept, and `dvc repro -s train` uses it" in error_of(place, out)
        assert not content(out)
        return
    assert copy_networks(place, out) == Origin(place, "2" * 32, "faces/3")
    assert content(out) == content(START)
    assert capsys.readouterr().err == (
        f"WARNING: MLflow returns no networks for train.start_from: {place} (no answer from"
        " http://127.0.0.1:1); the earlier copy in data/start is used.\n"
    )
    save_networks(START, seed=2)  # by hand
    assert "returns no networks" in error_of(place, out)


def test_alias_that_the_training_can_move_is_rejected() -> None:
    for place in ("models:/faces/3", "models:/celeba@champion", "0" * 32, "models"):
        reject_own_alias(place, "faces")
    reject_own_alias("models:/faces@champion", "")
    for place in ("models:/faces@champion", "models:/faces/latest"):
        with pytest.raises(AtelierError, match=r"models:/faces/3, or change tracking\.registered_"):
            reject_own_alias(place, "faces")


def test_outputs_are_rejected_also_through_links(copies: Path) -> None:
    save_networks(Path("models"))
    for name in ("links", "chain", "linked", "out"):
        Path(name).mkdir()
    for name in NETWORKS:
        (copies / "links" / name).symlink_to(copies / "models" / name)
        (copies / "chain" / name).symlink_to(f"../links/{name}")
    (copies / "folder").symlink_to("models")
    for place in ("links", "chain", "folder", "data/start"):
        assert "which this pipeline itself replaces" in error_of(place, Path("out"))
    # Outputs can be links to DVC's cache, and so can the files of their copy.
    for name in NETWORKS:
        Path("models", name).rename(name)
        Path("models", name).symlink_to(f"../{name}")
        Path("linked", name).symlink_to(f"../{name}")
    assert copy_networks("linked", Path("out")) == Origin("linked")


def test_file_that_is_no_network_is_not_copied(copies: Path) -> None:
    save_networks(Path("large"))
    os.truncate(Path("large", NETWORKS[0]), 5 * 2**30)  # sparse: it uses no disk space
    save_networks(Path("damaged"))
    Path("damaged", NETWORKS[0]).write_bytes(b"\xff" * 100)
    Path("out").mkdir()
    assert "large/generator.safetensors has 5.0 GiB, and the limit for a network is 4 GiB" in (
        error_of("large", Path("out"))
    )
    assert "generator.safetensors is no network (its header is damaged)" in (
        error_of("damaged", Path("out"))
    )
    assert not list(Path("out").iterdir())


def test_artifact_that_is_too_large_is_not_downloaded(
    client: Any, other_run: str, tmp_path: Path
) -> None:
    stored = Path(local_file_uri_to_path(client.get_run(other_run).info.artifact_uri))
    os.truncate(stored / "networks" / NETWORKS[0], 5 * 2**30)
    (tmp_path / "out").mkdir()
    sentence = error_of(other_run, tmp_path / "out")
    assert "(networks/generator.safetensors has 5.0 GiB, and the limit" in sentence
    assert not list((tmp_path / "out").iterdir())


LOCK = """
schema: '2.0'
stages:
  start@first:
    cmd: c
    outs:
    - {path: data/start.json, md5: 00000000000000000000000000000000}
    - {path: data/start/discriminator.safetensors, md5: dddddddddddddddddddddddddddddddd}
    - {path: data/start/generator.safetensors, md5: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}
  train_inputs:
    cmd: c
    params:
      params.yaml:
        train.start_from:
          first: /home/me/celeba/models
  train:
    cmd: c
    deps:
    - {path: data/inputs/train.json, md5: 11111111111111111111111111111111}
    params:
      params.yaml:
        train:
          epochs: 2
          start_from:
            first: /home/me/celeba/models
    outs:
    - {path: models, md5: eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee.dir}
"""


def test_lineage_without_mlflow_names_the_recorded_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.lock").write_text(LOCK)
    lineage = find_lineage("models", None)
    assert lineage.producers[0].inputs["data/start/generator.safetensors"] == "a" * 32
    lines = list(lineage.as_text())
    started = f"started from /home/me/celeba/models (generator {'a' * 32})"
    assert lines[2].strip() == started
    assert json.loads(lineage.as_json())["producers"][0]["start"] == {
        "place": "/home/me/celeba/models"
    }
