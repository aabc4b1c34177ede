"""Metrics become worse with increasing damage of images."""

import itertools
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atelier.core.settings import EvaluateSettings
from atelier.data.mnist import read_mnist
from atelier.metrics.cache import FeatureCache
from atelier.metrics.evaluate import Evaluation, evaluate

CPU = torch.device("cpu")
Pictures = NDArray[np.uint8]
COUNT = 200


@pytest.fixture(scope="module")
def wanted() -> EvaluateSettings:
    return EvaluateSettings(
        samples=COUNT,
        reference="test",
        features="random",
        epochs=12,
        nearest_neighbor_pool=600,
        seed=1,
    )


class Judged:
    """600 pictures of four kinds to learn from, 200 held out, and 400 to make sets of."""

    def __init__(
        self,
        pictures: Pictures,
        kinds: NDArray[np.int64],
        wanted: EvaluateSettings,
        cache: FeatureCache,
    ) -> None:
        self.training, self.held_out, self.fresh = pictures[:600], pictures[600:800], pictures[800:]
        self.kinds = kinds[800:]
        self.wanted, self.cache = wanted, cache

    @cached_property
    def of_real(self) -> dict[str, Any]:
        """The numbers of real pictures, which all others are compared with."""
        return self.numbers(self.fresh)

    def numbers(self, generated: Pictures) -> dict[str, Any]:
        return self.judge(generated).metrics()

    def judge(self, generated: Pictures) -> Evaluation:
        return evaluate(self.wanted, self.training, self.held_out, generated, CPU, cache=self.cache)


@pytest.fixture(scope="module")
def judged(
    shapes: tuple[Pictures, NDArray[np.int64]],
    wanted: EvaluateSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Judged:
    return Judged(*shapes, wanted, FeatureCache(tmp_path_factory.mktemp("features")))


def noisy(pictures: Pictures, dose: float) -> Pictures:
    noise = np.random.default_rng(1).normal(0, dose, pictures.shape)
    return np.clip(pictures + noise, 0, 255).astype(np.uint8)


def blurred(pictures: Pictures, dose: float) -> Pictures:
    return np.stack([cv2.GaussianBlur(picture, (0, 0), dose) for picture in pictures])


def ordered(values: list[float], rising: bool) -> bool:
    steps = np.diff(values)
    return bool((steps > 0).all() if rising else (steps < 0).all())


def test_real_images_have_the_best_metrics(judged: Judged) -> None:
    numbers = judged.of_real
    assert abs(numbers["kid"]) < 4 * numbers["kid_error"]
    assert numbers["fid"] == pytest.approx(numbers["real_fid"], rel=0.15)
    for name in ("precision", "recall", "coverage"):
        assert numbers[name] > 0.75
        assert numbers[name] == pytest.approx(numbers[f"real_{name}"], abs=0.12)
    assert numbers["density"] == pytest.approx(1, abs=0.25)
    assert numbers["diversity"] == pytest.approx(numbers["real_diversity"], abs=0.05)
    assert numbers["memorised"] < 0.05


@pytest.mark.parametrize(
    ("spoilt", "doses", "falling"),
    [
        (noisy, (50, 120), ("recall", "coverage")),
        pytest.param(
            *(blurred, (1.5, 4), ("precision", "recall", "density", "coverage")),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_noise_and_blur_worsen_metrics_with_the_dose(
    judged: Judged,
    spoilt: Callable[[Pictures, float], Pictures],
    doses: tuple[float, ...],
    falling: tuple[str, ...],
) -> None:
    numbers = [judged.of_real, *(judged.numbers(spoilt(judged.fresh, dose)) for dose in doses)]
    for name in ("kid", "fid", "swd", *falling):
        values = [of[name] for of in numbers]
        assert ordered(values, rising=name not in falling), (name, values)


def test_missing_kinds_lower_recall_and_coverage_but_not_precision(judged: Judged) -> None:
    numbers = [judged.of_real]
    for kinds in (2, 1):
        chosen = judged.fresh[judged.kinds < kinds]
        numbers.append(judged.numbers(np.resize(chosen, (COUNT, *chosen.shape[1:]))))
    for name in ("recall", "coverage"):
        assert ordered([of[name] for of in numbers], rising=False), name
    assert numbers[-1]["kid"] > 3 * numbers[-1]["kid_error"]
    assert min(of["precision"] for of in numbers) > 0.9


@pytest.mark.slow
def test_repeated_images_worsen_diversity_metrics(judged: Judged) -> None:
    numbers = [judged.of_real]
    numbers += [judged.numbers(np.resize(judged.fresh[:n], (COUNT, 32, 32, 3))) for n in (50, 10)]
    for name in ("diversity", "coverage", "recall"):
        assert ordered([of[name] for of in numbers], rising=False), name
    assert ordered([of["kid"] for of in numbers], rising=True)


@pytest.mark.slow
def test_memorized_images_are_detected_despite_good_metrics(judged: Judged) -> None:
    def mixed(copies: int) -> Pictures:
        return np.concatenate([noisy(judged.training[:copies], 3), judged.fresh[copies:COUNT]])

    numbers = [judged.of_real, *(judged.numbers(mixed(copies)) for copies in (50, 100, COUNT))]
    assert ordered([of["memorised"] for of in numbers], rising=True)
    assert numbers[-1]["memorised"] > 0.9
    assert abs(numbers[-1]["kid"]) < 4 * numbers[-1]["kid_error"]


def test_closest_pairs_are_copies_and_their_sources(judged: Judged) -> None:
    generated = judged.fresh[:COUNT].copy()
    generated[[150, 7]] = judged.training[[3, 501]]
    places, originals = judged.judge(generated).closest(2)
    assert sorted(places.tolist()) == [7, 150]
    assert np.array_equal(originals, generated[places])


@pytest.mark.shared
def test_missing_digit_worsens_metrics(
    shared: Path, wanted: EvaluateSettings, tmp_path: Path
) -> None:
    files = [shared / f"data/mnist/t10k-{of}-ubyte.gz" for of in ("images-idx3", "labels-idx1")]
    read = list(itertools.islice(read_mnist(files), 2400))
    digits = np.stack([digit for _, digit in read])[..., None]
    labels = np.array([int(name.split("/")[1]) for name, _ in read])
    fresh, kinds = digits[1200:], labels[1200:]
    training, held_out = digits[:800], digits[800:1200]
    wanted, cache = wanted.model_copy(update={"samples": 400}), FeatureCache(tmp_path)

    def numbers(digits: Pictures) -> dict[str, Any]:
        chosen = np.resize(digits, (400, 28, 28, 1))
        return evaluate(wanted, training, held_out, chosen, CPU, cache=cache).metrics()

    every, no_one, only_one = numbers(fresh), numbers(fresh[kinds != 1]), numbers(fresh[kinds == 1])
    for name in ("recall", "coverage"):
        assert every[name] > no_one[name] > only_one[name], name
    assert every["kid"] < no_one["kid"] < only_one["kid"]
