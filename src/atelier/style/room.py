"""How much memory a painting takes, and which part of VGG19's pass fits into what is allowed."""

import math
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from atelier.errors import AtelierError, lacks_memory
from atelier.settings import StylizeSettings
from atelier.style.vgg import reach, stride

# Canvases' worth of float32 that an optimizer and what surrounds it hold at most.
_CANVASES = {"spectral": 48, "lbfgs": 56, "adam": 16}
# A pass keeps each map for the way back, and has as much again at work.
_MAPS_A_PASS = 2.0
_BYTES = 4


def side_that_fits(
    height: int, width: int, settings: StylizeSettings, vgg: nn.Sequential
) -> int | None:
    """Return the side of the squares that VGG19 may see at once; ``None`` for all.

    Args:
        height: of the painting.
        width: of the painting.
        settings: ``memory_gb`` says how much there is, 0 for no limit.
        vgg: as it computes, no deeper than the settings' layers.

    Raises:
        AtelierError: not even small squares fit.
    """
    if not settings.memory_gb:
        return None
    each = _pass_bytes_a_pixel(vgg)
    left = settings.memory_gb * 1e9 - _held_bytes(height, width, settings, vgg)
    if height * width * each <= left:
        return None
    step = stride(vgg)
    around = -(-reach(vgg) // step) * step
    least = 3 * around  # with smaller cores most of the work would be done several times
    side = int(math.sqrt(max(0, left) / each))
    if side >= least:
        return side
    fits = _largest(height, width, (least**2) * each, settings, vgg)
    raise AtelierError(
        f"a painting of {width} x {height} pixels needs more than stylize.memory_gb"
        f" ({settings.memory_gb:g}); "
        + (f"a picture_size of {fits} would fit" if fits else "no picture would fit")
        + ", or allow more."
    )


def largest_that_works(work: Callable[[int], object], side: int, smallest: int) -> int | None:
    """Try ``work`` with ever shorter sides, a quarter less each time, until memory holds it."""
    while side >= smallest:
        try:
            work(side)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        else:
            return side
        side = side * 3 // 4
    return None


def _largest(
    height: int, width: int, seen: float, settings: StylizeSettings, vgg: nn.Sequential
) -> int:
    """The shorter side of the largest painting of this shape that fits beside ``seen`` bytes."""
    at_one = _held_bytes(height, width, settings, vgg) - _bytes_of(vgg.parameters())
    left = settings.memory_gb * 1e9 - seen - _bytes_of(vgg.parameters())
    if left <= 0:
        return 0
    return int(min(height, width) * math.sqrt(left / at_one))


def _held_bytes(height: int, width: int, settings: StylizeSettings, vgg: nn.Sequential) -> float:
    """The network, the canvases and the content's maps."""
    pixels = height * width
    canvases = 3 * _BYTES * _CANVASES[settings.optimizer]
    maps = sum(_map_bytes(vgg, layer) for layer in settings.content_layers)
    return _bytes_of(vgg.parameters()) + pixels * (canvases + maps)


def _pass_bytes_a_pixel(vgg: nn.Sequential) -> float:
    return _MAPS_A_PASS * sum(_map_bytes(vgg, layer) for layer in range(len(vgg)))


def _map_bytes(vgg: nn.Sequential, layer: int) -> float:
    """Bytes a pixel of the map of a layer."""
    convolutions = [one for one in vgg[: layer + 1] if isinstance(one, nn.Conv2d)]
    width: int = convolutions[-1].weight.element_size()
    return convolutions[-1].out_channels * width / stride(vgg[: layer + 1]) ** 2


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
