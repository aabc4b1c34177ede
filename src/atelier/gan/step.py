"""One training step: update the discriminator, then the generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn, optim

from atelier.core.arrays import to_tensor
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
class Batch:
    """Inputs of a training step.

    Attributes:
        real: uint8 [B, H, W, C], or float [B, C, H, W] in [-1, 1].
        latents: float [B, latent_size + classes]. The one-hot labels at the end are those of the
            real images.
        uniforms: random numbers in [0, 1), [B, gan.uniforms_per_image]; ``None`` if that is 0.
        fraction: B divided by the number of images in the batch of all processes. The loss is the
            mean over that whole batch.
        with_penalty: true to add the gradient penalties to the discriminator's loss.
    """

    real: Tensor
    latents: Tensor
    uniforms: Tensor | None = None
    fraction: float = 1.0
    with_penalty: bool = False

    def __len__(self) -> int:
        return len(self.real)

    def first(self, count: int) -> "Batch":
        """Return a batch of the first ``count`` images."""
        uniforms = None if self.uniforms is None else self.uniforms[:count]
        return replace(
            self, real=self.real[:count], latents=self.latents[:count], uniforms=uniforms
        )


@dataclass(frozen=True)
class _Inputs:
    """Float images [B, C, H, W], one-hot labels, random numbers and fraction of a batch."""

    real: Tensor
    labels: Tensor | None
    uniforms: Tensor
    fraction: float

    def augment(self, gan: GAN, view: str, images: Tensor) -> Tensor:
        """Apply differentiable augmentation with the random numbers of a view."""
        return diff_augment(images, gan.settings.augment, self.uniforms, view)


def train_step(gan: GAN, batch: Batch) -> Tensor:
    """Update the discriminator, then the generator, on one batch.

    Goodfellow et al. 2014, in the order of PyTorch's DCGAN tutorial. The discriminator processes
    real and generated images as two batches, so that batch normalization does not mix them. The
    generator's loss uses the updated discriminator and the same generated images.

    Args:
        gan: its weights, optimizer moments and running statistics change.
        batch: real images and random numbers.

    Returns:
        The five :data:`STATISTICS`, float32 [5], on the device without synchronization: loss_d
        (without penalties), loss_g, and the mean of D(x), of D(G(z)) before the discriminator's
        update, and of D(G(z)) after it.
    """
    inputs = _prepare(gan, batch)
    gan.discriminator_optimizer.zero_grad(set_to_none=True)
    with autocast(gan.precision, batch.latents.device):
        fake = gan.generator(batch.latents)
    loss_d, logits_real, logits_fake = _update_discriminator(
        gan, inputs, fake.detach(), batch.with_penalty
    )
    gan.generator_optimizer.zero_grad(set_to_none=True)
    loss_g, logits_fake_g = _update_generator(gan, inputs, fake)
    if gan.ema:
        gan.ema.update(gan.generator)
    return _statistics(gan, inputs, (loss_d, loss_g), (logits_real, logits_fake, logits_fake_g))


def _prepare(gan: GAN, batch: Batch) -> _Inputs:
    """Convert, flip and label the images of a batch."""
    uniforms = batch.uniforms
    if uniforms is None:
        uniforms = batch.latents.new_empty(len(batch), 0)
    real = batch.real
    if real.dtype == torch.uint8:
        real = to_tensor(real, signed=True)
    if gan.settings.horizontal_flip:
        real = random_hflip(real, uniforms)
    return _Inputs(real, split_labels(batch.latents, gan.arch), uniforms, batch.fraction)


def _update_discriminator(
    gan: GAN, inputs: _Inputs, fake: Tensor, with_penalty: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Raise the logits of real images and lower those of generated images.

    Returns:
        The loss without penalties, the logits of the real and those of the generated images.
    """
    settings, discriminator = gan.settings, gan.discriminator
    real_view, fake_view = (
        inputs.augment(gan, "real", inputs.real),
        inputs.augment(gan, "fake", fake),
    )
    with autocast(gan.precision, fake.device):
        if settings.fused == "auto":
            logits_real, logits_fake = discriminator.forward_pair(
                real_view, fake_view, inputs.labels
            )
        else:
            logits_real = discriminator(real_view, inputs.labels)
            logits_fake = discriminator(fake_view, inputs.labels)
    loss = discriminator_loss(settings.loss, logits_real, logits_fake, settings.label_smoothing)
    objective = loss
    if with_penalty:
        objective = loss + _penalty(gan, inputs, real_view, fake_view)
    _backward_and_step(gan, inputs, objective, discriminator, gan.discriminator_optimizer)
    return loss, logits_real, logits_fake


