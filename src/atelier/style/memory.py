"""How much memory a painting takes, and which part of VGG19's pass fits into what is allowed."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

from torch import Tensor, nn

from atelier.core.errors import AtelierError, is_out_of_memory
from atelier.core.settings import StylizeSettings
from atelier.style.vgg import receptive_radius, stride

# Canvases' worth of float32 that an optimizer and what surrounds it hold at most.
_CANVASES = {"spectral_lbfgs": 48, "lbfgs": 56, "adam": 16}
# A pass keeps each map for the way back, and has as much again at work.
_MAPS_PER_PASS = 2.0
# A style is looked at without a way back, which takes half as much.
_STYLE_TARGETS = 0.5
# A style is held as it was given, in the colours to paint and at the size that is painted.
_STYLES = 3
_BYTES = 4
# Random weights get one factor a layer: a style tells it as well where it is smaller than this.
_SIDE_TO_CALIBRATE = 768
# A pixel of the first layer's map, what is made of it, and as much again at work.
_CALIBRATION_BYTES = 4 * 64 * _BYTES
MIN_TILE = 32  # what stylize.image_size may be at least

Shape = tuple[int, int]  # height and width
# Of a painting whose shorter side has so many pixels, and of the styles that are held meanwhile.
Shapes = Callable[[int], tuple[Shape, Collection[Shape]]]


def tile_size_for_memory(
    height: int,
    width: int,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    styles: Collection[Shape] = (),
) -> int | None:
    """Return the side of the squares that VGG19 may see at once; ``None`` for all.

    Args:
        height: of the painting.
        width: of the painting.
        settings: ``memory_gb`` says how much there is, 0 for no limit.
        vgg: as it computes, no deeper than the settings' layers.
        styles: all that are held meanwhile.

    Raises:
        AtelierError: not even small squares fit.
    """

    def in_proportion(size: int) -> tuple[Shape, Collection[Shape]]:
        factor = size / min(height, width)
        own, *others = (
            (round(high * factor), round(wide * factor))
            for high, wide in ((height, width), *styles)
        )
        return own, others

    side = _tile_size((height, width), styles, settings, vgg)
    if side == 0:
        raise _too_large([in_proportion], min(height, width), settings, vgg)
    return side


def reject_too_large(
    paintings: Sequence[Shapes], settings: StylizeSettings, vgg: nn.Sequential
) -> None:
    """Refuse paintings of ``stylize.image_size`` that :func:`tile_size_for_memory` would.

    Args:
        paintings: each tells the shapes that it would have at another size, too.
        settings: likewise.
        vgg: likewise; its weights may be on the device ``meta``.

    Raises:
        AtelierError: one does not fit; the sentence says at which size all would.
    """
    size = settings.image_size
    refused = [shapes for shapes in paintings if _tile_size(*shapes(size), settings, vgg) == 0]
    if refused:
        raise _too_large(refused, size, settings, vgg)


def calibration_size(settings: StylizeSettings, styles: int) -> int:
    """The longer side at which random weights may look at so many styles at once."""
    if not settings.memory_gb:
        return _SIDE_TO_CALIBRATE
    fits = math.sqrt(settings.memory_gb * 1e9 / (styles * _CALIBRATION_BYTES))
    return min(_SIDE_TO_CALIBRATE, max(MIN_TILE, int(fits)))


def largest_size_that_runs(work: Callable[[int], object], side: int, smallest: int) -> int | None:
    """Try ``work`` with ever shorter sides, a quarter less each time, until memory holds it."""
    while side >= smallest:
        try:
            work(side)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return side
        side = side * 3 // 4
    return None


def _tile_size(
    shape: Shape, styles: Collection[Shape], settings: StylizeSettings, vgg: nn.Sequential
) -> int | None:
    """The side of the squares, ``None`` for all at once; 0 where not even small ones fit."""
    if not settings.memory_gb:
        return None
    each = _pass_bytes_a_pixel(vgg)
    left = settings.memory_gb * 1e9 - _target_bytes(shape, styles, settings, vgg)
    looked_at = max(map(math.prod, styles), default=0) * _STYLE_TARGETS
    if max(math.prod(shape), looked_at) * each <= left:
        return None
    side = int(math.sqrt(max(0, left) / each))
    return side if side >= _min_tile_size(vgg) else 0


def _too_large(
    refused: Sequence[Shapes], size: int, settings: StylizeSettings, vgg: nn.Sequential
) -> AtelierError:
    """Say at which size the paintings would fit that do not at ``size``."""
    (height, width), _ = refused[0](size)
    fits, too_large = MIN_TILE - 1, size
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if any(_tile_size(*shapes(middle), settings, vgg) == 0 for shapes in refused):
            too_large = middle
        else:
            fits = middle
    told = f"a stylize.image_size of {fits} would fit"
    return AtelierError(
        f"a painting of {width} x {height} pixels needs more than stylize.memory_gb"
        f" ({settings.memory_gb:g}); {told if fits >= MIN_TILE else 'none of this shape would fit'},"
        " or allow more."
    )


def _min_tile_size(vgg: nn.Sequential) -> int:
    """Of squares: with smaller cores most of the work would be done several times."""
    step = stride(vgg)
    return 3 * -(-receptive_radius(vgg) // step) * step


def _target_bytes(
    shape: Shape, styles: Collection[Shape], settings: StylizeSettings, vgg: nn.Sequential
) -> float:
    """The network, the canvases, the content's maps and the styles."""
    maps = sum(_map_bytes(vgg, layer) for layer in settings.content_layers)
    looks = _STYLES * 3 * _BYTES * sum(map(math.prod, styles))
    pixels = math.prod(shape)
    return _bytes_of(vgg.parameters()) + looks + pixels * (_canvas_bytes(settings) + maps)


def _canvas_bytes(settings: StylizeSettings) -> int:
    """Bytes a pixel of what an optimizer holds."""
    return 3 * _BYTES * _CANVASES[settings.optimizer]


def _pass_bytes_a_pixel(vgg: nn.Sequential) -> float:
    return _MAPS_PER_PASS * sum(_map_bytes(vgg, layer) for layer in range(len(vgg)))


def _map_bytes(vgg: nn.Sequential, layer: int) -> float:
    """Bytes a pixel of the map of a layer."""
    convolutions = [one for one in vgg[: layer + 1] if isinstance(one, nn.Conv2d)]
    width: int = convolutions[-1].weight.element_size()
    return convolutions[-1].out_channels * width / stride(vgg[: layer + 1]) ** 2


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
