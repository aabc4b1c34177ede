"""One training step: update the discriminator, then the generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn, optim

from atelier.core.device import autocast
from atelier.gan.augment import diff_augment, interpolation_weights, random_hflip
from atelier.gan.generation import split_labels
from atelier.gan.losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mean,
    r1_penalty,
)
from atelier.gan.model import GAN

STATISTICS = ("loss_d", "loss_g", "d_x", "d_g_z1", "d_g_z2")


@dataclass(frozen=True)
class _Batch:
    """Inputs of both updates: real images, one-hot labels, random numbers, and the fraction.

    See :func:`train_step`.
    """

    real: Tensor
    labels: Tensor | None
    uniforms: Tensor
    fraction: float

    def augment(self, gan: GAN, view: str, images: Tensor) -> Tensor:
        """Apply differentiable augmentation with the random numbers of a view."""
        return diff_augment(images, gan.settings.augment, self.uniforms, view)


def train_step(
    gan: GAN,
    real: Tensor,
    latents: Tensor,
    batch_fraction: float = 1.0,
    uniforms: Tensor | None = None,
    with_penalty: bool = False,
) -> Tensor:
    """Update the discriminator, then the generator, on one batch.

    Goodfellow et al. 2014, in the order of PyTorch's DCGAN tutorial. The discriminator processes
    real and generated images as two batches, so that batch normalization does not mix them. The
    generator's loss uses the updated discriminator and the same generated images.

    Args:
        gan: its weights, optimizer moments and running statistics change.
        real: [B, C, H, W] float, in [-1, 1].
        latents: [B, latent_size + classes] float. The one-hot labels at the end are those of the
            real images.
        batch_fraction: B divided by the number of images in the batch of all processes. The loss is
            the mean over that whole batch.
        uniforms: random numbers in [0, 1), [B, gan.uniforms_per_image]; ``None`` if that is 0.
        with_penalty: true to add the gradient penalties to the discriminator's loss.

    Returns:
        The five :data:`STATISTICS`, float32 [5], on the device without synchronization: loss_d
        (without penalties), loss_g, and the mean of D(x), of D(G(z)) before the discriminator's
        update, and of D(G(z)) after it.
    """
    uniforms = latents.new_empty(len(latents), 0) if uniforms is None else uniforms
    if gan.settings.horizontal_flip:
        real = random_hflip(real, uniforms)
    batch = _Batch(real, split_labels(latents, gan.arch), uniforms, batch_fraction)

    gan.discriminator_optimizer.zero_grad(set_to_none=True)
    with autocast(gan.precision, real.device):
        fake = gan.generator(latents)
    loss_d, logits_real, logits_fake = _update_discriminator(
        gan, batch, fake.detach(), with_penalty
    )
    gan.generator_optimizer.zero_grad(set_to_none=True)
    loss_g, logits_fake_g = _update_generator(gan, batch, fake)
    if gan.ema:
        gan.ema.update(gan.generator)
    return _statistics(gan, batch, (loss_d, loss_g), (logits_real, logits_fake, logits_fake_g))


def _update_discriminator(
    gan: GAN, batch: _Batch, fake: Tensor, with_penalty: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Raise the logits of real images and lower those of generated images.

    Returns:
        The loss without penalties, the logits of the real and those of the generated images.
    """
    settings, discriminator = gan.settings, gan.discriminator
    real_view, fake_view = batch.augment(gan, "real", batch.real), batch.augment(gan, "fake", fake)
    with autocast(gan.precision, fake.device):
        logits_real = discriminator(real_view, batch.labels)
        logits_fake = discriminator(fake_view, batch.labels)
    loss = discriminator_loss(settings.loss, logits_real, logits_fake, settings.label_smoothing)
    objective = loss
    if with_penalty:
        objective = loss + _penalty(gan, batch, real_view, fake_view)
    _backward_and_step(gan, batch, objective, discriminator, gan.discriminator_optimizer)
    return loss, logits_real, logits_fake


def _update_generator(gan: GAN, batch: _Batch, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Raise the logits that the updated discriminator gives the generated images.

    Returns:
        The loss, and the logits of the generated images.
    """
    settings, discriminator = gan.settings, gan.discriminator
    logits_real = None
    with _frozen(discriminator):
        with autocast(gan.precision, fake.device):
            logits_fake = discriminator(batch.augment(gan, "fake_g", fake), batch.labels)
            if settings.loss == "relativistic":
                real_view = batch.augment(gan, "real_g", batch.real)
                logits_real = discriminator(real_view, batch.labels)
        loss = generator_loss(settings.loss, logits_fake, logits_real)
        _backward_and_step(gan, batch, loss, gan.generator, gan.generator_optimizer)
    return loss, logits_fake


def _penalty(gan: GAN, batch: _Batch, real: Tensor, fake: Tensor) -> Tensor:
    """Return the weighted sum of the gradient penalties.

    A penalty of every n-th step is multiplied by n (lazy regularization; Karras et al. 2020,
    "Analyzing and improving the image quality of StyleGAN", section 3.1).
    """
    settings, critic = gan.settings, partial(gan.discriminator, labels=batch.labels)
    total = real.new_zeros(())
    if settings.r1:
        total = total + settings.r1 * r1_penalty(critic, real)
    if settings.r2:
        total = total + settings.r2 * r1_penalty(critic, fake)
    if settings.gradient_penalty:
        penalty = gradient_penalty(critic, real, fake, interpolation_weights(batch.uniforms))
        total = total + settings.gradient_penalty * penalty
    return total * settings.penalty_interval


def _backward_and_step(
    gan: GAN, batch: _Batch, loss: Tensor, network: nn.Module, optimizer: optim.Optimizer
) -> None:
    """Compute gradients of the mean loss over the batch of all processes, and update a network.

    Gradients with a norm over ``grad_clip`` are scaled down to it (Pascanu et al. 2013, "On the
    difficulty of training recurrent neural networks", algorithm 1).
    """
    if gan.ranks.count > 1:
        (batch.fraction * loss).backward()
        gan.ranks.all_reduce_sum(p.grad for p in network.parameters() if p.grad is not None)
    else:
        loss.backward()
    if gan.settings.grad_clip:
        nn.utils.clip_grad_norm_(network.parameters(), gan.settings.grad_clip)
    optimizer.step()


@contextmanager
def _frozen(discriminator: nn.Module) -> Iterator[None]:
    """Disable the gradients of the discriminator's weights, which the generator does not need."""
    discriminator.requires_grad_(False)
    try:
        yield
    finally:
        discriminator.requires_grad_(True)


@torch.no_grad()
def _statistics(
    gan: GAN, batch: _Batch, losses: tuple[Tensor, ...], logits: tuple[Tensor, ...]
) -> Tensor:
    """Return the losses and the mean scores over the batch of all processes, float32 [5]."""
    scores = [mean(values.float().sigmoid()) for values in logits]
    statistics = torch.stack([*(loss.detach() for loss in losses), *scores]).float()
    if gan.ranks.count > 1:
        statistics *= batch.fraction
        gan.ranks.all_reduce_sum([statistics])
    return statistics
