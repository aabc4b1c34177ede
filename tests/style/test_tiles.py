"""Tiled computation equals that of whole images."""

import itertools

import pytest
import torch
from torch import Tensor

from atelier.core.errors import AtelierError
from atelier.style.inputs import scaled_shape
from atelier.style.memory import (
    calibration_size,
    largest_size_that_runs,
    reject_too_large,
    tile_size_for_memory,
)
from atelier.style.objective import FeatureObjective, Style, build_targets, tiles
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19, receptive_radius, stride, vgg19_on_meta

from ..support.painting import options, smooth, tasks
from ..support.selection import slow_after

DEEP = {"style_layers": {1: 1.0, 6: 1.0, 11: 1.0}, "content_layers": {8: 0.1}}


def _smooth_image(seed: int, height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (101, 83), (64, 130)])
def test_cores_partition_the_image(height: int, width: int) -> None:
    covered = torch.zeros(1, 1, height, width)
    for tile in tiles(height, width, 60, 13, 4):
        tile.crop_core(covered, 1).add_(1)
        assert torch.equal(tile.core_in_tile(tile.crop(covered), 1), tile.crop_core(covered, 1))
    assert (covered == 1).all()


@pytest.mark.parametrize("layer", [1, 6, 11])
@pytest.mark.parametrize("pooling", ["max", "average", "l2"])
def test_receptive_radius_is_an_upper_bound(layer: int, pooling: str) -> None:
    """The receptive field also has at least this radius, except for pixels of its stride."""
    vgg = build_vgg19("random", pooling, 1, layer).double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    step = stride(vgg)
    position = 32 // step
    vgg(image)[0, :, position, position].sum().backward()
    assert image.grad is not None
    rows = image.grad.abs().sum((0, 1, 3)).nonzero()
    assert 32 - int(rows.min()) <= receptive_radius(vgg)
    assert int(rows.max()) - 32 <= receptive_radius(vgg)
    assert int(rows.max() - rows.min()) >= receptive_radius(vgg)


@pytest.mark.parametrize(
    ("masked", "changes"),
    slow_after(
        4,
        [
            (False, {}),
            (True, {"style_loss": "moments", "tv_weight": 0.1}),
            (False, {"padding": "replicate", "pooling": "max"}),
            (True, {"style_strength": 0.5, "pooling": "l2"}),
            (True, {}),
            (False, {"style_loss": "moments", "tv_weight": 0.1}),
            (True, {"padding": "replicate", "pooling": "max"}),
            (False, {"style_strength": 0.5, "pooling": "l2"}),
        ],
    ),
    ids=str,
)
@pytest.mark.parametrize(
    ("height", "width"), [pytest.param(96, 112, marks=pytest.mark.slow), (91, 105)]
)
def test_tiled_losses_and_gradient_equal_those_of_the_image(
    changes: dict[str, object], masked: bool, height: int, width: int
) -> None:
    settings = options(**DEEP, **changes)
    vgg = build_vgg19("random", settings.pooling, 1, 11, settings.padding)
    content, image = _smooth_image(1, height, width), _smooth_image(5, height, width)
    mask = (_smooth_image(4, height, width)[:, :1] > 0.5).float()
    style_images = (_smooth_image(2, 80, 100), _smooth_image(3, 90, 90))
    style = Style(style_images, (), (mask, 1 - mask)) if masked else Style(style_images[:1])
    results = []
    for side in (None, 72):
        targets = build_targets(content, [style], settings, vgg, side)
        objective = FeatureObjective(vgg, settings, height, width, side)
        results.append(objective.loss_and_gradient(image, targets, settings))
    assert len(objective.tiles) > 3
    (total, losses, gradient), (tiled_total, tiled_losses, tiled_gradient) = results
    torch.testing.assert_close(tiled_total, total, rtol=1e-5, atol=0)
    assert list(tiled_losses) == list(losses)
    for name, loss in losses.items():
        torch.testing.assert_close(tiled_losses[name], loss, rtol=1e-4, atol=1e-8)
    scale = float(gradient.abs().max())
    torch.testing.assert_close(tiled_gradient, gradient, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.slow
def test_tiled_result_has_no_seams() -> None:
    """Differences of neighbors across tile borders are like those elsewhere."""
    settings = options(optimizer="spectral_lbfgs", iterations=15)
    limited_settings = settings.model_copy(update={"memory_gb": 0.0095})
    vgg = build_vgg19("random", "average", 1, 6)
    content, style = _smooth_image(1, 64, 80), _smooth_image(2, 64, 64)
    (whole,) = transfer_style(tasks([content], style), settings, vgg)
    (tiled,) = transfer_style(tasks([content], style), limited_settings, vgg)
    assert (tiled - whole).abs().mean() < 2 / 255
    side = tile_size_for_memory(64, 80, limited_settings, vgg)
    assert side is not None
    tile_list = tiles(64, 80, side, receptive_radius(vgg), stride(vgg))
    border_columns = sorted({tile.core[2] for tile in tile_list} - {0})
    assert border_columns
    differences = tiled.diff(dim=3).abs().mean((0, 1, 2))
    at_border = torch.tensor([bool(column + 1 in border_columns) for column in range(79)])
    spread = differences[~at_border].std()
    assert (differences[at_border] < differences[~at_border].mean() + 3 * spread).all()
    assert differences[at_border].mean() == pytest.approx(
        float(differences[~at_border].mean()), rel=0.25
    )


def test_tile_size_grows_with_memory() -> None:
    settings = options(**DEEP)
    vgg = build_vgg19("random", "average", 1, 11)
    sides = [
        tile_size_for_memory(2048, 2048, settings.model_copy(update={"memory_gb": gb}), vgg)
        for gb in (3.5, 4.0, 6.0)
    ]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(sides))
    for gb in (0.0, 1000.0):
        sufficient_settings = settings.model_copy(update={"memory_gb": gb})
        assert tile_size_for_memory(2048, 2048, sufficient_settings, vgg) is None
    limited_settings = settings.model_copy(update={"memory_gb": 1.0})
    with pytest.raises(AtelierError, match=r"needs more than stylize.memory_gb \(1\);") as error:
        tile_size_for_memory(2048, 2048, limited_settings, vgg)
    largest = int(str(error.value).split("image_size to ")[1].split(",")[0])
    tile_size_for_memory(largest, largest, limited_settings, vgg)
    with pytest.raises(AtelierError):
        tile_size_for_memory(largest + 16, largest + 16, limited_settings, vgg)


