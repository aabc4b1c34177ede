"""Comparison of metrics with the formulas of their papers and with closed forms."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from atelier.core.random_streams import numpy_generator
from atelier.metrics.distances import (
    compute_kid,
    diversity,
    frechet_distance,
    ms_ssim,
    sliced_wasserstein,
)
from atelier.metrics.features import Standardizer
from atelier.metrics.neighbors import (
    PRDC,
    Nearest,
    expected_memorized_fraction,
    memorized_fraction,
    nearest_pairs,
    precision_recall_density_coverage,
)

GOLDEN_SWD = {64: (25.72, 0.87), 32: (31.02, 1.33), 16: (67.55, 2.24)}  # mean and deviation


def normal(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def reference_kid(x: torch.Tensor, y: torch.Tensor) -> float:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    return float(
        (kernel(x, x).sum() - kernel(x, x).trace()) / (n * (n - 1))
        + (kernel(y, y).sum() - kernel(y, y).trace()) / (m * (m - 1))
        - 2 * kernel(x, y).mean()
    )


def test_kid_and_jackknife_error_equal_formulas() -> None:
    x, y = normal(12, 6, 0), normal(9, 6, 1) + 0.3
    kid = compute_kid(x, y)
    assert kid.value == pytest.approx(reference_kid(x, y), rel=1e-9)
    variance = 0.0
    for left_out in (
        [reference_kid(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(12)],
        [reference_kid(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(9)],
    ):
        variance += (len(left_out) - 1) * float(np.var(left_out))
    assert kid.error == pytest.approx(variance**0.5, rel=1e-6)


def test_kid_equals_torchmetrics_for_full_subsets() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = normal(40, 6, 0), normal(40, 6, 1) + 0.3
    assert compute_kid(x, y).value == pytest.approx(float(poly_mmd(x, y)), rel=1e-4)


def test_kid_of_equal_distributions_is_0_on_average() -> None:
    same = [compute_kid(normal(60, 8, 2 * i), normal(60, 8, 2 * i + 1)) for i in range(80)]
    values = np.array([kid.value for kid in same])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    different = [compute_kid(normal(60, 8, 2 * i), normal(60, 8, 2 * i + 1) + 1) for i in range(80)]
    spread = np.std([kid.value for kid in different])
    assert spread == pytest.approx(np.mean([kid.error for kid in different]), rel=0.3)


def test_rare_feature_does_not_dominate() -> None:
    real, others = normal(400, 20, 0).relu(), normal(400, 20, 1).relu()
    real[:, :5] = others[:, :5] = 0
    real[0, 0] = 1e-4
    others[:8, :5] = 0.01
    scale = Standardizer.of(real)
    same, different = (
        compute_kid(scale(real), scale(features)).value for features in (others, others + 0.3)
    )
    assert abs(same) < 0.05 < different


@pytest.mark.parametrize("count", [30, 700])
def test_fid_equals_formula_with_scipy_square_root(count: int) -> None:
    from scipy.linalg import sqrtm

    x, y = normal(count, 40, 0).double(), normal(count + 5, 40, 1).double() * 1.5 + 0.2
    s, t = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    root = sqrtm(s @ t + 1e-12 * np.eye(40)).real
    expected = np.sum((x.mean(0) - y.mean(0)).numpy() ** 2) + np.trace(s + t - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)


def test_fid_of_normal_samples_approximates_closed_form() -> None:
    size, shift, spread = 4, 0.7, 2.0
    exact = size * (shift**2 + (spread - 1) ** 2)
    found = frechet_distance(normal(20_000, size, 0), normal(20_000, size, 1) * spread + shift)
    assert found == pytest.approx(exact, rel=0.05)


def test_fid_of_equal_sets_is_0_and_bias_grows_with_fewer_images() -> None:
    assert frechet_distance(normal(50, 30, 0), normal(50, 30, 0)) == pytest.approx(0, abs=1e-9)
    biased = [frechet_distance(normal(n, 30, 0), normal(n, 30, 1)) for n in (800, 200, 50)]
    assert 0 < biased[0] < biased[1] < biased[2]


def test_prdc_of_equal_sets_is_1_and_of_distant_sets_0() -> None:
    x = normal(100, 5, 0)
    same = precision_recall_density_coverage(x, x.clone())
    # Each image lies in its own ball and, on average, in the balls of five others.
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density == pytest.approx(6 / 5)
    apart = precision_recall_density_coverage(x, x + 100)
    assert (apart.precision, apart.recall, apart.density, apart.coverage) == (0, 0, 0, 0)


def test_prdc_equals_formulas() -> None:
    real, generated = normal(40, 3, 0), normal(30, 3, 1) * 0.7 + 0.4

    def balls(points: torch.Tensor) -> list[float]:
        return [sorted(float((a - b).norm()) for b in points)[5] for a in points]

    real_radii, generated_radii = balls(real), balls(generated)
    inside = np.array(
        [[float((m - r).norm()) <= real_radii[j] for j, r in enumerate(real)] for m in generated]
    )
    recalled = [
        any(float((m - r).norm()) <= generated_radii[i] for i, m in enumerate(generated))
        for r in real
    ]
    found = precision_recall_density_coverage(real, generated)
    assert found.precision == pytest.approx(inside.any(axis=1).mean())
    assert found.recall == pytest.approx(np.mean(recalled))
    assert found.density == pytest.approx(inside.sum() / (5 * 30))
    assert found.coverage == pytest.approx(inside.any(axis=0).mean())


def test_copies_have_their_sources_as_neighbors() -> None:
    training, unseen = normal(300, 8, 0), normal(200, 8, 1)
    others = nearest_pairs(unseen, training)
    copies = nearest_pairs(training[[7, 3, 299]], training)
    assert copies.index.tolist() == [7, 3, 299]
    assert copies.distance.max() < 1e-3
    fractions = [
        memorized_fraction(nearest_pairs(torch.cat([training[:n], unseen[n:]]), training), others)
        for n in (0, 20, 100, 200)
    ]
    # One of the 200 unseen images is nearer than the second nearest of them.
    assert fractions == pytest.approx([0.005, 0.105, 0.5, 1], abs=0.006)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, 1 / 2), (16, 1 / 17), (99, 0.01), (200, 2 / 201)]
)
def test_memorized_fraction_of_new_images_has_its_expectation(count: int, expected: float) -> None:
    assert expected_memorized_fraction(count) == pytest.approx(expected)
    training, rng = normal(50, 4, 0), torch.Generator().manual_seed(1)
    fractions = []
    for _ in range(300):
        unseen, new = (torch.randn(size, 4, generator=rng) for size in (count, 100))
        fractions.append(
            memorized_fraction(nearest_pairs(new, training), nearest_pairs(unseen, training))
        )
    assert np.mean(fractions) == pytest.approx(expected, abs=4 * np.std(fractions) / np.sqrt(300))


def test_nearer_of_image_and_mirror_image_is_used() -> None:
    plain = Nearest(
        torch.tensor([4, 5]), torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.bool)
    )
    mirror = replace(plain, index=torch.tensor([6, 7]), distance=torch.tensor([3.0, 0.5]))
    found = plain.or_mirrored(mirror)
    assert found.index.tolist() == [4, 7]
    assert found.distance.tolist() == [1.0, 0.5]
    assert found.mirrored.tolist() == [False, True]


def test_exclude_self_skips_the_image_itself() -> None:
    x = normal(1500, 3, 0)
    found = nearest_pairs(x[:1200], x, exclude_self=True)
    assert not (found.index == torch.arange(1200)).any()
    assert found.distance.min() > 0
    itself = nearest_pairs(x[:1200], x)
    assert (itself.index == torch.arange(1200)).all()
    assert itself.distance.max() < 1e-6


def test_metrics_of_several_blocks_of_rows_equal_formulas() -> None:
    """The last 76 rows are in a second block, and their images differ from the first block."""
    x, y = normal(1100, 6, 0).numpy(), normal(1100, 6, 1).numpy() * 0.8
    x[1024:] += 2
    y[1024:] -= 1
    real, generated = torch.from_numpy(x), torch.from_numpy(y)
    assert compute_kid(real, generated).value == pytest.approx(
        reference_kid(real, generated), rel=1e-6
    )
    assert compute_kid(generated, real).value == pytest.approx(
        reference_kid(real, generated), rel=1e-6
    )

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(axis=2))

    real_radii, generated_radii = (np.sort(distances(z, z), axis=1)[:, 5] for z in (x, y))
    between = distances(x, y)
    inside = between <= real_radii[:, None]
    assert precision_recall_density_coverage(real, generated) == PRDC(
        precision=pytest.approx(inside.any(axis=0).mean()),
        recall=pytest.approx((between <= generated_radii).any(axis=1).mean()),
        density=pytest.approx(inside.sum() / (5 * 1100)),
        coverage=pytest.approx(inside.any(axis=1).mean()),
    )
    found = nearest_pairs(real, generated)
    assert np.array_equal(found.index, between.argmin(axis=1))
    assert found.distance.numpy() == pytest.approx(between.min(axis=1))


def test_diversity_of_one_image_is_0_and_of_noise_high() -> None:
    rng = np.random.default_rng(0)
    for side in (16, 28, 32, 64):
        noise = rng.integers(0, 256, (20, side, side, 1), np.uint8)
        assert diversity(np.repeat(noise[:1], 20, axis=0), seed=1) == pytest.approx(0, abs=1e-5)
        assert diversity(noise, seed=1) > 0.7
    assert diversity(noise, seed=1) == diversity(noise, seed=1) != diversity(noise, seed=2)


def waves(count: int, side: int, channels: int, seed: int) -> np.ndarray:
    """Draw waves of random length and direction with noise, uint8 [count, side, side, channels]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side, :1][:2] / side
    images = []
    for _ in range(count):
        a, b, phase = rng.uniform(2, 9, (3, channels))
        wave = 127 + 80 * np.sin(a * x + phase) * np.cos(b * y)
        images.append(wave + rng.normal(0, 10, (side, side, channels)))
    return np.clip(images, 0, 255).astype(np.uint8)


