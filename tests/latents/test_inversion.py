"""Inversion of generators."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn

from atelier.core.arrays import to_tensor
from atelier.core.errors import AtelierError
from atelier.core.progress import Progress
from atelier.gan.generation import TrainedGenerator, draw_latents, generate
from atelier.gan.serialization import load_generator
from atelier.latents.distances import FeatureDistance, PixelDistance, load_vgg
from atelier.latents.inversion import InversionOptions, invert, psnr

from ..support.architectures import SMALL, vivid, with_changes
from ..support.events import RecordedEvents
from ..support.linear_generator import linear_generator
from ..support.project import Project

CPU = torch.device("cpu")
FAST = InversionOptions(candidates=64, starts=2, iterations=30, refinements=5)


@pytest.fixture(scope="module")
def vgg() -> nn.Sequential:
    return load_vgg(CPU)


def small_generator(**changes: object) -> TrainedGenerator:
    arch = with_changes(SMALL, **changes)
    return TrainedGenerator(
        *(vivid(arch), arch.latent_size, arch.latent_distribution, arch.classes, CPU, arch),
    )


def own_images(generator: TrainedGenerator, count: int, labels: list[int] | None = None) -> NDArray:
    return generate(generator.network, draw_latents(count, generator, 77, labels))


def photograph() -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def as_tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    return to_tensor(torch.from_numpy(image)[None], signed=True)


def test_latent_of_a_linear_generator_is_found() -> None:
    generator = linear_generator([3.0, 2.0, 1.5, 1.0], torch.eye(4))
    latent = torch.tensor([[0.7, -0.9, 0.4, 1.1]])
    result = invert(generator, generate(generator.network, latent)[0], FAST, vgg=None)
    torch.testing.assert_close(result.latent, latent[0], atol=0.02, rtol=0)
    assert result.psnr > 50


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"latent_distribution": "uniform"},
        pytest.param({"generator_blocks": "residual"}, marks=pytest.mark.slow),
        {"network": "mlp", "generator_channels": 16},
    ],
    ids=["normal", "uniform", "residual", "mlp"],
)
def test_own_images_are_found(changes: dict[str, object]) -> None:
    generator = small_generator(**changes)
    options = InversionOptions(candidates=256, starts=3, iterations=80)
    for image in own_images(generator, 1):
        result = invert(generator, image, options, vgg=None)
        assert result.psnr > 25
        assert result.psnr == psnr(result.image, image)
        np.testing.assert_array_equal(
            result.image, generate(generator.network, result.latent[None])[0]
        )
        if generator.latent_distribution == "uniform":
            assert result.latent.abs().max() <= 1


def test_class_is_found_or_given() -> None:
    generator = small_generator(classes=3)
    (image,) = own_images(generator, 1, [2])
    found = invert(generator, image, FAST, vgg=None)
    assert found.latent[SMALL.latent_size :].tolist() == [0, 0, 1]
    restricted = invert(generator, image, FAST, vgg=None, labels=[1])
    assert restricted.latent[SMALL.latent_size :].tolist() == [0, 1, 0]
    assert restricted.psnr < found.psnr
    for generator_of_classes, valid in ((generator, "classes 0 to 2"), (small_generator(), "no")):
        with pytest.raises(AtelierError, match=f"no class 3: this generator has {valid}"):
            invert(generator_of_classes, image, FAST, vgg=None, labels=[3])


def test_features_are_compared_at_the_end(vgg: nn.Sequential) -> None:
    generator, target = small_generator(), photograph()
    pixels_only = invert(generator, target, FAST, vgg=None)
    result = invert(generator, target, FAST, vgg=vgg)
    assert len(pixels_only.losses) == 30
    assert len(result.losses) == 35
    distance = FeatureDistance(vgg, as_tensor(target))
    assert distance(as_tensor(result.image)) < distance(as_tensor(pixels_only.image))
    assert result.psnr < pixels_only.psnr


def test_features_are_not_compared_if_the_image_is_found(vgg: nn.Sequential) -> None:
    generator = linear_generator([3.0, 2.0, 1.5, 1.0], torch.eye(4))
    target = generate(generator.network, torch.tensor([[0.7, -0.9, 0.4, 1.1]]))[0]
    assert len(invert(generator, target, FAST, vgg=vgg).losses) == FAST.iterations
    assert len(invert(generator, photograph(), FAST, vgg=vgg).losses) == FAST.iterations + 5
    no_features = FAST.model_copy(update={"feature_weight": 0.0})
    assert len(invert(generator, photograph(), no_features, vgg=vgg).losses) == FAST.iterations


def test_latents_stay_as_long_as_random_ones() -> None:
    # The best image for this target would need a very long latent.
    generator = linear_generator([1.0, 1.0, 1.0, 1.0], torch.eye(4))
    target = generate(generator.network, torch.full((1, 4), 12.0))[0]
    with_prior = invert(generator, target, FAST, vgg=None)
    assert with_prior.latent.square().mean() < 2
    free = FAST.model_copy(update={"prior_weight": 0.0})
    assert invert(generator, target, free, vgg=None).latent.square().mean() > 10


def test_gray_images_are_compared(vgg: nn.Sequential) -> None:
    generator = small_generator(channels=1)
    result = invert(generator, photograph()[:, :, :1], FAST, vgg=vgg)
    assert result.image.shape == (16, 16, 1)
    assert len(result.losses) == 35


def test_losses_decrease_and_progress_is_reported() -> None:
    events = RecordedEvents()
    result = invert(small_generator(), photograph(), FAST, vgg=None, events=events)
    assert result.losses[-1] < result.losses[0]
    expected = [
        Progress(number, 30, f"loss {loss:.4f}") for number, loss in enumerate(result.losses, 1)
    ]
    assert events.progress == expected


def test_number_of_refined_latents(vgg: nn.Sequential) -> None:
    options = FAST.model_copy(update={"starts": 4, "iterations": 1, "refined": 3})
    batches: list[int] = []
    hook = vgg[0].register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    invert(small_generator(), photograph(), options, vgg=vgg)
    hook.remove()
    assert batches == [1, *5 * [3]], "the photograph, then five evaluations"


def test_result_depends_on_the_seed_only() -> None:
    generator = small_generator()
    short = FAST.model_copy(update={"iterations": 6})
    first, again = (invert(generator, photograph(), short, vgg=None) for _ in range(2))
    assert torch.equal(first.latent, again.latent)
    assert first.losses == again.losses
    other = invert(generator, photograph(), short.model_copy(update={"seed": 1}), vgg=None)
    assert first.losses != other.losses


def test_starts_are_the_nearest_of_the_candidates() -> None:
    generator = small_generator()
    one = InversionOptions(candidates=1, starts=1, iterations=1)
    many = InversionOptions(candidates=300, starts=300 // 2, iterations=1)
    first = invert(generator, photograph(), one, vgg=None)
    nearest = invert(generator, photograph(), many, vgg=None)
    assert nearest.losses[0] < first.losses[0]


def test_pixel_distance_is_the_sum_over_sizes() -> None:
    first, second = (np.random.default_rng(n).random((3, 16, 16)) * 2 - 1 for n in (0, 1))
    expected, difference = 0.0, (first - second) / 2
    for size in (16, 8, 4, 2):
        reduced = difference.reshape(3, size, 16 // size, size, 16 // size).mean((2, 4))
        expected += np.square(reduced).mean()
    distance = PixelDistance(torch.from_numpy(second)[None])
    assert distance(torch.from_numpy(first)[None]).item() == pytest.approx(expected)


def test_feature_distance_is_zero_for_the_target_and_grows(vgg: nn.Sequential) -> None:
    image = as_tensor(photograph())
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    distance = FeatureDistance(vgg, image)
    values = distance(torch.cat([image, image + 0.05 * noise, image + 0.5 * noise]))
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2] < 2


def test_psnr_of_known_errors() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black) == np.inf
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black, black + np.uint8(51)) == pytest.approx(13.979, abs=1e-3)


@pytest.mark.parametrize(
    "values",
    [
        *({"starts": 0}, {"starts": 257}, {"candidates": 0}, {"iterations": 0}, {"refined": 0}),
        *({"refinements": -1}, {"pixel_weight": -1.0}, {"feature_weight": float("nan")}),
        *({"prior_weight": float("inf")}, {"seed": -1}, {"starts": "4"}, {"unknown": 1}),
    ],
)
def test_invalid_options_are_rejected(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        InversionOptions(**values)


@pytest.mark.slow
def test_own_images_of_a_trained_generator_are_found(ready: Project, vgg: nn.Sequential) -> None:
    generator = load_generator(ready.folder / "models/generator.safetensors")
    values = [
        invert(generator, image, InversionOptions(seed=seed), vgg=vgg).psnr
        for seed, image in enumerate(own_images(generator, 8))
    ]
    assert min(values) > 25
