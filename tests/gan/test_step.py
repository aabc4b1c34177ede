"""One training step against the tutorial's, written out plainly."""

import pytest
import torch
from torch import Tensor, nn

from atelier.core.random_streams import derive_seed
from atelier.core.settings import TrainSettings
from atelier.gan.generation import random_latents
from atelier.gan.model import build_gan
from atelier.gan.networks import build_networks
from atelier.gan.step import train_step

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
    """The tutorials' step: BCE after a sigmoid, two backward passes for D, Adam."""
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
    # The generator's loss leaves its own gradients on the discriminator, which the tutorials
    # throw away at the next step; those that counted are put back.
    for parameter, gradient in zip(discriminator.parameters(), gradients, strict=True):
        parameter.grad = gradient
    return [(error_real + error_fake).item(), error_g.item(), d_x, d_g_z1, output.mean().item()]


DOCUMENTS = {
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


@pytest.mark.parametrize(("preset", "values"), DOCUMENTS.items())
def test_presets_match_their_documents(preset: str, values: dict[str, float]) -> None:
    settings = train_settings(preset).model_dump()
    assert {key: settings[key] for key in values} == pytest.approx(values)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def precision(request: pytest.FixtureRequest) -> torch.dtype:
    dtype: torch.dtype = request.param
    return dtype


@pytest.mark.parametrize("preset", DOCUMENTS)
def test_step_matches_the_documents(preset: str, precision: torch.dtype) -> None:
    """Losses, gradients and new weights, to a millionth.

    Adam's first step is lr times the sign of the gradient, so that in float32 a rounding error
    that flips the sign of a vanishing gradient moves a weight by twice lr, and with it what
    is computed from the moved weights. In float64 there is no such weight.
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
    ours = (gan.generator.to(precision), gan.discriminator.to(precision))
    plain = [
        network.to(precision)
        for network in build_networks(arch, derive_seed(settings.seed, "train.weights"))
    ]
    if not exact:  # another order in memory is another order of sums
        plain = [network.to(memory_format=torch.channels_last) for network in plain]
    torch.manual_seed(7)  # dropout draws from the global stream
    statistics = train_step(gan, real, latents)
    torch.manual_seed(7)
    optimizers = [adam(network, settings) for network in plain]
    expected = torch.tensor(reference_step(plain, optimizers, settings, real, latents))
    torch.testing.assert_close(statistics[[0, 2, 3]], expected[[0, 2, 3]], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(statistics, expected, rtol=1e-6, atol=1e-6 if exact else 1e-4)
    for network, reference in zip(ours, plain, strict=True):
        moved, off = 0, 0
        for mine, other in zip(network.parameters(), reference.parameters(), strict=True):
            atol = 1e-9 if exact else 5e-6
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=atol)
            moved += mine.numel()
            off += int(((mine - other).abs() > 1e-6).sum())
        assert off <= (0 if exact else 1e-4 * moved), f"{off} of {moved} weights are off"
        for mine, other in zip(network.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_ten_steps_match_the_documents() -> None:
    """In float64. In float32 two orders of memory differ by a hundredth after ten steps: Adam
    moves weights by the sign of their gradients, of which rounding turns the vanishing ones.
    """
    settings = train_settings("celeba64", precision="fp32")
    gan = build_gan(SMALL, settings, torch.device("cpu"))
    plain = [
        network.double()
        for network in build_networks(SMALL, derive_seed(settings.seed, "train.weights"))
    ]
    optimizers = [adam(network, settings) for network in plain]
    ours = (gan.generator.double(), gan.discriminator.double())
    stream = torch.Generator().manual_seed(1)
    for _ in range(10):
        real = torch.rand((8, 3, 16, 16), generator=stream).double() * 2 - 1
        latents = random_latents(8, SMALL, stream).double()
        statistics = train_step(gan, real, latents)
        expected = torch.tensor(reference_step(plain, optimizers, settings, real, latents))
        torch.testing.assert_close(statistics, expected, rtol=1e-6, atol=0)
    for network, reference in zip(ours, plain, strict=True):
        for mine, other in zip(network.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
