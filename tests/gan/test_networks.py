import pytest
import torch
from torch import nn

from atelier.errors import AtelierError
from atelier.gan.networks import SIZES, Architecture, build


def arch(**changes: int) -> Architecture:
    values = {"image_size": 64, "channels": 3, "latent_size": 100}
    return Architecture(**{**values, "generator_width": 64, "discriminator_width": 64, **changes})


def shapes(network: nn.Module, given: torch.Tensor) -> list[tuple[int, ...]]:
    """The output shape of every convolution."""
    seen: list[tuple[int, ...]] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    network(given)
    for hook in hooks:
        hook.remove()
    return seen


def test_the_64_pixel_networks_are_those_of_the_dcgan_paper() -> None:
    generator, discriminator = build(arch(), seed=0)
    assert shapes(generator, torch.zeros(2, 100)) == [
        (512, 4, 4),
        (256, 8, 8),
        (128, 16, 16),
        (64, 32, 32),
        (3, 64, 64),
    ]
    assert shapes(discriminator, torch.zeros(2, 3, 64, 64)) == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (1, 1, 1),
    ]
    assert sum(p.numel() for p in generator.parameters()) == 3_576_704
    assert sum(p.numel() for p in discriminator.parameters()) == 2_765_568


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_and_channel_count_fits(size: int, channels: int) -> None:
    described = arch(
        image_size=size, channels=channels, generator_width=2, discriminator_width=2, latent_size=7
    )
    generator, discriminator = build(described, seed=0)
    pictures = generator(torch.randn(2, 7))
    assert pictures.shape == (2, channels, size, size)
    assert pictures.abs().max() <= 1
    assert discriminator(pictures).shape == (2,)


def test_weights_are_drawn_as_the_paper_says_and_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    generator, discriminator = build(arch(), seed=3)
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
    again, _ = build(arch(), seed=3)
    other, _ = build(arch(), seed=4)
    first = next(generator.parameters())
    assert torch.equal(first, next(again.parameters()))
    assert not torch.equal(first, next(other.parameters()))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 48}, "image_size is 48, but the DCGAN needs one of 16, 32, 64, 128, 256"),
        ({"channels": 4}, "4 channels, but the DCGAN needs 1"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, int], sentence: str) -> None:
    with pytest.raises(AtelierError, match=sentence):
        arch(**changes)
