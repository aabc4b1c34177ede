"""Comparison of a complete training step with a plain float64 reference."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from atelier.core.random_streams import derive_seed
from atelier.core.settings import TrainSettings
from atelier.gan.augment import UNIFORMS_PER_IMAGE
from atelier.gan.distributed import Ranks
from atelier.gan.losses import Kind
from atelier.gan.model import GAN, build_gan
from atelier.gan.networks import build_networks
from atelier.gan.step import Batch, train_step

from ..support.architectures import SMALL, train_settings, with_changes
from ..support.plain_augmentation import plain_augmentation

ARCH = with_changes(
    SMALL,
    generator_channels=2,
    discriminator_channels=2,
    latent_size=3,
    discriminator_norm=False,
    classes=3,
)
COUNT, RATE_G, RATE_D = 4, 0.25, 0.125
KINDS: tuple[Kind, ...] = ("bce", "hinge", "lsgan", "wgan", "relativistic")
# Unequal weights, so that exchanged penalties are detected.
PENALTIES = {"gradient_penalty": 3.1, "r1": 0.7, "r2": 1.9, "penalty_interval": 3}


def settings_of(**changes: Any) -> TrainSettings:
    changes = {"discriminator_norm": False, "precision": "fp32", **changes}
    return train_settings("celeba64", seed=5, ema_decay=0.9, **changes)


def vivid_weights(network: nn.Module) -> None:
    """Enlarge initial weights, so that logits and their gradients differ."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(8 if weight.ndim == 4 else 1)


def gan_of(settings: TrainSettings, ranks: Ranks | None = None) -> GAN:
    """Build a GAN with plain SGD, so that a step equals its gradient."""
    gan = build_gan(ARCH, settings, torch.device("cpu"))
    for network in (gan.generator, gan.discriminator):
        vivid_weights(network)
    assert gan.ema
    gan.ema.generator.load_state_dict(gan.generator.state_dict())
    return replace(
        gan,
        generator_optimizer=torch.optim.SGD(gan.generator.parameters(), RATE_G),
        discriminator_optimizer=torch.optim.SGD(gan.discriminator.parameters(), RATE_D),
        ranks=ranks or gan.ranks,
    )


def batch_of(seed: int = 1) -> Batch:
    stream = torch.Generator().manual_seed(seed)
    real = torch.rand(COUNT, 3, 16, 16, generator=stream) * 2 - 1
    latents = torch.randn(COUNT, 3, generator=stream)
    labels = nn.functional.one_hot(torch.tensor([2, 0, 1, 2]), 3).float()
    return Batch(
        real,
        torch.cat([latents, labels], 1),
        torch.rand(COUNT, UNIFORMS_PER_IMAGE, generator=stream),
    )


def loss_d(kind: Kind, real: Tensor, fake: Tensor, smoothing: float) -> Tensor:
    softplus = nn.functional.softplus
    label = 1 - smoothing
    match kind:
        case "bce":
            return (label * softplus(-real) + smoothing * softplus(real) + softplus(fake)).mean()
        case "hinge":
            return ((1 - real).clamp(min=0) + (1 + fake).clamp(min=0)).mean()
        case "lsgan":
            return ((real - 1) ** 2 + fake**2).mean() / 2
        case "wgan":
            return (fake - real).mean()
        case "relativistic":
            return softplus(fake - real).mean()


def loss_g(kind: Kind, fake: Tensor, real: Tensor) -> Tensor:
    softplus = nn.functional.softplus
    match kind:
        case "bce":
            return softplus(-fake).mean()
        case "hinge" | "wgan":
            return -fake.mean()
        case "lsgan":
            return ((fake - 1) ** 2).mean() / 2
        case "relativistic":
            return softplus(real - fake).mean()


