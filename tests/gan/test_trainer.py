"""Step inputs, random streams, CUDA graphs and state of the trainer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier.core.errors import AtelierError
from atelier.core.events import Events
from atelier.core.random_streams import torch_generator
from atelier.core.settings import Settings
from atelier.gan import step_runner
from atelier.gan.cuda_graph import _restore_in_place
from atelier.gan.diagnostics import TrainingMonitor
from atelier.gan.distributed import Ranks
from atelier.gan.generation import random_latents
from atelier.gan.model import GAN
from atelier.gan.resume_rollback import follow_rank0
from atelier.gan.sample_files import epoch_files, load_samples, save_samples
from atelier.gan.step import Batch, train_step
from atelier.gan.step_runner import StepRunner
from atelier.gan.streams import RandomStreams
from atelier.gan.trainer import Trainer, _progress_note

from ..support.events import RecordedEvents

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINY = {
    "epochs": 3,
    "batch_size": 4,
    "generator_channels": 2,
    "discriminator_channels": 2,
    "latent_size": 3,
    "fixed_samples": 3,
    "precision": "fp32",
    "discriminator_norm": False,
    "seed": 11,
}
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
LABELS = np.arange(10) % 3
MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_trainer(make_settings: MakeSettings) -> Callable[..., Trainer]:
    """Return a function that builds a trainer of 3 epochs of 3 steps (4, 4 and 2 images)."""

    def build(
        ranks: Ranks | None = None, quality_fn: Any = None, events: Any = None, **changes: Any
    ) -> Trainer:
        settings = make_settings(train={**TINY, **changes}).train
        return Trainer(settings, PIXELS, CPU, ranks or Ranks(), LABELS, quality_fn, events)

    return build


def assert_equal(found: Tensor, expected: Tensor, name: str) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, msg=name)


class RecordingStep:
    """Training step that records its batches and fails for large ones."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, max_batch: int = 99, learns: bool = True
    ) -> None:
        self.batches: list[Batch] = []
        self._max_batch, self._learns = max_batch, learns
        monkeypatch.setattr(step_runner, "train_step", self)

    def __call__(self, gan: GAN, batch: Batch) -> Tensor:
        self.batches.append(batch)
        if len(batch) > self._max_batch:
            # PyTorch raises either error.
            raise RuntimeError("CUDA out of memory") if len(batch) % 2 else MemoryError
        return train_step(gan, batch) if self._learns else torch.ones(5)


@pytest.mark.parametrize(
    ("every", "expected"),
    [(0, [[], [], []]), (1, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]), (2, [[2], [4, 6], [8]])],
)
def test_samples_are_generated_after_every_nth_step(
    make_trainer: Callable[..., Trainer], every: int, expected: list[list[int]]
) -> None:
    trainer = make_trainer(sample_every_steps=every)
    samples_by_step: dict[int, np.ndarray] = {}

    def record_samples() -> None:
        samples_by_step[trainer.steps_done] = trainer.samples()

    epochs = list(trainer.run(after_step=record_samples))
    assert [list(epoch.step_samples) for epoch in epochs] == expected
    for epoch in epochs:
        for step, samples in epoch.step_samples.items():
            assert np.array_equal(samples, samples_by_step[step])
        assert np.array_equal(epoch.samples, samples_by_step[3 * epoch.number])
    assert list(samples_by_step) == list(range(1, 10))


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (10, [3])])
def test_samples_are_generated_after_every_nth_epoch_and_the_last(
    make_trainer: Callable[..., Trainer], tmp_path: Path, every: int, expected: list[int]
) -> None:
    plain = {epoch.number: epoch for epoch in make_trainer().run()}
    for epoch in make_trainer(sample_every_epochs=every).run():
        save_samples(epoch.number, epoch.samples, epoch.step_samples, tmp_path)
        assert np.array_equal(epoch.statistics, plain[epoch.number].statistics)
        assert TrainingMonitor("hinge").check(epoch) == []
    files = epoch_files(tmp_path)
    assert list(files) == expected
    for number, file in files.items():
        assert np.array_equal(load_samples(file), plain[number].samples)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"r2": 1.0, "penalty_interval": 4}, [0, 4, 8]),
        ({"gradient_penalty": 1.0}, list(range(9))),
        ({}, []),
    ],
)
def test_penalty_is_applied_at_every_nth_step(
    make_trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    expected: list[int],
) -> None:
    steps = RecordingStep(monkeypatch)
    list(make_trainer(**changes).run())
    with_penalty = [number for number, batch in enumerate(steps.batches) if batch.with_penalty]
    assert with_penalty == expected
    assert len(steps.batches) == 9


