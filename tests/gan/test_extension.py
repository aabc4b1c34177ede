"""Extension of a finished training, with the bytes of one longer training."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.core.checkpoints import Checkpoints
from atelier.core.errors import NotExtendableError
from atelier.core.settings import Settings
from atelier.gan.extension import extend
from atelier.gan.fit import save_models
from atelier.gan.history import EpochResult, History
from atelier.gan.resume_rollback import Resumption, train_epochs
from atelier.gan.sample_files import save_samples
from atelier.gan.trainer import Trainer

from ..support.divergence import NanWeights
from ..support.selection import slow_after

SMALL: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 4,
    "generator_channels": 2,
    "discriminator_channels": 2,
    "latent_size": 4,
    "fixed_samples": 3,
    "sample_every_steps": 3,
    "precision": "fp32",
    "ema_decay": 0.9,
    "kid_every_epochs": 2,
    "kid_samples": 16,
    "select_model": "best",
}
RICH = {
    "loss": "relativistic",
    "r1": 1.0,
    "penalty_interval": 2,
    "augment": ["color", "translation", "cutout"],
    "horizontal_flip": True,
    "discriminator_norm": False,
    "spectral_norm": True,
    "conditional": True,
}
DROPOUT = {"network": "mlp", "dropout": 0.3}
IMAGES = np.random.default_rng(0).integers(
    0, 256, (18, 16, 16, 3), dtype=np.uint8
)  # 5 steps per epoch

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def make_trainer(make_settings: Callable[..., Settings]) -> MakeTrainer:
    def contrast(images: np.ndarray) -> float:
        return -float(images.std())  # grows while an untrained generator learns

    def make(**changes: Any) -> Trainer:
        settings = make_settings(train={**SMALL, **changes}).train
        return Trainer(
            settings,
            IMAGES,
            torch.device("cpu"),
            labels=np.arange(len(IMAGES)) % 3,
            quality_fn=contrast,
        )

    return make


def finish(trainer: Trainer, folder: Path, **options: Any) -> list[EpochResult]:
    return list(train_epochs(trainer, Resumption(Checkpoints(folder), **options)))


def outputs(trainer: Trainer, epochs: list[EpochResult], folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files that the train stage writes, and of the trainer's state."""
    (folder / "samples").mkdir(parents=True)
    history = History()
    for epoch in epochs:
        history.add(epoch)
        save_samples(epoch.number, epoch.samples, epoch.step_samples, folder / "samples")
    history.write(folder / "losses.csv", folder / "quality.csv")
    save_models(trainer, folder)
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    numbers = repr((history.details(), history.metrics(trainer.settings.select_model)))
    state = {name: tensor.numpy().tobytes() for name, tensor in trainer.state().items()}
    return files | state | {"numbers": numbers.encode()}


@dataclass(frozen=True)
class Trained:
    """A training from the start to the end."""

    trainer: Trainer
    checkpoints: Checkpoints
    outputs: dict[str, bytes]


