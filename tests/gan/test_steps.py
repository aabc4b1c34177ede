"""Training with ``train.steps`` instead of epochs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from atelier.core.checkpoints import Checkpoints
from atelier.core.progress import Progress
from atelier.core.settings import Settings
from atelier.gan.fit import Resumption, save_models, train_epochs
from atelier.gan.history import EpochResult
from atelier.gan.lr_schedule import lr_factor
from atelier.gan.serialization import read_metadata
from atelier.gan.trainer import Trainer

MakeTrainer = Callable[..., Trainer]
TINY = {
    "epochs": 3,
    "batch_size": 8,  # 20 images: 3 steps per epoch, the last with 4 images
    "generator_channels": 4,
    "discriminator_channels": 4,
    "latent_size": 8,
    "fixed_samples": 5,
    "sample_every_steps": 2,
    "kid_every_epochs": 100,
    "kid_samples": 16,
    "ema_decay": 0.9,
}


@pytest.fixture
def make_trainer(make_settings: Callable[..., Settings]) -> MakeTrainer:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)

    def make(**changes: object) -> Trainer:
        settings = make_settings(train=TINY | changes).train
        return Trainer(
            settings, pixels, torch.device("cpu"), quality_fn=lambda images: float(images.mean())
        )

    return make


def state_bytes(trainer: Trainer) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in trainer.state().items()}


def epoch_bytes(epochs: list[EpochResult]) -> list[object]:
    plain = [
        replace(epoch, images=[], statistics=[], samples=[], step_samples={})  # type: ignore[arg-type]
        for epoch in epochs
    ]
    arrays: list[object] = [
        np.asarray(array).tobytes()
        for epoch in epochs
        for array in (epoch.images, epoch.statistics, epoch.samples, *epoch.step_samples.values())
    ]
    return [*plain, *arrays]


@pytest.mark.parametrize(
    ("steps", "lengths"),
    [(1, [1]), (2, [2]), (3, [3]), (4, [3, 1]), (8, [3, 3, 2]), (9, [3, 3, 3])],
)
def test_training_ends_after_exactly_n_steps(
    make_trainer: MakeTrainer, steps: int, lengths: list[int]
) -> None:
    trainer, progress = make_trainer(steps=steps, epochs=1), list[Progress]()
    trainer.events.on_progress = progress.append  # type: ignore[method-assign]
    epochs = list(trainer.run())
    assert [len(epoch.statistics) for epoch in epochs] == lengths
    assert [len(epoch.images) for epoch in epochs] == lengths
    assert sum(epoch.images_seen for epoch in epochs) == epochs[-1].images[-1]
    assert [epoch.first_step for epoch in epochs] == [3 * n for n in range(len(lengths))]
    assert (trainer.total_steps, trainer.total_epochs) == (steps, len(lengths))
    assert trainer.steps_done == steps
    assert {entry.total for entry in progress} == {steps}
    assert progress[-1].done == steps == max(entry.done for entry in progress)
    assert list(trainer.run()) == []


def test_steps_of_whole_epochs_equal_epochs(make_trainer: MakeTrainer) -> None:
    by_epochs, by_steps = make_trainer(epochs=2), make_trainer(epochs=50, steps=6)
    assert epoch_bytes(list(by_epochs.run())) == epoch_bytes(list(by_steps.run()))
    assert state_bytes(by_epochs) == state_bytes(by_steps)


def test_steps_equal_those_of_longer_training(make_trainer: MakeTrainer) -> None:
    longer = list(make_trainer(epochs=3).run())
    first, second = make_trainer(steps=5).run()
    assert np.array_equal(first.statistics, longer[0].statistics)
    assert np.array_equal(second.statistics, longer[1].statistics[:2])
    assert np.array_equal(second.images, longer[1].images[:2])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedule_reaches_its_end_at_the_last_step(
    make_trainer: MakeTrainer, schedule: Literal["linear", "cosine"]
) -> None:
    trainer, factors = make_trainer(steps=5, schedule=schedule, lr=1.0), list[float]()
    groups = trainer.gan.generator_optimizer.param_groups
    for _ in trainer.run(after_step=lambda: factors.append(float(groups[0]["lr"]))):
        pass
    assert factors == pytest.approx([lr_factor(schedule, step, 5) for step in range(5)])


def test_incomplete_last_epoch_is_measured_and_saved(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    trainer = make_trainer(steps=4, select_model="best")
    first, last = trainer.run()
    assert first.quality is None
    assert last.quality is not None
    assert list(last.step_samples) == [4]
    assert np.array_equal(last.samples, trainer.samples())
    save_models(trainer, tmp_path)
    assert read_metadata(tmp_path / "last.safetensors")["epoch"] == 2


@pytest.mark.parametrize("stop", range(1, 6))
def test_resume_is_bit_exact(make_trainer: MakeTrainer, tmp_path: Path, stop: int) -> None:
    changes = {"steps": 5, "schedule": "linear"}
    uninterrupted = make_trainer(**changes)
    expected = epoch_bytes(list(uninterrupted.run()))
    calls = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        list(
            train_epochs(
                make_trainer(**changes),
                Resumption(Checkpoints(tmp_path), stop_requested=lambda: next(calls) == stop),
            )
        )
    for _ in range(2):  # the second time, everything is done already
        trainer = make_trainer(**changes)
        assert (
            epoch_bytes(list(train_epochs(trainer, Resumption(Checkpoints(tmp_path))))) == expected
        )
        assert state_bytes(trainer) == state_bytes(uninterrupted)
