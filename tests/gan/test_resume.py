"""A training that is stopped anywhere and goes on ends as one that never stopped."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.core.checkpoints import Checkpoints
from atelier.core.errors import AtelierError
from atelier.core.progress import Progress
from atelier.core.settings import Settings, TrainSettings
from atelier.gan.diagnostics import MIN_STEPS, TrainingMonitor, length_warnings
from atelier.gan.fit import train
from atelier.gan.history import EpochResult
from atelier.gan.serialization import load_generator
from atelier.gan.trainer import Trainer

from ..support.training import Poison, epoch_of

SMALL = {
    "epochs": 3,
    "batch_size": 8,
    "generator_channels": 4,
    "discriminator_channels": 4,
    "latent_size": 8,
    "fixed_samples": 5,
    "sample_every_steps": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "dcgan": {},
    "mlp": {"network": "mlp", "dropout": 0.3, "latent_distribution": "uniform"},
    "modern": {
        "loss": "relativistic",
        "r1": 1.0,
        "r2": 1.0,
        "penalty_interval": 2,
        "ema_decay": 0.9,
        "augment": ["color", "translation", "cutout"],
        "horizontal_flip": True,
        "grad_clip": 1.0,
        "generator_blocks": "residual",
        "discriminator_blocks": "residual",
        "discriminator_norm": False,
        "spectral_norm": True,
        "schedule": "cosine",
        "discriminator_lr": 0.0004,
        "gradient_penalty": 1.0,
    },
    "classes": {
        "conditional": True,
        "fixed_samples": 6,
        "kid_every_epochs": 2,
        "kid_samples": 16,
        "loss": "hinge",
        "generator_blocks": "upsample",
    },
}


@pytest.fixture(params=KINDS)
def settings(
    request: pytest.FixtureRequest, make_settings: Callable[..., Settings]
) -> TrainSettings:
    return make_settings(train={**SMALL, **KINDS[request.param]}).train


def training(settings: TrainSettings) -> Trainer:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(20) % 3

    def mean_level(images: np.ndarray) -> float:
        return float(images.mean())

    return Trainer(settings, pixels, torch.device("cpu"), labels=labels, quality_fn=mean_level)


def outcome(training: Trainer, epochs: list[EpochResult]) -> dict[str, bytes]:
    """All that a training leaves, to the bit."""
    left = {f"state.{name}": t.numpy().tobytes() for name, t in training.state().items()}
    for epoch in epochs:
        left[f"{epoch.number}.statistics"] = epoch.statistics.tobytes()
        left[f"{epoch.number}.quality"] = str(epoch.quality).encode()
        left[f"{epoch.number}.images"] = epoch.images.tobytes()
        left[f"{epoch.number}.samples"] = epoch.samples.tobytes()
        left |= {f"between.{step}": p.tobytes() for step, p in epoch.step_samples.items()}
    return left


class StopAfter:
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@cache
def undisturbed(settings: str) -> dict[str, bytes]:
    """What a training leaves that nobody stops; once for all tests of its settings."""
    uninterrupted = training(TrainSettings.model_validate_json(settings))
    return outcome(uninterrupted, list(uninterrupted.run()))


@pytest.fixture
def whole(settings: TrainSettings) -> dict[str, bytes]:
    return undisturbed(settings.model_dump_json())


@pytest.mark.parametrize("steps", range(1, 9))
def test_stopped_after_any_step_it_ends_the_same(
    settings: TrainSettings, whole: dict[str, bytes], tmp_path: Path, steps: int
) -> None:
    checkpoints = Checkpoints(tmp_path)
    heard: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        for epoch in train(training(settings), checkpoints, stop_requested=StopAfter(steps)):
            heard.append(epoch.number)
    torch.manual_seed(steps)  # the global stream must not matter
    second = training(settings)
    epochs = list(train(second, checkpoints))
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert outcome(second, epochs) == whole


def test_stopped_after_every_step_it_still_ends_the_same(
    settings: TrainSettings, whole: dict[str, bytes], tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for _ in range(9):
        with pytest.raises(KeyboardInterrupt):
            list(train(training(settings), checkpoints, stop_requested=lambda: True))
    last = training(settings)
    assert outcome(last, list(train(last, checkpoints))) == whole


def test_a_finished_training_is_taken_as_it_is(
    settings: TrainSettings, whole: dict[str, bytes], tmp_path: Path
) -> None:
    list(train(training(settings), Checkpoints(tmp_path)))
    again = training(settings)
    epochs = list(train(again, Checkpoints(tmp_path), stop_requested=lambda: True))
    assert outcome(again, epochs) == whole


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
@pytest.mark.parametrize("which", ["state", "epoch"])
def test_a_damaged_file_is_passed_over(
    settings: TrainSettings, whole: dict[str, bytes], tmp_path: Path, damage: str, which: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(train(training(settings), Checkpoints(tmp_path), stop_requested=StopAfter(5)))
    newest = max(tmp_path.glob(f"{which}-*"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-7], "flip": content, "empty": b""}
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes(damaged[damage])
    second = training(settings)
    assert outcome(second, list(train(second, Checkpoints(tmp_path)))) == whole


def test_a_checkpoint_of_weights_that_are_not_finite_is_refused(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(train=SMALL).train
    checkpoints = Checkpoints(tmp_path)
    first = training(settings)
    with pytest.raises(KeyboardInterrupt):
        list(train(first, checkpoints, stop_requested=lambda: True))
    with torch.no_grad():
        next(first.gan.generator.parameters()).fill_(float("nan"))
    checkpoints.save(first.steps_done, first.state())
    with pytest.raises(AtelierError, match="weights that are not finite numbers; delete"):
        list(train(training(settings), checkpoints))


def test_checkpoints_are_saved_by_time_and_two_are_kept(
    settings: TrainSettings, tmp_path: Path
) -> None:
    list(train(training(settings), Checkpoints(tmp_path), checkpoint_seconds=0))
    assert {path.name for path in tmp_path.glob("state-*")} == {
        "state-000000000009.safetensors",
        "state-000000000009-milestone.safetensors",
    }
    assert len(list(tmp_path.glob("epoch-*"))) == 3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_training_that_goes_astray_is_taken_back_and_ends_well(
    settings: TrainSettings, tmp_path: Path
) -> None:
    one = training(settings)
    warnings: list[str] = []
    poison = Poison(one, steps=5, times=1)
    epochs = list(train(one, Checkpoints(tmp_path), poison, warn=warnings.append))
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert all(np.isfinite(epoch.statistics).all() for epoch in epochs)
    assert [epoch.images[-1] for epoch in epochs] == [20, 40, 60]
    assert len(warnings) == 1
    assert "Rolled back to step 3" in warnings[0]
    assert one.rollbacks == 1


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_a_training_that_was_taken_back_repeats_itself(
    settings: TrainSettings, tmp_path: Path, steps: int
) -> None:
    """However late it is noticed, and whether it is killed on the way or not."""
    one, other = training(settings), training(settings)
    whole = outcome(one, list(train(one, Checkpoints(tmp_path / "1"), Poison(one, steps, 1))))
    seldom = Checkpoints(tmp_path / "2")
    stop = StopAfter(steps + 4)  # after it was taken back
    poison = Poison(other, steps, 1)
    with pytest.raises(KeyboardInterrupt):
        list(train(other, seldom, lambda: poison() or stop(), checkpoint_seconds=0))
    last = training(settings)
    assert outcome(last, list(train(last, seldom))) == whole


def test_states_after_the_milestone_are_gone_when_it_is_gone_back_to(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in range(6):
        checkpoints.save(number, {"at": torch.tensor(number)}, milestone=number in (0, 2))
    state = checkpoints.roll_back()
    assert state is not None
    assert int(state["at"]) == 2
    assert [path.stem for path in tmp_path.iterdir()] == ["state-000000000002-milestone"]
    assert int((checkpoints.latest() or {})["at"]) == 2


def test_one_that_goes_astray_again_and_again_fails_and_leaves_its_last_good_generator(
    settings: TrainSettings, tmp_path: Path
) -> None:
    one = training(settings)
    with pytest.raises(AtelierError, match="rolled back 3 times; the generator of step 6"):
        list(train(one, Checkpoints(tmp_path), Poison(one, steps=8, times=99)))
    generator, _ = load_generator(tmp_path / "generator.safetensors")
    assert all(bool(p.isfinite().all()) for p in generator.parameters())


def test_without_a_whole_milestone_there_is_no_way_back(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    one = training(make_settings(train=SMALL).train)
    poison = Poison(one, steps=5, times=1)

    def spoil() -> bool:
        if poison.times:
            for milestone in tmp_path.glob("*-milestone*"):
                milestone.write_bytes(b"damaged")
        return poison()

    with pytest.raises(AtelierError, match=r"not finite; .* Its checkpoints are damaged"):
        list(train(one, Checkpoints(tmp_path), spoil))


def test_a_state_that_went_astray_is_not_saved_when_asked_to_stop(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    one = training(make_settings(train=SMALL).train)
    poison = Poison(one, steps=2, times=1)
    with pytest.raises(KeyboardInterrupt, match="saved"):
        list(train(one, Checkpoints(tmp_path), lambda: poison() or not poison.times))
    assert list(tmp_path.glob("state-*")) == []


@pytest.mark.parametrize(("seconds", "saved"), [(0, [1, 2, 3, 3, 4, 5, 6, 6]), (1e9, [3, 6])])
def test_states_are_saved_after_so_many_seconds_and_every_epoch(
    make_settings: Callable[..., Settings], tmp_path: Path, seconds: float, saved: list[int]
) -> None:
    numbers: list[int] = []

    class Noting(Checkpoints):
        def save(self, number: int, *arguments: Any, **options: Any) -> None:
            numbers.append(number)
            super().save(number, *arguments, **options)

    one = training(make_settings(train={**SMALL, "epochs": 2}).train)
    reports: list[Progress] = []
    list(train(one, Noting(tmp_path), report=reports.append, checkpoint_seconds=seconds))
    assert numbers == saved
    assert reports[-1].done == 6


def test_a_collapse_is_noticed_and_a_healthy_training_is_not_warned_of() -> None:
    varied = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    same = np.repeat(varied[:1], 9, axis=0)
    health = TrainingMonitor()
    assert health.check(epoch_of(1, 1.2, varied)) == []
    (won,) = health.check(epoch_of(2, 0.001, varied))
    assert "the discriminator loss is near zero" in won
    (alike,) = health.check(epoch_of(3, 1.2, same))
    assert "are nearly equal" in alike


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "enough"),
    [
        (1, MIN_STEPS - 1, 2),
        (19, MIN_STEPS // 20, 20),
        (9, 13, -(-MIN_STEPS // 13)),
        (1, MIN_STEPS, 0),
        (20, MIN_STEPS // 20, 0),
        (1, MIN_STEPS + 1, 0),
        (0, 13, 0),
        (9, 0, 0),
    ],
)
def test_too_short_training_is_warned_of(epochs: int, steps_per_epoch: int, enough: int) -> None:
    found = length_warnings(epochs, steps_per_epoch)
    if not enough:
        assert found == []
        return
    (warning,) = found
    assert warning.startswith(f"the training has {epochs * steps_per_epoch:,} steps ")
    assert warning.endswith(f"set train.epochs to {enough}.")
    assert length_warnings(enough, steps_per_epoch) == []
    assert length_warnings(enough - 1, steps_per_epoch) != []


@pytest.mark.parametrize("steps", [1, MIN_STEPS - 1, MIN_STEPS])
def test_too_few_steps_are_warned_of_whatever_the_epochs(steps: int) -> None:
    for epochs in (1, 10 * MIN_STEPS):
        found = length_warnings(epochs, 13, steps)
        if steps == MIN_STEPS:
            assert found == []
            continue
        (warning,) = found
        assert warning.startswith(f"the training has {steps:,} step")
        assert warning.endswith(f"set train.steps to {MIN_STEPS}.")
    varied = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    monitor = TrainingMonitor("bce", epochs=1, steps_per_epoch=4, steps=9)
    warned = [monitor.check(epoch_of(number, 1.2, varied)) for number in (1, 2, 3)]
    assert warned == [[], [], length_warnings(1, 4, 9)]


def test_length_is_warned_of_at_the_last_epoch_only() -> None:
    varied = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    health = TrainingMonitor("bce", epochs=3, steps_per_epoch=4)
    found = [health.check(epoch_of(number, 1.2, varied)) for number in (1, 2, 3)]
    assert found == [[], [], length_warnings(3, 4)]
