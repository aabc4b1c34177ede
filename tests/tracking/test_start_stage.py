"""Start stage in this process: checks of the networks, and their origin in the training's run."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atelier.core.errors import AtelierError
from atelier.core.hashing import file_digest
from atelier.core.paths import NETWORKS, START
from atelier.core.settings import Settings
from atelier.gan.networks import build_networks
from atelier.gan.serialization import save_network
from atelier.tracking.outbox import Outbox, entries
from atelier.tracking.run import Run
from atelier.tracking.trained_networks import load_start

from ..support.architectures import SMALL, with_changes
from ..support.execution import dead_process

FIRST = "data/weights/first"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Current folder with an earlier training in ``data/weights/first``."""
    monkeypatch.chdir(tmp_path)
    for name, network in zip(NETWORKS, build_networks(SMALL, seed=1), strict=True):
        save_network(network, SMALL, Path(FIRST, name))


@pytest.fixture
def start_stage(root: Path, make_settings: Callable[..., Settings]) -> Callable[..., None]:
    """Return a function that runs the stage's ``main`` with some settings of ``train`` changed."""
    main = runpy.run_path(str(root / "stages/start.py"))["main"]
    fields = ("latent_size", "generator_channels", "discriminator_channels")
    arch = {name: getattr(SMALL, name) for name in fields}

    def run(**changes: Any) -> None:
        train = arch | {"start_from": {"first": FIRST}} | changes
        main(make_settings(train=train, convert={"image_size": SMALL.image_size}), Run(None))

    return run


def test_networks_of_other_settings_are_not_copied(start_stage: Callable[..., None]) -> None:
    with pytest.raises(AtelierError, match=r"have generator_channels: 4, but .* has 8; set train"):
        start_stage(generator_channels=8)
    assert not START.exists()


def test_errors_name_the_place_of_the_setting(start_stage: Callable[..., None]) -> None:
    other = with_changes(SMALL, discriminator_channels=8)
    save_network(build_networks(other, seed=1)[1], other, Path(FIRST, NETWORKS[1]))
    with pytest.raises(AtelierError) as mixed:
        start_stage()
    assert str(mixed.value) == (
        "train.start_from needs other networks: the two networks in data/weights/first are of"
        " different trainings: discriminator_channels is 4 in the generator and 8 in the"
        " discriminator; get both files from one training."
    )
    Path(FIRST, NETWORKS[0]).write_bytes(Path(FIRST, NETWORKS[1]).read_bytes())
    with pytest.raises(AtelierError) as swapped:
        start_stage()
    assert str(swapped.value).startswith(
        "train.start_from needs other networks: data/weights/first/generator.safetensors holds no"
        " generator that can be used ("
    )
    assert not START.exists()


def test_run_is_tagged_with_the_start(start_stage: Callable[..., None], tmp_path: Path) -> None:
    start_stage()
    outbox = Outbox(tmp_path, dead_process(1), "train", experiment="faces", parameters={})
    run = Run(outbox)
    networks = load_start({"first": FIRST}, run)
    assert networks is not None
    assert networks.arch == SMALL
    run.end("FINISHED")
    logged = [entry["tags"] for entry, _ in entries(outbox.folder) if entry["kind"] == "tags"]
    assert {
        "start.place": FIRST,
        "start.generator": file_digest(Path(FIRST, NETWORKS[0]), "md5"),
        "start.discriminator": file_digest(Path(FIRST, NETWORKS[1]), "md5"),
    } in logged
