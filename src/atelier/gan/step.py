"""One training step: update the discriminator, then the generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn, optim

from atelier.core.device import autocast
from atelier.gan.augment import diff_augment, interpolation_weights, random_hflip
from atelier.gan.generate import split_labels
from atelier.gan.losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mean,
    r1_penalty,
)
from atelier.gan.model import GAN

STATISTICS = ("loss_d", "loss_g", "d_x", "d_g_z1", "d_g_z2")


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
    settings, generator, discriminator = gan.settings, gan.generator, gan.discriminator
    mixed_precision = partial(autocast, gan.precision, real.device)
    uniforms = latents.new_empty(len(latents), 0) if uniforms is None else uniforms
    augment = partial(diff_augment, kinds=settings.augment, uniforms=uniforms)
    labels = split_labels(latents, gan.arch)
    if settings.horizontal_flip:
        real = random_hflip(real, uniforms)

    # 1. Discriminator: raise the logits of real images, lower those of generated images.
    gan.discriminator_optimizer.zero_grad(set_to_none=True)
    with mixed_precision():
        fake = generator(latents)
        real_view, fake_view = augment(real, view="real"), augment(fake.detach(), view="fake")
        logits_real = discriminator(real_view, labels)
        logits_fake = discriminator(fake_view, labels)
    loss_d = discriminator_loss(settings.loss, logits_real, logits_fake, settings.label_smoothing)
    objective = loss_d
    if with_penalty:
        objective = loss_d + _penalty(gan, real_view, fake_view, labels, uniforms)
    _backward_and_step(gan, objective, batch_fraction, discriminator, gan.discriminator_optimizer)

    # 2. Generator: raise the logits that the updated discriminator gives the same images.
    gan.generator_optimizer.zero_grad(set_to_none=True)
    logits_real_g = None
    with _frozen(discriminator):
        with mixed_precision():
            logits_fake_g = discriminator(augment(fake, view="fake_g"), labels)
            if settings.loss == "relativistic":
                logits_real_g = discriminator(augment(real, view="real_g"), labels)
        loss_g = generator_loss(settings.loss, logits_fake_g, logits_real_g)
        _backward_and_step(gan, loss_g, batch_fraction, generator, gan.generator_optimizer)
    if gan.ema:
        gan.ema.update(generator)

    return _statistics(
        gan, (loss_d, loss_g), (logits_real, logits_fake, logits_fake_g), batch_fraction
    )


def _penalty(
    gan: GAN, real: Tensor, fake: Tensor, labels: Tensor | None, uniforms: Tensor
) -> Tensor:
    """Return the weighted sum of the gradient penalties.

    A penalty of every n-th step is multiplied by n (lazy regularization; Karras et al. 2020,
    "Analyzing and improving the image quality of StyleGAN", section 3.1).
    """
    settings, critic = gan.settings, partial(gan.discriminator, labels=labels)
    total = real.new_zeros(())
    if settings.r1:
        total = total + settings.r1 * r1_penalty(critic, real)
    if settings.r2:
        total = total + settings.r2 * r1_penalty(critic, fake)
    if settings.gradient_penalty:
        penalty = gradient_penalty(critic, real, fake, interpolation_weights(uniforms))
        total = total + settings.gradient_penalty * penalty
    return total * settings.penalty_interval


def _backward_and_step(
    gan: GAN, loss: Tensor, batch_fraction: float, network: nn.Module, optimizer: optim.Optimizer
) -> None:
    """Compute gradients of the mean loss over the batch of all processes, and update a network.

    Gradients with a norm over ``grad_clip`` are scaled down to it (Pascanu et al. 2013, "On the
    difficulty of training recurrent neural networks", algorithm 1).
    """
    if gan.ranks.count > 1:
        (batch_fraction * loss).backward()
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
    gan: GAN, losses: tuple[Tensor, ...], logits: tuple[Tensor, ...], batch_fraction: float
) -> Tensor:
    """Return the losses and the mean scores over the batch of all processes, float32 [5]."""
    scores = [mean(values.float().sigmoid()) for values in logits]
    statistics = torch.stack([*(loss.detach() for loss in losses), *scores]).float()
    if gan.ranks.count > 1:
        statistics *= batch_fraction
        gan.ranks.all_reduce_sum([statistics])
    return statistics
