"""Each number against its paper's formula written out, and where it is known beforehand."""

import numpy as np
import pytest
import torch

from atelier.metrics.diversity import diversity
from atelier.metrics.features import Scale
from atelier.metrics.fid import frechet_distance
from atelier.metrics.kid import kernel_distance
from atelier.metrics.neighbours import memorised, nearest, overlap
from atelier.metrics.swd import sliced_wasserstein


def normal(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def kid_written_out(x: torch.Tensor, y: torch.Tensor) -> float:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    return float(
        (kernel(x, x).sum() - kernel(x, x).trace()) / (n * (n - 1))
        + (kernel(y, y).sum() - kernel(y, y).trace()) / (m * (m - 1))
        - 2 * kernel(x, y).mean()
    )


def test_kid_and_its_jackknife_are_what_the_papers_write() -> None:
    x, y = normal(12, 6, 0), normal(9, 6, 1) + 0.3
    kid = kernel_distance(x, y)
    assert kid.value == pytest.approx(kid_written_out(x, y), rel=1e-9)
    variance = 0.0
    for left_out in (
        [kid_written_out(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(12)],
        [kid_written_out(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(9)],
    ):
        variance += (len(left_out) - 1) * float(np.var(left_out))
    assert kid.error == pytest.approx(variance**0.5, rel=1e-6)


def test_kid_is_torchmetrics_where_a_subset_is_the_whole_set() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = normal(40, 6, 0), normal(40, 6, 1) + 0.3
    assert kernel_distance(x, y).value == pytest.approx(float(poly_mmd(x, y)), rel=1e-4)


def test_kid_of_alike_sets_is_0_on_average_and_its_error_is_honest() -> None:
    alike = [kernel_distance(normal(60, 8, 2 * i), normal(60, 8, 2 * i + 1)) for i in range(80)]
    values = np.array([kid.value for kid in alike])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    far = [kernel_distance(normal(60, 8, 2 * i), normal(60, 8, 2 * i + 1) + 1) for i in range(80)]
    spread = np.std([kid.value for kid in far])
    assert spread == pytest.approx(np.mean([kid.error for kid in far]), rel=0.3)


def test_a_feature_that_most_real_pictures_do_not_have_does_not_drown_the_others() -> None:
    real, others = normal(400, 20, 0).relu(), normal(400, 20, 1).relu()
    real[:, :5] = others[:, :5] = 0
    real[0, 0] = 1e-4
    others[:8, :5] = 0.01
    scale = Scale.of(real)
    alike, far = (kernel_distance(scale(real), scale(of)).value for of in (others, others + 0.3))
    assert abs(alike) < 0.05 < far


@pytest.mark.parametrize("count", [30, 700])
def test_fid_is_the_formula_with_scipys_root(count: int) -> None:
    from scipy.linalg import sqrtm

    x, y = normal(count, 40, 0).double(), normal(count + 5, 40, 1).double() * 1.5 + 0.2
    s, t = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    root = sqrtm(s @ t + 1e-12 * np.eye(40)).real
    expected = np.sum((x.mean(0) - y.mean(0)).numpy() ** 2) + np.trace(s + t - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)


def test_fid_of_normal_samples_nears_its_closed_form() -> None:
    size, shift, spread = 4, 0.7, 2.0
    exact = size * (shift**2 + (spread - 1) ** 2)
    found = frechet_distance(normal(20_000, size, 0), normal(20_000, size, 1) * spread + shift)
    assert found == pytest.approx(exact, rel=0.05)


def test_fid_of_a_set_with_itself_is_0_and_fewer_pictures_give_more() -> None:
    assert frechet_distance(normal(50, 30, 0), normal(50, 30, 0)) == pytest.approx(0, abs=1e-9)
    biased = [frechet_distance(normal(n, 30, 0), normal(n, 30, 1)) for n in (800, 200, 50)]
    assert 0 < biased[0] < biased[1] < biased[2]


def test_neighbours_of_a_set_with_itself_and_of_sets_far_apart() -> None:
    x = normal(100, 5, 0)
    same = overlap(x, x.clone())
    # Each picture lies in its own ball, and on average in those of five others.
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density == pytest.approx(6 / 5)
    apart = overlap(x, x + 100)
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)


def test_neighbours_are_what_the_papers_write() -> None:
    real, made = normal(40, 3, 0), normal(30, 3, 1) * 0.7 + 0.4

    def balls(of: torch.Tensor) -> list[float]:
        return [sorted(float((a - b).norm()) for b in of)[5] for a in of]

    of_real, of_made = balls(real), balls(made)
    inside = np.array(
        [[float((m - r).norm()) <= of_real[j] for j, r in enumerate(real)] for m in made]
    )
    recalled = [any(float((m - r).norm()) <= of_made[i] for i, m in enumerate(made)) for r in real]
    found = overlap(real, made)
    assert found.precision == pytest.approx(inside.any(axis=1).mean())
    assert found.recall == pytest.approx(np.mean(recalled))
    assert found.density == pytest.approx(inside.sum() / (5 * 30))
    assert found.coverage == pytest.approx(inside.any(axis=0).mean())


def test_copies_of_the_training_are_found_where_they_come_from() -> None:
    training, unseen = normal(300, 8, 0), normal(200, 8, 1)
    others = nearest(unseen, training)
    copies = nearest(training[[7, 3, 299]], training)
    assert copies.place.tolist() == [7, 3, 299]
    assert copies.distance.max() < 1e-3
    doses = [
        memorised(nearest(torch.cat([training[:n], unseen[n:]]), training), others)
        for n in (0, 20, 100, 200)
    ]
    # One in a hundred of the unseen is nearer than 99% of them, by definition.
    assert doses == pytest.approx([0.01, 0.11, 0.505, 1], abs=0.01)


def test_a_picture_does_not_find_itself_where_it_must_not() -> None:
    x = normal(1500, 3, 0)
    found = nearest(x[:1200], x, leave_itself_out=True)
    assert not (found.place == torch.arange(1200)).any()
    assert found.distance.min() > 0


def test_diversity_of_one_picture_is_0_and_of_noise_high() -> None:
    rng = np.random.default_rng(0)
    for side in (16, 28, 32, 64):
        noise = rng.integers(0, 256, (20, side, side, 1), np.uint8)
        assert diversity(np.repeat(noise[:1], 20, axis=0), seed=1) == pytest.approx(0, abs=1e-5)
        assert diversity(noise, seed=1) > 0.7
    assert diversity(noise, seed=1) == diversity(noise, seed=1) != diversity(noise, seed=2)


def test_a_set_is_at_no_sliced_distance_from_itself() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    same = sliced_wasserstein(pictures[:100], pictures[:100], seed=1)
    assert set(same) == {32, 16}
    other = sliced_wasserstein(pictures[:100], pictures[100:] // 2, seed=1)
    assert all(same[size] < other[size] for size in same)
