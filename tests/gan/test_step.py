"""Comparison of a training step with a plain implementation of the tutorial's."""

import pytest
import torch
from torch import Tensor, nn

from atelier.core.random_streams import derive_seed
from atelier.core.settings import TrainSettings
from atelier.gan.generation import random_latents
from atelier.gan.model import build_gan
from atelier.gan.networks import build_networks
from atelier.gan.step import Batch, train_step

from ..support.architectures import SMALL, architecture, train_settings


def adam(network: nn.Module, settings: TrainSettings) -> torch.optim.Adam:
    betas, decay = (settings.beta1, settings.beta2), settings.weight_decay
    return torch.optim.Adam(network.parameters(), settings.lr, betas, weight_decay=decay)


def reference_step(
    networks: list[nn.Module],
    optimizers: list[torch.optim.Adam],
    settings: TrainSettings,
    real: Tensor,
    latents: Tensor,
) -> list[float]:
    """Train one step like the tutorials: BCE after a sigmoid, two backward passes for D, Adam."""
    (generator, discriminator), (adam_g, adam_d) = networks, optimizers
    bce = nn.BCELoss()
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
    # The generator's loss also adds gradients to the discriminator, which the tutorials discard
    # at the next step. Restore the gradients of the discriminator's loss.
    for parameter, gradient in zip(discriminator.parameters(), gradients, strict=True):
        parameter.grad = gradient
    return [(error_real + error_fake).item(), error_g.item(), d_x, d_g_z1, output.mean().item()]


SOURCE_VALUES = {
    "celeba64": {"lr": 2e-4, "beta1": 0.5, "beta2": 0.999},
    "cifar10": {"lr": 2e-4, "beta1": 0.5, "beta2": 0.95},
    "faces32": {
        "lr": 2e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "batch_size": 32,
        "sample_every_steps": 10,
    },
    "mnist28": {
        "lr": 2e-4,
        "beta1": 0.5,
        "weight_decay": 2e-4 / 20,
        "epochs": 20,
        "fixed_samples": 256,
    },
    "fashion_mlp": {"lr": 2e-3, "beta1": 0.9, "label_smoothing": 0.1, "epochs": 200},
}


@pytest.mark.parametrize(("preset", "values"), SOURCE_VALUES.items())
def test_presets_match_their_sources(preset: str, values: dict[str, float]) -> None:
    settings = train_settings(preset).model_dump()
    assert {key: settings[key] for key in values} == pytest.approx(values)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def precision(request: pytest.FixtureRequest) -> torch.dtype:
    dtype: torch.dtype = request.param
    return dtype


@pytest.mark.parametrize("preset", SOURCE_VALUES)
def test_step_matches_sources(preset: str, precision: torch.dtype) -> None:
    """Losses, gradients and new weights agree up to 1e-6.

    Adam's first step is lr times the sign of the gradient. In float32, a rounding error can flip
    the sign of a vanishing gradient, which moves the weight by 2 lr and changes later results.
    In float64, no weight is affected.
    """
    settings = train_settings(preset, seed=2, precision="fp32")
    arch = architecture(preset)
    exact = precision == torch.float64
    count = 4 if exact else 8
    stream = torch.Generator().manual_seed(1)
    shape = (count, arch.channels, arch.image_size, arch.image_size)
    real = (torch.rand(shape, generator=stream) * 2 - 1).to(precision)
    latents = random_latents(count, arch, stream).to(precision)
    gan = build_gan(arch, settings, torch.device("cpu"))
    networks = (gan.generator.to(precision), gan.discriminator.to(precision))
    plain = [
        network.to(precision)
        for network in build_networks(arch, derive_seed(settings.seed, "train.weights"))
    ]
    if not exact:  # another memory format changes the order of sums
        plain = [network.to(memory_format=torch.channels_last) for network in plain]
    torch.manual_seed(7)  # dropout draws from the global stream
    statistics = train_step(gan, Batch(real, latents))
    torch.manual_seed(7)
    optimizers = [adam(network, settings) for network in plain]
    expected = torch.tensor(reference_step(plain, optimizers, settings, real, latents))
    torch.testing.assert_close(statistics[[0, 2, 3]], expected[[0, 2, 3]], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(statistics, expected, rtol=1e-6, atol=1e-6 if exact else 1e-4)
    for network, reference in zip(networks, plain, strict=True):
        total, different = 0, 0
        for found, reference_parameter in zip(
            network.parameters(), reference.parameters(), strict=True
        ):
            gradient = reference_parameter.grad
            # The errors of sums in float32 grow with the largest summands. On a CPU with AMX, both
            # steps are up to 2e-5 of the largest value away from those in float64.
            atol = 1e-9 if exact else max(5e-6, 5e-5 * float(gradient.abs().max()))
            torch.testing.assert_close(found.grad, gradient, rtol=1e-6, atol=atol)
            total += found.numel()
            different += int(((found - reference_parameter).abs() > 1e-6).sum())
        assert different <= (0 if exact else 1e-4 * total), f"{different} of {total} weights differ"
        for found, reference_parameter in zip(network.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(found, reference_parameter, rtol=1e-6, atol=1e-6)


def test_ten_steps_match_sources() -> None:
    """Ten steps agree in float64.

    In float32, two memory formats differ by 0.01 after ten steps, because rounding flips the
    signs of vanishing gradients.
    """
    settings = train_settings("celeba64", precision="fp32")
    gan = build_gan(SMALL, settings, torch.device("cpu"))
    plain = [
        network.double()
        for network in build_networks(SMALL, derive_seed(settings.seed, "train.weights"))
    ]
    optimizers = [adam(network, settings) for network in plain]
    networks = (gan.generator.double(), gan.discriminator.double())
    stream = torch.Generator().manual_seed(1)
    for _ in range(10):
        real = torch.rand((8, 3, 16, 16), generator=stream).double() * 2 - 1
        latents = random_latents(8, SMALL, stream).double()
        statistics = train_step(gan, Batch(real, latents))
        expected = torch.tensor(reference_step(plain, optimizers, settings, real, latents))
        torch.testing.assert_close(statistics, expected, rtol=1e-6, atol=0)
    for network, reference in zip(networks, plain, strict=True):
        for found, reference_parameter in zip(
            network.parameters(), reference.parameters(), strict=True
        ):
            torch.testing.assert_close(found, reference_parameter, rtol=1e-9, atol=1e-9)
