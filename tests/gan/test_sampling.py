import math
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from atelier.core.errors import AtelierError
from atelier.gan.generation import draw_latents, generate
from atelier.gan.sampling import (
    MAX_SEED,
    TrainedGenerator,
    generate_one_by_one,
    interpolation_loop,
    latents_for_seeds,
    slerp,
)
from atelier.gan.serialization import load_generator, save_network

from ..support.architectures import SMALL, vivid, with_changes

CPU = torch.device("cpu")


class Row(nn.Module):
    """Network that returns its input as an image of one row."""

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents[:, None, None]


def trained(latents: str = "normal", classes: int = 0, size: int = 40) -> TrainedGenerator:
    architecture = {"latent_distribution": latents, "classes": classes}
    return TrainedGenerator.from_module(Row(), size + classes, architecture, CPU)


def test_slerp_midpoint_of_orthogonal_vectors() -> None:
    start, end = torch.tensor([3.0, 0, 0, 0]), torch.tensor([0, 3.0, 0, 0])
    middle = slerp(start, end, 0.5)
    torch.testing.assert_close(middle, (start + end) / math.sqrt(2))
    third = slerp(start, end, 1 / 3)
    torch.testing.assert_close(third[:2], 3 * torch.tensor([math.cos(math.pi / 6), 0.5]))