def reference_ms_ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Compute TensorFlow's msssim.py for one pair of uint8 [H, W, C] with SciPy."""
    from scipy.ndimage import convolve
    from scipy.signal import convolve2d

    a, b = one.astype(np.float64), other.astype(np.float64)
    result = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        size = min(11, *a.shape[:2])
        offsets = np.arange(size) - (size - 1) / 2
        window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (1.5 * size / 11) ** 2))
        window /= window.sum()

        def blur(image: np.ndarray, window: np.ndarray = window) -> np.ndarray:
            parts = [convolve2d(image[..., c], window, "valid") for c in range(image.shape[2])]
            return np.stack(parts, axis=-1)

        mean_a, mean_b = blur(a), blur(b)
        variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
        term = (2 * (blur(a * b) - mean_a * mean_b) + 7.65**2) / (variances + 7.65**2)
        if scale == 4:
            term = term * (2 * mean_a * mean_b + 2.55**2) / (mean_a**2 + mean_b**2 + 2.55**2)
        result *= max(term.mean(), 0) ** weight
        a, b = (convolve(i, np.ones((2, 2, 1)) / 4, mode="reflect")[::2, ::2] for i in (a, b))
    return float(result)


@pytest.mark.parametrize(("side", "channels"), [(16, 3), (28, 1), (64, 3), (256, 1)])
def test_ms_ssim_equals_tensorflow_code(side: int, channels: int) -> None:
    images = waves(6, side, channels, 1)
    others = np.concatenate([images[:2] // 2 + 30, images[2:4, ::-1], waves(2, side, channels, 2)])
    others[0] = images[0]
    expected = [reference_ms_ssim(a, b) for a, b in zip(images, others, strict=True)]
    assert ms_ssim(images, others).numpy() == pytest.approx(expected, abs=1e-9)
    assert expected[0] == pytest.approx(1)
    assert max(expected[1:]) < 0.95


def test_ms_ssim_does_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    images, others = waves(5, 16, 3, 1), waves(5, 16, 3, 2)
    expected = ms_ssim(images, others)
    monkeypatch.setattr("atelier.metrics.distances._PIXELS_AT_ONCE", 2 * 16 * 16)
    assert torch.equal(ms_ssim(images, others), expected)


def test_diversity_pairs_every_image_once() -> None:
    images = np.repeat(waves(2, 16, 1, 1), 20, axis=0)
    similarity = reference_ms_ssim(images[0], images[-1])
    found = {diversity(images, seed) for seed in range(6)}
    # The number of pairs of different images, out of 20, is an integer.
    pairs = [value * 20 / (1 - similarity) for value in found]
    assert pairs == pytest.approx(np.round(pairs))
    assert len(found) > 1


def reference_swd(real: np.ndarray, generated: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Compute Karras' sliced_wasserstein.py for uint8 [N, C, H, W], finest level first."""
    from scipy.ndimage import convolve

    line = np.array([1, 4, 6, 4, 1], np.float64)
    kernel = (line[:, None] * line / 256)[None, None]
    pyramids = []
    for images in (real, generated):
        levels = [images.astype(np.float64)]
        while levels[-1].shape[2] // 2 >= 16:
            levels.append(convolve(levels[-1], kernel, mode="mirror")[:, :, ::2, ::2])
            enlarged = np.zeros(levels[-2].shape)
            enlarged[:, :, ::2, ::2] = levels[-1]
            levels[-2] = levels[-2] - convolve(enlarged, kernel * 4, mode="mirror")
        pyramids.append(levels)
    found = []
    for pair in zip(*pyramids, strict=True):
        sets = []
        for level in pair:
            size, count = level.shape[2], 128 * len(level)
            left, top = (rng.integers(size - 6, size=count) for _ in range(2))
            patches = np.array([
                level[i // 128, :, top[i] : top[i] + 7, left[i] : left[i] + 7] for i in range(count)
            ])  # fmt: skip
            patches -= patches.mean(axis=(0, 2, 3), keepdims=True)
            sets.append((patches / patches.std(axis=(0, 2, 3), keepdims=True)).reshape(count, -1))
        repeats = []
        for directions in rng.standard_normal((4, sets[0].shape[1], 128)):
            unit = directions / np.sqrt((directions**2).sum(axis=0))
            one, other = (np.sort(patches @ unit, axis=0) for patches in sets)
            repeats.append(np.abs(one - other).mean())
        found.append(1000 * float(np.mean(repeats)))
    return found


@pytest.mark.parametrize(("side", "channels"), [(16, 3), (28, 1), (64, 3)])
def test_swd_equals_karras_code(side: int, channels: int) -> None:
    real, generated = waves(4, side, channels, 1), waves(4, side, channels, 2) // 2
    found = sliced_wasserstein(real, generated, seed=3)
    rng = numpy_generator(3, "sliced_wasserstein")
    expected = reference_swd(real.transpose(0, 3, 1, 2), generated.transpose(0, 3, 1, 2), rng)
    assert list(found) == [size for size in (64, 32, 28, 16) if size in found]
    assert list(found.values()) == pytest.approx(expected, rel=1e-3)
    assert len(found) == {16: 1, 28: 1, 64: 3}[side]


def test_swd_does_not_depend_on_batches_of_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = waves(5, 32, 3, 1), waves(5, 32, 3, 2) // 2
    expected = sliced_wasserstein(real, generated, seed=3)
    monkeypatch.setattr("atelier.metrics.distances._PROJECTED", 1)
    assert sliced_wasserstein(real, generated, seed=3) == pytest.approx(expected, rel=1e-5)


def test_swd_of_many_images_needs_memory_of_patches_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With float64 copies of one set's patches, the peak was 3.6 times the patches of both sets."""
    monkeypatch.setattr("atelier.metrics.distances._PROJECTED", 2**16)
    images = waves(80, 32, 3, 1)
    tracemalloc.start()
    try:
        sliced_wasserstein(images, images[::-1], seed=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    patches = 2 * len(images) * 128 * 3 * 7 * 7 * 4  # float32, of both sets
    assert patches < peak < 1.3 * patches


def test_swd_of_fixed_images_equals_mean_of_karras_code() -> None:
    """GOLDEN_SWD is from a transcription of the published file with NumPy's seeds 0 to 19."""
    real, generated = waves(40, 64, 3, 1), waves(40, 64, 3, 2) // 2 + 40
    found = sliced_wasserstein(real, generated, seed=1)
    for size, (mean, deviation) in GOLDEN_SWD.items():
        assert found[size] == pytest.approx(mean, abs=3 * deviation)


def test_swd_of_equal_sets_is_lower() -> None:
    images = waves(12, 32, 3, 1)
    same = sliced_wasserstein(images, images, seed=1)
    other = sliced_wasserstein(images, waves(12, 32, 3, 2) // 2, seed=1)
    assert set(same) == {32, 16}
    assert all(same[size] < other[size] for size in same)


def test_swd_of_constant_channel_is_finite() -> None:
    images = waves(4, 16, 3, 1)
    images[..., 1] = 7
    assert np.isfinite(list(sliced_wasserstein(images, waves(4, 16, 3, 2), seed=1).values())).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_kid_on_a_gpu_equals_that_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(1)
    real, generated = (torch.randn(count, 64, generator=generator) for count in (1500, 1100))
    on_cpu, on_gpu = compute_kid(real, generated), compute_kid(real.cuda(), generated.cuda())
    assert on_gpu.value == pytest.approx(on_cpu.value, rel=1e-10)
    assert on_gpu.error == pytest.approx(on_cpu.error, rel=1e-10)
