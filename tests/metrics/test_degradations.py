"""Changes of metrics with increasing degradation of images."""

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
Images = NDArray[np.uint8]
COUNT = 200


@pytest.fixture(scope="module")
def settings() -> EvaluateSettings:
    return EvaluateSettings(
        samples=COUNT,
        reference="test",
        features="random",
        epochs=12,
        nearest_neighbor_pool=600,
        seed=1,
    )


class Evaluator:
    """Images of four kinds: 600 for training, 200 held out and 400 for the evaluated sets."""

    def __init__(
        self,
        images: Images,
        kinds: NDArray[np.int64],
        settings: EvaluateSettings,
        cache: FeatureCache,
    ) -> None:
        self.training, self.held_out, self.fresh = images[:600], images[600:800], images[800:]
        self.kinds = kinds[800:]
        self.settings, self.cache = settings, cache

    @cached_property
    def real_metrics(self) -> dict[str, Any]:
        """Metrics of real images, the baseline of all comparisons."""
        return self.metrics(self.fresh)

    def metrics(self, generated: Images) -> dict[str, Any]:
        return self.evaluate(generated).details()

    def evaluate(self, generated: Images) -> Evaluation:
        return evaluate(self.settings, self.training, self.held_out, generated, cache=self.cache)


@pytest.fixture(scope="module")
def evaluator(
    shapes: tuple[Images, NDArray[np.int64]],
    settings: EvaluateSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Evaluator:
    return Evaluator(*shapes, settings, FeatureCache(tmp_path_factory.mktemp("features")))


def noisy(images: Images, dose: float) -> Images:
    noise = np.random.default_rng(1).normal(0, dose, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def blurred(images: Images, dose: float) -> Images:
    return np.stack([cv2.GaussianBlur(image, (0, 0), dose) for image in images])


def ordered(values: list[float], rising: bool) -> bool:
    steps = np.diff(values)
    return bool((steps > 0).all() if rising else (steps < 0).all())


@pytest.mark.slow
def test_real_images_have_the_best_metrics(evaluator: Evaluator) -> None:
    metrics = evaluator.real_metrics
    assert abs(metrics["kid"]) < 4 * metrics["kid_error"]
    assert metrics["fid"] == pytest.approx(metrics["real_fid"], rel=0.15)
    for name in ("precision", "recall", "coverage"):
        assert metrics[name] > 0.75
        assert metrics[name] == pytest.approx(metrics[f"real_{name}"], abs=0.12)
    assert metrics["density"] == pytest.approx(1, abs=0.25)
    assert metrics["diversity"] == pytest.approx(metrics["real_diversity"], abs=0.05)
    assert metrics["memorised"] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("degrade", "doses", "falling"),
    [
        (noisy, (50, 120), ("recall", "coverage")),
        (blurred, (1.5, 4), ("precision", "recall", "density", "coverage")),
    ],
)
def test_metrics_worsen_with_noise_and_blur(
    evaluator: Evaluator,
    degrade: Callable[[Images, float], Images],
    doses: tuple[float, ...],
    falling: tuple[str, ...],
) -> None:
    metrics = [
        evaluator.real_metrics,
        *(evaluator.metrics(degrade(evaluator.fresh, dose)) for dose in doses),
    ]
    for name in ("kid", "fid", "swd", *falling):
        values = [values_by_name[name] for values_by_name in metrics]
        assert ordered(values, rising=name not in falling), (name, values)


@pytest.mark.slow
def test_missing_kinds_lower_recall_and_coverage_but_not_precision(evaluator: Evaluator) -> None:
    metrics = [evaluator.real_metrics]
    for kinds in (2, 1):
        chosen = evaluator.fresh[evaluator.kinds < kinds]
        metrics.append(evaluator.metrics(np.resize(chosen, (COUNT, *chosen.shape[1:]))))
    for name in ("recall", "coverage"):
        assert ordered([values[name] for values in metrics], rising=False), name
    assert metrics[-1]["kid"] > 3 * metrics[-1]["kid_error"]
    assert min(values["precision"] for values in metrics) > 0.9


@pytest.mark.slow
def test_repeated_images_worsen_diversity_metrics(evaluator: Evaluator) -> None:
    metrics = [evaluator.real_metrics]
    metrics += [
        evaluator.metrics(np.resize(evaluator.fresh[:n], (COUNT, 32, 32, 3))) for n in (50, 10)
    ]
    for name in ("diversity", "coverage", "recall"):
        assert ordered([values[name] for values in metrics], rising=False), name
    assert ordered([values["kid"] for values in metrics], rising=True)


@pytest.mark.slow
def test_memorized_images_are_detected_despite_good_metrics(evaluator: Evaluator) -> None:
    def mixed(copies: int) -> Images:
        return np.concatenate(
            [noisy(evaluator.training[:copies], 3), evaluator.fresh[copies:COUNT]]
        )

    metrics = [
        evaluator.real_metrics,
        *(evaluator.metrics(mixed(copies)) for copies in (50, 100, COUNT)),
    ]
    assert ordered([values["memorised"] for values in metrics], rising=True)
    assert metrics[-1]["memorised"] > 0.9
    assert abs(metrics[-1]["kid"]) < 4 * metrics[-1]["kid_error"]


@pytest.mark.slow
def test_closest_pairs_are_copies_and_their_sources(evaluator: Evaluator) -> None:
    generated = evaluator.fresh[:COUNT].copy()
    generated[[150, 7]] = evaluator.training[[3, 501]]
    indices, originals, _ = evaluator.evaluate(generated).closest(2)
    assert sorted(indices.tolist()) == [7, 150]
    assert np.array_equal(originals, generated[indices])


@pytest.mark.shared
def test_missing_digit_worsens_metrics(
    shared: Path, settings: EvaluateSettings, tmp_path: Path
) -> None:
    files = [shared / f"data/mnist/t10k-{of}-ubyte.gz" for of in ("images-idx3", "labels-idx1")]
    digits_with_names = list(itertools.islice(read_mnist(files), 2400))
    digits = np.stack([digit for _, digit in digits_with_names])[..., None]
    labels = np.array([int(name.split("/")[1]) for name, _ in digits_with_names])
    fresh, kinds = digits[1200:], labels[1200:]
    training, held_out = digits[:800], digits[800:1200]
    settings, cache = settings.model_copy(update={"samples": 400}), FeatureCache(tmp_path)

    def metrics(digits: Images) -> dict[str, Any]:
        chosen = np.resize(digits, (400, 28, 28, 1))
        return evaluate(settings, training, held_out, chosen, cache=cache).details()

    every, no_one, only_one = metrics(fresh), metrics(fresh[kinds != 1]), metrics(fresh[kinds == 1])
    for name in ("recall", "coverage"):
        assert every[name] > no_one[name] > only_one[name], name
    assert every["kid"] < no_one["kid"] < only_one["kid"]
