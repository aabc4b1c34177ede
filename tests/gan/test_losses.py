"""Comparison of losses with the papers' formulas and of penalties with plain autograd."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from atelier.gan.losses import (
    Kind,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    r1_penalty,
)
from atelier.gan.lr_schedule import lr_factor, set_lr

REAL, FAKE = [0.5, -2.0, 3.0], [1.5, -0.25, -4.0]
PAIRS = list(zip(REAL, FAKE, strict=True))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# Losses of the discriminator and of the generator for one real and one generated logit.
FORMULAS: dict[Kind, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    "bce": (lambda r, f: softplus(-r) + softplus(f), lambda r, f: softplus(-f)),
    "hinge": (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda r, f: -f),
    "lsgan": (lambda r, f: ((r - 1) ** 2 + f**2) / 2, lambda r, f: (f - 1) ** 2 / 2),
    "wgan": (lambda r, f: f - r, lambda r, f: -f),
    "relativistic": (lambda r, f: softplus(f - r), lambda r, f: softplus(r - f)),
}


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_losses_match_the_papers(kind: Kind, dtype: torch.dtype) -> None:
    """The logits are exact in bfloat16, but their sums are not."""
    real, fake = torch.tensor(REAL, dtype=dtype), torch.tensor(FAKE, dtype=dtype)
    for_d, for_g = FORMULAS[kind]
    expected_d = sum(for_d(*pair) for pair in PAIRS) / len(PAIRS)
    expected_g = sum(for_g(*pair) for pair in PAIRS) / len(PAIRS)
    assert float(discriminator_loss(kind, real, fake)) == pytest.approx(expected_d, rel=1e-6)
    assert float(generator_loss(kind, fake, real)) == pytest.approx(expected_g, rel=1e-6)


@pytest.mark.parametrize("kind", FORMULAS)
def test_loss_of_empty_batch_is_zero_with_gradient(kind: Kind) -> None:
    empty = torch.zeros(0, requires_grad=True)
    total = discriminator_loss(kind, empty, empty) + generator_loss(kind, empty, empty)
    total.backward()
    assert float(total.detach()) == 0


def test_label_smoothing_applies_to_real_images_only() -> None:
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)
    smoothed = discriminator_loss("bce", real, fake, 0.3)
    expected = [0.7 * softplus(-r) + 0.3 * softplus(r) + softplus(f) for r, f in PAIRS]
    assert float(smoothed) == pytest.approx(sum(expected) / len(PAIRS), rel=1e-12)


def test_relativistic_loss_needs_real_images() -> None:
    with pytest.raises(ValueError, match="needs the logits of real images"):
        generator_loss("relativistic", torch.tensor(FAKE))
    generator_loss("hinge", torch.tensor(FAKE))


def test_gradient_penalty_of_constant_discriminator_has_finite_gradient() -> None:
    """The norm has no derivative if the gradient is zero."""
    factor = torch.zeros((), requires_grad=True)
    penalty = gradient_penalty(
        lambda images: (images * factor).sum((1, 2, 3)),
        random_images(1),
        random_images(2),
        torch.ones(5),
    )
    penalty.backward()
    assert float(penalty.detach()) == pytest.approx(1, abs=1e-5)
    assert factor.grad is not None
    assert float(factor.grad) == 0


def discriminator() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Tanh(), nn.Linear(64, 1)
        )


def gradients(network: nn.Module, images: Tensor) -> Tensor:
    """Return the gradient of each image from a separate backward pass."""
    rows = []
    for image in images:
        single = image[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(single).sum(), single, create_graph=True)
        rows.append(gradient.flatten())
    return torch.stack(rows)


def random_images(seed: int) -> Tensor:
    return torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def parameter_gradients(network: nn.Module, penalty: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(penalty, list(network.parameters()), allow_unused=True)[:3])


@pytest.mark.parametrize("kind", ["zero", "one"])
def test_penalties_match_per_image_autograd(kind: str) -> None:
    network, real, fake = discriminator(), random_images(1), random_images(2)
    weights = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    if kind == "zero":
        penalty = r1_penalty(network, real)
        expected = gradients(network, real).square().sum(1).mean() / 2
    else:
        penalty = gradient_penalty(network, real, fake, weights)
        interpolated = (
            weights[:, None, None, None] * real + (1 - weights)[:, None, None, None] * fake
        )
        expected = (gradients(network, interpolated).norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(penalty, expected, rtol=1e-5, atol=1e-7)
    for found, reference in zip(
        parameter_gradients(network, penalty), parameter_gradients(network, expected), strict=True
    ):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-6)


def test_penalties_of_linear_discriminator_are_exact() -> None:
    """The gradient equals the weights for every image; float32 is used even under bfloat16."""
    weights = torch.randn(3 * 6 * 6, generator=torch.Generator().manual_seed(1))
    length = float(weights.norm())

    def linear(images: Tensor) -> Tensor:
        return images.flatten(1) @ weights

    with torch.autocast("cpu", torch.bfloat16):
        zero = r1_penalty(linear, random_images(1))
        one = gradient_penalty(linear, random_images(1), random_images(2), torch.full((5,), 0.5))
    assert float(zero) == pytest.approx(length**2 / 2, rel=1e-5)
    assert float(one) == pytest.approx((length - 1) ** 2, rel=1e-5)


def test_lr_schedules_match_their_formulas() -> None:
    assert [lr_factor("constant", done, 4) for done in range(4)] == [1, 1, 1, 1]
    assert [lr_factor("linear", done, 4) for done in range(4)] == [1, 0.75, 0.5, 0.25]
    half = [lr_factor("cosine", done, 4) for done in range(4)]
    assert half == pytest.approx([1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])


@pytest.mark.parametrize("as_tensor", [False, True])
def test_set_lr_writes_tensors_in_place(as_tensor: bool) -> None:
    weight = nn.Parameter(torch.ones(1))
    rate = torch.tensor(0.5) if as_tensor else 0.5
    optimizer = torch.optim.Adam([weight], lr=rate)
    set_lr(optimizer, 0.25)
    assert float(optimizer.param_groups[0]["lr"]) == 0.25
    assert (optimizer.param_groups[0]["lr"] is rate) == as_tensor
