"""Sizes, tiles, pyramid levels and memory estimates against values computed by hand."""

import math

import pytest
import torch
from torch import nn

from atelier.core.errors import AtelierError
from atelier.style.memory import calibration_size, largest_size_that_runs, tile_size_for_memory
from atelier.style.objective import Style, Tile, tiles
from atelier.style.pyramid import Level, downscale, levels, resize
from atelier.style.transfer import _jobs, _limit_size
from atelier.style.vgg import (
    L2Pool,
    build_vgg19,
    calibrate,
    preprocess,
    receptive_radius,
    stride,
    vgg19_on_meta,
)

from ..support.painting import CPU, options

# VGG19 up to layer 6: 64, 64 and 128 filters of 3 x 3, float32.
WEIGHT_BYTES = 4 * ((3 * 9 + 1) * 64 + (64 * 9 + 1) * 64 + (64 * 9 + 1) * 128)
# Maps of 64 channels at 4 layers; then at half the size 64 at one layer and 128 at two; and back.
PASS_BYTES = 2 * (4 * 64 * 4 + 64 + 2 * 128)
CONTENT_BYTES = 128  # the map of layer 6, a quarter of the pixels
CANVASES = {"spectral_lbfgs": 48, "lbfgs": 56, "adam": 16}


def _held(optimizer: str, pixels: int, style_pixels: int) -> int:
    canvases = 12 * CANVASES[optimizer]
    return WEIGHT_BYTES + 36 * style_pixels + pixels * (canvases + CONTENT_BYTES)


def _side(optimizer: str, memory: int, styles: list[tuple[int, int]]) -> int | None:
    settings = options(optimizer=optimizer, lr=0.5, memory_gb=memory / 1e9)
    return tile_size_for_memory(64, 50, settings, vgg19_on_meta("average", 6), styles)


@pytest.mark.parametrize("optimizer", CANVASES)
@pytest.mark.parametrize(
    ("styles", "at_once"), [([(40, 30)], 3200), ([(200, 100), (40, 30)], 10_000)]
)
def test_tiles_are_used_if_one_pass_exceeds_memory(
    optimizer: str, styles: list[tuple[int, int]], at_once: int
) -> None:
    """A style needs half as much per pixel as a painting, because nothing is differentiated."""
    held = _held(optimizer, 3200, sum(map(math.prod, styles)))
    enough = held + at_once * PASS_BYTES
    assert _side(optimizer, enough + 1, styles) is None
    assert _side(optimizer, enough - 1, styles) == math.isqrt(at_once - 1)
    for side in (18, 31):
        assert _side(optimizer, held + side**2 * PASS_BYTES + 1, styles) == side
    # The receptive field is 5 pixels to either side, and 6 in whole steps: tiles of 18 or more.
    with pytest.raises(AtelierError, match="a stylized image of 50 x 64 pixels needs more than"):
        _side(optimizer, held + 18**2 * PASS_BYTES - 1, styles)


@pytest.mark.parametrize(
    ("gb", "styles", "side"), [(0.2, 2, 312), (0.6, 1, 765), (0.61, 1, 768), (1e-6, 1, 32)]
)
def test_calibration_size_fits_into_memory(gb: float, styles: int, side: int) -> None:
    assert calibration_size(options(memory_gb=gb), styles) == side


def test_smallest_size_is_the_last_to_be_tried() -> None:
    tried: list[int] = []

    def work(side: int) -> None:
        tried.append(side)
        raise MemoryError

    assert largest_size_that_runs(work, 16, 9) is None
    assert tried == [16, 12, 9]
    assert largest_size_that_runs(lambda side: None, 16, 16) == 16