Train = Callable[[Trainer], Trained]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function that trains; trainers with the same settings share one training."""
    found: dict[str, Trained] = {}

    def run(trainer: Trainer) -> Trained:
        key = trainer.settings.model_dump_json()
        if key not in found:
            folder = tmp_path_factory.mktemp("trained")
            epochs = finish(trainer, folder / "checkpoints")
            files = outputs(trainer, epochs, folder / "outputs")
            found[key] = Trained(trainer, Checkpoints(folder / "checkpoints"), files)
        return found[key]

    return run


LENGTHS = [
    # The finished training scored, or sampled, epoch 3 because it was the last one.
    ({"epochs": 3}, {"epochs": 6}),
    ({"epochs": 3, "sample_every_epochs": 2}, {"epochs": 4, "sample_every_epochs": 2}),
    # It ended within an epoch.
    ({"steps": 7}, {"steps": 13}),
    ({"steps": 7}, {"steps": 8}),
    ({"epochs": 2}, {"epochs": 4}),
    ({"epochs": 4, "kid_every_epochs": 3}, {"epochs": 6, "kid_every_epochs": 3}),
    ({"epochs": 1, "kid_every_epochs": 5}, {"epochs": 2, "kid_every_epochs": 5}),
    ({"steps": 2}, {"steps": 3}),
    ({"steps": 8}, {"steps": 10}),
    ({"steps": 10}, {"epochs": 4}),
    ({"epochs": 2}, {"steps": 13}),
    ({"steps": 10}, {"epochs": 2}),
    ({"steps": 7, "epochs": 1}, {"steps": 7, "epochs": 3}),
    ({"epochs": 3, "kid_every_epochs": 0, "select_model": "last"},
     {"steps": 18, "kid_every_epochs": 0, "select_model": "last"}),
    ({"epochs": 1, **RICH}, {"epochs": 3, **RICH}),
    ({"steps": 8, **RICH}, {"steps": 14, **RICH}),
    ({"steps": 7, **DROPOUT}, {"steps": 13, **DROPOUT}),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), slow_after(3, LENGTHS))
def test_extended_training_equals_a_longer_one(
    make_trainer: MakeTrainer,
    train: Train,
    tmp_path: Path,
    before: dict[str, Any],
    after: dict[str, Any],
) -> None:
    longer, shorter = train(make_trainer(**after)), train(make_trainer(**before))
    extended, checkpoints = make_trainer(**after), Checkpoints(tmp_path / "extension")
    steps = extend(extended, shorter.checkpoints, checkpoints)
    assert steps == shorter.trainer.steps_done
    epochs = finish(extended, checkpoints.folder)
    assert outputs(extended, epochs, tmp_path / "extended") == longer.outputs
    # It can be extended once more.
    last = make_trainer(**after | {"steps": extended.total_steps + 1})
    assert extend(last, checkpoints, Checkpoints(tmp_path / "second")) == extended.total_steps


def test_last_score_of_the_finished_training_is_undone(
    make_trainer: MakeTrainer, train: Train, tmp_path: Path
) -> None:
    """It was the best one, but the longer training does not score this epoch."""
    shorter, extended = train(make_trainer(epochs=3)), make_trainer(epochs=4)
    assert shorter.trainer.best_model.best_epoch == 3
    extend(extended, shorter.checkpoints, Checkpoints(tmp_path))
    epochs = finish(extended, tmp_path)
    assert [epoch.quality is not None for epoch in epochs] == [False, True, False, True]


@pytest.mark.parametrize("stop", slow_after(1, [4, 1, 3]))
def test_interrupted_extension_resumes(
    make_trainer: MakeTrainer, train: Train, tmp_path: Path, stop: int
) -> None:
    finished, expected = train(make_trainer(steps=7)), train(make_trainer(steps=13)).outputs
    extended, checkpoints = make_trainer(steps=13), Checkpoints(tmp_path / "extension")
    extend(extended, finished.checkpoints, checkpoints)
    calls = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt, match="saved"):
        finish(extended, checkpoints.folder, stop_requested=lambda: next(calls) == stop)
    assert extended.steps_done == 7 + stop
    resumed = make_trainer(steps=13)
    assert outputs(resumed, finish(resumed, checkpoints.folder), tmp_path / "resumed") == expected


@pytest.mark.parametrize("seconds", slow_after(1, [1e9, 0]))
def test_extension_that_diverges_is_rolled_back_as_a_longer_training(
    make_trainer: MakeTrainer, tmp_path: Path, seconds: float
) -> None:
    """The epoch of the divergence began in the finished training."""
    longer = make_trainer(steps=11)
    nan_weights = NanWeights(longer, steps=9, times=1)
    epochs = finish(longer, tmp_path / "1", stop_requested=nan_weights)
    expected = outputs(longer, epochs, tmp_path / "longer")
    finish(make_trainer(steps=7), tmp_path / "finished", seconds=seconds)
    extended = make_trainer(steps=11)
    extend(extended, Checkpoints(tmp_path / "finished"), Checkpoints(tmp_path / "2"))
    nan_weights = NanWeights(extended, steps=9, times=1)
    epochs = finish(extended, tmp_path / "2", stop_requested=nan_weights)
    assert extended.rollbacks == 1
    assert outputs(extended, epochs, tmp_path / "extended") == expected


@pytest.fixture
def finished(make_trainer: MakeTrainer, train: Train, tmp_path: Path) -> Checkpoints:
    """Checkpoints of a training of 7 steps, as they are kept."""
    folder = train(make_trainer(steps=7)).checkpoints.folder
    checkpoints = Checkpoints(shutil.copytree(folder, tmp_path / "finished"))
    checkpoints.delete_older()
    return checkpoints


def test_finished_training_is_not_changed(
    make_trainer: MakeTrainer, finished: Checkpoints, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in finished.folder.iterdir()}
    assert sorted(before) == [
        "epoch-000001.safetensors",
        "epoch-000002.safetensors",
        "state-000000000005-milestone.safetensors",
        "state-000000000007.safetensors",
    ]
    extend(make_trainer(steps=13), finished, Checkpoints(tmp_path / "extension"))
    assert {path.name: path.read_bytes() for path in finished.folder.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 13, "schedule": "linear"}, "train.schedule is linear, with learning rates that"),
        ({"steps": 6}, "it has 6 steps, and the finished one has 7"),
    ],
)
def test_training_with_other_steps_is_not_extended(
    make_trainer: MakeTrainer,
    finished: Checkpoints,
    tmp_path: Path,
    changes: dict[str, Any],
    reason: str,
) -> None:
    with pytest.raises(NotExtendableError, match=reason):
        extend(make_trainer(**changes), finished, Checkpoints(tmp_path))
    assert not list(tmp_path.glob("*.safetensors"))


def damage(finished: Checkpoints, name: str) -> None:
    content = bytearray((finished.folder / f"{name}.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (finished.folder / f"{name}.safetensors").write_bytes(content)


@pytest.mark.parametrize("name", ["state-000000000005-milestone", "epoch-000001"])
def test_damaged_state_is_not_extended(
    make_trainer: MakeTrainer, finished: Checkpoints, tmp_path: Path, name: str
) -> None:
    damage(finished, name)
    with pytest.raises(NotExtendableError, match="state of the finished training is damaged"):
        extend(make_trainer(steps=13), finished, Checkpoints(tmp_path))
    assert not list(tmp_path.glob("*.safetensors"))


def test_state_before_a_damaged_one_is_extended(
    make_trainer: MakeTrainer, train: Train, finished: Checkpoints, tmp_path: Path
) -> None:
    damage(finished, "state-000000000007")
    extended, checkpoints = make_trainer(steps=13), Checkpoints(tmp_path / "extension")
    assert extend(extended, finished, checkpoints) == 5
    epochs = finish(extended, checkpoints.folder)
    expected = train(make_trainer(steps=13)).outputs
    assert outputs(extended, epochs, tmp_path / "extended") == expected