def _update_generator(gan: GAN, inputs: _Inputs, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Raise the logits that the updated discriminator gives the generated images.

    Returns:
        The loss, and the logits of the generated images.
    """
    settings, discriminator = gan.settings, gan.discriminator
    logits_real = None
    with _frozen(discriminator):
        with autocast(gan.precision, fake.device):
            logits_fake = discriminator(inputs.augment(gan, "fake_g", fake), inputs.labels)
            if settings.loss == "relativistic":
                real_view = inputs.augment(gan, "real_g", inputs.real)
                logits_real = discriminator(real_view, inputs.labels)
        loss = generator_loss(settings.loss, logits_fake, logits_real)
        _backward_and_step(gan, inputs, loss, gan.generator, gan.generator_optimizer)
    return loss, logits_fake


def _penalty(gan: GAN, inputs: _Inputs, real: Tensor, fake: Tensor) -> Tensor:
    """Return the weighted sum of the gradient penalties.

    A penalty of every n-th step is multiplied by n (lazy regularization; Karras et al. 2020,
    "Analyzing and improving the image quality of StyleGAN", section 3.1).
    """
    settings, critic = gan.settings, partial(gan.discriminator, labels=inputs.labels)
    total = real.new_zeros(())
    if settings.r1:
        total = total + settings.r1 * r1_penalty(critic, real)
    if settings.r2:
        total = total + settings.r2 * r1_penalty(critic, fake)
    if settings.gradient_penalty:
        penalty = gradient_penalty(critic, real, fake, interpolation_weights(inputs.uniforms))
        total = total + settings.gradient_penalty * penalty
    return total * settings.penalty_interval


def _backward_and_step(
    gan: GAN, inputs: _Inputs, loss: Tensor, network: nn.Module, optimizer: optim.Optimizer
) -> None:
    """Compute gradients of the mean loss over the batch of all processes, and update a network.

    Gradients with a norm over ``grad_clip`` are scaled down to it (Pascanu et al. 2013, "On the
    difficulty of training recurrent neural networks", algorithm 1).
    """
    if gan.ranks.count > 1:
        (inputs.fraction * loss).backward()
        gan.ranks.all_reduce_sum(p.grad for p in network.parameters() if p.grad is not None)
    else:
        loss.backward()
    if gan.settings.grad_clip:
        nn.utils.clip_grad_norm_(network.parameters(), gan.settings.grad_clip)
    optimizer.step()


@contextmanager
def _frozen(discriminator: nn.Module) -> Iterator[None]:
    """Disable the gradients of the discriminator's weights, which the generator does not need."""
    trained = [weight for weight in discriminator.parameters() if weight.requires_grad]
    discriminator.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:  # not those of frozen layers
            weight.requires_grad_(True)


@torch.no_grad()
def _statistics(
    gan: GAN, inputs: _Inputs, losses: tuple[Tensor, ...], logits: tuple[Tensor, ...]
) -> Tensor:
    """Return the losses and the mean scores over the batch of all processes, float32 [5]."""
    scores = [mean(values.float().sigmoid()) for values in logits]
    statistics = torch.stack([*(loss.detach() for loss in losses), *scores]).float()
    if gan.ranks.count > 1:
        statistics *= inputs.fraction
        gan.ranks.all_reduce_sum([statistics])
    return statistics
