"""Bit-exact resuming and rollback of training."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from atelier.core.checkpoints import Checkpoints
from atelier.core.errors import AtelierError
from atelier.core.settings import Settings, TrainSettings
from atelier.gan.history import EpochResult
from atelier.gan.resume_rollback import Resumption, train_epochs
from atelier.gan.serialization import load_generator
from atelier.gan.trainer import Trainer

from ..support.divergence import NanWeights
from ..support.events import RecordedEvents
from ..support.selection import slow_after

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


def build_trainer(settings: TrainSettings, events: RecordedEvents | None = None) -> Trainer:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(20) % 3

    def mean_level(images: np.ndarray) -> float:
        return float(images.mean())

    device = torch.device("cpu")
    return Trainer(settings, pixels, device, labels=labels, quality_fn=mean_level, events=events)


def outcome(trainer: Trainer, epochs: list[EpochResult]) -> dict[str, bytes]:
    """Return the bytes of the final state and of all epochs."""
    result = {f"state.{name}": t.numpy().tobytes() for name, t in trainer.state().items()}
    for epoch in epochs:
        result[f"{epoch.number}.statistics"] = epoch.statistics.tobytes()
        result[f"{epoch.number}.quality"] = str(epoch.quality).encode()
        result[f"{epoch.number}.images"] = epoch.images.tobytes()
        result[f"{epoch.number}.samples"] = epoch.samples.tobytes()
        result |= {f"between.{step}": p.tobytes() for step, p in epoch.step_samples.items()}
    return result


class StopAfter:
    """Stop request after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.remaining = steps

    def __call__(self) -> bool:
        self.remaining -= 1
        return self.remaining == 0


@cache
def uninterrupted_outcome(settings: str) -> dict[str, bytes]:
    """Return the outcome of an uninterrupted training; computed once per settings."""
    uninterrupted = build_trainer(TrainSettings.model_validate_json(settings))
    return outcome(uninterrupted, list(uninterrupted.run()))


@pytest.fixture
def expected(settings: TrainSettings) -> dict[str, bytes]:
    return uninterrupted_outcome(settings.model_dump_json())


@pytest.mark.parametrize(
    "steps",
    slow_after(2, [3, 4, 1, 8, 2, 5, 6, 7]),
)
def test_resume_is_bit_exact(
    settings: TrainSettings, expected: dict[str, bytes], tmp_path: Path, steps: int
) -> None:
    checkpoints = Checkpoints(tmp_path)
    yielded: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        for epoch in train_epochs(
            build_trainer(settings), Resumption(checkpoints, stop_requested=StopAfter(steps))
        ):
            yielded.append(epoch.number)
    torch.manual_seed(steps)  # the global stream must not matter
    second = build_trainer(settings)
    epochs = list(train_epochs(second, Resumption(checkpoints)))
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert outcome(second, epochs) == expected


