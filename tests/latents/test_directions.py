"""Principal directions of latents."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from atelier.core.progress import Progress
from atelier.gan.generation import TrainedGenerator
from atelier.latents.directions import MAX_LATENT_SIZE, principal_directions

from ..support.architectures import SMALL, vivid, with_changes
from ..support.linear_generator import SIDE, LinearImages, linear_generator

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


def test_differences_of_classes_are_no_direction(axes: Tensor) -> None:
    base = linear_generator(DEVIATIONS, axes, channels=1)
    stream = torch.Generator().manual_seed(7)
    offsets = 50 * torch.randn(SIDE**2, 3, generator=stream)
    weight = torch.cat([base.network.weight, offsets], 1)  # type: ignore[list-item]
    generator = replace(base, network=LinearImages(weight, 1).eval(), classes=3)
    found = principal_directions(generator, count=3)
    cosines = (found.vectors * axes[:3]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(3), atol=0.01, rtol=0)
    torch.testing.assert_close(found.deviations, torch.ones(3), atol=0.05, rtol=0)
    variances = torch.tensor(DEVIATIONS).square()
    expected = (variances / variances.sum())[:3]
    torch.testing.assert_close(found.explained, expected, atol=0.02, rtol=0)


def test_many_classes_have_enough_samples() -> None:
    generator = small_generator(classes=2)
    drawn: set[int] = set()

    class Recording(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            drawn.update(inputs[:, SMALL.latent_size :].argmax(1).tolist())
            return torch.zeros(len(inputs), 1, 8, 8)

    many = replace(generator, network=Recording(), classes=500)
    principal_directions(many, 1, samples=128)
    assert len(drawn - {0}) in (3, 4), "with 32 samples each; image_shape uses class 0"


@pytest.mark.parametrize(("size", "images"), [(5, 2048), (300, 3000)])
def test_number_of_images_grows_with_the_latents(size: int, images: int) -> None:
    generator = linear_generator([1.0] * size, torch.eye(size), channels=3)
    reports: list[Progress] = []
    principal_directions(generator, 1, report=reports.append)
    assert reports[-1] == Progress(images, images)


def test_latents_that_are_too_large_have_no_directions(axes: Tensor) -> None:
    generator = replace(linear_generator(DEVIATIONS, axes), latent_size=MAX_LATENT_SIZE + 1)
    found = principal_directions(generator)
    assert found.vectors.shape == (0, 2049)
    assert len(found.deviations) == len(found.explained) == 0


def test_large_images_are_generated_in_small_batches() -> None:
    class Large(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.zeros(len(inputs), 1, 256, 256)

    generator = replace(small_generator(), network=Large())
    reports: list[Progress] = []
    principal_directions(generator, 1, samples=20, report=reports.append)
    assert [progress.done for progress in reports] == [8, 16, 20]


def test_steps_along_a_component_without_direction_are_limited() -> None:
    class Even(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.square()[:, :1, None, None].expand(-1, 1, 4, 4)

    found = principal_directions(replace(small_generator(), network=Even()), 1, samples=512)
    assert found.deviations.item() == pytest.approx(2.0, abs=0.1), "two standard deviations"