@given(st.integers(0, 2**32), st.integers(2, 200), st.floats(0, 1))
def test_slerp_preserves_length(seed: int, size: int, part: float) -> None:
    source = torch.Generator().manual_seed(seed)
    start, end = (
        torch.nn.functional.normalize(torch.randn(size, generator=source), dim=0) for _ in range(2)
    )
    if abs(float(start @ end)) < 0.999:
        assert float(slerp(start, end, part).norm()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(slerp(start, end, 0.0), start)
    assert torch.equal(slerp(start, end, 1.0), end)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_slerp_of_parallel_vectors_is_linear(factor: float) -> None:
    start = torch.arange(5.0)
    torch.testing.assert_close(slerp(start, factor * start, 0.25), start * (0.75 + 0.25 * factor))


def test_interpolation_loop_passes_every_latent() -> None:
    sampled = trained()
    inputs = list(latents_for_seeds((5, 1, 8), sampled))
    loop = list(interpolation_loop(inputs, 4, sampled))
    assert len(loop) == 12
    for number, latent in enumerate(inputs):
        assert torch.equal(loop[4 * number], latent)
    torch.testing.assert_close(loop[11], slerp(inputs[2], inputs[0], 0.75))


@pytest.mark.parametrize("latents", ["normal", "uniform"])
def test_interpolation_stays_within_the_latents_of_the_training(latents: str) -> None:
    corner, near = torch.tensor([1.0, -1] * 20), torch.linspace(0.1, 1, 40)
    assert slerp(corner, near, 0.25).abs().max() > 1
    loop = list(interpolation_loop([corner, near], 4, trained(latents)))
    assert bool(torch.stack(loop).abs().max() > 1) is (latents == "normal")
    assert torch.equal(loop[0], corner)
    assert torch.equal(loop[4], near)


def test_all_latents_of_interpolation_loop_have_first_label() -> None:
    sampled = trained(classes=3)
    loop = list(interpolation_loop(list(latents_for_seeds((3, 4, 5), sampled)), 2, sampled))
    assert [vector[40:].tolist() for vector in loop] == [[1, 0, 0]] * 6
    plain = interpolation_loop(list(latents_for_seeds((3, 4, 5), trained())), 2, trained())
    assert all(torch.equal(vector[:40], latent) for vector, latent in zip(loop, plain, strict=True))


@pytest.mark.parametrize("latents", ["normal", "uniform"])
def test_latent_depends_only_on_its_seed(latents: str) -> None:
    arch = with_changes(SMALL, latent_distribution=latents)
    sampled = trained(latents, size=arch.latent_size)
    all_latents = list(latents_for_seeds(range(20), sampled))
    for seed, latent in enumerate(all_latents):
        assert torch.equal(latent, draw_latents(1, arch, seed)[0])
        (single,) = latents_for_seeds([seed], sampled)
        assert torch.equal(single, latent)
    assert len({tuple(latent.tolist()) for latent in all_latents}) == 20


def test_latents_of_neighboring_seeds_are_independent() -> None:
    latents = torch.stack(list(latents_for_seeds(range(200), trained(size=500))))
    scaled_correlations = torch.corrcoef(latents) * math.sqrt(500)  # about N(0, 1) if independent
    assert float(scaled_correlations.diagonal(1).abs().max()) < 4.5
    assert float(scaled_correlations[scaled_correlations < 20].std()) == pytest.approx(1, abs=0.02)


@given(st.integers(0, 2**63 - 1), st.floats(0.05, 4))
def test_truncation_redraws_only_values_beyond_threshold(seed: int, threshold: float) -> None:
    (plain,), (truncated,) = (
        latents_for_seeds([seed], trained()),
        latents_for_seeds([seed], trained(), threshold),
    )
    assert float(truncated.abs().max()) <= threshold
    unchanged = plain.abs() <= threshold
    assert torch.equal(truncated[unchanged], plain[unchanged])


def test_truncated_latents_follow_truncated_normal() -> None:
    (latents,) = latents_for_seeds([3], trained(size=100_000), 1.0)
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * density / math.erf(1 / math.sqrt(2))  # of N(0, 1) within 1
    assert float(latents.var()) == pytest.approx(variance, rel=0.02)
    assert float(latents.mean()) == pytest.approx(0, abs=0.01)


def test_label_is_set_or_alternates() -> None:
    sampled = trained(classes=3)
    labels = [latent[40:].tolist() for latent in latents_for_seeds((3, 4, 5), sampled)]
    assert labels == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert [latent[40:].tolist() for latent in latents_for_seeds((3, 4), sampled, labels=[2])] == [
        [0, 0, 1]
    ] * 2


@pytest.mark.parametrize(
    ("sampled", "truncation", "label", "sentence"),
    [
        (trained("uniform"), 1.0, None, "uniform"),
        (trained(), 0.0, None, "0.01 or more"),
        (trained(), float("nan"), None, "0.01 or more"),
        (trained(), None, 0, "no classes"),
        (trained(classes=3), None, 3, "classes 0 to 2"),
        (trained(classes=3), None, -1, "classes 0 to 2"),
        (trained(), 0.0099, None, "0.01 or more"),
    ],
)
def test_invalid_sampling_options_are_rejected(
    sampled: TrainedGenerator, truncation: float | None, label: int | None, sentence: str
) -> None:
    with pytest.raises(AtelierError, match=sentence):
        next(latents_for_seeds([1], sampled, truncation, [] if label is None else [label]))


@pytest.mark.parametrize("network", ["dcgan", "mlp"])
def test_image_does_not_depend_on_other_seeds(network: str) -> None:
    arch = with_changes(SMALL, network=network)
    generator = vivid(arch)
    sampled = TrainedGenerator.from_module(generator, arch.latent_size, {}, CPU)
    first, second, third = generate_one_by_one(sampled, latents_for_seeds((7, 8, 9), sampled))
    (single,) = generate_one_by_one(sampled, latents_for_seeds([8], sampled))
    np.testing.assert_array_equal(single, second)
    assert not np.array_equal(first, third)
    batch = generate(generator, torch.stack(list(latents_for_seeds((7, 8, 9), sampled))))
    assert np.abs(batch[1].astype(int) - second).max() <= 1


def test_bounds_of_seeds_and_truncation_are_inclusive() -> None:
    assert MAX_SEED == 2**63 - 1
    (latent,) = latents_for_seeds([MAX_SEED], trained(size=1), 0.01)
    assert float(latent.abs()) <= 0.01
    with pytest.raises((ValueError, RuntimeError)):
        next(latents_for_seeds([2**64], trained(size=1)))
    (last,) = latents_for_seeds([0], trained(classes=3), labels=[2])
    assert last[40:].tolist() == [0, 0, 1]


def test_slerp_of_nearly_parallel_vectors_is_spherical() -> None:
    """The midpoint of two unit vectors is a unit vector also at small angles."""
    angle = 1e-3
    start = torch.tensor([1.0, 0], dtype=torch.float64)
    end = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    middle = slerp(start, end, 0.5)
    assert float(middle.norm()) == pytest.approx(1, abs=1e-12)


def test_distribution_and_classes_are_read_from_generator_file(tmp_path: Path) -> None:
    arch = with_changes(SMALL, latent_distribution="uniform", classes=2)
    generator = vivid(arch)
    save_network(generator, arch, tmp_path / "g.safetensors")
    found = load_generator(tmp_path / "g.safetensors", CPU)
    assert (found.latent_size, found.latent_distribution, found.classes) == (8, "uniform", 2)
    assert found.device == CPU
    (image,) = generate_one_by_one(found, latents_for_seeds([4], found))
    assert image.shape == (16, 16, 3)
    assert np.array_equal(image, generate(generator, draw_latents(1, arch, 4))[0])
    plain = TrainedGenerator.from_module(generator, 10, {}, CPU)
    assert (plain.latent_size, plain.latent_distribution, plain.classes) == (10, "normal", 0)
    # Models logged to MLflow before the field was renamed.
    renamed = TrainedGenerator.from_module(generator, 10, {"latents": "uniform", "classes": 2}, CPU)
    assert (renamed.latent_size, renamed.latent_distribution, renamed.classes) == (8, "uniform", 2)


def test_weights_digest_covers_names_and_values() -> None:
    generator = vivid(SMALL)
    digest = sha256()
    for name in sorted(generator.state_dict()):
        digest.update(name.encode())
        digest.update(generator.state_dict()[name].numpy().tobytes())
    sampled = TrainedGenerator.from_module(generator, SMALL.latent_size, {}, CPU)
    assert sampled.weights_digest() == digest.hexdigest()
    assert trained().weights_digest() == sha256().hexdigest()
    with torch.no_grad():
        list(generator.parameters())[-1].data[-1].neg_()
    assert sampled.weights_digest() != digest.hexdigest()
