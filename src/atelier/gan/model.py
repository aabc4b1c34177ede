"""Both networks with their optimizers, learning rates, moving average, and state."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from atelier.core.device import Precision, choose_precision
from atelier.core.random_streams import derive_seed
from atelier.core.settings import TrainSettings
from atelier.core.state import flatten, section
from atelier.gan.augment import UNIFORMS_PER_IMAGE
from atelier.gan.distributed import SINGLE_PROCESS, Ranks, convert_sync_batchnorm
from atelier.gan.fine_tuning import PretrainedNetworks, freeze_layers
from atelier.gan.fused import fuse
from atelier.gan.lr_schedule import set_lr
from atelier.gan.networks import Architecture, Discriminator, Generator, build_networks


@dataclass(frozen=True)
class GAN:
    """Both networks and their optimizers; a training step changes their state in place.

    ``ema`` is the moving average of the generator, or ``None`` if ``settings.ema_decay`` is 0.
    """

    arch: Architecture
    generator: Generator
    discriminator: Discriminator
    generator_optimizer: optim.Optimizer
    discriminator_optimizer: optim.Optimizer
    settings: TrainSettings
    precision: Precision
    ranks: Ranks
    ema: "EMA | None" = None

    @property
    def eval_generator(self) -> Generator:
        """The generator to sample from: the moving average if there is one."""
        return self.ema.generator if self.ema else self.generator

    @property
    def uniforms_per_image(self) -> int:
        """Random numbers that a training step needs per image."""
        settings = self.settings
        needed = settings.augment or settings.horizontal_flip or settings.gradient_penalty
        return UNIFORMS_PER_IMAGE if needed else 0

    def set_lr_factor(self, factor: float) -> None:
        """Set the learning rates to those of the settings times ``factor``."""
        for optimizer, lr in zip(self._optimizers(), _learning_rates(self.settings), strict=True):
            set_lr(optimizer, lr * factor)

    def state(self) -> dict[str, Tensor]:
        """Return weights, running statistics and optimizer moments by name."""
        state: dict[str, Any] = {}
        for name, network, optimizer in self._parts():
            state[name] = network.state_dict() | {"adam": optimizer.state_dict()["state"]}
        if self.ema:
            state["average"] = self.ema.state()
        return flatten(state)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors returned by :meth:`state`, bit for bit."""
        for name, network, optimizer in self._parts():
            saved = section(state, name)
            network.load_state_dict({key: saved[key] for key in network.state_dict()})
            moments = {}
            for number, parameter in enumerate(network.parameters()):
                # Fused optimizers assume that moments have the memory format of the parameter.
                moments[number] = {
                    key: torch.empty_like(parameter).copy_(t) if t.ndim else t.clone()
                    for key, t in section(saved, f"adam.{number}").items()
                }
            groups = optimizer.state_dict()["param_groups"]
            # Before the first step there are no moments.
            present = {number: tensors for number, tensors in moments.items() if tensors}
            optimizer.load_state_dict({"state": present, "param_groups": groups})
        if self.ema:
            self.ema.restore(section(state, "average"))

    def _optimizers(self) -> tuple[optim.Optimizer, optim.Optimizer]:
        return self.generator_optimizer, self.discriminator_optimizer

    def _parts(self) -> tuple[tuple[str, nn.Module, optim.Optimizer], ...]:
        return (
            ("generator", self.generator, self.generator_optimizer),
            ("discriminator", self.discriminator, self.discriminator_optimizer),
        )


