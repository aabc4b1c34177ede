"""One training step of both networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

from atelier.gan.networks import Architecture, Discriminator, Generator, build
from atelier.gan.precision import Precision, autocast, choose_precision
from atelier.gan.ranks import ALONE, Ranks, join_batches
from atelier.settings import TrainSettings

STATISTICS = ("loss_d", "loss_g", "d_x", "d_g_z1", "d_g_z2")


@dataclass(frozen=True)
class Gan:
    """Both networks and their optimizers; the step changes their state in place.

    ``label_smoothing`` is taken off the label of real pictures when the discriminator learns
    (Salimans et al. 2016, "Improved techniques for training GANs", section 3.4).
    """

    generator: Generator
    discriminator: Discriminator
    generator_optimizer: optim.Optimizer
    discriminator_optimizer: optim.Optimizer
    label_smoothing: float
    precision: Precision
    ranks: Ranks

    def state(self) -> dict[str, Tensor]:
        """Weights, running statistics and the optimizers' moments, by name."""
        state: dict[str, Tensor] = {}
        for name, network, optimizer in self._parts():
            state |= {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}
            for number, moments in optimizer.state_dict()["state"].items():
                state |= {f"{name}.adam.{number}.{key}": t for key, t in moments.items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave, to the bit."""
        for name, network, optimizer in self._parts():
            network.load_state_dict({key: state[f"{name}.{key}"] for key in network.state_dict()})
            moments: dict[int, dict[str, Tensor]] = {}
            for number, parameter in enumerate(network.parameters()):
                start = f"{name}.adam.{number}."
                mine = {k.removeprefix(start): t for k, t in state.items() if k.startswith(start)}
                # In the parameter's own order in memory, which fused optimizers take for granted.
                moments[number] = {
                    key: torch.empty_like(parameter).copy_(t) if t.ndim else t.clone()
                    for key, t in mine.items()
                }
            groups = optimizer.state_dict()["param_groups"]
            started = {number: m for number, m in moments.items() if m}
            optimizer.load_state_dict({"state": started, "param_groups": groups})

    def _parts(self) -> tuple[tuple[str, nn.Module, optim.Optimizer], ...]:
        return (
            ("generator", self.generator, self.generator_optimizer),
            ("discriminator", self.discriminator, self.discriminator_optimizer),
        )


def build_gan(
    arch: Architecture, settings: TrainSettings, device: torch.device, ranks: Ranks = ALONE
) -> Gan:
    """Build both networks and their Adam optimizers on ``device``, ready to train."""
    networks = build(arch, settings.seed)
    if ranks.count > 1:
        for network in networks:
            join_batches(network)
    # Convolutions are markedly faster with channels last, and the numbers are the same.
    generator, discriminator = (
        network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        for network in networks
    )

    def adam(network: nn.Module) -> optim.Optimizer:
        betas = (settings.beta1, settings.beta2)
        decay = settings.weight_decay
        return optim.Adam(
            network.parameters(),
            lr=settings.lr,
            betas=betas,
            weight_decay=decay,
            fused=True,
            capturable=device.type == "cuda",
        )

    return Gan(
        generator,
        discriminator,
        adam(generator),
        adam(discriminator),
        settings.label_smoothing,
        choose_precision(settings.precision, device),
        ranks,
    )


def train_step(gan: Gan, real: Tensor, latents: Tensor, share: float = 1.0) -> Tensor:
    """Update the discriminator, then the generator, on one batch.

    Goodfellow et al. 2014 with the non-saturating generator loss, in the order of the
    DCGAN tutorial: the discriminator sees real and generated pictures in two batches, so
    that batch normalisation does not mix them; the generator is judged by the updated
    discriminator on the same pictures. Losses are binary cross entropy on logits.

    Args:
        gan: the networks; their weights, optimizers and running statistics change.
        real: [B, C, H, W] float, in [-1, 1].
        latents: [B, latent_size] float.
        share: of these in the batch of all processes; a loss is the mean over that batch.

    Returns:
        The five :data:`STATISTICS`, float32 [5], on the device and not waited for: loss_d
        (sum over real and generated), loss_g, and the mean of D(x), of D(G(z)) before the
        discriminator's update and after it.
    """
    generator, discriminator = gan.generator, gan.discriminator
    computed = partial(autocast, gan.precision, real.device)

    gan.discriminator_optimizer.zero_grad(set_to_none=True)
    with computed():
        fake = generator(latents)
        logits_real = discriminator(real)
        logits_fake = discriminator(fake.detach())
    loss_d = _bce(logits_real, 1.0 - gan.label_smoothing) + _bce(logits_fake, 0.0)
    _learn(gan, loss_d, share, discriminator, gan.discriminator_optimizer)

    gan.generator_optimizer.zero_grad(set_to_none=True)
    # The generator's step needs the gradient through the discriminator, not that of its weights.
    discriminator.requires_grad_(False)
    with computed():
        logits_fooled = discriminator(fake)
    loss_g = _bce(logits_fooled, 1.0)
    _learn(gan, loss_g, share, generator, gan.generator_optimizer)
    discriminator.requires_grad_(True)

    with torch.no_grad():
        judged = (logits_real, logits_fake, logits_fooled)
        believed = [_mean(logits.float().sigmoid()) for logits in judged]
        statistics = torch.stack([loss_d.detach(), loss_g.detach(), *believed]).float()
        if gan.ranks.count > 1:
            statistics *= share
            gan.ranks.add_up([statistics])
        return statistics


def _learn(
    gan: Gan, loss: Tensor, share: float, network: nn.Module, optimizer: optim.Optimizer
) -> None:
    """Update a network by the loss over the batch of all processes, of which this is a share."""
    if gan.ranks.count > 1:
        (share * loss).backward()
        gan.ranks.add_up(p.grad for p in network.parameters() if p.grad is not None)
    else:
        loss.backward()
    optimizer.step()


def _bce(logits: Tensor, label: float) -> Tensor:
    # In float32 at least: bfloat16 has three digits.
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    losses = F.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, label), reduction="none"
    )
    return _mean(losses)


def _mean(values: Tensor) -> Tensor:
    """The mean; 0 of none, which a process may get of a small batch."""
    return values.mean() if len(values) else values.sum()
