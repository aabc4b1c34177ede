"""Principal directions of latents."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from atelier.gan.generation import TrainedGenerator
from atelier.latents.directions import principal_directions

from ..support.architectures import SMALL, vivid, with_changes
from ..support.linear_generator import linear_generator

DEVIATIONS = [4.0, 2.0, 1.0, 0.5, 0.0]


@pytest.fixture
def axes() -> Tensor:
    stream = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(5, 5, generator=stream)).Q


def small_generator(**changes: object) -> TrainedGenerator:
    arch = with_changes(SMALL, **changes)
    return TrainedGenerator(
        *(vivid(arch), arch.latent_size, arch.latent_distribution, arch.classes),
        torch.device("cpu"),
    )


def test_directions_of_a_linear_generator_are_its_principal_axes(axes: Tensor) -> None:
    found = principal_directions(linear_generator(DEVIATIONS, axes, channels=1), count=4)
    cosines = (found.vectors * axes[:4]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(4), atol=0.01, rtol=0)
    torch.testing.assert_close(found.deviations, torch.ones(4), atol=0.05, rtol=0)
    variances = torch.tensor(DEVIATIONS).square()
    torch.testing.assert_close(
        found.explained, (variances / variances.sum())[:4], atol=0.02, rtol=0
    )


def test_uniform_latents_have_shorter_steps(axes: Tensor) -> None:
    generator = linear_generator(DEVIATIONS, axes, channels=1, distribution="uniform")
    found = principal_directions(generator, count=3)
    torch.testing.assert_close(found.deviations, torch.full((3,), 3**-0.5), atol=0.03, rtol=0)
    cosines = (found.vectors * axes[:3]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(3), atol=0.02, rtol=0)


def test_vectors_have_unit_length_and_a_fixed_sign() -> None:
    found = principal_directions(small_generator(), count=6, samples=1024)
    assert found.vectors.shape == (6, SMALL.latent_size)
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(6))
    assert (found.vectors.amax(1) == found.vectors.abs().amax(1)).all()
    assert (found.explained[1:] <= found.explained[:-1]).all()
    assert 0.4 < found.explained.sum() <= 1


def test_sign_of_the_images_does_not_change_the_directions(axes: Tensor) -> None:
    generator = linear_generator(DEVIATIONS, axes, channels=1)
    expected = principal_directions(generator, count=3, samples=512)
    negative = linear_generator([-value for value in DEVIATIONS], axes, channels=1)
    found = principal_directions(negative, count=3, samples=512)
    torch.testing.assert_close(found.vectors, expected.vectors, atol=1e-4, rtol=0)


def test_result_depends_on_the_seed_only() -> None:
    generator = small_generator()
    first, again = (principal_directions(generator, 3, samples=256, seed=4) for _ in range(2))
    assert torch.equal(first.vectors, again.vectors)
    other = principal_directions(generator, 3, samples=256, seed=5)
    assert not torch.equal(first.vectors, other.vectors)


def test_step_changes_the_image_by_its_component(axes: Tensor) -> None:
    generator = linear_generator(DEVIATIONS, axes, channels=1)
    found = principal_directions(generator, count=1)
    step = found.deviations[0] * found.vectors[:1]
    assert generator.network(step).norm().item() == pytest.approx(4.0, rel=0.05)


def test_labels_are_no_part_of_a_direction() -> None:
    found = principal_directions(small_generator(classes=3), count=20, samples=256)
    assert found.vectors.shape == (SMALL.latent_size, SMALL.latent_size)
    mlp = small_generator(network="mlp", latent_distribution="uniform")
    assert principal_directions(mlp, 2, samples=256).vectors.shape == (2, SMALL.latent_size)


def test_constant_images_have_no_direction(axes: Tensor) -> None:
    generator = linear_generator([0.0] * 5, axes)
    found = principal_directions(replace(generator, classes=0), count=2, samples=64)
    assert found.vectors.isfinite().all()
    torch.testing.assert_close(found.explained, torch.zeros(2))
    torch.testing.assert_close(found.deviations, torch.zeros(2))
