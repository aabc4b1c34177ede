"""What the discriminator and the generator try to make small.

All are of logits, in float32 at least (bfloat16 has three digits), and are means over the batch.

- ``bce``: Goodfellow et al. 2014, "Generative adversarial nets", with the generator's loss that
  does not saturate; ``label_smoothing`` is taken off the label of real pictures (Salimans et al.
  2016, "Improved techniques for training GANs", section 3.4).
- ``hinge``: Lim and Ye 2017, "Geometric GAN"; Miyato et al. 2018, "Spectral normalization for
  GANs", equations 16 and 17.
- ``least_squares``: Mao et al. 2017, "Least squares generative adversarial networks", equation 9
  (a = 0, b = c = 1).
- ``wasserstein``: Arjovsky et al. 2017, "Wasserstein GAN". The discriminator must be kept
  smooth by a penalty or by spectral normalisation.
- ``relativistic``: Jolicoeur-Martineau 2019, "The relativistic discriminator", in the pairs of
  Huang et al. 2024, "The GAN is dead; long live the GAN! A modern baseline GAN" (R3GAN), equation
  2: a picture need only seem more real than the one that it is paired with.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["bce", "hinge", "lsgan", "wgan", "relativistic"]


def discriminator_loss(kind: Kind, real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """The loss of the discriminator.

    Args:
        kind: which of the module's losses.
        real: logits of real pictures, [B].
        fake: logits of generated ones, [B].
        smoothing: off the label of real pictures; of ``bce`` only.

    Returns:
        One number; 0 of an empty batch.
    """
    real, fake = _to_float32(real), _to_float32(fake)
    match kind:
        case "bce":
            return _bce(real, 1.0 - smoothing) + _bce(fake, 0.0)
        case "hinge":
            return mean((1 - real).relu()) + mean((1 + fake).relu())
        case "lsgan":
            return (mean((real - 1).square()) + mean(fake.square())) / 2
        case "wgan":
            return mean(fake) - mean(real)
        case "relativistic":
            return mean(F.softplus(fake - real))


def generator_loss(kind: Kind, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """The loss of the generator.

    Args:
        kind: which of the module's losses.
        fake: logits of generated pictures, [B].
        real: logits of the real pictures that they are paired with, [B]; of ``relativistic`` only.

    Returns:
        One number; 0 of an empty batch.
    """
    fake = _to_float32(fake)
    match kind:
        case "bce":
            return _bce(fake, 1.0)
        case "lsgan":
            return mean((fake - 1).square()) / 2
        case "hinge" | "wgan":
            return -mean(fake)
        case "relativistic":
            if real is None:
                raise ValueError("the relativistic loss compares with real pictures' logits")
            return mean(F.softplus(_to_float32(real) - fake))


def mean(values: Tensor) -> Tensor:
    """The mean; 0 of none, which a process may get of a small batch."""
    return values.mean() if len(values) else values.sum()


def _to_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _bce(logits: Tensor, label: float) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, label), reduction="none"
    )
    return mean(losses)


Critic = Callable[[Tensor], Tensor]
"""Pictures [B, C, H, W] to logits [B], each of its own picture alone (no batch normalisation)."""


def r1_penalty(critic: Critic, pictures: Tensor) -> Tensor:
    """Half of the mean squared length of the gradient: R1 on real pictures, R2 on generated ones.

    Mescheder et al. 2018, "Which training methods for GANs do actually converge?", equations 9
    and 10. Huang et al. 2024 (R3GAN) use both at once.

    Args:
        critic: the discriminator.
        pictures: [B, C, H, W] float.
    """
    return mean(_squared_gradients(critic, pictures)) / 2


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
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
