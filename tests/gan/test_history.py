"""What is kept and said of epochs: tables, summaries, warnings, samples, the best generator."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.core.errors import AtelierError
from atelier.gan.diagnostics import TrainingMonitor
from atelier.gan.history import EpochResult, History
from atelier.gan.networks import build_networks
from atelier.gan.sampling import load_epochs, save_augmented, save_samples
from atelier.gan.trainer import BestModel

from ..support.architectures import SMALL

NO_SAMPLES = np.zeros((2, 1, 1, 1), np.uint8)


def epoch_of(
    number: int, rows: list[list[float]], images: list[int], quality: float | None = None
) -> EpochResult:
    first = (number - 1) * len(rows)
    statistics = np.array(rows, np.float32)
    return EpochResult(
        number,
        first,
        np.array(images),
        statistics,
        NO_SAMPLES,
        {1: NO_SAMPLES},
        quality,
        images_before=(number - 1) * 12,
    )


FIRST = epoch_of(1, [[1, 2, 0.5, 0.25, 0.125], [3, 6, 1, 0.75, 0.375]], [8, 12], 0.5)
SECOND = epoch_of(2, [[1 / 3, 2e-9, 0, 1, 0.5], [1, 1e7, 1, 0, 0.25]], [20, 24], 0.25)
THIRD = epoch_of(3, [[1, 1, 1, 1, 1], [2, 2, 2, 2, 2]], [32, 36])
FOURTH = epoch_of(4, [[0, 0, 0, 0, 0], [1, 2, 3, 4, 5]], [44, 48], 0.25)


def history_of(*epochs: EpochResult) -> History:
    history = History()
    for epoch in epochs:
        history.add(epoch)
    return history


def test_the_tables_have_a_row_for_each_step_and_each_measurement(tmp_path: Path) -> None:
    history_of(FIRST, SECOND, THIRD).write(tmp_path / "steps.csv", tmp_path / "kid.csv")
    assert (tmp_path / "steps.csv").read_text().splitlines() == [
        "step,epoch,images,loss_d,loss_g,d_x,d_g_z1,d_g_z2",
        "1,1,8,1,2,0.5,0.25,0.125",
        "2,1,12,3,6,1,0.75,0.375",
        "3,2,20,0.333333,2e-09,0,1,0.5",
        "4,2,24,1,1e+07,1,0,0.25",
        "5,3,32,1,1,1,1,1",
        "6,3,36,2,2,2,2,2",
    ]
    assert (tmp_path / "kid.csv").read_text() == "epoch,kid\n1,0.5\n2,0.25\n"


def test_the_summary_has_the_last_epochs_means_and_the_first_of_the_best() -> None:
    assert history_of(THIRD).summary() == {
        "epochs": 3,
        "steps": 6,
        "last_epoch": {"loss_d": 1.5, "loss_g": 1.5, "d_x": 1.5, "d_g_z1": 1.5, "d_g_z2": 1.5},
    }
    summary = history_of(FIRST, SECOND, THIRD, FOURTH).summary()
    assert summary["last_epoch"] == {
        "loss_d": 0.5, "loss_g": 1, "d_x": 1.5, "d_g_z1": 2, "d_g_z2": 2.5,
    }  # fmt: skip
    assert {key: summary[key] for key in ("epochs", "steps", "best_epoch", "best_kid")} == {
        "epochs": 4, "steps": 8, "best_epoch": 2, "best_kid": 0.25,
    }  # fmt: skip


def test_a_history_keeps_no_images() -> None:
    history = history_of(FIRST)
    assert history._epochs[0].samples.shape == (0, 1, 1, 1)
    assert history._epochs[0].step_samples == {}
    assert history.qualities() == {1: 0.5}


def test_epoch_that_is_cut_short_counts_its_own_images() -> None:
    cut = epoch_of(2, [[1, 1, 1, 1, 1]], [20])
    assert cut.images_seen == 8


def test_an_epoch_counts_its_own_images_and_is_a_point_where_it_was_measured() -> None:
    assert [epoch.images_seen for epoch in (FIRST, SECOND, THIRD)] == [12, 12, 12]
    assert FIRST.quality_by_epoch == {1: [0.5]}
    assert epoch_of(2, [[0] * 5], [1], 0.0).quality_by_epoch == {2: [0.0]}
    assert THIRD.quality_by_epoch == {}


def symptoms(health: TrainingMonitor, loss_d: float, spread: int, number: int = 1) -> list[str]:
    """Two images whose pixels differ by twice the spread."""
    samples = np.zeros((2, 4, 4, 3), np.uint8)
    samples[1] = 2 * spread
    statistics = np.full((4, 5), 0.7)
    statistics[:, 0] = [loss_d - 0.002, loss_d + 0.002, loss_d, loss_d]
    return health.check(EpochResult(number, 0, np.arange(4), statistics, samples, {}))


@pytest.mark.parametrize(
    ("loss", "remedy"),
    [
        ("bce", "train.label_smoothing 0.1"),
        ("hinge", "train.r1 1.0"),
        ("relativistic", "train.r1 1.0"),
    ],
)
def test_a_mean_loss_of_the_discriminator_below_a_hundredth_is_warned_of(
    loss: str, remedy: str
) -> None:
    assert symptoms(TrainingMonitor(loss), 0.0101, 50) == []
    (warning,) = symptoms(TrainingMonitor(loss), 0.0099, 50, number=7)
    assert warning.startswith(
        "in epoch 7 the discriminator loss is near zero (0.0099), so the generator"
    )
    assert f"try {remedy} or a smaller train.lr" in warning


def test_a_spread_below_a_fifth_of_the_widest_is_warned_of() -> None:
    health = TrainingMonitor()
    for spread in (50, 100, 60, 21):
        assert symptoms(health, 1, spread) == []
    (warning,) = symptoms(health, 1, 19, number=8)
    assert warning.startswith(
        "in epoch 8 the generated images are nearly equal (spread 19.0 after 100.0)"
    )
    assert symptoms(health, 1, 21) == []
    assert len(symptoms(health, 0.001, 19)) == 2
    assert symptoms(TrainingMonitor("wgan"), -5, 1) == []
    assert symptoms(TrainingMonitor(), 1, 0, number=0) == [], (
        "all alike from the start is no collapse"
    )


def test_the_first_of_the_least_is_the_best_and_its_generator_is_copied() -> None:
    generator = build_networks(SMALL, seed=1)[0]
    weight = next(generator.parameters())
    measured = BestModel()
    assert math.isnan(measured.last)
    assert (measured.best, measured.best_epoch) == (math.inf, 0)
    with pytest.raises(ValueError, match="no epoch was scored"):
        measured.best_generator(SMALL)
    for epoch, quality in ((2, 0.5), (4, 0.25), (6, 0.25), (8, 0.75)):
        with torch.no_grad():
            weight.fill_(epoch)
        measured.add(epoch, quality, generator)
    assert (measured.last, measured.best, measured.best_epoch) == (0.75, 0.25, 4)
    other = BestModel()
    other.restore(measured.state())
    for one in (measured, other):
        best = one.best_generator(SMALL)
        assert not best.training
        assert bool((next(best.parameters()) == 4).all())
        assert one.state()["numbers"].tolist() == [0.75, 0.25, 4]
        assert (one.last, one.best, one.best_epoch) == (0.75, 0.25, 4)
    assert measured.state().keys() == other.state().keys()
    assert len(measured.state()) == 1 + len(generator.state_dict())


def test_samples_are_files_named_by_epoch_and_step(tmp_path: Path) -> None:
    first, second = (np.full((2, 4, 4, 3), value, np.uint8) for value in (1, 2))
    save_samples(12, first, {345: second}, tmp_path)
    save_samples(3, second, {}, tmp_path)
    save_augmented(first, tmp_path)
    names = ["augmented.npy", "epoch_0003.npy", "epoch_0012.npy", "step_00000345.npy"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert np.array_equal(np.load(tmp_path / "step_00000345.npy"), second)
    assert np.array_equal(np.load(tmp_path / "augmented.npy"), first)
    epochs = load_epochs(tmp_path)
    assert list(epochs) == [3, 12]
    assert np.array_equal(epochs[3], second)
    assert np.array_equal(epochs[12], first)


@pytest.mark.parametrize("damage", ["cut", "pickled", "folder"])
def test_samples_that_are_damaged_are_told_in_one_sentence(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "epoch_0001.npy"
    if damage == "folder":
        file.mkdir()
    elif damage == "pickled":
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    else:
        np.save(file, np.zeros((2, 4, 4, 3), np.uint8))
        file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(
        AtelierError, match=r"epoch_0001\.npy cannot be read as samples \(.+[^.]\); run the train"
    ):
        load_epochs(tmp_path)
