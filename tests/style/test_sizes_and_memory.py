"""Sizes, tiles, pyramid levels and memory estimates against values computed by hand."""

import math

import pytest
import torch
from torch import nn

from atelier.core.errors import AtelierError
from atelier.style.memory import (
    calibration_size,
    largest_size_that_runs,
    resolve_memory_limit,
    tile_size_for_memory,
)
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

from ..support.painting import CPU, options, tasks

# VGG19 up to layer 6: 64, 64 and 128 filters of 3 x 3, float32.
WEIGHT_BYTES = 4 * ((3 * 9 + 1) * 64 + (64 * 9 + 1) * 64 + (64 * 9 + 1) * 128)
# 64 channels at 4 layers; at half the size, 64 at one layer and 128 at two; forward and backward.
PASS_BYTES = 2 * (4 * 64 * 4 + 64 + 2 * 128)
CONTENT_BYTES = 128  # the map of layer 6, a quarter of the pixels
IMAGE_COPIES = {"spectral_lbfgs": 48, "lbfgs": 56, "adam": 16}


def _persistent_bytes(optimizer: str, pixels: int, style_pixels: int) -> int:
    image_bytes = 12 * IMAGE_COPIES[optimizer]
    return WEIGHT_BYTES + 36 * style_pixels + pixels * (image_bytes + CONTENT_BYTES)


def _side(optimizer: str, memory: int, styles: list[tuple[int, int]]) -> int | None:
    settings = options(optimizer=optimizer, lr=0.5, memory_gb=memory / 1e9)
    return tile_size_for_memory(64, 50, settings, vgg19_on_meta("average", 6), styles)


@pytest.mark.parametrize("optimizer", IMAGE_COPIES)
@pytest.mark.parametrize(
    ("styles", "pixels_per_pass"), [([(40, 30)], 3200), ([(200, 100), (40, 30)], 10_000)]
)
def test_tiles_are_used_if_one_pass_exceeds_memory(
    optimizer: str, styles: list[tuple[int, int]], pixels_per_pass: int
) -> None:
    """A style image needs half the memory per pixel, because it has no backward pass."""
    persistent = _persistent_bytes(optimizer, 3200, sum(map(math.prod, styles)))
    enough = persistent + pixels_per_pass * PASS_BYTES
    assert _side(optimizer, enough + 1, styles) is None
    assert _side(optimizer, enough - 1, styles) == math.isqrt(pixels_per_pass - 1)
    for side in (18, 31):
        assert _side(optimizer, persistent + side**2 * PASS_BYTES + 1, styles) == side
    # The receptive radius is 5 pixels, or 6 in whole steps, so tiles have 18 pixels or more.
    with pytest.raises(AtelierError, match="a stylized image of 50 x 64 pixels needs more than"):
        _side(optimizer, persistent + 18**2 * PASS_BYTES - 1, styles)


@pytest.mark.parametrize(
    ("gb", "styles", "side"), [(0.2, 2, 312), (0.6, 1, 765), (0.61, 1, 768), (1e-6, 1, 32)]
)
def test_calibration_size_fits_into_memory(gb: float, styles: int, side: int) -> None:
    assert calibration_size(options(memory_gb=gb), styles) == side


def test_automatic_memory_limit_is_4_gb_without_a_gpu() -> None:
    automatic, limited = (options(memory_gb=limit) for limit in ("auto", 4.0))
    assert resolve_memory_limit(automatic, CPU) is automatic
    vgg = vgg19_on_meta("average", 6)
    sides = [
        tile_size_for_memory(2000, 2000, settings, vgg, [(2000, 2000)])
        for settings in (automatic, limited)
    ]
    assert sides[0] == sides[1] is not None
    assert calibration_size(automatic, 100) == calibration_size(limited, 100) == 197
    with pytest.raises(AtelierError, match=r"needs more than stylize.memory_gb \(4\); lower"):
        tile_size_for_memory(3000, 3000, automatic, vgg)


@pytest.mark.parametrize(
    ("free", "reserved", "allocated", "limit"),
    [(70.0, 0.0, 0.0, 35.0), (10.0, 3.0, 1.0, 6.0), (0.0, 1.0, 1.0, 0.001)],
)
def test_automatic_memory_limit_of_a_gpu_is_half_of_its_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: float, reserved: float, allocated: float, limit: float
) -> None:
    gb = 10**9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * gb), 80 * gb))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: int(reserved * gb))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: int(allocated * gb))
    cuda = torch.device("cuda")
    assert resolve_memory_limit(options(memory_gb="auto"), cuda).memory_gb == limit
    for setting in (0.0, 4.0):
        assert resolve_memory_limit(options(memory_gb=setting), cuda).memory_gb == setting
    full = resolve_memory_limit(options(memory_gb="auto"), cuda)
    with pytest.raises(AtelierError, match=rf"memory_gb \({limit:g}\); .* raise") as error:
        tile_size_for_memory(16_000, 16_000, full, vgg19_on_meta("average", 6))
    assert "\n" not in str(error.value)


