"""Both networks with their optimizers, and all of their state."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn, optim

from atelier.gan.augment import CHANCES
from atelier.gan.ema import Average
from atelier.gan.networks import Architecture, Discriminator, Generator, build
from atelier.gan.precision import Precision, choose_precision
from atelier.gan.ranks import ALONE, Ranks, join_batches
from atelier.gan.schedule import set_rate
from atelier.settings import TrainSettings
from atelier.streams import stream_seed


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
    networks = build(arch, stream_seed(settings.seed, "train.weights"))
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
