"""Each network against the document that it comes from."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from atelier.errors import AtelierError
from atelier.gan.networks import SIZES, Architecture, build

from .architectures import CELEBA64, FACES32, FASHION_MLP, MNIST28


def shapes(network: nn.Module, given: torch.Tensor) -> list[tuple[int, ...]]:
    """The output shape of every convolution and linear layer."""
    seen: list[tuple[int, ...]] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    network(given)
    for hook in hooks:
        hook.remove()
    return seen


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("arch", "grows", "shrinks", "counts"),
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
def test_networks_are_those_of_their_documents(
    arch: Architecture,
    grows: list[tuple[int, ...]],
    shrinks: list[tuple[int, ...]],
    counts: tuple[int, int],
) -> None:
    generator, discriminator = build(arch, seed=0)
    picture = (2, arch.channels, arch.image_size, arch.image_size)
    assert shapes(generator, torch.zeros(2, 100)) == grows
    assert shapes(discriminator, torch.zeros(picture)) == shrinks
    assert (parameters(generator), parameters(discriminator)) == counts
    assert generator(torch.zeros(2, 100)).shape == picture


def test_relu_stands_before_batch_normalisation_where_it_is_asked_for() -> None:
    def order(arch: Architecture) -> list[str]:
        return [type(layer).__name__ for layer in build(arch, seed=0)[0].layers][1:4]

    assert order(CELEBA64) == ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    assert order(MNIST28) == ["ConvTranspose2d", "ReLU", "BatchNorm2d"]


def test_hidden_layers_of_the_mlp_have_leaky_relu_and_dropout() -> None:
    for network in build(FASHION_MLP, seed=0):
        linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
        leaky = [layer for layer in network.layers if isinstance(layer, nn.LeakyReLU)]
        dropped = [layer for layer in network.layers if isinstance(layer, nn.Dropout)]
        assert len(leaky) == len(dropped) == len(linear) - 1
        assert {layer.p for layer in dropped} == {0.3}
        assert {layer.negative_slope for layer in leaky} == {0.2}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("base", [CELEBA64, FACES32, MNIST28, FASHION_MLP])
def test_every_size_and_channel_count_fits(base: Architecture, size: int, channels: int) -> None:
    described = replace(
        base, image_size=size, channels=channels, generator_width=2, discriminator_width=2
    )
    generator, discriminator = build(replace(described, latent_size=7), seed=0)
    pictures = generator(torch.randn(2, 7))
    assert pictures.shape == (2, channels, size, size)
    assert pictures.abs().max() <= 1
    assert discriminator(pictures).shape == (2,)


def test_weights_are_drawn_as_the_paper_says_and_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    generator, discriminator = build(CELEBA64, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    for network in (generator, discriminator):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.weight.numel() > 1e5:
                assert abs(float(layer.weight.detach().mean())) < 1e-3
                assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
                assert layer.bias is None
            if isinstance(layer, nn.BatchNorm2d):
                assert float(layer.weight.detach().mean()) == pytest.approx(1, abs=0.01)
                assert layer.bias.detach().abs().max() == 0
    torch.manual_seed(99)
    again, _ = build(CELEBA64, seed=3)
    other, _ = build(CELEBA64, seed=4)
    first = next(generator.parameters())
    assert torch.equal(first, next(again.parameters()))
    assert not torch.equal(first, next(other.parameters()))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"image_size": 48},
            "pictures are 48 pixels wide, but the networks need one of 16, 28, 32, 64, 128, 256",
        ),
        ({"channels": 4}, "4 channels, but the networks need 1"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, int], sentence: str) -> None:
    with pytest.raises(AtelierError, match=sentence):
        replace(CELEBA64, **changes)
