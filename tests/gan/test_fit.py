"""The training as a library call: results, events, and checkpoints only if requested."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.core.checkpoints import Checkpoints
from atelier.core.errors import AtelierError
from atelier.core.settings import Settings, TrainSettings
from atelier.gan.distributed import SINGLE_PROCESS, Runtime
from atelier.gan.fit import TrainResult, save_models, train
from atelier.gan.generation import draw_latents, generate
from atelier.gan.resume_rollback import Resumption
from atelier.gan.serialization import load_generator
from atelier.gan.trainer import Trainer

from ..support.events import RecordedEvents

CPU = Runtime(SINGLE_PROCESS, torch.device("cpu"))
SMALL = {
    "epochs": 2,
    "batch_size": 16,
    "generator_channels": 2,
    "discriminator_channels": 2,
    "latent_size": 4,
    "fixed_samples": 3,
    "precision": "fp32",
    "kid_every_epochs": 0,
}
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Callable[..., TrainSettings]:
    return lambda **changes: make_settings(train={**SMALL, **changes}).train


def weights(result: TrainResult) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in result.generator().parameters()]


def test_result_is_that_of_the_trainer(settings: Callable[..., TrainSettings]) -> None:
    events = RecordedEvents()
    result = train(settings(), IMAGES, runtime=CPU, events=events)
    trainer = Trainer(settings(), IMAGES, CPU.device)
    epochs = list(trainer.run())
    assert weights(result) == weights(TrainResult(trainer, result.history))
    assert [epoch.number for epoch in events.epochs] == [1, 2]
    for found, expected in zip(events.epochs, epochs, strict=True):
        assert np.array_equal(found.statistics, expected.statistics)
        assert np.array_equal(found.samples, expected.samples)
    assert [report.done for report in events.progress] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    assert result.history.details()["steps"] == 8
    # A short training is announced before the first step, and repeated after the last one.
    assert events.warnings[0] == events.warnings[-1]
    assert events.warnings[0].startswith("the training has 8 steps (2 epochs of 4)")


def test_samples_and_augmented_images_precede_the_first_step(
    settings: Callable[..., TrainSettings],
) -> None:
    started: list[Any] = []

    class Started(RecordedEvents):
        def on_start(self, samples: Any, columns: int, augmented: Any) -> None:
            assert not self.progress
            started.append((samples, columns, augmented))

    changed = settings(augment=["cutout"], conditional=True)
    labels = np.arange(64) % 3
    train(changed, IMAGES, labels=labels, runtime=CPU, events=Started())
    ((samples, columns, augmented),) = started
    untrained = Trainer(changed, IMAGES, CPU.device, labels=labels)
    assert np.array_equal(samples, untrained.samples())
    assert columns == 1
    assert augmented.shape[2:] == (16, 16, 3)


def test_best_generator_is_returned_and_saved(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    changes = {"kid_every_epochs": 1, "kid_samples": 16, "kid_features": "random", "epochs": 3}
    result = train(
        settings(**changes, select_model="best", lr=0.05),
        IMAGES[:46],
        held_out=IMAGES[46:],
        runtime=CPU,
    )
    qualities = result.history.qualities()
    assert list(qualities) == [1, 2, 3]
    best = result.trainer.best_model
    assert qualities[best.best_epoch] == min(qualities.values())
    save_models(result.trainer, tmp_path)
    loaded = load_generator(tmp_path / "generator.safetensors")
    saved, arch = loaded.network, loaded.arch
    latents = draw_latents(4, arch, 1)
    assert np.array_equal(generate(result.generator(), latents), generate(saved, latents))


def test_interrupted_training_resumes_bit_exactly(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    expected = weights(train(settings(), IMAGES, runtime=CPU))
    remaining = iter(range(5, 0, -1))
    stopping = Resumption(Checkpoints(tmp_path), stop_requested=lambda: next(remaining) == 1)
    with pytest.raises(KeyboardInterrupt, match="saved"):
        train(settings(), IMAGES, runtime=CPU, resumption=stopping)
    events = RecordedEvents()
    resumption = Resumption(Checkpoints(tmp_path))
    result = train(settings(), IMAGES, runtime=CPU, resumption=resumption, events=events)
    assert weights(result) == expected
    assert [epoch.number for epoch in events.epochs] == [1, 2], "also the finished epoch"
    assert events.progress[0].done == 6


def test_checkpoints_are_removed_by_default(
    settings: Callable[..., TrainSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[bool] = []

    class Watching(RecordedEvents):
        def on_epoch(self, epoch: Any) -> None:
            seen.append(any(tmp_path.rglob("*.safetensors")))

    train(settings(), IMAGES, runtime=CPU, resumption=Resumption(seconds=0), events=Watching())
    assert seen == [True, True]
    assert list(tmp_path.iterdir()) == []


def test_messages_name_no_removed_file(settings: Callable[..., TrainSettings]) -> None:
    with pytest.raises(AtelierError, match=r"rolled back 3 times\.$"):
        train(settings(lr=1e30), IMAGES, runtime=CPU)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        train(settings(), IMAGES, runtime=CPU, resumption=Resumption(stop_requested=lambda: True))
    assert str(interrupted.value) == ""
