"""Memory estimates of style transfer, and the tile sizes and image sizes that fit."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from atelier.core.errors import SettingError, SettingName, is_out_of_memory
from atelier.core.settings import StylizeSettings
from atelier.style.vgg import receptive_radius, stride

Shape = tuple[int, int]  # height and width
# From the shorter side of a result to the shapes of the result and of the styles in memory.
ShapesAtSize = Callable[[int], tuple[Shape, Collection[Shape]]]

MIN_TILE = 32  # the minimum of stylize.image_size

# Meaning of ``memory_gb: auto``. The other half of a GPU's free memory is for the allocator, which
# splits it into blocks, and for temporary tensors of libraries.
_AUTO_GB = 4.0
_AUTO_SHARE_OF_GPU = 0.5
_MIN_GB = 0.001  # a limit of 0 would mean none

# Upper bounds of the memory of an optimizer and the code around it, in float32 images.
_IMAGES_PER_OPTIMIZER = {"spectral_lbfgs": 48, "lbfgs": 56, "adam": 16}
# A pass stores each map for backpropagation, and needs as much again for temporary tensors.
_MAPS_PER_PASS = 2.0
# A style's pass needs no backpropagation, which takes half the memory.
_STYLE_PASS_SHARE = 0.5
# A style is in memory as loaded, with the content's colors, and at the current size.
_COPIES_PER_STYLE = 3
_BYTES_PER_FLOAT = 4
# Random weights are calibrated by one factor per layer, for which styles of this size suffice.
_CALIBRATION_SIZE = 768
# Bytes per pixel of the first layer's map, the tensors computed from it, and temporary ones.
_CALIBRATION_BYTES = 4 * 64 * _BYTES_PER_FLOAT


def resolve_memory_limit(settings: StylizeSettings, device: torch.device) -> StylizeSettings:
    """Replace a ``memory_gb`` of ``auto`` by half of the free memory of a CUDA device.

    Memory that this process has allocated and no longer uses counts as free. On other devices,
    ``auto`` stays, and means 4.
    """
    if settings.memory_gb != "auto" or device.type != "cuda":
        return settings
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limit = max(_MIN_GB, round(_AUTO_SHARE_OF_GPU * free / 1e9, 3))
    return settings.model_copy(update={"memory_gb": limit})


def tile_size_for_memory(
    height: int,
    width: int,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    styles: Collection[Shape] = (),
) -> int | None:
    """Return the largest side of a tile for VGG19; ``None`` if no tiling is needed.

    Args:
        height: of the result.
        width: of the result.
        settings: from :func:`resolve_memory_limit`. ``memory_gb`` is the available memory, 0 for
            no limit.
        vgg: in the precision of its computation, no deeper than the settings' layers.
        styles: shapes of all styles that are in memory at the same time.

    Raises:
        AtelierError: not even the smallest tiles fit.
    """

    def proportional_shapes(size: int) -> tuple[Shape, Collection[Shape]]:
        factor = size / min(height, width)
        own, *others = (
            (round(rows * factor), round(columns * factor))
            for rows, columns in ((height, width), *styles)
        )
        return own, others

    tile_size = _tile_size((height, width), styles, settings, vgg)
    if tile_size == 0:
        raise _too_large_error([proportional_shapes], min(height, width), settings, vgg)
    return tile_size


def reject_too_large(
    results: Sequence[ShapesAtSize], settings: StylizeSettings, vgg: nn.Sequential
) -> None:
    """Raise if a result of ``stylize.image_size`` does not fit into memory.

    Args:
        results: one function for each result.
        settings: as for :func:`tile_size_for_memory`.
        vgg: likewise; its weights may be on the device ``meta``.

    Raises:
        AtelierError: at least one does not fit; the message names the largest size that does.
    """
    size = settings.image_size
    too_large = [shapes for shapes in results if _tile_size(*shapes(size), settings, vgg) == 0]
    if too_large:
        raise _too_large_error(too_large, size, settings, vgg)


def calibration_size(settings: StylizeSettings, styles: int) -> int:
    """Return the largest side of this number of styles when they calibrate random weights."""
    limit = _limit_gb(settings)
    if not limit:
        return _CALIBRATION_SIZE
    fits = math.sqrt(limit * 1e9 / (styles * _CALIBRATION_BYTES))
    return min(_CALIBRATION_SIZE, max(MIN_TILE, int(fits)))


def largest_size_that_runs(run: Callable[[int], object], size: int, smallest: int) -> int | None:
    """Call ``run`` with sizes reduced by a quarter each time, until one fits into memory.

    Returns:
        The first size without an out-of-memory error; ``None`` if ``smallest`` does not fit.
    """
    while size >= smallest:
        try:
            run(size)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size
        size = size * 3 // 4
    return None


def _tile_size(
    shape: Shape, styles: Collection[Shape], settings: StylizeSettings, vgg: nn.Sequential
) -> int | None:
    """Return the side of the tiles; ``None`` if no tiling is needed, 0 if none are small enough."""
    limit = _limit_gb(settings)
    if not limit:
        return None
    bytes_per_pixel = _pass_bytes_per_pixel(vgg)
    available = limit * 1e9 - _fixed_bytes(shape, styles, settings, vgg)
    style_pixels = max(map(math.prod, styles), default=0) * _STYLE_PASS_SHARE
    if max(math.prod(shape), style_pixels) * bytes_per_pixel <= available:
        return None
    tile_size = int(math.sqrt(max(0, available) / bytes_per_pixel))
    return tile_size if tile_size >= _min_tile_size(vgg) else 0


def _too_large_error(
    results: Sequence[ShapesAtSize], size: int, settings: StylizeSettings, vgg: nn.Sequential
) -> SettingError:
    """Return an error that names the largest size at which all results fit."""
    (height, width), _ = results[0](size)
    fits, too_large = MIN_TILE - 1, size
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if any(_tile_size(*shapes(middle), settings, vgg) == 0 for shapes in results):
            too_large = middle
        else:
            fits = middle
    advice = "no image size of this aspect ratio fits;"
    if fits >= MIN_TILE:
        advice = f"lower {{image_size}} to {fits}, or"
    return SettingError(
        f"a stylized image of {width} x {height} pixels needs more than {{memory_gb}}"
        f" ({_limit_gb(settings):g}); {advice} raise {{memory_gb}}.",
        image_size=SettingName("stylize.image_size"),
        memory_gb=SettingName("stylize.memory_gb"),
    )


def _limit_gb(settings: StylizeSettings) -> float:
    return _AUTO_GB if settings.memory_gb == "auto" else settings.memory_gb


def _min_tile_size(vgg: nn.Sequential) -> int:
    """Return the smallest useful tile: padding of smaller ones would be most of the work."""
    step = stride(vgg)
    return 3 * -(-receptive_radius(vgg) // step) * step


def _fixed_bytes(
    shape: Shape, styles: Collection[Shape], settings: StylizeSettings, vgg: nn.Sequential
) -> float:
    """Return the memory of the network, the optimizer, the content's maps and the styles."""
    content_maps = sum(_map_bytes_per_pixel(vgg, layer) for layer in settings.content_layers)
    style_bytes = _COPIES_PER_STYLE * 3 * _BYTES_PER_FLOAT * sum(map(math.prod, styles))
    pixels = math.prod(shape)
    per_pixel = _optimizer_bytes_per_pixel(settings) + content_maps
    return _total_bytes(vgg.parameters()) + style_bytes + pixels * per_pixel


def _optimizer_bytes_per_pixel(settings: StylizeSettings) -> int:
    return 3 * _BYTES_PER_FLOAT * _IMAGES_PER_OPTIMIZER[settings.optimizer]


def _pass_bytes_per_pixel(vgg: nn.Sequential) -> float:
    return _MAPS_PER_PASS * sum(_map_bytes_per_pixel(vgg, layer) for layer in range(len(vgg)))


def _map_bytes_per_pixel(vgg: nn.Sequential, layer: int) -> float:
    convolutions = [module for module in vgg[: layer + 1] if isinstance(module, nn.Conv2d)]
    element_bytes: int = convolutions[-1].weight.element_size()
    return convolutions[-1].out_channels * element_bytes / stride(vgg[: layer + 1]) ** 2


def _total_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
