"""Warnings about short training, a discriminator loss near zero and mode collapse."""

from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.core.presets import preset_values
from atelier.core.settings import TrainSettings
from atelier.data.dataset import split
from atelier.gan.diagnostics import TrainingMonitor
from atelier.gan.history import EpochResult
from atelier.gan.length import (
    RECOMMENDED_STEPS,
    batch_warnings,
    few_images_advice,
    length_warnings,
    training_warnings,
)


def check(monitor: TrainingMonitor, loss_d: float, spread: int, number: int = 1) -> list[str]:
    """Check an epoch with two samples whose pixels differ by twice the spread."""
    samples = np.zeros((2, 4, 4, 3), np.uint8)
    samples[1] = 2 * spread
    statistics = np.full((4, 5), 0.7)
    statistics[:, 0] = [loss_d - 0.002, loss_d + 0.002, loss_d, loss_d]
    return monitor.check(EpochResult(number, 0, np.arange(4), statistics, samples, {}))


@pytest.mark.parametrize(
    ("loss", "remedy"),
    [
        ("bce", "train.label_smoothing 0.1"),
        ("hinge", "train.r1 1.0"),
        ("relativistic", "train.r1 1.0"),
    ],
)
def test_monitor_warns_of_discriminator_loss_near_zero(loss: str, remedy: str) -> None:
    assert check(TrainingMonitor(loss), 0.0101, 50) == []
    (warning,) = check(TrainingMonitor(loss), 0.0099, 50, number=7)
    assert warning.startswith(
        "in epoch 7 the discriminator loss is near zero (0.0099), so the generator"
    )
    assert f"try {remedy} or a smaller train.lr" in warning


def test_monitor_warns_of_mode_collapse() -> None:
    monitor = TrainingMonitor()
    for spread in (50, 100, 60, 21):
        assert check(monitor, 1, spread) == []
    (warning,) = check(monitor, 1, 19, number=8)
    assert warning.startswith(
        "in epoch 8 the generated images are nearly equal (spread 19.0 after 100.0)"
    )
    assert check(monitor, 1, 21) == []
    assert len(check(monitor, 0.001, 19)) == 2
    assert check(TrainingMonitor("wgan"), -5, 1) == []
    assert check(TrainingMonitor(), 1, 0, number=0) == [], (
        "equal samples from the start are no collapse"
    )


def epoch_of(number: int, loss_d: float, samples: np.ndarray) -> EpochResult:
    statistics = np.full((4, 5), 0.7, np.float32)
    statistics[:, 0] = loss_d
    return EpochResult(number, 0, np.arange(4), statistics, samples, {})