def test_smallest_size_is_tried_last() -> None:
    sizes: list[int] = []

    def work(side: int) -> None:
        sizes.append(side)
        raise MemoryError

    assert largest_size_that_runs(work, 16, 9) is None
    assert sizes == [16, 12, 9]
    assert largest_size_that_runs(lambda side: None, 16, 16) == 16


def test_tiles_partition_the_image_with_padding_of_the_receptive_field() -> None:
    rows = [(0, 4, 0, 6), (4, 8, 2, 10), (8, 10, 6, 10)]  # core and tile
    columns = [(0, 4, 0, 6), (4, 7, 2, 7)]
    expected = [
        Tile((top, bottom, left, right), (tile_top, tile_bottom, tile_left, tile_right))
        for top, bottom, tile_top, tile_bottom in rows
        for left, right, tile_left, tile_right in columns
    ]
    assert tiles(10, 7, 9, radius=2, step=2) == expected
    # Padding of 3 is 4 in whole steps and leaves one pixel, but a core has at least one step.
    assert [tile.core[1] for tile in tiles(10, 2, 9, radius=3, step=2)] == [2, 4, 6, 8, 10]
    image = (0, 10, 0, 7)
    for side in (None, 10, 11):
        assert tiles(10, 7, side, radius=2, step=2) == [Tile(image, image)]
    assert len(tiles(7, 10, 9, radius=2, step=2)) == 6


def test_levels_under_32_pixels_are_skipped() -> None:
    sizes = [(level.height, level.width) for level in levels(options(pyramid_levels=3), 64, 90)]
    assert sizes == [(32, 45), (45, 64), (64, 90)]
    sizes = [(level.height, level.width) for level in levels(options(pyramid_levels=3), 62, 90)]
    assert sizes == [(44, 64), (62, 90)]
    assert [
        level.end_iteration for level in levels(options(pyramid_levels=3, iterations=11), 64, 90)
    ] == [
        3,
        7,
        11,
    ]


@pytest.mark.parametrize(
    ("iterations", "boosted_levels"),
    [(6, []), (7, [(3.0, 1)]), (19, [(3.0, 2)]), (20, [(10.0, 1), (3.0, 3)])],
)
def test_content_weight_is_tenfold_then_threefold_at_first(
    iterations: int, boosted_levels: list[tuple[float, int]]
) -> None:
    changes = {"optimizer": "spectral_lbfgs", "iterations": iterations}
    expected = [
        Level(40, 50, content_boost, end_iteration)
        for content_boost, end_iteration in boosted_levels
    ]
    expected.append(Level(40, 50, 1.0, iterations))
    assert levels(options(**changes, weights="imagenet"), 40, 50) == expected
    for other in ({"weights": "random"}, {"weights": "imagenet", "init": "noise"}):
        assert levels(options(**changes, **other), 40, 50) == expected[-1:]
    lbfgs_settings = options(iterations=iterations, weights="imagenet", optimizer="lbfgs")
    assert levels(lbfgs_settings, 40, 50) == expected[-1:]


def test_styles_are_downscaled_to_at_least_the_minimum() -> None:
    image = torch.rand(1, 3, 20, 41, generator=torch.Generator().manual_seed(1))
    assert downscale(image, 0.5, 4).shape[2:] == (10, 20)
    assert downscale(image, 0.5, 16).shape[2:] == (16, 20)
    assert downscale(image, 0.1, 30).shape[2:] == (20, 30)
    assert downscale(image, 1, 4) is image
    assert resize(image, 20, 41) is image
    binary = (image > 0.5).float()
    downscaled = downscale(binary, 0.7, 4)
    assert resize(binary, 14, 29).min() < 0 or resize(binary, 14, 29).max() > 1
    assert (downscaled.min() >= 0, downscaled.max() <= 1) == (True, True)
    assert _limit_size(image, 41, 4) is image
    assert _limit_size(image, 100, 4) is image
    assert _limit_size(image, 21, 4).shape[2:] == (10, 21)


@pytest.mark.parametrize(
    ("layer", "expected_stride", "expected_radius"),
    [(0, 1, 1), (1, 1, 1), (3, 1, 2), (4, 2, 3), (5, 2, 5), (9, 4, 9), (10, 4, 13), (18, 8, 29),
     (27, 16, 69), (28, 16, 85), (36, 32, 149)],
)  # fmt: skip
@pytest.mark.parametrize("pooling", ["max", "average", "l2"])
def test_stride_and_receptive_field_of_the_published_architecture(
    pooling: str, layer: int, expected_stride: int, expected_radius: int
) -> None:
    vgg = vgg19_on_meta(pooling, layer)
    assert len(vgg) == layer + 1
    assert (stride(vgg), receptive_radius(vgg)) == (expected_stride, expected_radius)


