"""One training step against the tutorial's, written out plainly."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from atelier.gan.generate import random_latents
from atelier.gan.networks import Architecture, build
from atelier.gan.step import build_gan, train_step
from atelier.settings import Settings, TrainSettings

from .architectures import CELEBA64, FACES32, FASHION_MLP, MNIST28, SMALL


def reference_step(
    generator: nn.Module,
    discriminator: nn.Module,
    settings: TrainSettings,
    real: Tensor,
    latents: Tensor,
) -> list[float]:
    """The tutorials' step: BCE after a sigmoid, two backward passes for D, Adam."""
    bce = nn.BCELoss()
    adam = {
        "lr": settings.lr,
        "betas": (settings.beta1, settings.beta2),
        "weight_decay": settings.weight_decay,
    }
    adam_d = torch.optim.Adam(discriminator.parameters(), **adam)
    adam_g = torch.optim.Adam(generator.parameters(), **adam)
    ones = torch.ones(len(real), dtype=real.dtype)
    zeros = torch.zeros_like(ones)
    fake = generator(latents)

    discriminator.zero_grad()
    output = discriminator(real).sigmoid()
    error_real = bce(output, ones * (1 - settings.label_smoothing))
    error_real.backward()
    d_x = output.mean().item()
    output = discriminator(fake.detach()).sigmoid()
    error_fake = bce(output, zeros)
    error_fake.backward()
    d_g_z1 = output.mean().item()
    gradients = [parameter.grad.clone() for parameter in discriminator.parameters()]
    adam_d.step()

    generator.zero_grad()
    output = discriminator(fake).sigmoid()
    error_g = bce(output, ones)
    error_g.backward()
    adam_g.step()
    # The generator's loss leaves its own gradients on the discriminator, which the tutorials
    # throw away at the next step; those that counted are put back.
    for parameter, gradient in zip(discriminator.parameters(), gradients, strict=True):
        parameter.grad = gradient
    return [(error_real + error_fake).item(), error_g.item(), d_x, d_g_z1, output.mean().item()]


@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        pytest.param(CELEBA64, {}, id="celeba64"),
        pytest.param(CELEBA64, {"beta2": 0.95}, id="cifar10"),
        pytest.param(FACES32, {}, id="faces32"),
        pytest.param(MNIST28, {"weight_decay": 1e-5}, id="mnist28"),
        pytest.param(
            FASHION_MLP,
            {"lr": 0.002, "beta1": 0.9, "label_smoothing": 0.1},
            id="fashion_mlp",
        ),
    ],
)
def test_a_step_equals_the_documents(
    make_settings: Callable[..., Settings], arch: Architecture, changes: dict[str, float]
) -> None:
    """Losses, gradients and new weights, to a millionth.

    In float64: Adam's first step is lr times the sign of the gradient, so that in float32 a
    rounding error that flips the sign of a vanishing gradient moves a weight by twice lr.
    """
    settings = make_settings(train={"seed": 5, **changes}).train
    stream = torch.Generator().manual_seed(1)
    shape = (4, arch.channels, arch.image_size, arch.image_size)
    real = (torch.rand(shape, generator=stream) * 2 - 1).double()
    latents = random_latents(4, arch, stream).double()
    gan = build_gan(arch, settings, torch.device("cpu"))
    ours = (gan.generator.double(), gan.discriminator.double())
    plain = tuple(network.double() for network in build(arch, settings.seed))
    torch.manual_seed(7)  # dropout draws from the global stream
    told = train_step(gan, real, latents)
    torch.manual_seed(7)
    expected = reference_step(*plain, settings, real, latents)
    torch.testing.assert_close(told, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    for network, reference in zip(ours, plain, strict=True):
        for mine, other in zip(network.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        for mine, other in zip(network.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_a_step_in_float32_equals_the_documents_as_far_as_adam_lets_it(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(train={"seed": 5}).train
    stream = torch.Generator().manual_seed(1)
    real = torch.rand(8, 3, 64, 64, generator=stream) * 2 - 1
    latents = random_latents(8, CELEBA64, stream)
    gan = build_gan(CELEBA64, settings, torch.device("cpu"))
    generator, discriminator = build(CELEBA64, settings.seed)
    told = train_step(gan, real, latents)
    expected = reference_step(generator, discriminator, settings, real, latents)
    # What does not pass through an updated weight agrees to a millionth; the rest nearly.
    torch.testing.assert_close(
        told[[0, 2, 3]], torch.tensor(expected)[[0, 2, 3]], rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(told, torch.tensor(expected), rtol=1e-3, atol=1e-4)
    for mine, other in zip(gan.discriminator.parameters(), discriminator.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_the_generators_step_leaves_no_gradient_on_the_discriminator(
    make_settings: Callable[..., Settings],
) -> None:
    gan = build_gan(SMALL, make_settings().train, torch.device("cpu"))
    real, latents = torch.zeros(4, 3, 16, 16), torch.randn(4, 8)
    train_step(gan, real, latents)
    weights = [p.grad.clone() for p in gan.discriminator.parameters() if p.grad is not None]
    assert len(weights) == len(list(gan.discriminator.parameters()))
    assert all(p.requires_grad for p in gan.discriminator.parameters())
