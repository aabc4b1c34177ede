"""Penalties on the discriminator's gradient, which keep it smooth.

Each is a mean over the batch, computed in float32: a gradient of a gradient has no digits to
spare. The gradient is that with respect to the pictures as the discriminator sees them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from atelier.gan.losses import mean

Critic = Callable[[Tensor], Tensor]
"""Pictures [B, C, H, W] to logits [B], each of its own picture alone (no batch normalisation)."""


def zero_centred(critic: Critic, pictures: Tensor) -> Tensor:
    """Half of the mean squared length of the gradient: R1 on real pictures, R2 on generated ones.

    Mescheder et al. 2018, "Which training methods for GANs do actually converge?", equations 9
    and 10. Huang et al. 2024 (R3GAN) use both at once.

    Args:
        critic: the discriminator.
        pictures: [B, C, H, W] float.
    """
    return mean(_squared_gradients(critic, pictures)) / 2


def one_centred(critic: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """The mean squared difference from 1 of the gradient's length, between real and generated.

    Gulrajani et al. 2017, "Improved training of Wasserstein GANs" (WGAN-GP), equation 3.

    Args:
        critic: the discriminator.
        real: [B, C, H, W] float.
        fake: the same.
        mix: where on the way from generated (0) to real (1) to look, [B].
    """
    between = torch.lerp(fake.float(), real.float(), mix[:, None, None, None])
    # The root has no slope at 0, where a discriminator that judges all alike stands.
    lengths = (_squared_gradients(critic, between) + 1e-12).sqrt()
    return mean((lengths - 1).square())


def _squared_gradients(critic: Critic, pictures: Tensor) -> Tensor:
    """The squared length of each picture's gradient, [B], itself with a gradient."""
    pictures = pictures.detach().float().requires_grad_()
    with torch.autocast(pictures.device.type, enabled=False):
        logits = critic(pictures)
        (gradients,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return gradients.square().sum((1, 2, 3))
