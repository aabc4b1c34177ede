"""Comparison of networks with their sources."""

from typing import Any

import pytest
import torch
from torch import nn

from atelier.core.errors import AtelierError
from atelier.gan.networks import SIZES, Architecture, build_networks

from ..support.architectures import CELEBA64, FACES32, FASHION_MLP, MNIST28, with_changes


def output_shapes(network: nn.Module, images: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the output shape of every convolution and linear layer."""
    found: list[tuple[int, ...]] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: found.append(tuple(out.shape[1:])))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return found


def descriptions(network: nn.Module) -> list[str]:
    """Return one description per layer with the parameters that the sources state."""
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            direction = "up" if isinstance(layer, nn.ConvTranspose2d) else "down"
            numbers = (layer.kernel_size[0], layer.stride[0], layer.padding[0])
            maps = f"{layer.in_channels}-{layer.out_channels}"
            found.append(f"{direction} {maps} k{numbers[0]} s{numbers[1]} p{numbers[2]}")
        elif isinstance(layer, nn.Linear):
            found.append(f"linear {layer.in_features}-{layer.out_features}")
        elif isinstance(layer, nn.BatchNorm2d):
            found.append(f"norm {layer.num_features}")
        elif isinstance(layer, nn.LeakyReLU):
            found.append(f"leaky {layer.negative_slope}")
        elif isinstance(layer, nn.Dropout):
            found.append(f"drop {layer.p}")
        elif isinstance(layer, nn.ReLU | nn.Tanh):
            found.append(type(layer).__name__.lower())
    return found


def test_celeba64_has_layers_of_tutorial() -> None:
    generator, discriminator = build_networks(CELEBA64, seed=0)
    assert descriptions(generator) == [
        *("up 100-512 k4 s1 p0", "norm 512", "relu"),
        *("up 512-256 k4 s2 p1", "norm 256", "relu"),
        *("up 256-128 k4 s2 p1", "norm 128", "relu"),
        *("up 128-64 k4 s2 p1", "norm 64", "relu"),
        *("up 64-3 k4 s2 p1", "tanh"),
    ]
    assert descriptions(discriminator) == [
        *("down 3-64 k4 s2 p1", "leaky 0.2"),
        *("down 64-128 k4 s2 p1", "norm 128", "leaky 0.2"),
        *("down 128-256 k4 s2 p1", "norm 256", "leaky 0.2"),
        *("down 256-512 k4 s2 p1", "norm 512", "leaky 0.2"),
        "down 512-1 k4 s1 p0",
    ]


def test_faces32_ends_in_a_kernel_of_2() -> None:
    generator, discriminator = build_networks(FACES32, seed=0)
    assert descriptions(generator) == [
        *("up 100-512 k4 s1 p0", "norm 512", "relu"),
        *("up 512-256 k4 s2 p1", "norm 256", "relu"),
        *("up 256-128 k4 s2 p1", "norm 128", "relu"),
        *("up 128-3 k4 s2 p1", "tanh"),
    ]
    assert descriptions(discriminator) == [
        *("down 3-64 k4 s2 p0", "leaky 0.2"),
        *("down 64-128 k4 s2 p0", "norm 128", "leaky 0.2"),
        *("down 128-256 k4 s2 p0", "norm 256", "leaky 0.2"),
        "down 256-1 k2 s1 p0",
    ]


def test_mnist28_has_relu_before_norm_and_two_linear_layers() -> None:
    generator, discriminator = build_networks(MNIST28, seed=0)
    assert descriptions(generator) == [
        *("up 100-128 k4 s1 p0", "relu", "norm 128"),
        *("up 128-64 k3 s2 p1", "relu", "norm 64"),
        *("up 64-32 k4 s2 p1", "relu", "norm 32"),
        *("up 32-1 k4 s2 p1", "tanh"),
    ]
    assert descriptions(discriminator) == [
        *("down 1-32 k4 s2 p1", "leaky 0.2", "down 32-64 k4 s2 p1", "leaky 0.2"),
        *("linear 3136-512", "leaky 0.2", "linear 512-1"),
    ]


def test_fashion_mlp_has_leaky_relu_and_dropout_between_its_linear_layers() -> None:
    generator, discriminator = build_networks(FASHION_MLP, seed=0)
    between = ("leaky 0.2", "drop 0.3")
    assert descriptions(generator) == [
        *("linear 100-32", *between, "linear 32-64", *between, "linear 64-128", *between),
        *("linear 128-784", "tanh"),
    ]
    assert descriptions(discriminator) == [
        *("linear 784-128", *between, "linear 128-64", *between, "linear 64-32", *between),
        "linear 32-1",
    ]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("arch", "generator_shapes", "discriminator_shapes", "counts"),
    [
        pytest.param(
            CELEBA64,
            [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)],
            [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (1, 1, 1)],
            (3_576_704, 2_765_568),
            id="celeba64",
        ),
        pytest.param(
            FACES32,
            [(512, 4, 4), (256, 8, 8), (128, 16, 16), (3, 32, 32)],
            [(64, 15, 15), (128, 6, 6), (256, 2, 2), (1, 1, 1)],
            (
                100 * 512 * 16
                + 512 * 256 * 16
                + 256 * 128 * 16
                + 128 * 3 * 16
                + 2 * (512 + 256 + 128),
                3 * 64 * 16 + 64 * 128 * 16 + 128 * 256 * 16 + 256 * 4 + 2 * (128 + 256),
            ),
            id="faces32",
        ),
        pytest.param(
            MNIST28,
            [(128, 4, 4), (64, 7, 7), (32, 14, 14), (1, 28, 28)],
            [(32, 14, 14), (64, 7, 7), (512,), (1,)],
            (
                100 * 128 * 16 + 128 * 64 * 9 + 64 * 32 * 16 + 32 * 16 + 2 * (128 + 64 + 32),
                32 * 17 + 64 * (32 * 16 + 1) + 512 * (3136 + 1) + 513,
            ),
            id="mnist28",
        ),
        pytest.param(
            FASHION_MLP,
            [(32,), (64,), (128,), (784,)],
            [(128,), (64,), (32,), (1,)],
            (
                32 * 101 + 64 * 33 + 128 * 65 + 784 * 129,
                128 * 785 + 64 * 129 + 32 * 65 + 33,
            ),
            id="fashion_mlp",
        ),
    ],
)
def test_networks_match_their_sources(
    arch: Architecture,
    generator_shapes: list[tuple[int, ...]],
    discriminator_shapes: list[tuple[int, ...]],
    counts: tuple[int, int],
) -> None:
    generator, discriminator = build_networks(arch, seed=0)
    shape = (2, arch.channels, arch.image_size, arch.image_size)
    assert output_shapes(generator, torch.zeros(2, 100)) == generator_shapes
    assert output_shapes(discriminator, torch.zeros(shape)) == discriminator_shapes
    assert (parameters(generator), parameters(discriminator)) == counts
    assert generator(torch.zeros(2, 100)).shape == shape


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("base", [CELEBA64, FACES32, MNIST28, FASHION_MLP])
def test_every_size_and_channel_count_is_supported(
    base: Architecture, size: int, channels: int
) -> None:
    narrow = {"generator_channels": 2, "discriminator_channels": 2, "latent_size": 7}
    if size == 28:
        narrow["discriminator_padding"] = 1
    arch = with_changes(base, image_size=size, channels=channels, **narrow)
    generator, discriminator = build_networks(arch, seed=0)
    images = generator(torch.randn(2, 7))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize("arch", [CELEBA64, FACES32, MNIST28], ids=["64", "32", "28"])
def test_initial_weights_match_paper(arch: Architecture) -> None:
    layers = [layer for network in build_networks(arch, seed=3) for layer in network.modules()]
    filters = [p for p in layers if isinstance(p, nn.Conv2d | nn.ConvTranspose2d)]
    weights = torch.cat([layer.weight.detach().flatten() for layer in filters])
    assert float(weights.mean()) == pytest.approx(0, abs=2e-4)
    assert float(weights.std()) == pytest.approx(0.02, rel=0.01)
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    scales = torch.cat([layer.weight.detach() for layer in norms])
    assert float(scales.mean()) == pytest.approx(1, abs=0.01)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.25)
    assert all(not layer.bias.detach().any() for layer in norms)


def test_initial_weights_depend_only_on_the_seed() -> None:
    before = torch.get_rng_state()
    first = next(build_networks(CELEBA64, seed=3)[0].parameters())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(first, next(build_networks(CELEBA64, seed=3)[0].parameters()))
    assert not torch.equal(first, next(build_networks(CELEBA64, seed=4)[0].parameters()))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"image_size": 48},
            "images are 48 pixels wide, but the networks need one of 16, 28, 32, 64, 128, 256",
        ),
        ({"channels": 4}, "4 channels, but the networks need 1"),
        ({"image_size": 28, "discriminator_padding": 0}, "set train.discriminator_padding to 1"),
    ],
)
def test_invalid_architecture_is_rejected(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AtelierError, match=sentence):
        with_changes(CELEBA64, **changes)
