"""How much memory a painting takes, and which part of VGG19's pass fits into what is allowed."""

import math
from collections.abc import Callable, Collection, Iterable

from torch import Tensor, nn

from atelier.errors import AtelierError, lacks_memory
from atelier.settings import StylizeSettings
from atelier.style.vgg import reach, stride

# Canvases' worth of float32 that an optimizer and what surrounds it hold at most.
_CANVASES = {"spectral": 48, "lbfgs": 56, "adam": 16}
# A pass keeps each map for the way back, and has as much again at work.
_MAPS_A_PASS = 2.0
# A style is looked at without a way back, which takes half as much.
_LOOK = 0.5
# A style is held as it was given, in the colours to paint and at the size that is painted.
_STYLES = 3
_BYTES = 4
# Random weights get one factor a layer: a style tells it as well where it is smaller than this.
_SIDE_TO_CALIBRATE = 768
# A pixel of the first layer's map, what is made of it, and as much again at work.
_CALIBRATION_BYTES = 4 * 64 * _BYTES
LEAST = 32  # what stylize.picture_size may be at least


def side_that_fits(
    height: int,
    width: int,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    styles: Collection[Tensor] = (),
) -> int | None:
    """Return the side of the squares that VGG19 may see at once; ``None`` for all.

    Args:
        height: of the painting.
        width: of the painting.
        settings: ``memory_gb`` says how much there is, 0 for no limit.
        vgg: as it computes, no deeper than the settings' layers.
        styles: all that are held meanwhile, each ``[1, 3, h, w]``.

    Raises:
        AtelierError: not even small squares fit.
    """
    if not settings.memory_gb:
        return None
    each, held = _pass_bytes_a_pixel(vgg), _held_bytes(height, width, settings, vgg, styles)
    left = settings.memory_gb * 1e9 - held
    looked_at = max(map(_pixels, styles), default=0) * _LOOK
    if max(height * width, looked_at) * each <= left:
        return None
    side = int(math.sqrt(max(0, left) / each))
    if side >= _least_side(vgg):
        return side
    raise _too_large(height, width, held, settings, vgg)


def refuse_too_large(
    height: int, width: int, settings: StylizeSettings, vgg: nn.Sequential
) -> None:
    """Refuse a painting whose canvases alone need more than is allowed, before there is any.

    Raises:
        AtelierError: they do; the sentence says which size would fit.
    """
    if 0 < settings.memory_gb * 1e9 < height * width * _canvas_bytes(settings):
        held = _held_bytes(height, width, settings, vgg, ())
        raise _too_large(height, width, held, settings, vgg)


def side_to_calibrate(settings: StylizeSettings, styles: int) -> int:
    """The longer side at which random weights may look at so many styles at once."""
    if not settings.memory_gb:
        return _SIDE_TO_CALIBRATE
    fits = math.sqrt(settings.memory_gb * 1e9 / (styles * _CALIBRATION_BYTES))
    return min(_SIDE_TO_CALIBRATE, max(LEAST, int(fits)))


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


def _too_large(
    height: int, width: int, held: float, settings: StylizeSettings, vgg: nn.Sequential
) -> AtelierError:
    """Say how large a painting of this shape would fit, where ``held`` bytes are too many."""
    network = _bytes_of(vgg.parameters())
    seen = _least_side(vgg) ** 2 * _pass_bytes_a_pixel(vgg)
    # All else grows with the pixels, the styles' too.
    factor = math.sqrt(max(0, settings.memory_gb * 1e9 - seen - network) / (held - network))
    fits = int(min(height, width) * factor)
    told = f"a stylize.picture_size of {fits} would fit"
    return AtelierError(
        f"a painting of {width} x {height} pixels needs more than stylize.memory_gb"
        f" ({settings.memory_gb:g}); {told if fits >= LEAST else 'none of this shape would fit'},"
        " or allow more."
    )


def _least_side(vgg: nn.Sequential) -> int:
    """Of squares: with smaller cores most of the work would be done several times."""
    step = stride(vgg)
    return 3 * -(-reach(vgg) // step) * step


def _held_bytes(
    height: int,
    width: int,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    styles: Collection[Tensor],
) -> float:
    """The network, the canvases, the content's maps and the styles."""
    maps = sum(_map_bytes(vgg, layer) for layer in settings.content_layers)
    looks = _STYLES * sum(style.nbytes for style in styles)
    pixels = height * width
    return _bytes_of(vgg.parameters()) + looks + pixels * (_canvas_bytes(settings) + maps)


def _canvas_bytes(settings: StylizeSettings) -> int:
    """Bytes a pixel of what an optimizer holds."""
    return 3 * _BYTES * _CANVASES[settings.optimizer]


def _pass_bytes_a_pixel(vgg: nn.Sequential) -> float:
    return _MAPS_A_PASS * sum(_map_bytes(vgg, layer) for layer in range(len(vgg)))


def _map_bytes(vgg: nn.Sequential, layer: int) -> float:
    """Bytes a pixel of the map of a layer."""
    convolutions = [one for one in vgg[: layer + 1] if isinstance(one, nn.Conv2d)]
    width: int = convolutions[-1].weight.element_size()
    return convolutions[-1].out_channels * width / stride(vgg[: layer + 1]) ** 2


def _pixels(picture: Tensor) -> int:
    return picture.shape[2] * picture.shape[3]


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