def gradient_lengths(discriminator: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient norm of each image's logit, one image at a time."""
    lengths = []
    for image, label in zip(images.detach(), labels, strict=True):
        image = image[None].clone().requires_grad_()
        logit = discriminator(image, label[None]).sum()
        lengths.append(torch.autograd.grad(logit, image, create_graph=True)[0].norm())
    return torch.stack(lengths)


def penalty(
    settings: TrainSettings,
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    mix: Tensor,
) -> Tensor:
    """Return the weighted sum of the penalties, times their interval."""
    interpolated = mix[:, None, None, None] * real + (1 - mix)[:, None, None, None] * fake
    return settings.penalty_interval * (
        settings.gradient_penalty
        * ((gradient_lengths(discriminator, interpolated, labels) - 1) ** 2).mean()
        + settings.r1 / 2 * (gradient_lengths(discriminator, real, labels) ** 2).mean()
        + settings.r2 / 2 * (gradient_lengths(discriminator, fake, labels) ** 2).mean()
    )


@dataclass
class Reference:
    """Results of a step: statistics, and gradients and weights of both networks."""

    statistics: list[float]
    gradients: tuple[list[Tensor], list[Tensor]]
    weights: tuple[list[Tensor], list[Tensor]]


def reference_step(settings: TrainSettings, batch: Batch, with_penalty: bool) -> Reference:
    generator, discriminator = (
        network.double().train()
        for network in build_networks(ARCH, derive_seed(settings.seed, "train.weights"))
    )
    for network in (generator, discriminator):
        vivid_weights(network)
    real, latents, uniforms = (t.double() for t in (batch.real, batch.latents, batch.uniforms))
    labels = latents[:, 3:]
    if settings.horizontal_flip:
        flipped = [
            image.flip(-1) if uniforms[n, 0] < 0.5 else image for n, image in enumerate(real)
        ]
        real = torch.stack(flipped)

    def augment(images: Tensor, name: str) -> Tensor:
        return plain_augmentation(images, settings.augment, uniforms, name)

    fake = generator(latents)
    views = augment(real, "real"), augment(fake.detach(), "fake")
    logits = [discriminator(images, labels) for images in views]
    loss = loss_d(settings.loss, *logits, settings.label_smoothing)
    weights_d, weights_g = list(discriminator.parameters()), list(generator.parameters())
    extra = penalty(settings, discriminator, *views, labels, uniforms[:, 1]) if with_penalty else 0
    gradients_d = torch.autograd.grad(loss + extra, weights_d)
    with torch.no_grad():
        for weight, gradient in zip(weights_d, gradients_d, strict=True):
            weight -= RATE_D * gradient
    logits_fake_g = discriminator(augment(fake, "fake_g"), labels)
    second = loss_g(settings.loss, logits_fake_g, discriminator(augment(real, "real_g"), labels))
    gradients_g = torch.autograd.grad(second, weights_g)
    with torch.no_grad():
        for weight, gradient in zip(weights_g, gradients_g, strict=True):
            weight -= RATE_G * gradient
    scores = [values.sigmoid().mean().item() for values in (*logits, logits_fake_g)]
    return Reference(
        [loss.item(), second.item(), *scores],
        (list(gradients_g), list(gradients_d)),
        (weights_g, weights_d),
    )


def assert_same(found: GAN, statistics: Tensor, expected: Reference) -> None:
    torch.testing.assert_close(
        statistics.double(), torch.tensor(expected.statistics).double(), rtol=1e-4, atol=1e-5
    )
    for network, gradients, weights in zip(
        (found.generator, found.discriminator), expected.gradients, expected.weights, strict=True
    ):
        largest = max(float(gradient.abs().max()) for gradient in gradients)
        assert largest > 1e-3, "the gradients must not vanish"
        for parameter, gradient, weight in zip(
            network.parameters(), gradients, weights, strict=True
        ):
            assert parameter.grad is not None
            assert parameter.requires_grad
            torch.testing.assert_close(
                parameter.grad.double(), gradient, rtol=1e-3, atol=1e-5 * max(1, largest)
            )
            torch.testing.assert_close(
                parameter.detach().double(), weight.detach(), rtol=1e-3, atol=1e-5 * max(1, largest)
            )


STEPS: dict[str, dict[str, Any]] = {
    **{kind: {"loss": kind, **PENALTIES} for kind in KINDS},
    "smoothed": {"label_smoothing": 0.2},
    "r1": {"r1": 0.7},
    "flipped": {"horizontal_flip": True},
    "augmented": {
        "loss": "relativistic",
        "augment": ["color", "translation", "cutout"],
        "horizontal_flip": True,
        **PENALTIES,
    },
}


@pytest.mark.parametrize("changes", STEPS.values(), ids=STEPS)
def test_step_matches_plain_reference(changes: dict[str, Any]) -> None:
    settings, batch = settings_of(**changes), batch_of()
    for with_penalty in {False, settings.has_penalty}:
        gan = gan_of(settings)
        inputs = Batch(batch.real, batch.latents, batch.uniforms, with_penalty=with_penalty)
        statistics = train_step(gan, inputs)
        assert_same(gan, statistics, reference_step(settings, batch, with_penalty))


def test_ema_is_updated_by_each_step() -> None:
    """The first step's decay is 2/11, because the decay grows with the steps."""
    settings, batch = settings_of(), batch_of()
    gan = gan_of(settings)
    assert gan.ema
    before = [weight.detach().clone() for weight in gan.generator.parameters()]
    train_step(gan, Batch(batch.real, batch.latents))
    for average, old, new in zip(
        gan.ema.generator.parameters(), before, gan.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(average, 2 / 11 * old + 9 / 11 * new.detach())
    assert not any(weight.requires_grad for weight in gan.ema.generator.parameters())
    assert gan.eval_generator is gan.ema.generator
    assert replace(gan, ema=None).eval_generator is gan.generator


@pytest.mark.parametrize("loss", ["wgan", "relativistic"])
def test_two_half_batches_match_one_step(monkeypatch: pytest.MonkeyPatch, loss: Kind) -> None:
    """Both processes have equal images, so their sum is twice the value of one."""
    monkeypatch.setattr("atelier.gan.distributed._all_reduce", lambda tensor: tensor.mul_(2))
    settings = settings_of(loss=loss, **PENALTIES)
    batch = batch_of()
    gan = gan_of(settings, Ranks(0, 2))
    half = Batch(batch.real, batch.latents, batch.uniforms, fraction=0.5)
    statistics = train_step(gan, replace(half, with_penalty=True))
    # Normalization over half of the batch equals that over the whole batch.
    assert_same(gan, statistics, reference_step(settings, batch, with_penalty=True))
    # By default, the batch of a process has weight 1.
    whole = Batch(batch.real, batch.latents, batch.uniforms)
    default = train_step(gan_of(settings, Ranks(0, 2)), whole)
    half_weight = train_step(gan_of(settings, Ranks(0, 2)), half)
    assert float(default[0]) == pytest.approx(2 * float(half_weight[0]), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 0),
        ({"r1": 1.0, "r2": 1.0}, 0),
        ({"augment": ["cutout"]}, UNIFORMS_PER_IMAGE),
        ({"horizontal_flip": True}, UNIFORMS_PER_IMAGE),
        ({"gradient_penalty": 1.0}, UNIFORMS_PER_IMAGE),
    ],
)
def test_random_numbers_are_drawn_only_for_steps_that_need_them(
    changes: dict[str, Any], count: int
) -> None:
    assert gan_of(settings_of(**changes)).uniforms_per_image == count


def test_discriminator_is_unfrozen_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gan, batch = gan_of(settings_of()), batch_of()

    def fail(*_arguments: object) -> Tensor:
        raise RuntimeError("no memory")

    failing: Callable[..., Tensor] = fail
    monkeypatch.setattr("atelier.gan.step.generator_loss", failing)
    with pytest.raises(RuntimeError, match="no memory"):
        train_step(gan, Batch(batch.real, batch.latents))
    assert all(weight.requires_grad for weight in gan.discriminator.parameters())
