"""Comparison of network outputs with plain torch layers of the same weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from atelier.core.errors import AtelierError
from atelier.gan.generation import draw_latents
from atelier.gan.networks import Architecture, build_networks

from ..support.architectures import SMALL, train_settings, with_changes

TINY = with_changes(SMALL, generator_channels=2, discriminator_channels=3, latent_size=5)


def up(
    maps_in: int, maps_out: int, kernel: int = 4, stride: int = 2, padding: int = 1
) -> nn.Module:
    return nn.ConvTranspose2d(maps_in, maps_out, kernel, stride, padding, bias=False)


def same(maps_in: int, maps_out: int, bias: bool = False) -> nn.Module:
    return nn.Conv2d(maps_in, maps_out, 3, 1, 1, bias=bias)


def down(maps_in: int, maps_out: int, padding: int = 1, bias: bool = True) -> nn.Module:
    return nn.Conv2d(maps_in, maps_out, 4, 2, padding, bias=bias)


def norm_relu(maps: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(maps), nn.ReLU()]


def relu_norm(maps: int) -> list[nn.Module]:
    return [nn.ReLU(), nn.BatchNorm2d(maps)]


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.2)


class Sum(nn.Module):
    """Sum of a main path and a shortcut."""

    def __init__(self, layers: list[nn.Module], shortcut: list[nn.Module]) -> None:
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), nn.Sequential(*shortcut)

    def forward(self, maps: Tensor) -> Tensor:
        total: Tensor = self.layers(maps) + self.shortcut(maps)
        return total


def up_block(maps_in: int, maps_out: int, side: int, order: Any) -> nn.Module:
    layers = [
        *order(maps_in),
        nn.UpsamplingNearest2d(size=side),
        same(maps_in, maps_out),
        *order(maps_out),
        same(maps_out, maps_out),
    ]
    return Sum(
        layers, [nn.Conv2d(maps_in, maps_out, 1, bias=False), nn.UpsamplingNearest2d(size=side)]
    )


def down_block(maps_in: int, maps_out: int) -> nn.Module:
    layers = [leaky(), same(maps_in, maps_in, bias=True), leaky(), down(maps_in, maps_out)]
    return Sum(layers, [nn.AvgPool2d(2), nn.Conv2d(maps_in, maps_out, 1, bias=False)])


def start(maps: int, inputs: int = 5) -> list[nn.Module]:
    return [nn.Unflatten(1, (inputs, 1, 1)), up(inputs, maps, 4, 1, 0)]


GENERATORS: dict[str, tuple[dict[str, Any], Callable[[], list[nn.Module]]]] = {
    "plain": ({}, lambda: [*start(4), *norm_relu(4), up(4, 2), *norm_relu(2), up(2, 3)]),
    "28 pixels, ReLU first, classes": (
        {"image_size": 28, "channels": 1, "relu_before_norm": True, "classes": 2},
        lambda: [
            *start(8, 7),
            *(*relu_norm(8), up(8, 4, 3)),
            *(*relu_norm(4), up(4, 2)),
            *(*relu_norm(2), up(2, 1)),
        ],
    ),
    "upsample": (
        {"generator_blocks": "upsample", "image_size": 28},
        lambda: [
            *start(8),
            *(*norm_relu(8), nn.UpsamplingNearest2d(size=7), same(8, 4)),
            *(*norm_relu(4), nn.UpsamplingNearest2d(size=14), same(4, 2)),
            *(*norm_relu(2), nn.UpsamplingNearest2d(size=28), same(2, 3)),
        ],
    ),
    "residual": (
        {"generator_blocks": "residual", "image_size": 32},
        lambda: [
            *start(8),
            up_block(8, 4, 8, norm_relu),
            up_block(4, 2, 16, norm_relu),
            up_block(2, 2, 32, norm_relu),
            *(*norm_relu(2), same(2, 3)),
        ],
    ),
    "residual, ReLU first": (
        {"generator_blocks": "residual", "relu_before_norm": True},
        lambda: [
            *start(4),
            up_block(4, 2, 8, relu_norm),
            up_block(2, 2, 16, relu_norm),
            *(*relu_norm(2), same(2, 3)),
        ],
    ),
    "mlp": (
        {"network": "mlp", "dropout": 0.4, "classes": 2},
        lambda: [
            *(nn.Linear(7, 2), leaky(), nn.Dropout(0.4)),
            *(nn.Linear(2, 4), leaky(), nn.Dropout(0.4)),
            *(nn.Linear(4, 8), leaky(), nn.Dropout(0.4)),
            *(nn.Linear(8, 3 * 16 * 16),),
        ],
    ),
}

DISCRIMINATORS: dict[str, tuple[dict[str, Any], Callable[[], list[nn.Module]]]] = {
    "plain": (
        {},
        lambda: [
            *(down(3, 3, bias=False), leaky()),
            *(down(3, 6, bias=False), nn.BatchNorm2d(6), leaky()),
            nn.Conv2d(6, 1, 4, bias=False),
        ],
    ),
    "without normalisation, classes": (
        {"discriminator_norm": False, "classes": 2},
        lambda: [down(3, 3), leaky(), down(3, 6), leaky(), nn.Conv2d(6, 2, 4)],
    ),
    "without padding": (
        {"discriminator_padding": 0, "image_size": 32},
        lambda: [
            *(down(3, 3, 0, bias=False), leaky()),
            *(down(3, 6, 0, bias=False), nn.BatchNorm2d(6), leaky()),
            *(down(6, 12, 0, bias=False), nn.BatchNorm2d(12), leaky()),
            nn.Conv2d(12, 1, 2, bias=False),
        ],
    ),
    "linear head": (
        {"discriminator_head": "linear", "head_size": 7, "image_size": 28, "channels": 1},
        lambda: [
            *(down(1, 3, bias=False), leaky()),
            *(down(3, 6, bias=False), nn.BatchNorm2d(6), leaky()),
            *(nn.Flatten(), nn.Linear(6 * 7 * 7, 7), leaky(), nn.Linear(7, 1)),
        ],
    ),
    "residual, classes": (
        {
            "discriminator_blocks": "residual",
            "discriminator_norm": False,
            "image_size": 32,
            "classes": 2,
        },
        lambda: [down(3, 3), down_block(3, 6), down_block(6, 12), leaky(), nn.Conv2d(12, 2, 4)],
    ),
    "residual, linear head": (
        {
            "discriminator_blocks": "residual",
            "discriminator_norm": False,
            "discriminator_head": "linear",
            "head_size": 7,
            "image_size": 28,
        },
        lambda: [
            *(down(3, 3), down_block(3, 6), leaky()),
            *(nn.Flatten(), nn.Linear(6 * 7 * 7, 7), leaky(), nn.Linear(7, 1)),
        ],
    ),
    "mlp": (
        {"network": "mlp", "dropout": 0.4, "classes": 2},
        lambda: [
            nn.Flatten(),
            *(nn.Linear(3 * 16 * 16, 12), leaky(), nn.Dropout(0.4)),
            *(nn.Linear(12, 6), leaky(), nn.Dropout(0.4)),
            *(nn.Linear(6, 3), leaky(), nn.Dropout(0.4)),
            nn.Linear(3, 2),
        ],
    ),
}


def enlarge(network: nn.Module) -> None:
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(10 if weight.ndim == 4 else 1)


def copy_weights(plain: nn.Module, network: nn.Module) -> None:
    """Copy weights in order from ``network`` to ``plain``, which has the same shapes."""
    targets, sources = list(plain.parameters()), list(network.parameters())
    assert [weight.shape for weight in targets] == [weight.shape for weight in sources]
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)


def assert_same_outputs(network: nn.Module, plain: nn.Module, *inputs: Any) -> None:
    """Compare outputs in training mode with equal dropout, then in evaluation mode."""
    enlarge(network)
    copy_weights(plain, network)
    for training in (True, False):
        network.train(training)
        plain.train(training)
        torch.manual_seed(1)
        found = network(*inputs)
        torch.manual_seed(1)
        expected = plain(inputs[0])
        assert float(expected.detach().std()) > 1e-3, "outputs must differ"
        if len(inputs) > 1 and inputs[1] is not None:
            expected = expected.flatten(1)[torch.arange(len(expected)), inputs[1].argmax(1)]
        torch.testing.assert_close(found, expected.view_as(found), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("changes", "layers"), GENERATORS.values(), ids=GENERATORS)
def test_generator_matches_plain_layers(
    changes: dict[str, Any], layers: Callable[[], list[nn.Module]]
) -> None:
    arch = with_changes(TINY, **changes)
    generator = build_networks(arch, seed=1)[0]
    shape = (arch.channels, arch.image_size, arch.image_size)
    plain = nn.Sequential(*layers(), nn.Tanh(), nn.Flatten(), nn.Unflatten(1, shape))
    assert_same_outputs(generator, plain, draw_latents(4, arch, seed=2))


@pytest.mark.parametrize(("changes", "layers"), DISCRIMINATORS.values(), ids=DISCRIMINATORS)
def test_discriminator_matches_plain_layers(
    changes: dict[str, Any], layers: Callable[[], list[nn.Module]]
) -> None:
    """With classes, the logit of an image is the one of its class."""
    arch = with_changes(TINY, **changes)
    discriminator = build_networks(arch, seed=1)[1]
    stream = torch.Generator().manual_seed(2)
    images = torch.rand(4, arch.channels, arch.image_size, arch.image_size, generator=stream)
    labels = nn.functional.one_hot(torch.tensor([1, 0, 0, 1]), 2) if arch.classes else None
    assert_same_outputs(discriminator, nn.Sequential(*layers()), images * 2 - 1, labels)


def test_channels_stop_doubling_at_eight_times_the_base() -> None:
    arch = with_changes(TINY, image_size=256, generator_channels=2, discriminator_channels=1)
    generator, discriminator = build_networks(arch, seed=0)
    generator_channels = [
        m.in_channels for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)
    ]
    discriminator_channels = [
        m.out_channels for m in discriminator.modules() if isinstance(m, nn.Conv2d)
    ]
    assert generator_channels == [5, 16, 16, 16, 8, 4, 2]
    assert discriminator_channels == [1, 2, 4, 8, 8, 8, 1]


def test_shortcuts_preserve_variance() -> None:
    """Shortcut weights are from N(0, 1 / maps), those of other convolutions from N(0, 0.02)."""
    wide = {"generator_channels": 32, "discriminator_channels": 32, "discriminator_norm": False}
    blocks = {"generator_blocks": "residual", "discriminator_blocks": "residual"}
    for network in build_networks(with_changes(TINY, image_size=32, **wide, **blocks), seed=0):  # type: ignore[arg-type]
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.weight.numel() > 1000:
                spread = layer.in_channels**-0.5 if layer.kernel_size == (1, 1) else 0.02
                assert float(layer.weight.detach().std()) == pytest.approx(spread, rel=0.1)
                assert float(layer.weight.detach().mean()) == pytest.approx(0, abs=spread / 10)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("latent_size", 1, 65_536),
        ("generator_channels", 1, 4096),
        ("discriminator_channels", 1, 4096),
        ("discriminator_padding", 0, 1),
        ("head_size", 1, 65_536),
        ("classes", 0, 65_536),
    ],
)
def test_architecture_bounds_are_inclusive(name: str, least: int, most: int) -> None:
    for value in (least, most):
        assert getattr(with_changes(TINY, **{name: value}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(ValidationError, match=rf"Architecture\n{name}\n"):
            with_changes(TINY, **{name: value})


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, False),
        ({"image_size": 32}, True),
        ({"discriminator_padding": 1}, True),
        ({"discriminator_norm": False}, True),
        ({"discriminator_head": "linear"}, True),
        ({"network": "mlp"}, True),
    ],
)
def test_batchnorm_of_one_pixel_is_rejected(changes: dict[str, Any], fits: bool) -> None:
    narrow = {"image_size": 28, "discriminator_padding": 0, **changes}
    if fits:
        build_networks(with_changes(TINY, **narrow), seed=0)[1](
            torch.zeros(2, 3, *[narrow["image_size"]] * 2)
        )
    else:
        with pytest.raises(AtelierError, match="28 pixels shrink to one pixel, which batch"):
            with_changes(TINY, **narrow)


def test_architecture_has_all_network_settings() -> None:
    changes = {
        "network": "dcgan",
        "latent_size": 9,
        "latent_distribution": "uniform",
        "generator_channels": 3,
        "discriminator_channels": 5,
        "relu_before_norm": True,
        "discriminator_norm": False,
        "discriminator_padding": 0,
        "discriminator_head": "linear",
        "head_size": 6,
        "generator_blocks": "upsample",
        "discriminator_blocks": "residual",
        "spectral_norm": True,
    }
    settings = train_settings("celeba64", **changes)
    arch = Architecture.from_settings(settings, 32, 1, 4)
    assert arch == Architecture(image_size=32, channels=1, classes=4, dropout=0.0, **changes)  # type: ignore[arg-type]
    assert arch.input_size == 13
    assert Architecture.from_settings(settings, 32, 1).classes == 0
