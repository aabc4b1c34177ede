"""One training step of both networks."""

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
    share: float = 1.0,
    chances: Tensor | None = None,
    penalised: bool = False,
) -> Tensor:
    """Update the discriminator, then the generator, on one batch.

    Goodfellow et al. 2014 in the order of the DCGAN tutorial: the discriminator sees real and
    generated pictures in two batches, so that batch normalisation does not mix them; the generator
    is judged by the updated discriminator on the same pictures.

    Args:
        gan: the networks; their weights, optimizers and running statistics change.
        real: [B, C, H, W] float, in [-1, 1].
        latents: [B, latent_size] float; with one-hot labels behind them where the networks know
            classes, which are also those of the real pictures.
        share: of these in the batch of all processes; a loss is the mean over that batch.
        chances: random numbers, uniform in [0, 1), [B, gan.chances]; may be left out where a step
            needs none.
        penalised: whether this step is one of those that penalise the discriminator's gradient.

    Returns:
        The five :data:`STATISTICS`, float32 [5], on the device and not waited for: loss_d
        (without penalties), loss_g, and the mean of D(x), of D(G(z)) before the
        discriminator's update and after it.
    """
    settings, generator, discriminator = gan.settings, gan.generator, gan.discriminator
    computed = partial(autocast, gan.precision, real.device)
    chances = latents.new_empty(len(latents), 0) if chances is None else chances
    view = partial(diff_augment, kinds=settings.augment, chances=chances)
    labels = split_labels(latents, gan.arch)
    if settings.horizontal_flip:
        real = random_hflip(real, chances)

    gan.discriminator_optimizer.zero_grad(set_to_none=True)
    with computed():
        fake = generator(latents)
        real_seen, fake_seen = view(real, look="real"), view(fake.detach(), look="fake")
        logits_real = discriminator(real_seen, labels)
        logits_fake = discriminator(fake_seen, labels)
    loss_d = discriminator_loss(settings.loss, logits_real, logits_fake, settings.label_smoothing)
    to_learn = loss_d
    if penalised:
        to_learn = loss_d + _penalty(gan, real_seen, fake_seen, labels, chances)
    _backward_and_step(gan, to_learn, share, discriminator, gan.discriminator_optimizer)

    gan.generator_optimizer.zero_grad(set_to_none=True)
    rival = None
    with _frozen(discriminator):
        with computed():
            logits_fooled = discriminator(view(fake, look="fooled"), labels)
            if settings.loss == "relativistic":
                rival = discriminator(view(real, look="rival"), labels)
        loss_g = generator_loss(settings.loss, logits_fooled, rival)
        _backward_and_step(gan, loss_g, share, generator, gan.generator_optimizer)
    if gan.ema:
        gan.ema.update(generator)

    with torch.no_grad():
        judged = (logits_real, logits_fake, logits_fooled)
        believed = [mean(logits.float().sigmoid()) for logits in judged]
        statistics = torch.stack([loss_d.detach(), loss_g.detach(), *believed]).float()
        if gan.ranks.count > 1:
            statistics *= share
            gan.ranks.all_reduce_sum([statistics])
        return statistics


@contextmanager
def _frozen(discriminator: nn.Module) -> Iterator[None]:
    """The generator's step needs the gradient through the discriminator, not its weights'."""
    discriminator.requires_grad_(False)
    try:
        yield
    finally:
        discriminator.requires_grad_(True)


def _penalty(
    gan: GAN, real: Tensor, fake: Tensor, labels: Tensor | None, chances: Tensor
) -> Tensor:
    """All penalties that are asked for, by their weights.

    One of every n-th step weighs n times as much (lazy regularisation; Karras et al. 2020,
    "Analyzing and improving the image quality of StyleGAN", section 3.1).
    """
    settings, critic = gan.settings, partial(gan.discriminator, labels=labels)
    total = real.new_zeros(())
    if settings.r1:
        total = total + settings.r1 * r1_penalty(critic, real)
    if settings.r2:
        total = total + settings.r2 * r1_penalty(critic, fake)
    if settings.gradient_penalty:
        between = gradient_penalty(critic, real, fake, interpolation_weights(chances))
        total = total + settings.gradient_penalty * between
    return total * settings.penalty_interval


def _backward_and_step(
    gan: GAN, loss: Tensor, share: float, network: nn.Module, optimizer: optim.Optimizer
) -> None:
    """Update a network by the loss over the batch of all processes, of which this is a share.

    A gradient longer than ``clip`` is made as short (Pascanu et al. 2013, "On the difficulty of
    training recurrent neural networks", algorithm 1).
    """
    if gan.ranks.count > 1:
        (share * loss).backward()
        gan.ranks.all_reduce_sum(p.grad for p in network.parameters() if p.grad is not None)
    else:
        loss.backward()
    if gan.settings.grad_clip:
        nn.utils.clip_grad_norm_(network.parameters(), gan.settings.grad_clip)
    optimizer.step()
