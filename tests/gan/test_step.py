"""One training step against the tutorial's, written out plainly."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from atelier.gan.networks import Architecture, build
from atelier.gan.step import build_gan, train_step
from atelier.settings import Settings

ARCH = Architecture(
    image_size=16, channels=3, latent_size=8, generator_width=4, discriminator_width=4
)


def reference_step(
    generator: nn.Module, discriminator: nn.Module, lr: float, real: Tensor, latents: Tensor
) -> list[float]:
    """PyTorch's DCGAN tutorial: BCE after a sigmoid, two backward passes for D, Adam."""
    bce = nn.BCELoss()
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=lr, betas=(0.5, 0.999))
    adam_g = torch.optim.Adam(generator.parameters(), lr=lr, betas=(0.5, 0.999))
    ones, zeros = torch.ones(len(real)), torch.zeros(len(real))

    discriminator.zero_grad()
    output = discriminator(real).sigmoid()
    error_real = bce(output, ones)
    error_real.backward()
    d_x = output.mean().item()
    fake = generator(latents)
    output = discriminator(fake.detach()).sigmoid()
    error_fake = bce(output, zeros)
    error_fake.backward()
    d_g_z1 = output.mean().item()
    adam_d.step()

    generator.zero_grad()
    output = discriminator(fake).sigmoid()
    error_g = bce(output, ones)
    error_g.backward()
    adam_g.step()
    return [(error_real + error_fake).item(), error_g.item(), d_x, d_g_z1, output.mean().item()]


def test_a_step_equals_the_tutorials(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(train={"seed": 5, "lr": 0.01, "beta1": 0.5}).train
    stream = torch.Generator().manual_seed(1)
    real = torch.rand(6, 3, 16, 16, generator=stream) * 2 - 1
    gan = build_gan(ARCH, settings, torch.device("cpu"))
    generator, discriminator = build(ARCH, settings.seed)
    for _ in range(3):
        latents = torch.randn(6, 8, generator=stream)
        ours = train_step(gan, real, latents)
        plain = reference_step(generator, discriminator, settings.lr, real, latents)
        torch.testing.assert_close(ours, torch.tensor(plain), rtol=1e-5, atol=1e-6)
        # A fresh Adam in the reference has no moments, so one step is compared at a time.
        for network, reference in ((gan.generator, generator), (gan.discriminator, discriminator)):
            for mine, other in zip(network.parameters(), reference.parameters(), strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
            for mine, other in zip(network.buffers(), reference.buffers(), strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
        gan = build_gan(ARCH, settings, torch.device("cpu"))
        gan.generator.load_state_dict(generator.state_dict())
        gan.discriminator.load_state_dict(discriminator.state_dict())


def test_the_generators_step_leaves_no_gradient_on_the_discriminator(
    make_settings: Callable[..., Settings],
) -> None:
    gan = build_gan(ARCH, make_settings().train, torch.device("cpu"))
    real, latents = torch.zeros(4, 3, 16, 16), torch.randn(4, 8)
    train_step(gan, real, latents)
    weights = [p.grad.clone() for p in gan.discriminator.parameters() if p.grad is not None]
    assert len(weights) == len(list(gan.discriminator.parameters()))
    assert all(p.requires_grad for p in gan.discriminator.parameters())