def test_architecture_is_vgg_configuration_e() -> None:
    filters = [m.out_channels for m in vgg19_on_meta("max", 36) if isinstance(m, nn.Conv2d)]
    assert filters == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert all(parameter.is_meta for parameter in vgg19_on_meta("max", 36).parameters())


def test_preprocessing_follows_the_convention_of_the_weights() -> None:
    image = torch.tensor([0.485 + 0.229, 0.456, 0.406 - 0.225]).view(1, 3, 1, 1)
    values = preprocess(image, "torchvision").flatten()
    torch.testing.assert_close(values, torch.tensor([1.0, 0.0, -1.0]), atol=1e-6, rtol=0)
    mean = torch.tensor([0.48501961, 0.45795686, 0.40760392]).view(1, 3, 1, 1)
    shifted = mean + torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1) / 255
    values = preprocess(shifted, "caffe").flatten()
    torch.testing.assert_close(values, torch.tensor([3.0, 2.0, 1.0]), atol=1e-4, rtol=0)


def test_l2_pooling_is_the_root_of_the_mean_square_with_a_finite_gradient() -> None:
    features = torch.tensor([[1.0, 2.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]])[None, None]
    leaf = features.requires_grad_()
    pooled = L2Pool()(leaf)
    torch.testing.assert_close(pooled.flatten(), torch.tensor([7.5**0.5, 1e-4]))
    pooled.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_calibration_gives_convolutions_unit_scale_over_all_styles() -> None:
    vgg = build_vgg19("random", "average", 1, 6)
    images = [torch.randn(1, 3, 12, side, generator=torch.Generator().manual_seed(side))
              for side in (8, 20)]  # fmt: skip
    before = {name: tensor.clone() for name, tensor in vgg.state_dict().items()}
    calibrated, responses = calibrate(vgg, *images), images
    for module in calibrated:
        responses = [module(response) for response in responses]
        if isinstance(module, nn.Conv2d):
            squares = [float(response.square().mean()) for response in responses]
            assert sum(squares) / 2 == pytest.approx(1, rel=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vgg.state_dict().items())
    calibrated_on_zeros = calibrate(vgg, torch.zeros(1, 3, 8, 8))
    assert all(
        torch.equal(tensor, before[name])
        for name, tensor in calibrated_on_zeros.state_dict().items()
    )


def test_random_weights_are_orthogonal_seeded_and_frozen() -> None:
    vgg, other = build_vgg19("random", "max", 1, 3), build_vgg19("random", "max", 2, 3)
    rows = vgg[2].weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(64), atol=1e-5, rtol=0)
    assert not torch.equal(vgg[2].weight, other[2].weight)
    assert vgg[2].bias.abs().max() == 0
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    assert not vgg.training


def test_images_share_a_pass_if_sizes_and_optimizer_allow_it() -> None:
    """An accelerator processes up to 512 x 512 pixels in one pass, a CPU one image."""
    style = Style((torch.rand(1, 3, 8, 8),))
    masked = Style(style.images, (), (torch.ones(1, 1, 256, 256),))
    small, large = torch.zeros(1, 3, 256, 256), torch.zeros(1, 3, 256, 1200)
    contents = [small] * 6 + [large] * 2 + [small]

    def counts(
        device: str, batch_size: int | None, styles: list[Style], **changes: object
    ) -> list[int]:
        settings = options(**{"optimizer": "spectral_lbfgs", **changes})
        all_tasks = tasks(contents, styles)
        jobs = list(_jobs(all_tasks, settings, torch.device(device), batch_size))
        assert all(len(job.styles) in (1, len(job.contents)) for job in jobs)
        return [len(job.contents) for job in jobs]

    assert counts("meta", None, [style]) == [4, 2, 1, 1, 1]
    assert counts("cpu", None, [style]) == [1] * 9
    assert counts("cpu", 5, [style]) == [5, 1, 2, 1]
    assert counts("meta", 5, [style], optimizer="adam", lr=0.1) == [1] * 9
    styles = [style] * 2 + [masked] * 4 + [style] * 3
    assert counts("meta", None, styles) == [2, 4, 1, 1, 1]
    first, *_ = _jobs(tasks(contents, styles), options(optimizer="spectral_lbfgs"), CPU, 2)
    assert first.styles[0].images[0] is style.images[0]
    assert len(first.styles) == 2