def test_tiles_partition_the_image_with_padding_of_the_receptive_field() -> None:
    rows = [(0, 4, 0, 6), (4, 8, 2, 10), (8, 10, 6, 10)]  # core, and what is seen
    columns = [(0, 4, 0, 6), (4, 7, 2, 7)]
    expected = [
        Tile((top, bottom, left, right), (up, down, before, behind))
        for top, bottom, up, down in rows
        for left, right, before, behind in columns
    ]
    assert tiles(10, 7, 9, radius=2, step=2) == expected
    # A margin of 3 is 4 in whole steps, which leaves one pixel: a core is a step at least.
    assert [part.core[1] for part in tiles(10, 2, 9, radius=3, step=2)] == [2, 4, 6, 8, 10]
    everything = (0, 10, 0, 7)
    for side in (None, 10, 11):
        assert tiles(10, 7, side, radius=2, step=2) == [Tile(everything, everything)]
    assert len(tiles(7, 10, 9, radius=2, step=2)) == 6


def test_levels_under_32_pixels_are_skipped() -> None:
    sizes = [(leg.height, leg.width) for leg in levels(options(pyramid_levels=3), 64, 90)]
    assert sizes == [(32, 45), (45, 64), (64, 90)]
    sizes = [(leg.height, leg.width) for leg in levels(options(pyramid_levels=3), 62, 90)]
    assert sizes == [(44, 64), (62, 90)]
    assert [
        leg.end_iteration for leg in levels(options(pyramid_levels=3, iterations=11), 64, 90)
    ] == [
        3,
        7,
        11,
    ]


@pytest.mark.parametrize(
    ("iterations", "first"),
    [(6, []), (7, [(3.0, 1)]), (19, [(3.0, 2)]), (20, [(10.0, 1), (3.0, 3)])],
)
def test_content_weight_is_tenfold_then_threefold_at_first(
    iterations: int, first: list[tuple[float, int]]
) -> None:
    changes = {"optimizer": "spectral_lbfgs", "iterations": iterations}
    expected = [Level(40, 50, firmness, until) for firmness, until in first]
    expected.append(Level(40, 50, 1.0, iterations))
    assert levels(options(**changes, weights="imagenet"), 40, 50) == expected
    for other in ({"weights": "random"}, {"weights": "imagenet", "init": "noise"}):
        assert levels(options(**changes, **other), 40, 50) == expected[-1:]
    plain = options(iterations=iterations, weights="imagenet", optimizer="lbfgs")
    assert levels(plain, 40, 50) == expected[-1:]


def test_styles_are_downscaled_to_at_least_the_minimum() -> None:
    image = torch.rand(1, 3, 20, 41, generator=torch.Generator().manual_seed(1))
    assert downscale(image, 0.5, 4).shape[2:] == (10, 20)
    assert downscale(image, 0.5, 16).shape[2:] == (16, 20)
    assert downscale(image, 0.1, 30).shape[2:] == (20, 30)
    assert downscale(image, 1, 4) is image
    assert resize(image, 20, 41) is image
    sharp = (image > 0.5).float()
    small = downscale(sharp, 0.7, 4)
    assert resize(sharp, 14, 29).min() < 0 or resize(sharp, 14, 29).max() > 1
    assert (small.min() >= 0, small.max() <= 1) == (True, True)
    assert _limit_size(image, 41, 4) is image
    assert _limit_size(image, 100, 4) is image
    assert _limit_size(image, 21, 4).shape[2:] == (10, 21)


@pytest.mark.parametrize(
    ("layer", "apart", "seen"),
    [(0, 1, 1), (1, 1, 1), (3, 1, 2), (4, 2, 3), (5, 2, 5), (9, 4, 9), (10, 4, 13), (18, 8, 29),
     (27, 16, 69), (28, 16, 85), (36, 32, 149)],
)  # fmt: skip
@pytest.mark.parametrize("pooling", ["max", "average", "l2"])
def test_stride_and_receptive_field_of_the_published_architecture(
    pooling: str, layer: int, apart: int, seen: int
) -> None:
    vgg = vgg19_on_meta(pooling, layer)
    assert len(vgg) == layer + 1
    assert (stride(vgg), receptive_radius(vgg)) == (apart, seen)


