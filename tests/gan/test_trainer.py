"""What the training loop gives its steps, and what it makes of their results."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier.core.errors import AtelierError
from atelier.core.progress import Progress
from atelier.core.random_streams import torch_generator
from atelier.core.settings import Settings
from atelier.gan import trainer as training_module
from atelier.gan.cuda_graph import _restore_in_place
from atelier.gan.distributed import Ranks
from atelier.gan.fit import follow_rank0
from atelier.gan.generate import random_latents
from atelier.gan.step import train_step
from atelier.gan.trainer import Trainer, _progress_note

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
def make(make_settings: MakeSettings) -> Callable[..., Trainer]:
    """Make a training of 3 epochs of 3 steps (4, 4 and 2 images), with some settings changed."""

    def build(ranks: Ranks | None = None, quality_fn: Any = None, **changes: Any) -> Trainer:
        settings = make_settings(train={**TINY, **changes}).train
        return Trainer(settings, PIXELS, CPU, ranks or Ranks(), LABELS, quality_fn)

    return build


def assert_equal(found: Tensor, expected: Tensor, name: str) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, msg=name)


class Steps:
    """Does the training's steps and keeps their arguments."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, most: int = 99, learns: bool = True
    ) -> None:
        self.arguments: list[tuple[Any, ...]] = []
        self._most, self._learns = most, learns
        monkeypatch.setattr(training_module, "train_step", self)

    def __call__(self, *arguments: Any) -> Tensor:
        self.arguments.append(arguments)
        if len(arguments[1]) > self._most:
            # torch says so in either way.
            odd = len(arguments[1]) % 2
            raise RuntimeError("CUDA out of memory") if odd else MemoryError
        return train_step(*arguments) if self._learns else torch.ones(5)


@pytest.mark.parametrize(
    ("every", "expected"),
    [(0, [[], [], []]), (1, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]), (2, [[2], [4, 6], [8]])],
)
def test_samples_are_drawn_after_every_nth_step(
    make: Callable[..., Trainer], every: int, expected: list[list[int]]
) -> None:
    training = make(sample_every_steps=every)
    drawn: dict[int, np.ndarray] = {}

    def draw() -> None:
        drawn[training.steps_done] = training.samples()

    epochs = list(training.run(after_step=draw))
    assert [list(epoch.step_samples) for epoch in epochs] == expected
    for epoch in epochs:
        for step, samples in epoch.step_samples.items():
            assert np.array_equal(samples, drawn[step])
        assert np.array_equal(epoch.samples, drawn[3 * epoch.number])
    assert list(drawn) == list(range(1, 10))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"r2": 1.0, "penalty_interval": 4}, [0, 4, 8]),
        ({"gradient_penalty": 1.0}, list(range(9))),
        ({}, []),
    ],
)
def test_the_first_and_then_every_nth_step_is_penalised(
    make: Callable[..., Trainer],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    expected: list[int],
) -> None:
    steps = Steps(monkeypatch)
    list(make(**changes).run())
    penalised = [number for number, arguments in enumerate(steps.arguments) if arguments[5]]
    assert penalised == expected
    assert len(steps.arguments) == 9


