"""Plan of a training: its size, its estimated duration, and no influence on the result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.core.checkpoints import Checkpoints
from atelier.core.settings import Settings, TrainSettings
from atelier.gan import training_plan
from atelier.gan.distributed import SINGLE_PROCESS, Ranks, Runtime
from atelier.gan.fit import TrainingEvents, train
from atelier.gan.resume_rollback import Resumption
from atelier.gan.step import Batch
from atelier.gan.trainer import Trainer
from atelier.gan.training_plan import TrainingPlan, estimate_seconds, plan_training
from atelier.metrics.validation import ValidationKID, validation_settings

CPU = Runtime(SINGLE_PROCESS, torch.device("cpu"))
SMALL = {
    "epochs": 60,
    "batch_size": 16,
    "generator_channels": 2,
    "discriminator_channels": 2,
    "latent_size": 4,
    "fixed_samples": 3,
    "precision": "fp32",
    "kid_every_epochs": 0,
}
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
MLP = {"network": "mlp", "dropout": 0.3}
PENALTIES = {
    "loss": "relativistic",
    "r1": 1.0,
    "penalty_interval": 4,
    "discriminator_norm": False,
    "augment": ["color", "translation", "cutout"],
    "ema_decay": 0.9,
}


class Planner(TrainingEvents):
    """Plans the training when it is ready, and stops it after some steps."""

    def __init__(self) -> None:
        self.plans: list[TrainingPlan] = []

    def on_ready(self, trainer: Trainer) -> None:
        self.plans.append(plan_training(trainer))


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Callable[..., TrainSettings]:
    return lambda **changes: make_settings(train={**SMALL, **changes}).train


def state_after(steps: int, settings: TrainSettings, events: TrainingEvents) -> dict[str, bytes]:
    """Return the state of a training that is stopped after some steps."""
    remaining = iter(range(steps, 0, -1))
    trainers: list[Trainer] = []

    class Recording(TrainingEvents):
        def on_ready(self, trainer: Trainer) -> None:
            trainers.append(trainer)
            events.on_ready(trainer)

    with pytest.raises(KeyboardInterrupt):
        stop = Resumption(stop_requested=lambda: next(remaining) == 1)
        labels = np.arange(64) % 3
        train(settings, IMAGES, labels=labels, runtime=CPU, resumption=stop, events=Recording())
    return {name: tensor.numpy().tobytes() for name, tensor in trainers[0].state().items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        MLP,
        PENALTIES,
        {"conditional": True},
        {"spectral_norm": True, "discriminator_norm": False},
    ],
    ids=["dcgan", "dropout", "penalties", "classes", "spectral norm"],
)
def test_plan_changes_no_bit_of_the_training(
    changes: dict[str, Any], settings: Callable[..., TrainSettings]
) -> None:
    planner = Planner()
    before = torch.get_rng_state()
    planned = state_after(6, settings(**changes), planner)
    assert torch.equal(torch.get_rng_state(), before)
    assert planned == state_after(6, settings(**changes), TrainingEvents())
    (plan,) = planner.plans
    assert plan.seconds is not None
    assert plan.seconds > 0


def test_plan_has_the_size_of_the_training(settings: Callable[..., TrainSettings]) -> None:
    trainer = Trainer(settings(steps=238, network="mlp"), IMAGES[:60], CPU.device)
    plan = plan_training(trainer)
    assert plan.seconds is not None
    generator, discriminator = trainer.gan.generator, trainer.gan.discriminator
    assert plan == TrainingPlan(
        images=60,
        image_size=16,
        channels=3,
        steps=238,
        steps_done=0,
        epochs=60,
        batch_size=16,
        device=torch.device("cpu"),
        precision="fp32",
        processes=1,
        generator_parameters=sum(weight.numel() for weight in generator.state_dict().values()),
        discriminator_parameters=sum(w.numel() for w in discriminator.state_dict().values()),
        seconds=plan.seconds,
    )


def test_resumed_training_is_planned_from_its_checkpoint(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    remaining = iter(range(6, 0, -1))
    stopping = Resumption(Checkpoints(tmp_path), stop_requested=lambda: next(remaining) == 1)
    planner, short = Planner(), settings(epochs=2)
    with pytest.raises(KeyboardInterrupt, match="saved"):
        train(short, IMAGES, runtime=CPU, resumption=stopping, events=planner)
    for _ in range(2):  # the second attempt has no step left
        resumption = Resumption(Checkpoints(tmp_path))
        train(short, IMAGES, runtime=CPU, resumption=resumption, events=planner)
    first, second = planner.plans
    assert (first.steps, first.steps_done) == (8, 0)
    assert (second.steps, second.steps_done) == (8, 6)
    assert second.seconds is None, "two steps are not worth a measurement"


def measured_batches(trainer: Trainer) -> list[Batch]:
    """Return the batches of all steps that the estimate measures."""
    batches: list[Batch] = []
    copies = training_plan._Copies(trainer)
    run = copies._runner.run
    copies._runner.run = lambda gan, batch: [batches.append(batch), run(gan, batch)][1]  # type: ignore[method-assign,func-returns-value]
    assert copies.step_seconds(240) > 0
    return batches


def test_each_process_measures_its_shard(settings: Callable[..., TrainSettings]) -> None:
    trainer = Trainer(settings(), IMAGES, CPU.device, Ranks(0, 3))
    assert max(map(len, measured_batches(trainer))) == 6


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [(MLP, [False, False]), (MLP | {"r1": 1.0, "penalty_interval": 4}, [False, False, True])],
)
def test_slow_steps_are_measured_once_after_the_first(
    changes: dict[str, Any],
    kinds: list[bool],
    settings: Callable[..., TrainSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_plan, "_MAX_SECONDS", 0.0)  # every step takes longer
    batches = measured_batches(Trainer(settings(**changes), IMAGES, CPU.device))
    assert [batch.with_penalty for batch in batches] == kinds
    assert {len(batch) for batch in batches} == {2}


@pytest.mark.parametrize(
    "changes", [{}, {"sample_every_steps": 3}, {"steps": 10}, {"sample_every_epochs": 2}]
)
def test_all_generated_images_are_counted(
    changes: dict[str, Any], settings: Callable[..., TrainSettings]
) -> None:
    scored: list[int] = []

    def score(images: Any) -> float:
        scored.append(len(images))
        return 1.0

    scoring = {"kid_every_epochs": 2, "kid_samples": 20, "epochs": 5}
    trainer = Trainer(settings(**scoring, **changes), IMAGES, CPU.device, quality_fn=score)
    next(iter(trainer.run()))
    expected = training_plan._generated(trainer)
    scored.clear()
    samples = 0
    for epoch in trainer.run():
        samples += len(epoch.samples) + sum(map(len, epoch.step_samples.values()))
    assert expected == samples + sum(scored)


def test_estimate_is_the_sum_of_steps_generated_and_scored_images(
    settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times of one step and one image are known: powers of 2, so that the sum is exact."""
    copies = training_plan._Copies
    monkeypatch.setattr(copies, "step_seconds", lambda _self, steps: {240: 0.5, 236: 0.25}[steps])
    monkeypatch.setattr(copies, "generation_seconds", lambda _self: 2.0**-4)
    scoring = {"kid_every_epochs": 20, "kid_samples": 32, "kid_features": "random"}
    chosen = settings(sample_every_epochs=10, **scoring)
    kid = ValidationKID(validation_settings(chosen), IMAGES, IMAGES[:20])
    kid.seconds_per_image = 2.0**-5
    trainer = Trainer(chosen, IMAGES, CPU.device, quality_fn=kid)
    # 60 epochs of 4 steps: 6 samples of 3 images, and 3 measured epochs of 32 images.
    expected = 240 * 0.5 + (6 * 3 + 3 * 32) * 2.0**-4 + 3 * 32 * 2.0**-5
    assert estimate_seconds(trainer) == expected
    next(iter(trainer.run()))
    assert estimate_seconds(trainer) == expected - 240 * 0.5 + 236 * 0.25