def test_monitor_distinguishes_collapse_from_healthy_training() -> None:
    varied = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    same = np.repeat(varied[:1], 9, axis=0)
    monitor = TrainingMonitor()
    assert monitor.check(epoch_of(1, 1.2, varied)) == []
    (no_learning,) = monitor.check(epoch_of(2, 0.001, varied))
    assert "the discriminator loss is near zero" in no_learning
    (collapsed,) = monitor.check(epoch_of(3, 1.2, same))
    assert "are nearly equal" in collapsed


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "min_epochs"),
    [
        (1, RECOMMENDED_STEPS - 1, 2),
        (19, RECOMMENDED_STEPS // 20, 20),
        (9, 13, -(-RECOMMENDED_STEPS // 13)),
        (1, RECOMMENDED_STEPS, 0),
        (20, RECOMMENDED_STEPS // 20, 0),
        (1, RECOMMENDED_STEPS + 1, 0),
        (0, 13, 0),
        (9, 0, 0),
    ],
)
def test_warning_reports_short_training(epochs: int, steps_per_epoch: int, min_epochs: int) -> None:
    found = length_warnings(epochs, steps_per_epoch)
    if not min_epochs:
        assert found == []
        return
    (warning,) = found
    assert warning.startswith(f"the training has {epochs * steps_per_epoch:,} steps ")
    assert warning.endswith(f"set train.epochs to {min_epochs}.")
    assert length_warnings(min_epochs, steps_per_epoch) == []
    assert length_warnings(min_epochs - 1, steps_per_epoch) != []


@pytest.mark.parametrize("steps", [1, RECOMMENDED_STEPS - 1, RECOMMENDED_STEPS])
def test_length_warning_depends_on_steps_instead_of_epochs(steps: int) -> None:
    for epochs in (1, 10 * RECOMMENDED_STEPS):
        found = length_warnings(epochs, 13, steps)
        if steps == RECOMMENDED_STEPS:
            assert found == []
            continue
        (warning,) = found
        assert warning.startswith(f"the training has {steps:,} step")
        assert warning.endswith(f"set train.steps to {RECOMMENDED_STEPS}.")
    varied = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    monitor = TrainingMonitor("bce", epochs=1, steps_per_epoch=4, steps=9)
    warned = [monitor.check(epoch_of(number, 1.2, varied)) for number in (1, 2, 3)]
    assert warned == [[], [], length_warnings(1, 4, 9)]


def test_length_warning_is_repeated_at_the_last_epoch() -> None:
    varied = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    monitor = TrainingMonitor("bce", epochs=3, steps_per_epoch=4)
    found = [monitor.check(epoch_of(number, 1.2, varied)) for number in (1, 2, 3)]
    assert found == [[], [], length_warnings(3, 4)]


@pytest.mark.parametrize(("loss", "warned"), [("bce", 1), ("hinge", 1), ("wgan", 0)])
def test_wasserstein_loss_near_zero_gives_no_warning(loss: str, warned: int) -> None:
    varied = torch.randint(0, 256, (9, 16, 16, 3), dtype=torch.uint8).numpy()
    assert len(TrainingMonitor(loss).check(epoch_of(1, 0.001, varied))) == warned


@pytest.mark.parametrize(
    ("images", "warnings"),
    [
        (1, ["the training set has 1 image, fewer than train.batch_size (8), so that every step"]),
        (7, ["the training set has 7 images, fewer than train.batch_size (8), so that every step"]),
        (8, []),
        (9, []),
    ],
)
def test_warning_reports_batch_larger_than_training_set(images: int, warnings: list[str]) -> None:
    found = batch_warnings(8, images)
    assert [sentence[: len(start)] for sentence, start in zip(found, warnings, strict=True)] == (
        warnings
    )


@pytest.mark.parametrize(
    ("preset", "images", "is_long_enough"),
    [("sample", 2000, True), ("sample", 400, False), ("best32", 400, False), ("best32", 20, False)],
)
def test_warning_reports_presets_with_too_few_images(
    root: Path, preset: str, images: int, is_long_enough: bool
) -> None:
    values = preset_values(preset, root / "presets")
    fractions = values["convert"]["validation_fraction"], values["convert"]["test_fraction"]
    indices = np.arange(images)
    training = split(indices, [bytes(str(i), "ascii") for i in indices], *fractions).training
    warnings = training_warnings(TrainSettings(**values["train"]), len(training))
    assert (warnings == []) == is_long_enough


PRESET = (
    "; if they are photographs of people, you can also use `atelier preset few64`, which replaces"
    " your other settings."
)


@pytest.mark.parametrize(
    ("images", "batch_size", "advice"),
    [
        (999, 32, "set train.augment to [translation] and train.batch_size to 16" + PRESET),
        (80, 16, "set train.augment to [translation]" + PRESET),
        (79, 17, "set train.augment to [translation] and train.batch_size to 16."),
    ],
)
def test_few_images_without_augmentation_get_advice(
    root: Path, images: int, batch_size: int, advice: str
) -> None:
    train = preset_values("sample", root / "presets")["train"] | {"batch_size": batch_size}
    about = f"{images} images are few for a training without augmentation; "
    assert few_images_advice(TrainSettings(**train), images) == [about + advice]


@pytest.mark.parametrize(
    ("images", "changes"),
    [
        (1000, {}),
        (360, {"augment": ["color"]}),
        (64, {"start_from": {"faces": "models:/faces/1"}}),
    ],
    ids=["enough images", "augmentation", "fine-tuning"],
)
def test_other_trainings_get_no_advice(root: Path, images: int, changes: dict[str, object]) -> None:
    train = preset_values("sample", root / "presets")["train"] | changes
    assert few_images_advice(TrainSettings(**train), images) == []
