"""One training step of both networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn, optim

from atelier.gan.augment import CHANCES, mirrored, mixing, seen
from atelier.gan.ema import Average
from atelier.gan.generate import labels_of
from atelier.gan.losses import discriminator_loss, generator_loss, mean
from atelier.gan.networks import Architecture, Discriminator, Generator, build
from atelier.gan.penalties import one_centred, zero_centred
from atelier.gan.precision import Precision, autocast, choose_precision
from atelier.gan.ranks import ALONE, Ranks, join_batches
from atelier.gan.schedule import set_rate
from atelier.settings import TrainSettings

STATISTICS = ("loss_d", "loss_g", "d_x", "d_g_z1", "d_g_z2")


@dataclass(frozen=True)
class Gan:
    """Both networks and their optimizers; the step changes their state in place.

    ``average`` is that of the generator, where ``settings.ema`` asks for one.
    """

    arch: Architecture
    generator: Generator
    discriminator: Discriminator
    generator_optimizer: optim.Optimizer
    discriminator_optimizer: optim.Optimizer
    settings: TrainSettings
    precision: Precision
    ranks: Ranks
    average: Average | None = None

    @property
    def artist(self) -> Generator:
        """The generator that pictures are made with: the average, or the one that learns."""
        return self.average.generator if self.average else self.generator

    @property
    def chances(self) -> int:
        """Random numbers that a step needs for each picture."""
        settings = self.settings
        used = settings.augment or settings.flip or settings.gradient_penalty
        return CHANCES if used else 0

    def set_rates(self, factor: float) -> None:
        """Learn from now on with the settings' learning rates times ``factor``."""
        for optimizer, lr in zip(self._optimizers(), _rates(self.settings), strict=True):
            set_rate(optimizer, lr * factor)

    def state(self) -> dict[str, Tensor]:
        """Weights, running statistics and the optimizers' moments, by name."""
        state: dict[str, Tensor] = {}
        for name, network, optimizer in self._parts():
            state |= {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}
            for number, moments in optimizer.state_dict()["state"].items():
                state |= {f"{name}.adam.{number}.{key}": t for key, t in moments.items()}
        if self.average:
            state |= {f"average.{key}": tensor for key, tensor in self.average.state().items()}
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
        if self.average:
            start = "average."
            self.average.restore(
                {k.removeprefix(start): t for k, t in state.items() if k.startswith(start)}
            )

    def _optimizers(self) -> tuple[optim.Optimizer, optim.Optimizer]:
        return self.generator_optimizer, self.discriminator_optimizer

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

    def adam(network: nn.Module, lr: float) -> optim.Optimizer:
        betas = (settings.beta1, settings.beta2)
        decay = settings.weight_decay
        recorded = device.type == "cuda"
        # A recorded step has a number for good, but looks a tensor up.
        changes = recorded and settings.schedule != "constant"
        return optim.Adam(
            network.parameters(),
            lr=torch.tensor(lr, device=device) if changes else lr,
            betas=betas,
            weight_decay=decay,
            fused=True,
            capturable=recorded,
        )

    rates = _rates(settings)
    return Gan(
        arch,
        generator,
        discriminator,
        adam(generator, rates[0]),
        adam(discriminator, rates[1]),
        settings,
        choose_precision(settings.precision, device),
        ranks,
        Average(generator, settings.ema) if settings.ema else None,
    )


def _rates(settings: TrainSettings) -> tuple[float, float]:
    """The learning rates of generator and discriminator.

    Heusel et al. 2017, "GANs trained by a two time-scale update rule", give them one each.
    """
    return settings.lr, settings.discriminator_lr or settings.lr


def train_step(
    gan: Gan,
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
    view = partial(seen, kinds=settings.augment, chances=chances)
    labels = labels_of(latents, gan.arch)
    if settings.flip:
        real = mirrored(real, chances)

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
    _learn(gan, to_learn, share, discriminator, gan.discriminator_optimizer)

    gan.generator_optimizer.zero_grad(set_to_none=True)
    # The generator's step needs the gradient through the discriminator, not that of its weights.
    discriminator.requires_grad_(False)
    rival = None
    with computed():
        logits_fooled = discriminator(view(fake, look="fooled"), labels)
        if settings.loss == "relativistic":
            rival = discriminator(view(real, look="rival"), labels)
    loss_g = generator_loss(settings.loss, logits_fooled, rival)
    _learn(gan, loss_g, share, generator, gan.generator_optimizer)
    discriminator.requires_grad_(True)
    if gan.average:
        gan.average.follow(generator)

    with torch.no_grad():
        judged = (logits_real, logits_fake, logits_fooled)
        believed = [mean(logits.float().sigmoid()) for logits in judged]
        statistics = torch.stack([loss_d.detach(), loss_g.detach(), *believed]).float()
        if gan.ranks.count > 1:
            statistics *= share
            gan.ranks.add_up([statistics])
        return statistics


def _penalty(
    gan: Gan, real: Tensor, fake: Tensor, labels: Tensor | None, chances: Tensor
) -> Tensor:
    """All penalties that are asked for, by their weights.

    One of every n-th step weighs n times as much (lazy regularisation; Karras et al. 2020,
    "Analyzing and improving the image quality of StyleGAN", section 3.1).
    """
    settings, judge = gan.settings, partial(gan.discriminator, labels=labels)
    total = real.new_zeros(())
    if settings.r1:
        total = total + settings.r1 * zero_centred(judge, real)
    if settings.r2:
        total = total + settings.r2 * zero_centred(judge, fake)
    if settings.gradient_penalty:
        between = one_centred(judge, real, fake, mixing(chances))
        total = total + settings.gradient_penalty * between
    return total * settings.penalty_every


def _learn(
    gan: Gan, loss: Tensor, share: float, network: nn.Module, optimizer: optim.Optimizer
) -> None:
    """Update a network by the loss over the batch of all processes, of which this is a share.

    A gradient longer than ``clip`` is made as short (Pascanu et al. 2013, "On the difficulty of
    training recurrent neural networks", algorithm 1).
    """
    if gan.ranks.count > 1:
        (share * loss).backward()
        gan.ranks.add_up(p.grad for p in network.parameters() if p.grad is not None)
    else:
        loss.backward()
    if gan.settings.clip:
        nn.utils.clip_grad_norm_(network.parameters(), gan.settings.clip)
    optimizer.step()
