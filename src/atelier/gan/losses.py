"""Losses of the discriminator and the generator, and gradient penalties.

Losses are means over a batch of logits, in float32 at least, because bfloat16 has three digits.

- ``bce``: binary cross entropy with the non-saturating generator loss. Goodfellow et al. 2014,
  "Generative adversarial nets". One-sided label smoothing: Salimans et al. 2016, "Improved
  techniques for training GANs", section 3.4.
- ``hinge``: Lim and Ye 2017, "Geometric GAN"; Miyato et al. 2018, "Spectral normalization for
  GANs", equations 16 and 17.
- ``lsgan``: Mao et al. 2017, "Least squares generative adversarial networks", equation 9
  (a = 0, b = c = 1).
- ``wgan``: Arjovsky et al. 2017, "Wasserstein GAN". The discriminator must be regularized by a
  gradient penalty or by spectral normalization.
- ``relativistic``: Jolicoeur-Martineau 2019, "The relativistic discriminator", in the pairwise form
  of Huang et al. 2024, "The GAN is dead; long live the GAN! A modern baseline GAN" (R3GAN),
  equation 2. It compares each generated image with one real image.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["bce", "hinge", "lsgan", "wgan", "relativistic"]
Critic = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] to logits [B]; each logit depends on its own image only."""


def discriminator_loss(kind: Kind, real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the loss of the discriminator.

    Args:
        kind: one of the losses listed in the module docstring.
        real: logits of real images, [B].
        fake: logits of generated images, [B].
        smoothing: subtracted from the label of real images; only used by ``bce``.

    Returns:
        A scalar; 0 for an empty batch.
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
    """Return the loss of the generator.

    Args:
        kind: one of the losses listed in the module docstring.
        fake: logits of generated images, [B].
        real: logits of the real images they are paired with, [B]; required by ``relativistic``.

    Returns:
        A scalar; 0 for an empty batch.
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
                raise ValueError("the relativistic loss needs the logits of real images")
            return mean(F.softplus(_to_float32(real) - fake))


def r1_penalty(critic: Critic, images: Tensor) -> Tensor:
    """Return half of the mean squared gradient norm: R1 on real images, R2 on generated ones.

    Mescheder et al. 2018, "Which training methods for GANs do actually converge?", equations 9
    and 10. Huang et al. 2024 (R3GAN) use both.

    Args:
        critic: the discriminator.
        images: [B, C, H, W] float.
    """
    return mean(_squared_gradient_norms(critic, images)) / 2


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of (gradient norm - 1)^2 between real and generated images.

    Gulrajani et al. 2017, "Improved training of Wasserstein GANs" (WGAN-GP), equation 3.

    Args:
        critic: the discriminator.
        real: [B, C, H, W] float.
        fake: [B, C, H, W] float.
        weights: [B]; 0 selects the generated image, 1 the real one.
    """
    interpolated = torch.lerp(fake.float(), real.float(), weights[:, None, None, None])
    # The square root has no derivative at 0, the gradient norm of a constant discriminator.
    norms = (_squared_gradient_norms(critic, interpolated) + 1e-12).sqrt()
    return mean((norms - 1).square())


def mean(values: Tensor) -> Tensor:
    """Return the mean, or 0 if empty; a process may get no images of a small batch."""
    return values.mean() if len(values) else values.sum()


def _squared_gradient_norms(critic: Critic, images: Tensor) -> Tensor:
    """Return the squared gradient norm of each image, [B]; it is differentiable itself."""
    images = images.detach().float().requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        logits = critic(images)
        (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradients.square().sum((1, 2, 3))


def _to_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _bce(logits: Tensor, label: float) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, label), reduction="none"
    )
    return mean(losses)
