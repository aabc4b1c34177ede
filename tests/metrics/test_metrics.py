from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atelier.errors import AtelierError
from atelier.metrics.evaluate import evaluate
from atelier.metrics.features import RandomFeatures, extract
from atelier.metrics.kid import kernel_distance
from atelier.metrics.swd import sliced_wasserstein
from atelier.settings import EvaluateSettings, Settings

CPU = torch.device("cpu")
Pictures = NDArray[np.uint8]


@pytest.fixture(scope="module")
def blobs() -> Pictures:
    """Pictures of one soft disc each, of varied colour, size and place: 600 of 32x32."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    pictures = []
    for _ in range(600):
        centre, radius = rng.uniform(10, 22, 2), rng.uniform(4, 10)
        disc = 1 / (1 + np.exp(np.hypot(y - centre[0], x - centre[1]) - radius))
        colour, ground = rng.uniform(0, 255, (2, 3))
        pictures.append(disc[..., None] * colour + (1 - disc[..., None]) * ground)
    return np.stack(pictures).astype(np.uint8)


@pytest.fixture
def wanted(make_settings: Callable[..., Settings]) -> EvaluateSettings:
    return make_settings(
        evaluate={"samples": 200, "kid_subsets": 10, "kid_subset_size": 100}
    ).evaluate


def test_kid_equals_the_papers_estimator_written_out() -> None:
    stream = torch.Generator().manual_seed(0)
    real = torch.randn(40, 6, generator=stream)
    generated = torch.randn(40, 6, generator=stream) + 0.3
    # With subsets as large as the sets, every subset is the whole set.
    kid = kernel_distance(real, generated, subsets=3, subset_size=40, seed=0)
    x = ((real - real.mean(0)) / real.std(0)).double()
    y = ((generated - real.mean(0)) / real.std(0)).double()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.T / 6 + 1) ** 3

    n = 40
    expected = (
        (kernel(x, x).sum() - kernel(x, x).trace()) / (n * (n - 1))
        + (kernel(y, y).sum() - kernel(y, y).trace()) / (n * (n - 1))
        - 2 * kernel(x, y).mean()
    )
    assert kid.value == pytest.approx(float(expected), rel=1e-4)
    assert kid.error == pytest.approx(0, abs=1e-6)


def test_a_feature_that_most_real_pictures_do_not_have_does_not_drown_the_others() -> None:
    stream = torch.Generator().manual_seed(0)
    real = torch.randn(400, 20, generator=stream).relu()
    real[:, :5] = 0
    real[0, 0] = 1e-4
    others = torch.randn(400, 20, generator=stream).relu()
    others[:, :5] = 0
    others[:8, :5] = 0.01
    alike = kernel_distance(real, others, subsets=20, subset_size=100, seed=0)
    far = kernel_distance(real, others + 0.3, subsets=20, subset_size=100, seed=0)
    assert abs(alike.value) < 0.05 < far.value


def test_a_set_is_at_no_distance_from_itself(blobs: Pictures) -> None:
    same = sliced_wasserstein(blobs[:100], blobs[:100], seed=1)
    assert set(same) == {32, 16}
    other = sliced_wasserstein(blobs[:100], blobs[100:200], seed=1)
    assert all(same[size] < other[size] for size in same)


def test_noise_fewer_modes_and_wrong_colours_are_worse_with_the_dose(
    blobs: Pictures, wanted: EvaluateSettings
) -> None:
    rng = np.random.default_rng(1)
    real, other = blobs[:400], blobs[400:]

    def noisy(dose: float) -> Pictures:
        return np.clip(other + rng.normal(0, dose, other.shape), 0, 255).astype(np.uint8)

    def fewer(modes: int) -> Pictures:
        return other[rng.integers(0, modes, 200)]

    for names, worse in (
        # Noise is fine texture: the features average it away, the finest scale does not.
        (("swd",), [other, noisy(10), noisy(30), noisy(90)]),
        (("kid",), [other, fewer(20), fewer(2)]),
        (("kid",), [other, 255 - other // 4, np.zeros_like(other)]),
    ):
        scores = [evaluate(wanted, real, pictures, CPU).metrics() for pictures in worse]
        for name in names:
            values = [score[name] for score in scores]
            assert values == sorted(values), (name, values)


def test_numbers_say_what_they_were_measured_with_and_repeat(
    blobs: Pictures, wanted: EvaluateSettings
) -> None:
    torch.manual_seed(1)
    first = evaluate(wanted, blobs[:400], blobs[400:], CPU)
    torch.manual_seed(2)
    second = evaluate(wanted, blobs[:400], blobs[400:], CPU)
    assert first.metrics() == second.metrics()
    assert first.metrics()["measured_with"] == {"samples": 200, "features": "random", "seed": 1}
    assert [row[0] for row in first.swd_rows()] == [16, 32]
    assert abs(first.metrics()["real_kid"]) < 5 * first.other_real.kid.error


def test_features_take_grey_pictures_and_do_not_depend_on_batches(blobs: Pictures) -> None:
    grey = blobs[:5, :, :, :1]
    together = extract(RandomFeatures(0), grey, CPU)
    singly = extract(RandomFeatures(0), grey, CPU, batch_size=1)
    assert together.shape == (5, 1024)
    torch.testing.assert_close(together, singly, rtol=1e-4, atol=1e-5)
    repeated = extract(RandomFeatures(0), grey.repeat(3, axis=-1), CPU)
    torch.testing.assert_close(together, repeated, rtol=1e-4, atol=1e-5)


def test_few_real_pictures_are_compared_as_far_as_they_go(
    blobs: Pictures, wanted: EvaluateSettings
) -> None:
    judged = evaluate(wanted, blobs[:101], blobs[:200], CPU)
    assert judged.metrics()["measured_with"]["samples"] == 50
    with pytest.raises(AtelierError, match="there are 31 pictures, but numbers need at least 32"):
        evaluate(wanted, blobs[:31], blobs[:200], CPU)