def test_resume_after_every_step_is_bit_exact(
    settings: TrainSettings, expected: dict[str, bytes], tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for _ in range(9):
        with pytest.raises(KeyboardInterrupt):
            list(
                train_epochs(
                    build_trainer(settings), Resumption(checkpoints, stop_requested=lambda: True)
                )
            )
    last = build_trainer(settings)
    assert outcome(last, list(train_epochs(last, Resumption(checkpoints)))) == expected


def test_finished_training_is_restored(
    settings: TrainSettings, expected: dict[str, bytes], tmp_path: Path
) -> None:
    list(train_epochs(build_trainer(settings), Resumption(Checkpoints(tmp_path))))
    restored = build_trainer(settings)
    epochs = list(
        train_epochs(restored, Resumption(Checkpoints(tmp_path), stop_requested=lambda: True))
    )
    assert outcome(restored, epochs) == expected


@pytest.mark.parametrize("damage", slow_after(1, ["cut", "gone", "flip", "empty"]))
@pytest.mark.parametrize("which", ["state", "epoch"])
def test_damaged_checkpoint_is_ignored(
    settings: TrainSettings, expected: dict[str, bytes], tmp_path: Path, damage: str, which: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(
            train_epochs(
                build_trainer(settings),
                Resumption(Checkpoints(tmp_path), stop_requested=StopAfter(5)),
            )
        )
    newest = max(tmp_path.glob(f"{which}-*"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[:-7], "flip": content, "empty": b""}
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes(damaged[damage])
    second = build_trainer(settings)
    assert (
        outcome(second, list(train_epochs(second, Resumption(Checkpoints(tmp_path))))) == expected
    )


def test_checkpoint_with_nan_weights_is_rejected(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(train=SMALL).train
    checkpoints = Checkpoints(tmp_path)
    first = build_trainer(settings)
    with pytest.raises(KeyboardInterrupt):
        list(train_epochs(first, Resumption(checkpoints, stop_requested=lambda: True)))
    with torch.no_grad():
        next(first.gan.generator.parameters()).fill_(float("nan"))
    checkpoints.save(first.steps_done, first.state())
    with pytest.raises(AtelierError, match="weights that are not finite numbers; delete"):
        list(train_epochs(build_trainer(settings), Resumption(checkpoints)))


def test_only_last_checkpoints_are_kept(settings: TrainSettings, tmp_path: Path) -> None:
    list(train_epochs(build_trainer(settings), Resumption(Checkpoints(tmp_path), seconds=0)))
    assert {path.name for path in tmp_path.glob("state-*")} == {
        "state-000000000009.safetensors",
        "state-000000000009-milestone.safetensors",
    }
    assert len(list(tmp_path.glob("epoch-*"))) == 3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_diverged_training_is_rolled_back(settings: TrainSettings, tmp_path: Path) -> None:
    events = RecordedEvents()
    trainer = build_trainer(settings, events)
    nan_weights = NanWeights(trainer, steps=5, times=1)
    epochs = list(train_epochs(trainer, Resumption(Checkpoints(tmp_path), nan_weights)))
    assert [epoch.number for epoch in epochs] == [1, 2, 3]
    assert all(np.isfinite(epoch.statistics).all() for epoch in epochs)
    assert [epoch.images[-1] for epoch in epochs] == [20, 40, 60]
    (warning,) = events.warnings
    assert "Rolled back to step 3" in warning
    assert trainer.rollbacks == 1


@pytest.mark.parametrize("steps", slow_after(1, [5, 4, 1]))
def test_rollback_is_bit_exact(settings: TrainSettings, tmp_path: Path, steps: int) -> None:
    """The result does not depend on when divergence is detected or on interruptions."""
    uninterrupted, interrupted = build_trainer(settings), build_trainer(settings)
    expected = outcome(
        uninterrupted,
        list(
            train_epochs(
                uninterrupted,
                Resumption(Checkpoints(tmp_path / "1"), NanWeights(uninterrupted, steps, 1)),
            )
        ),
    )
    checkpoints = Checkpoints(tmp_path / "2")
    stop = StopAfter(steps + 4)  # after the rollback
    nan_weights = NanWeights(interrupted, steps, 1)
    with pytest.raises(KeyboardInterrupt):
        list(
            train_epochs(
                interrupted, Resumption(checkpoints, lambda: nan_weights() or stop(), seconds=0)
            )
        )
    last = build_trainer(settings)
    assert outcome(last, list(train_epochs(last, Resumption(checkpoints)))) == expected


def test_rollback_removes_later_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in range(6):
        checkpoints.save(number, {"at": torch.tensor(number)}, epoch_end=number in (0, 2))
    state = checkpoints.roll_back()
    assert state is not None
    assert int(state["at"]) == 2
    assert [path.stem for path in tmp_path.iterdir()] == ["state-000000000002-milestone"]
    assert int((checkpoints.latest() or {})["at"]) == 2


def test_repeated_divergence_fails_and_saves_last_finite_generator(
    settings: TrainSettings, tmp_path: Path
) -> None:
    trainer = build_trainer(settings)
    with pytest.raises(AtelierError, match="rolled back 3 times; the generator of step 6"):
        list(
            train_epochs(
                trainer, Resumption(Checkpoints(tmp_path), NanWeights(trainer, steps=8, times=99))
            )
        )
    generator = load_generator(tmp_path / "generator.safetensors").network
    assert all(bool(p.isfinite().all()) for p in generator.parameters())


def damage_epoch_ends(folder: Path) -> None:
    for milestone in folder.glob("*-milestone*"):
        milestone.write_bytes(b"damaged")


def test_rollback_of_a_resumed_training_fails_if_checkpoints_are_damaged(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings(train=SMALL).train
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        list(train_epochs(build_trainer(settings), Resumption(checkpoints, StopAfter(4))))
    damage_epoch_ends(tmp_path)
    trainer = build_trainer(settings)
    nan_weights = NanWeights(trainer, steps=5, times=1)
    with pytest.raises(AtelierError, match=r"not finite; .* Its checkpoints are damaged"):
        list(train_epochs(trainer, Resumption(checkpoints, nan_weights)))


@pytest.mark.parametrize("seconds", slow_after(1, [1e9, 0]))
def test_rollback_needs_no_checkpoint_of_the_same_process(
    settings: TrainSettings, tmp_path: Path, seconds: float
) -> None:
    outcomes = []
    for damage in (False, True):
        folder = tmp_path / str(damage)
        trainer = build_trainer(settings)
        nan_weights = NanWeights(trainer, steps=5, times=1)

        def after_step(
            damage: bool = damage, folder: Path = folder, fill: NanWeights = nan_weights
        ) -> bool:
            if damage and fill.times:
                damage_epoch_ends(folder)
            return fill()

        resumption = Resumption(Checkpoints(folder), after_step, seconds)
        outcomes.append(outcome(trainer, list(train_epochs(trainer, resumption))))
    assert outcomes[0] == outcomes[1]


def test_stop_saves_the_start_of_an_epoch_that_diverged(
    settings: TrainSettings, tmp_path: Path
) -> None:
    uninterrupted = build_trainer(settings)
    epochs = list(train_epochs(uninterrupted, Resumption(Checkpoints(tmp_path / "1"))))
    trainer, checkpoints = build_trainer(settings), Checkpoints(tmp_path / "2")
    nan_weights = NanWeights(trainer, steps=5, times=1)
    resumption = Resumption(checkpoints, lambda: nan_weights() or not nan_weights.times)
    with pytest.raises(KeyboardInterrupt, match="saved"):
        list(train_epochs(trainer, resumption))
    assert [path.stem for path in checkpoints.folder.glob("state-*")] == [
        "state-000000000003-milestone"
    ]
    resumed = build_trainer(settings)
    assert outcome(resumed, list(train_epochs(resumed, Resumption(checkpoints)))) == outcome(
        uninterrupted, epochs
    )


def test_diverged_state_is_not_saved_on_stop(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    trainer = build_trainer(make_settings(train=SMALL).train)
    nan_weights = NanWeights(trainer, steps=2, times=1)
    with pytest.raises(KeyboardInterrupt, match="saved"):
        list(
            train_epochs(
                trainer,
                Resumption(Checkpoints(tmp_path), lambda: nan_weights() or not nan_weights.times),
            )
        )
    assert list(tmp_path.glob("state-*")) == []


class RecordingCheckpoints(Checkpoints):
    """Checkpoints that record the numbers of saved states."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.numbers: list[int] = []

    def save(self, number: int, *arguments: Any, **options: Any) -> None:
        """Save a state, and record its number."""
        self.numbers.append(number)
        super().save(number, *arguments, **options)


@pytest.mark.parametrize(("seconds", "saved"), [(0, [1, 2, 3, 3, 4, 5, 6, 6]), (1e9, [6])])
def test_checkpoints_are_saved_by_time_and_at_the_end(
    make_settings: Callable[..., Settings], tmp_path: Path, seconds: float, saved: list[int]
) -> None:
    checkpoints, events = RecordingCheckpoints(tmp_path), RecordedEvents()
    trainer = build_trainer(make_settings(train={**SMALL, "epochs": 2}).train, events)
    list(train_epochs(trainer, Resumption(checkpoints, seconds=seconds)))
    assert checkpoints.numbers == saved
    assert events.progress[-1].done == 6


def test_recent_start_of_an_epoch_is_saved_instead_of_a_step(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [0, 50, 60, 95, 101, 205, 206, 207, 208, 209]  # of the start and after each step
    clock = SimpleNamespace(monotonic=lambda: times[trainer.steps_done])
    trainer = build_trainer(make_settings(train=SMALL).train)
    monkeypatch.setattr("atelier.gan.resume_rollback.time", clock)
    checkpoints = RecordingCheckpoints(tmp_path)
    list(train_epochs(trainer, Resumption(checkpoints, seconds=100)))
    assert checkpoints.numbers == [3, 5, 9]