def test_the_architecture_is_configuration_e() -> None:
    filters = [m.out_channels for m in vgg19_on_meta("max", 36) if isinstance(m, nn.Conv2d)]
    assert filters == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert all(parameter.is_meta for parameter in vgg19_on_meta("max", 36).parameters())


def test_pixels_are_normalized_as_the_weights_need() -> None:
    image = torch.tensor([0.485 + 0.229, 0.456, 0.406 - 0.225]).view(1, 3, 1, 1)
    found = preprocess(image, "torchvision").flatten()
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, -1.0]), atol=1e-6, rtol=0)
    mean = torch.tensor([0.48501961, 0.45795686, 0.40760392]).view(1, 3, 1, 1)
    shifted = mean + torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1) / 255
    found = preprocess(shifted, "caffe").flatten()
    torch.testing.assert_close(found, torch.tensor([3.0, 2.0, 1.0]), atol=1e-4, rtol=0)


def test_l2_pooling_is_the_root_of_the_mean_square_with_a_finite_gradient() -> None:
    features = torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]])[None, None]
    leaf = features.requires_grad_()
    pooled = L2Pool()(leaf)
    torch.testing.assert_close(pooled.flatten(), torch.tensor([7.5**0.5, 1e-4]))
    pooled.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_calibration_brings_every_convolution_to_unit_scale_over_all_styles() -> None:
    vgg = build_vgg19("random", "average", 1, 6)
    images = [torch.randn(1, 3, 12, side, generator=torch.Generator().manual_seed(side))
              for side in (8, 20)]  # fmt: skip
    before = {name: tensor.clone() for name, tensor in vgg.state_dict().items()}
    fitted, responses = calibrate(vgg, *images), images
    for module in fitted:
        responses = [module(response) for response in responses]
        if isinstance(module, nn.Conv2d):
            squares = [float(response.square().mean()) for response in responses]
            assert sum(squares) / 2 == pytest.approx(1, rel=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vgg.state_dict().items())
    black = calibrate(vgg, torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in black.state_dict().items())


def test_random_weights_are_orthogonal_of_their_seed_and_frozen() -> None:
    vgg, other = build_vgg19("random", "max", 1, 3), build_vgg19("random", "max", 2, 3)
    rows = vgg[2].weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(64), atol=1e-5, rtol=0)
    assert not torch.equal(vgg[2].weight, other[2].weight)
    assert vgg[2].bias.abs().max() == 0
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    assert not vgg.training


def test_images_share_a_pass_if_their_sizes_and_the_optimizer_allow_it() -> None:
    """On an accelerator as many as have 512 x 512 pixels together; on a CPU one."""
    style = Style((torch.rand(1, 3, 8, 8),))
    masked = Style(style.images, (), (torch.ones(1, 1, 256, 256),))
    small, large = torch.zeros(1, 3, 256, 256), torch.zeros(1, 3, 256, 1200)
    contents = [small] * 6 + [large] * 2 + [small]

    def counts(
        device: str, at_once: int | None, looks: list[Style], **changes: object
    ) -> list[int]:
        settings = options(**{"optimizer": "spectral_lbfgs", **changes})
        found = list(_jobs(contents, looks, settings, torch.device(device), at_once))
        assert all(len(one.styles) in (1, len(one.contents)) for one in found)
        return [len(one.contents) for one in found]

    assert counts("meta", None, [style]) == [4, 2, 1, 1, 1]
    assert counts("cpu", None, [style]) == [1] * 9
    assert counts("cpu", 5, [style]) == [5, 1, 2, 1]
    assert counts("meta", 5, [style], optimizer="adam", lr=0.1) == [1] * 9
    looks = [style] * 2 + [masked] * 4 + [style] * 3
    assert counts("meta", None, looks) == [2, 4, 1, 1, 1]
    first, *_ = _jobs(contents, looks, options(optimizer="spectral_lbfgs"), CPU, 2)
    assert first.styles[0].images[0] is style.images[0]
    assert len(first.styles) == 2
