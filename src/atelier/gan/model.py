"""Both networks with their optimizers, and all of their state."""

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn, optim

from atelier.core.device import Precision, choose_precision
from atelier.core.random_streams import derive_seed
from atelier.core.settings import TrainSettings
from atelier.gan.augment import UNIFORMS_PER_IMAGE
from atelier.gan.distributed import SINGLE_PROCESS, Ranks, convert_sync_batchnorm
from atelier.gan.networks import Architecture, Discriminator, Generator, build_networks


def lr_factor(schedule: Literal["constant", "linear", "cosine"], done: int, total: int) -> float:
    """What the learning rate is multiplied by at a step.

    ``linear`` falls evenly to 0, as in Heusel et al.'s and Miyato et al.'s trainings (2017, 2018);
    ``cosine`` slowly at first and at the end (Loshchilov and Hutter 2017, "SGDR", equation 5).

    Args:
        schedule: its course.
        done: steps before this one.
        total: steps of the whole training, more than ``done``.
    """
    if schedule == "linear":
        return 1 - done / total
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done / total)) / 2
    return 1.0


def set_lr(optimizer: optim.Optimizer, lr: float) -> None:
    """Change the learning rate from the next step on; where it is a tensor, in place.

    A recorded step reads the tensor anew, and the device is not waited for.
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


class EMA:
    """An exponential moving average of a generator and of its normalisations' statistics.

    Karras et al. 2018, "Progressive growing of GANs", section 6.1; Yazıcı et al. 2019, "The unusual
    effectiveness of averaging in GAN training". So that the first steps are soon forgotten, the
    decay begins small: ``min(decay, (1 + t) / (10 + t))`` at step t, as TensorFlow's
    ``ExponentialMovingAverage`` has it.

    Attributes:
        generator: the average, in evaluation mode.
    """

    def __init__(self, generator: Generator, decay: float) -> None:
        """Begin at ``generator`` as it stands, on its device."""
        self.generator = deepcopy(generator).eval().requires_grad_(False)
        device = next(generator.parameters()).device
        self._decay = torch.tensor(decay, device=device)
        # On the device, so that a recorded step counts on.
        self._steps = torch.zeros((), device=device)

    @torch.no_grad()
    def update(self, generator: Generator) -> None:
        """Take in the generator after a step."""
        self._steps.add_(1)
        decay = torch.minimum(self._decay, (1 + self._steps) / (10 + self._steps))
        newest = generator.state_dict()
        for name, average in self.generator.state_dict().items():
            if average.is_floating_point():
                average.lerp_(newest[name], (1 - decay).to(average.dtype))
            else:
                average.copy_(newest[name])

    def state(self) -> dict[str, Tensor]:
        """The average and its count of steps, by name."""
        return {"steps": self._steps} | {
            f"generator.{key}": tensor for key, tensor in self.generator.state_dict().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave, to the bit."""
        self._steps.copy_(state["steps"])
        names = self.generator.state_dict()
        self.generator.load_state_dict({key: state[f"generator.{key}"] for key in names})


@dataclass(frozen=True)
class GAN:
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
    ema: EMA | None = None

    @property
    def eval_generator(self) -> Generator:
        """The generator that pictures are made with: the average, or the one that learns."""
        return self.ema.generator if self.ema else self.generator

    @property
    def uniforms_per_image(self) -> int:
        """Random numbers that a step needs for each picture."""
        settings = self.settings
        used = settings.augment or settings.horizontal_flip or settings.gradient_penalty
        return UNIFORMS_PER_IMAGE if used else 0

    def set_lr_factor(self, factor: float) -> None:
        """Learn from now on with the settings' learning rates times ``factor``."""
        for optimizer, lr in zip(self._optimizers(), _learning_rates(self.settings), strict=True):
            set_lr(optimizer, lr * factor)

    def state(self) -> dict[str, Tensor]:
        """Weights, running statistics and the optimizers' moments, by name."""
        state: dict[str, Tensor] = {}
        for name, network, optimizer in self._parts():
            state |= {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}
            for number, moments in optimizer.state_dict()["state"].items():
                state |= {f"{name}.adam.{number}.{key}": t for key, t in moments.items()}
        if self.ema:
            state |= {f"average.{key}": tensor for key, tensor in self.ema.state().items()}
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
        if self.ema:
            start = "average."
            self.ema.restore(
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
    arch: Architecture, settings: TrainSettings, device: torch.device, ranks: Ranks = SINGLE_PROCESS
) -> GAN:
    """Build both networks and their Adam optimizers on ``device``, ready to train."""
    networks = build_networks(arch, derive_seed(settings.seed, "train.weights"))
    if ranks.count > 1:
        for network in networks:
            convert_sync_batchnorm(network)
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

    rates = _learning_rates(settings)
    return GAN(
        arch,
        generator,
        discriminator,
        adam(generator, rates[0]),
        adam(discriminator, rates[1]),
        settings,
        choose_precision(settings.precision, device),
        ranks,
        EMA(generator, settings.ema_decay) if settings.ema_decay else None,
    )


def _learning_rates(settings: TrainSettings) -> tuple[float, float]:
    """The learning rates of generator and discriminator.

    Heusel et al. 2017, "GANs trained by a two time-scale update rule", give them one each.
    """
    return settings.lr, settings.discriminator_lr or settings.lr