def test_each_step_draws_next_values_of_each_stream(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stream is its own generator, independent of the draws of others."""
    steps = RecordingStep(monkeypatch)
    trainer = make_trainer(conditional=True, horizontal_flip=True)
    list(trainer.run())
    order, latents, uniforms = (
        torch_generator(11, f"train.{name}.0") for name in ("order", "latents", "chances")
    )
    images = torch.from_numpy(PIXELS)
    expected = [part for _ in range(3) for part in torch.randperm(10, generator=order).split(4)]
    for batch, part in zip(steps.batches, expected, strict=True):
        assert torch.equal(batch.real, images[part])
        expected_latents = random_latents(len(part), trainer.arch, latents)
        assert torch.equal(batch.latents[:, :3], expected_latents)
        assert torch.equal(batch.latents[:, 3:].argmax(1), torch.from_numpy(LABELS)[part])
        assert batch.uniforms is not None
        expected_uniforms = torch.rand(batch.uniforms.shape, generator=uniforms)
        assert torch.equal(batch.uniforms, expected_uniforms)
        assert batch.fraction == 1


def test_random_streams_are_distinct(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(horizontal_flip=True, kid_every_epochs=1, quality_fn=lambda _images: 0.0)
    state = trainer.state()
    names = ("stream.order", "stream.latents", "stream.dropout", "stream.chances")
    streams = {bytes(state[name].numpy()) for name in names}
    for name in ("weights", "fixed_latents", "measured_latents", "augmented"):
        streams.add(bytes(torch_generator(11, f"train.{name}").get_state().numpy()))
    assert len(streams) == 8


def test_reseed_changes_random_streams(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer()
    names = ("stream.order", "stream.latents", "stream.chances")
    states = {bytes(trainer.state()[name].numpy()) for name in names}
    dropout = trainer.state()["stream.dropout"].clone()
    for rollbacks in (1, 2):
        trainer.reseed(rollbacks)
        assert trainer.rollbacks == rollbacks
        states |= {bytes(trainer.state()[name].numpy()) for name in names}
    assert len(states) == 9
    assert torch.equal(trainer.state()["stream.dropout"], dropout)
    trainer.reset()
    assert trainer.rollbacks == 0


def test_processes_get_shards_of_the_same_batches(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    single, parts = RecordingStep(monkeypatch, learns=False), []
    list(make_trainer(epochs=1, horizontal_flip=True, conditional=True).run())
    for number in range(3):
        steps = RecordingStep(monkeypatch, learns=False)
        list(make_trainer(Ranks(number, 3), epochs=1, horizontal_flip=True, conditional=True).run())
        parts.append(steps.batches)
    for step, whole in enumerate(single.batches):
        shards = [batches[step] for batches in parts]
        for name in ("real", "latents", "uniforms"):
            joined = torch.cat([getattr(shard, name) for shard in shards])
            assert torch.equal(joined, getattr(whole, name))
        assert [shard.fraction for shard in shards] == pytest.approx(
            [len(shard) / len(whole) for shard in shards]
        )


def test_several_processes_reject_dropout(make_trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(AtelierError, match=r"set runtime.launcher to python, or train.dropout"):
        make_trainer(Ranks(0, 2), network="mlp", dropout=0.3)
    assert make_trainer(Ranks(0, 2), network="mlp").steps_per_epoch == 3


@pytest.mark.parametrize(
    ("max_batch", "sentence"),
    [
        (3, "a batch of 4 images does not fit into memory; set train.batch_size to 2, which"),
        (2, "set train.batch_size to 2, which fits"),
        (1, "make train.generator_channels and train.discriminator_channels smaller"),
    ],
)
def test_out_of_memory_error_suggests_batch_size(
    make_trainer: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    max_batch: int,
    sentence: str,
) -> None:
    RecordingStep(monkeypatch, max_batch)
    with pytest.raises(AtelierError, match=sentence):
        next(make_trainer().run())


def test_batch_size_is_halved_until_it_fits(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = RecordingStep(monkeypatch, max_batch=2)
    with pytest.raises(AtelierError, match=r"set train\.batch_size to 2, which fits"):
        next(make_trainer(batch_size=10).run())
    assert [len(batch) for batch in steps.batches] == [10, 5, 2]


def test_other_errors_are_not_replaced(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    RecordingStep(monkeypatch, max_batch=3)
    with pytest.raises(MemoryError):
        next(make_trainer(Ranks(0, 2), batch_size=8).run())

    def fail(_gan: GAN, batch: Batch) -> Tensor:
        raise RuntimeError("out of memory" if len(batch) == 4 else "another reason")

    monkeypatch.setattr(step_runner, "train_step", fail)
    with pytest.raises(RuntimeError, match="another reason"):
        next(make_trainer().run())
    with pytest.raises(RuntimeError, match="another reason"):
        next(make_trainer(batch_size=3).run())


def test_dropout_is_rejected_on_mps(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(train={"network": "mlp", "dropout": 0.3}).train
    with pytest.raises(AtelierError, match=r"set runtime\.device to cpu, or train\.dropout to 0"):
        Trainer(settings, np.zeros((4, 16, 16, 3), np.uint8), torch.device("mps"))


@pytest.mark.parametrize("part", ["generator", "discriminator", "rows"])
def test_is_finite_detects_any_nan(make_trainer: Callable[..., Trainer], part: str) -> None:
    trainer = make_trainer()
    assert trainer.is_finite()
    found: list[bool] = []

    def insert_nan() -> None:
        if part == "rows":
            trainer.restore(trainer.state() | {"rows": torch.full((1, 5), float("inf"))})
        else:
            weights = list(getattr(trainer.gan, part).parameters())
            weights[-1].data[-1] = float("nan")
        found.append(trainer.is_finite())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(trainer.run(after_step=insert_nan))
    assert found == [False]


def test_state_restores_trainer_between_steps(
    make_trainer: Callable[..., Trainer],
) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        if trainer.steps_done == 5:
            raise StopError

    trainer = make_trainer(sample_every_steps=4, ema_decay=0.5)
    trainer.reseed(2)
    with pytest.raises(StopError):
        list(trainer.run(after_step=stop))
    state = {name: tensor.clone() for name, tensor in trainer.state().items()}
    assert (int(state["epochs_done"]), int(state["rollbacks"])) == (1, 2)
    assert state["rows"].shape == (2, 5)
    assert sorted(state["permutation"].tolist()) == list(range(10))
    assert [name for name in state if name.startswith("between.")] == ["between.4"]
    assert state["between.4"].shape == (3, 16, 16, 3)
    assert float(state["average.steps"]) == 5
    assert float(state["generator.adam.0.step"]) == 5
    empty = make_trainer(sample_every_steps=4, ema_decay=0.5).state()
    assert empty["rows"].shape == (0, 5)
    assert len(empty["permutation"]) == 0

    other = make_trainer(sample_every_steps=4, ema_decay=0.5)
    other.restore(state)
    assert other.steps_done == 5
    restored = other.state()
    assert restored.keys() == state.keys()
    for name, tensor in state.items():
        assert_equal(restored[name], tensor, name)


def test_columns_are_samples_of_one_class(make_trainer: Callable[..., Trainer]) -> None:
    assert make_trainer(conditional=True, fixed_samples=6).columns == 2
    assert make_trainer(fixed_samples=6).columns == 0


def test_progress_note_has_epoch_means() -> None:
    statistics = np.array([[1, 2, 0.5, 0.25, 0.125], [3, 4, 1, 0.75, 0.375]], np.float32)
    assert _progress_note(7, statistics) == (
        "epoch 7  Loss_D 2.000  Loss_G 3.000  D(x) 0.750  D(G(z)) 0.500 / 0.250"
    )


def test_progress_counts_steps_and_notes_epochs(
    make_trainer: Callable[..., Trainer],
) -> None:
    events = RecordedEvents()
    epochs = list(make_trainer(events=events).run())
    reports = events.progress
    assert [report.done for report in reports] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]
    assert {report.total for report in reports} == {9}
    notes = [report.note for report in reports if report.note]
    assert notes == [_progress_note(epoch.number, epoch.statistics) for epoch in epochs]


@pytest.mark.parametrize(
    ("changes", "attributes", "count", "expected"),
    [
        ({}, {"device": CUDA}, 4, True),
        ({}, {"device": CPU}, 4, False),
        ({}, {"device": CUDA, "use_cuda_graphs": False}, 4, False),
        ({}, {"device": CUDA, "ranks": Ranks(0, 2)}, 4, False),
        ({}, {"device": CUDA}, 2, False),
        ({"network": "mlp", "dropout": 0.3}, {"device": CUDA}, 4, False),
    ],
)
def test_only_full_batches_on_one_gpu_are_graphed(
    make_trainer: Callable[..., Trainer],
    changes: dict[str, Any],
    attributes: dict[str, Any],
    count: int,
    expected: bool,
) -> None:
    trainer = make_trainer(**changes)
    runner = StepRunner(RandomStreams(1, CPU), attributes["device"], Events())
    runner.use_cuda_graphs = attributes.get("use_cuda_graphs", True)
    gan = replace(trainer.gan, ranks=attributes.get("ranks", Ranks()))
    assert runner.can_graph(gan, Batch(torch.zeros(count), torch.zeros(count))) is expected


class FakeGraph:
    """Replacement of GraphedStep without a GPU that computes each step eagerly."""

    captured: list[bool]

    def __init__(self, gan: GAN, batch: Batch) -> None:
        self.gan, self.with_penalty = gan, batch.with_penalty
        self.captured.append(self.with_penalty)

    def __call__(self, batch: Batch) -> Tensor:
        real = batch.real.permute(0, 3, 1, 2) / 127.5 - 1
        return train_step(self.gan, replace(batch, real=real, with_penalty=self.with_penalty))


def test_graphs_with_and_without_penalty_are_captured_once(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"r1": 1.0, "penalty_interval": 2, "schedule": "linear"}
    plain = [epoch.statistics for epoch in make_trainer(**changes).run()]
    FakeGraph.captured = []
    monkeypatch.setattr(step_runner, "GraphedStep", FakeGraph)
    monkeypatch.setattr(StepRunner, "can_graph", lambda _self, _gan, batch: len(batch) == 4)
    trainer = make_trainer(**changes)
    first = next(trainer.run())
    assert FakeGraph.captured == [True, False]
    # Graphs write to memory of optimizers that a restored state replaces.
    trainer.restore(trainer.state())
    rest = list(trainer.run())
    assert FakeGraph.captured == [True, False, False, True]
    np.testing.assert_allclose([e.statistics for e in (first, *rest)], plain, rtol=1e-5)


def test_out_of_memory_during_capture_keeps_graphs_enabled(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(step_runner, "GraphedStep", fail)
    monkeypatch.setattr(StepRunner, "can_graph", lambda self, *_: self.use_cuda_graphs)
    trainer = make_trainer()
    with pytest.raises(AtelierError, match="does not fit into memory"):
        next(trainer.run())
    assert trainer.runner.use_cuda_graphs


def test_warm_up_steps_are_undone(make_trainer: Callable[..., Trainer]) -> None:
    gan = make_trainer(ema_decay=0.5).gan
    before = {name: tensor.clone() for name, tensor in gan.state().items()}
    stream = torch.Generator().manual_seed(1)
    for _ in range(2):
        train_step(gan, Batch(torch.rand(4, 3, 16, 16, generator=stream), torch.ones(4, 3)))
    moments = gan.state().keys() - before.keys()
    assert any(bool(gan.state()[name].any()) for name in moments)
    _restore_in_place(gan, before)
    for name, tensor in gan.state().items():
        assert torch.equal(tensor, before.get(name, torch.zeros_like(tensor))), name


def test_follower_rank_reaches_the_same_state(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = make_trainer(), make_trainer()
    list(first.run())
    follow_rank0(other)
    assert other.epochs_done == 3
    for name, tensor in first.state().items():
        assert_equal(other.state()[name], tensor, name)

    # After divergence, a follower continues from the state of rank 0.
    trainer = make_trainer()
    good = {name: tensor.clone() for name, tensor in trainer.state().items()}
    broadcasts: list[int] = []

    def restore_rank0() -> None:
        broadcasts.append(trainer.steps_done)
        trainer.restore(good)
        trainer.reseed(len(broadcasts))

    monkeypatch.setattr(trainer, "broadcast_state", restore_rank0)
    monkeypatch.setattr(step_runner, "train_step", _not_finite_at_first())
    follow_rank0(trainer)
    assert broadcasts == [0, 3]
    assert trainer.epochs_done == 3


def _not_finite_at_first() -> Callable[..., Tensor]:
    calls: list[int] = []

    def step(gan: GAN, batch: Batch) -> Tensor:
        calls.append(1)
        statistics = train_step(gan, batch)
        return statistics * float("nan") if len(calls) == 2 else statistics

    return step


def test_broadcast_state_restores_rank0_state(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_trainer()
    list(first.run())
    monkeypatch.setattr(Ranks, "broadcast_state", lambda _self, _state: first.state())
    single, second = make_trainer(), make_trainer(Ranks(1, 2))
    single.broadcast_state()
    second.broadcast_state()
    assert (single.epochs_done, second.epochs_done) == (0, 3)


@pytest.mark.parametrize(("every", "scored"), [(0, []), (1, [1, 2, 3]), (2, [2, 3]), (5, [3])])
def test_epochs_are_scored_at_interval_and_at_the_end(
    make_trainer: Callable[..., Trainer], every: int, scored: list[int]
) -> None:
    counts: list[int] = []

    def score(images: np.ndarray) -> float:
        counts.append(len(images))
        return 0.5

    trainer = make_trainer(quality_fn=score, kid_every_epochs=every, kid_samples=17)
    epochs = list(trainer.run())
    assert [epoch.number for epoch in epochs if epoch.quality is not None] == scored
    assert counts == [17] * len(scored)
    assert trainer.best_model.best_epoch == (scored or [0])[0]


def test_dropout_has_its_own_stream(make_trainer: Callable[..., Trainer]) -> None:
    """Training neither uses nor changes PyTorch's global stream."""
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trainer = make_trainer(network="mlp", dropout=0.5)
        results.append([epoch.statistics for epoch in trainer.run()])
        assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(*results)
    assert not torch.equal(
        trainer.state()["stream.dropout"], make_trainer().state()["stream.dropout"]
    )


def test_dropout_depends_on_the_seed_and_is_reset(make_trainer: Callable[..., Trainer]) -> None:
    states = {
        bytes(make_trainer(seed=seed).state()["stream.dropout"].numpy()) for seed in (1, 2, 3)
    }
    assert len(states) == 3
    trainer = make_trainer(network="mlp", dropout=0.5)
    start = trainer.state()["stream.dropout"].clone()
    next(trainer.run())
    assert not torch.equal(trainer.state()["stream.dropout"], start)
    trainer.reset()
    assert torch.equal(trainer.state()["stream.dropout"], start)


def test_reset_discards_graphs_of_the_earlier_networks(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGraph.captured = []
    monkeypatch.setattr(step_runner, "GraphedStep", FakeGraph)
    monkeypatch.setattr(StepRunner, "can_graph", lambda _self, _gan, batch: len(batch) == 4)
    trainer = make_trainer()
    first = next(trainer.run()).statistics
    trainer.reset()
    assert np.array_equal(next(trainer.run()).statistics, first)
    assert FakeGraph.captured == [False, False]