def test_large_style_image_is_tiled() -> None:
    settings = options(**DEEP, memory_gb=0.2)
    vgg = build_vgg19("random", "average", 1, 11)
    small, large = (96, 96), (960, 960)
    assert tile_size_for_memory(96, 96, settings, vgg, [small]) is None
    side = tile_size_for_memory(96, 96, settings, vgg, [small, large])
    assert side is not None
    assert 96 < side < 960
    with pytest.raises(AtelierError, match="needs more than"):
        tile_size_for_memory(96, 96, settings, vgg, [(4000, 4000)])


def test_too_large_image_is_rejected_before_allocation() -> None:
    vgg = vgg19_on_meta("average", 11)

    def check(height: int, width: int, memory_gb: float = 4.0) -> None:
        settings = options(**DEEP, memory_gb=memory_gb, image_size=min(height, width))
        reject_too_large([lambda size: (scaled_shape((height, width), size), [])], settings, vgg)

    check(512, 512)
    with pytest.raises(AtelierError, match="no image size of this aspect ratio fits; raise"):
        check(32, 32_000_000)
    with pytest.raises(AtelierError, match=r"lower stylize.image_size to \d{3,4}, or raise"):
        check(16_384, 16_384)
    check(32, 32_000_000, memory_gb=0.0)


@pytest.mark.parametrize(("gb", "side"), [(0.0, 768), (4.0, 768), (0.2, 441), (1e-6, 32)])
def test_calibration_size_follows_memory(gb: float, side: int) -> None:
    assert calibration_size(options(memory_gb=gb), 1) == side


def test_largest_size_that_runs_is_found_by_trial() -> None:
    sizes = []

    def work(side: int) -> None:
        sizes.append(side)
        if side > 500:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    assert largest_size_that_runs(work, 1000, 32) == 421
    assert sizes == [1000, 750, 562, 421]
    assert largest_size_that_runs(work, 1000, 600) is None

    def fail(side: int) -> None:
        raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="fault of the program"):
        largest_size_that_runs(fail, 1000, 32)


def test_tiled_gradient_does_not_modify_the_image() -> None:
    settings = options(**DEEP)
    vgg = build_vgg19("random", "average", 1, 11)
    content = smooth(1).repeat(1, 1, 3, 3)
    targets = build_targets(content, [Style((smooth(2),))], settings, vgg, 72)
    image = content.flip(3)
    FeatureObjective(vgg, settings, 96, 96, 72).loss_and_gradient(image, targets, settings)
    assert torch.equal(image, content.flip(3))