class EMA:
    """Exponential moving average of a generator's weights and batch statistics.

    Karras et al. 2018, "Progressive growing of GANs", section 6.1; Yazıcı et al. 2019, "The unusual
    effectiveness of averaging in GAN training". The decay at step t is ``min(decay, (1 + t) /
    (10 + t))``, as in TensorFlow's ``ExponentialMovingAverage``, to forget the first steps quickly.
    It is ``decay`` from the first step on if the generator is trained already.

    Attributes:
        generator: the average, in evaluation mode.
    """

    def __init__(self, generator: Generator, decay: float, warm_up: bool = True) -> None:
        """Copy the weights of ``generator``, on its device.

        Args:
            generator: the network to average.
            decay: the final decay.
            warm_up: begin with a smaller decay; false for weights that are trained already.
        """
        self.generator = deepcopy(generator).eval().requires_grad_(False)
        device = next(generator.parameters()).device
        self._decay = torch.tensor(decay, device=device)
        self._warm_up = warm_up
        # On the device, so that a replayed CUDA graph increments it.
        self._steps = torch.zeros((), device=device)

    @torch.no_grad()
    def update(self, generator: Generator) -> None:
        """Average in the weights of ``generator`` after a training step."""
        self._steps.add_(1)
        decay = self._decay
        if self._warm_up:
            decay = torch.minimum(decay, (1 + self._steps) / (10 + self._steps))
        current = generator.state_dict()
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, average in self.generator.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(current[name])
            else:
                average.copy_(current[name])
        on_gpu = self._steps.device.type == "cuda"
        (lerp_in_few_launches if on_gpu else _lerp)(averages, values, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Return the average and its number of steps by name."""
        return flatten({"steps": self._steps, "generator": self.generator.state_dict()})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors returned by :meth:`state`, bit for bit."""
        self._steps.copy_(state["steps"])
        self.generator.load_state_dict(section(state, "generator"))


def _lerp(averages: list[Tensor], values: list[Tensor], weight: Tensor) -> None:
    for average, value in zip(averages, values, strict=True):
        average.lerp_(value, weight.to(average.dtype))


def lerp_in_few_launches(averages: list[Tensor], values: list[Tensor], weight: Tensor) -> None:
    """Interpolate as ``lerp_`` does, in three launches for all tensors; rounding differs."""
    differences = torch._foreach_sub(values, averages)
    torch._foreach_mul_(differences, weight.to(averages[0].dtype))
    torch._foreach_add_(averages, differences)


def build_gan(
    arch: Architecture,
    settings: TrainSettings,
    device: torch.device,
    ranks: Ranks = SINGLE_PROCESS,
    pretrained: PretrainedNetworks | None = None,
) -> GAN:
    """Build both networks and their Adam optimizers on ``device``.

    Args:
        arch: of both networks.
        settings: the ``train`` section.
        device: of weights and moments.
        ranks: this process and the number of processes.
        pretrained: networks of the same architecture, whose weights replace the random ones.

    Raises:
        AtelierError: ``train.freeze_discriminator`` leaves no layer to train.
    """
    networks = build_networks(arch, derive_seed(settings.seed, "train.weights"))
    if pretrained:
        pretrained.load_into(*networks)
    if ranks.count > 1:
        for network in networks:
            convert_sync_batchnorm(network)
    # Channels last makes convolutions faster and does not change the results.
    generator, discriminator = (
        network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        for network in networks
    )
    if settings.fused == "auto":
        # Collective operations inside compiled functions would hide the loss of a process.
        compiled = device.type == "cuda" and ranks.count == 1
        fuse(generator, discriminator, settings.batch_size if compiled else 0)
    freeze_layers(discriminator, settings.freeze_discriminator)
    generator_lr, discriminator_lr = _learning_rates(settings)
    return GAN(
        arch,
        generator,
        discriminator,
        _build_adam(generator, generator_lr, settings, device),
        _build_adam(discriminator, discriminator_lr, settings, device),
        settings,
        choose_precision(settings.precision, device),
        ranks,
        EMA(generator, settings.ema_decay, not settings.start_from) if settings.ema_decay else None,
    )


def _build_adam(
    network: nn.Module, lr: float, settings: TrainSettings, device: torch.device
) -> optim.Optimizer:
    graphed = device.type == "cuda"
    # A CUDA graph fixes a Python float at capture, but reads a tensor at each replay.
    lr_changes = graphed and settings.schedule != "constant"
    return optim.Adam(
        network.parameters(),
        lr=torch.tensor(lr, device=device) if lr_changes else lr,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
        capturable=graphed,
    )


def _learning_rates(settings: TrainSettings) -> tuple[float, float]:
    """Return the learning rates of the generator and the discriminator.

    Separate rates: Heusel et al. 2017, "GANs trained by a two time-scale update rule".
    """
    return settings.lr, settings.discriminator_lr or settings.lr