def test_each_step_gets_the_next_numbers_of_each_random_stream(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every stream is a generator of its own, so that none depends on what others draw."""
    steps = Steps(monkeypatch)
    training = make(conditional=True, horizontal_flip=True)
    list(training.run())
    order, latents, chances = (
        torch_generator(11, f"train.{name}.0") for name in ("order", "latents", "chances")
    )
    images = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 127.5 - 1
    expected = [part for _ in range(3) for part in torch.randperm(10, generator=order).split(4)]
    for (_, real, codes, share, numbers, _), part in zip(steps.arguments, expected, strict=True):
        torch.testing.assert_close(real, images[part])
        drawn = random_latents(len(part), training.arch, latents)
        assert torch.equal(codes[:, :3], drawn)
        assert torch.equal(codes[:, 3:].argmax(1), torch.from_numpy(LABELS)[part])
        assert torch.equal(numbers, torch.rand(numbers.shape, generator=chances))
        assert share == 1


def test_no_two_random_streams_are_one(make: Callable[..., Trainer]) -> None:
    training = make(horizontal_flip=True, kid_every_epochs=1, quality_fn=lambda _images: 0.0)
    state = training.state()
    names = ("stream.order", "stream.latents", "stream.dropout", "stream.chances")
    streams = {bytes(state[name].numpy()) for name in names}
    for name in ("weights", "fixed_latents", "measured_latents", "augmented"):
        streams.add(bytes(torch_generator(11, f"train.{name}").get_state().numpy()))
    assert len(streams) == 8


def test_after_it_was_taken_back_a_training_draws_other_numbers(
    make: Callable[..., Trainer],
) -> None:
    training = make()
    names = ("stream.order", "stream.latents", "stream.chances")
    seen = {bytes(training.state()[name].numpy()) for name in names}
    dropout = training.state()["stream.dropout"].clone()
    for rollbacks in (1, 2):
        training.reseed(rollbacks)
        assert training.rollbacks == rollbacks
        seen |= {bytes(training.state()[name].numpy()) for name in names}
    assert len(seen) == 9
    assert torch.equal(training.state()["stream.dropout"], dropout)
    training.reset()
    assert training.rollbacks == 0


def test_several_processes_get_their_parts_and_shares_of_the_same_batches(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = Steps(monkeypatch, learns=False), []
    list(make(epochs=1, horizontal_flip=True, conditional=True).run())
    for number in range(3):
        steps = Steps(monkeypatch, learns=False)
        list(make(Ranks(number, 3), epochs=1, horizontal_flip=True, conditional=True).run())
        parts.append(steps.arguments)
    for step, (_, *tensors) in enumerate(whole.arguments):
        for position in (0, 1, 3):
            joined = torch.cat([arguments[step][1 + position] for arguments in parts])
            assert torch.equal(joined, tensors[position])
        assert [arguments[step][3] for arguments in parts] == pytest.approx(
            [len(arguments[step][1]) / len(tensors[0]) for arguments in parts]
        )


def test_several_processes_take_no_dropout(make: Callable[..., Trainer]) -> None:
    with pytest.raises(AtelierError, match=r"set runtime.launcher to python, or train.dropout"):
        make(Ranks(0, 2), network="mlp", dropout=0.3)
    assert make(Ranks(0, 2), network="mlp").steps_per_epoch == 3


@pytest.mark.parametrize(
    ("most", "sentence"),
    [
        (3, "a batch of 4 images does not fit into memory; set train.batch_size to 2, which"),
        (2, "set train.batch_size to 2, which fits"),
        (1, "make train.generator_channels and train.discriminator_channels smaller"),
    ],
)
def test_a_batch_that_does_not_fit_says_which_would(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, most: int, sentence: str
) -> None:
    Steps(monkeypatch, most)
    with pytest.raises(AtelierError, match=sentence):
        next(make().run())


def test_larger_batches_are_halved_until_one_fits(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch, most=2)
    with pytest.raises(AtelierError, match=r"set train\.batch_size to 2, which fits"):
        next(make(batch_size=10).run())
    assert [len(arguments[1]) for arguments in steps.arguments] == [10, 5, 2]


def test_other_errors_and_those_of_several_processes_are_passed_on(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    Steps(monkeypatch, most=3)
    with pytest.raises(MemoryError):
        next(make(Ranks(0, 2), batch_size=8).run())

    def fail(_gan: Any, real: Tensor, *_arguments: Any) -> Tensor:
        raise RuntimeError("out of memory" if len(real) == 4 else "another reason")

    monkeypatch.setattr(training_module, "train_step", fail)
    with pytest.raises(RuntimeError, match="another reason"):
        next(make().run())
    with pytest.raises(RuntimeError, match="another reason"):
        next(make(batch_size=3).run())


@pytest.mark.parametrize("part", ["generator", "discriminator", "rows"])
def test_any_number_that_is_not_finite_is_noticed(make: Callable[..., Trainer], part: str) -> None:
    training = make()
    assert training.is_finite()
    found: list[bool] = []

    def spoil() -> None:
        if part == "rows":
            training.restore(training.state() | {"rows": torch.full((1, 5), float("inf"))})
        else:
            weights = list(getattr(training.gan, part).parameters())
            weights[-1].data[-1] = float("nan")
        found.append(training.is_finite())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(training.run(after_step=spoil))
    assert found == [False]


def test_a_state_holds_what_the_rest_of_the_training_depends_on(
    make: Callable[..., Trainer],
) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        if training.steps_done == 5:
            raise StopError

    training = make(sample_every_steps=4, ema_decay=0.5)
    training.reseed(2)
    with pytest.raises(StopError):
        list(training.run(after_step=stop))
    state = {name: tensor.clone() for name, tensor in training.state().items()}
    assert (int(state["epochs_done"]), int(state["rollbacks"])) == (1, 2)
    assert state["rows"].shape == (2, 5)
    assert sorted(state["permutation"].tolist()) == list(range(10))
    assert [name for name in state if name.startswith("between.")] == ["between.4"]
    assert state["between.4"].shape == (3, 16, 16, 3)
    assert float(state["average.steps"]) == 5
    assert float(state["generator.adam.0.step"]) == 5
    empty = make(sample_every_steps=4, ema_decay=0.5).state()
    assert empty["rows"].shape == (0, 5)
    assert len(empty["permutation"]) == 0

    other = make(sample_every_steps=4, ema_decay=0.5)
    other.restore(state)
    assert other.steps_done == 5
    again = other.state()
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        assert_equal(again[name], tensor, name)


def test_columns_are_samples_of_one_class(make: Callable[..., Trainer]) -> None:
    assert make(conditional=True, fixed_samples=6).columns == 2
    assert make(fixed_samples=6).columns == 0


def test_the_note_of_an_epoch_holds_its_means() -> None:
    statistics = np.array([[1, 2, 0.5, 0.25, 0.125], [3, 4, 1, 0.75, 0.375]], np.float32)
    assert _progress_note(7, statistics) == (
        "epoch 7  Loss_D 2.000  Loss_G 3.000  D(x) 0.750  D(G(z)) 0.500 / 0.250"
    )


def test_progress_counts_every_step_and_ends_each_epoch_with_its_note(
    make: Callable[..., Trainer],
) -> None:
    reports: list[Progress] = []
    epochs = list(make().run(reports.append))
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
def test_whole_batches_on_one_gpu_are_recorded(
    make: Callable[..., Trainer],
    changes: dict[str, Any],
    attributes: dict[str, Any],
    count: int,
    expected: bool,
) -> None:
    training = make(**changes)
    for name, value in attributes.items():
        setattr(training, name, value)
    assert training._can_graph(count) is expected


class Recorded:
    """Takes a recording's place where there is no GPU: does each step anew."""

    made: list[bool]

    def __init__(self, gan: Any, *arguments: Any) -> None:
        self.gan, self.penalised = gan, arguments[3]
        self.made.append(self.penalised)

    def __call__(self, pixels: Tensor, latents: Tensor, chances: Tensor) -> Tensor:
        real = pixels.permute(0, 3, 1, 2) / 127.5 - 1
        return train_step(self.gan, real, latents, 1.0, chances, self.penalised)


def test_steps_with_and_without_penalties_are_recorded_once_each(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"r1": 1.0, "penalty_interval": 2, "schedule": "linear"}
    plain = [epoch.statistics for epoch in make(**changes).run()]
    Recorded.made = []
    monkeypatch.setattr(training_module, "GraphedStep", Recorded)
    monkeypatch.setattr(Trainer, "_can_graph", lambda _self, count: count == 4)
    training = make(**changes)
    first = next(training.run())
    assert Recorded.made == [True, False]
    # Recordings write to memory of optimizers that a restored state replaces.
    training.restore(training.state())
    rest = list(training.run())
    assert Recorded.made == [True, False, False, True]
    np.testing.assert_allclose([e.statistics for e in (first, *rest)], plain, rtol=1e-5)


def test_memory_that_is_too_small_for_a_recording_is_no_reason_to_go_without(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(training_module, "GraphedStep", refuse)
    monkeypatch.setattr(Trainer, "_can_graph", lambda self, _count: self.use_cuda_graphs)
    training = make()
    with pytest.raises(AtelierError, match="does not fit into memory"):
        next(training.run())
    assert training.use_cuda_graphs


def test_steps_before_a_recording_leave_no_trace(make: Callable[..., Trainer]) -> None:
    gan = make(ema_decay=0.5).gan
    before = {name: tensor.clone() for name, tensor in gan.state().items()}
    stream = torch.Generator().manual_seed(1)
    for _ in range(2):
        train_step(gan, torch.rand(4, 3, 16, 16, generator=stream), torch.ones(4, 3))
    moments = gan.state().keys() - before.keys()
    assert any(bool(gan.state()[name].any()) for name in moments)
    _restore_in_place(gan, before)
    for name, tensor in gan.state().items():
        assert torch.equal(tensor, before.get(name, torch.zeros_like(tensor))), name


def test_a_process_that_is_not_the_first_trains_to_the_same_end(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = make(), make()
    list(first.run())
    follow_rank0(other)
    assert other.epochs_done == 3
    for name, tensor in first.state().items():
        assert_equal(other.state()[name], tensor, name)

    # One that goes astray stands where the first was taken back to.
    training = make()
    good = {name: tensor.clone() for name, tensor in training.state().items()}
    agreed: list[int] = []

    def agree() -> None:
        agreed.append(training.steps_done)
        training.restore(good)
        training.reseed(len(agreed))

    monkeypatch.setattr(training, "broadcast_state", agree)
    monkeypatch.setattr(training_module, "train_step", _not_finite_at_first())
    follow_rank0(training)
    assert agreed == [0, 3]
    assert training.epochs_done == 3


def _not_finite_at_first() -> Callable[..., Tensor]:
    calls: list[int] = []

    def step(*arguments: Any) -> Tensor:
        calls.append(1)
        statistics = train_step(*arguments)
        return statistics * float("nan") if len(calls) == 2 else statistics

    return step


def test_processes_agree_on_the_state_of_the_first(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make()
    list(first.run())
    monkeypatch.setattr(Ranks, "broadcast_state", lambda _self, _state: first.state())
    alone, second = make(), make(Ranks(1, 2))
    alone.broadcast_state()
    second.broadcast_state()
    assert (alone.epochs_done, second.epochs_done) == (0, 3)


@pytest.mark.parametrize(("every", "measured"), [(0, []), (1, [1, 2, 3]), (2, [2, 3]), (5, [3])])
def test_epochs_are_measured_every_so_often_and_at_the_end(
    make: Callable[..., Trainer], every: int, measured: list[int]
) -> None:
    counts: list[int] = []

    def score(images: np.ndarray) -> float:
        counts.append(len(images))
        return 0.5

    training = make(quality_fn=score, kid_every_epochs=every, kid_samples=17)
    epochs = list(training.run())
    assert [epoch.number for epoch in epochs if epoch.quality is not None] == measured
    assert counts == [17] * len(measured)
    assert training.best_model.best_epoch == (measured or [0])[0]


def test_dropout_draws_from_a_stream_of_its_own(make: Callable[..., Trainer]) -> None:
    """So a training neither depends on torch's global stream nor changes it."""
    outcomes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        training = make(network="mlp", dropout=0.5)
        outcomes.append([epoch.statistics for epoch in training.run()])
        assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(*outcomes)
    assert not torch.equal(training.state()["stream.dropout"], make().state()["stream.dropout"])
