"""Results of epochs as CSV rows and as a summary, and the best model."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.gan.history import BestModel, EpochResult, History
from atelier.gan.networks import build_networks

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


def test_csv_files_have_one_row_per_step_and_per_score(tmp_path: Path) -> None:
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


def test_details_have_last_means_and_first_best_epoch() -> None:
    assert history_of(THIRD).details() == {
        "epochs": 3,
        "steps": 6,
        "last_epoch": {"loss_d": 1.5, "loss_g": 1.5, "d_x": 1.5, "d_g_z1": 1.5, "d_g_z2": 1.5},
    }
    details = history_of(FIRST, SECOND, THIRD, FOURTH).details()
    assert details["last_epoch"] == {
        "loss_d": 0.5, "loss_g": 1, "d_x": 1.5, "d_g_z1": 2, "d_g_z2": 2.5,
    }  # fmt: skip
    assert {key: details[key] for key in ("epochs", "steps", "best_epoch", "best_kid")} == {
        "epochs": 4, "steps": 8, "best_epoch": 2, "best_kid": 0.25,
    }  # fmt: skip


def test_compared_kid_is_of_the_saved_generator() -> None:
    history = history_of(FIRST, SECOND, THIRD)
    assert history.metrics("last") == history.metrics("best") == {"validation_kid": 0.25}
    worse = history_of(FIRST, replace(SECOND, quality=0.75))
    assert worse.metrics("last") == {"validation_kid": 0.75}
    assert worse.metrics("best") == {"validation_kid": 0.5}
    assert history_of(THIRD).metrics("last") == {}


def test_history_drops_samples() -> None:
    history = history_of(FIRST)
    assert history._epochs[0].samples.shape == (0, 1, 1, 1)
    assert history._epochs[0].step_samples == {}
    assert history.qualities() == {1: 0.5}


def test_shorter_epoch_counts_its_own_images() -> None:
    epoch = epoch_of(2, [[1, 1, 1, 1, 1]], [20])
    assert epoch.images_seen == 8


def test_epoch_counts_its_images_and_reports_its_score() -> None:
    assert [epoch.images_seen for epoch in (FIRST, SECOND, THIRD)] == [12, 12, 12]
    assert FIRST.quality_by_epoch == {1: [0.5]}
    assert epoch_of(2, [[0] * 5], [1], 0.0).quality_by_epoch == {2: [0.0]}
    assert THIRD.quality_by_epoch == {}


def test_best_model_copies_generator_of_first_lowest_score() -> None:
    generator = build_networks(SMALL, seed=1)[0]
    weight = next(generator.parameters())
    best_model = BestModel()
    assert math.isnan(best_model.last)
    assert (best_model.best, best_model.best_epoch) == (math.inf, 0)
    with pytest.raises(ValueError, match="no epoch was scored"):
        best_model.best_generator(SMALL)
    for epoch, quality in ((2, 0.5), (4, 0.25), (6, 0.25), (8, 0.75)):
        with torch.no_grad():
            weight.fill_(epoch)
        best_model.add(epoch, quality, generator)
    assert (best_model.last, best_model.best, best_model.best_epoch) == (0.75, 0.25, 4)
    other = BestModel()
    other.restore(best_model.state())
    for model in (best_model, other):
        generator_of_best = model.best_generator(SMALL)
        assert not generator_of_best.training
        assert bool((next(generator_of_best.parameters()) == 4).all())
        assert model.state()["numbers"].tolist() == [0.75, 0.25, 4]
        assert (model.last, model.best, model.best_epoch) == (0.75, 0.25, 4)
    assert best_model.state().keys() == other.state().keys()
    assert len(best_model.state()) == 1 + len(generator.state_dict())
