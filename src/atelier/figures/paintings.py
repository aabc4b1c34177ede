"""How paintings are shown: a sheet of what they are made of, their losses, and a film of each."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.figures.curves import curve
from atelier.figures.film import film
from atelier.figures.sheet import Shown, fit, sheet

Pixels = NDArray[np.uint8]

_FILM_SIDE = 512
_FILM_FPS = 12
_FILM_HOLD = 2.0  # seconds that the painting stays


def painting_sheet(rows: Sequence[tuple[Shown, Shown, Shown]]) -> Pixels:
    """Lay out a row for each painting: content, style and painting, each with its caption."""
    return sheet(("content", "style", "painting"), rows)


def painting_losses(
    iterations: Sequence[int], lines: Mapping[str, Sequence[float]], target: Path
) -> None:
    """Draw what each term adds to the loss as a PNG file.

    Args:
        iterations: ascending.
        lines: for each term a value at each iteration; what is not above 0 leaves a gap.
        target: the PNG file.
    """
    curve(
        np.array(iterations, np.float64),
        {name: np.array(values, np.float64) for name, values in lines.items()},
        "What the loss is made of",
        "iteration",
        "weighted loss",
        target,
        logy=True,
    )


def painting_film(content: Pixels, way: Sequence[Pixels], target: Path) -> None:
    """Write a painting's way from its content as an animated GIF that plays for ever.

    Args:
        content: uint8 [H, W, 3] RGB.
        way: uint8 RGB, in order, of any sizes; the last is the painting, which says the shape.
        target: the GIF file.
    """
    shape = fit(way[-1], min(max(way[-1].shape), _FILM_SIDE)).shape

    def frames() -> Iterator[Pixels]:
        for picture in (content, *way):
            yield fit(picture, shape)

    film(frames(), target, _FILM_FPS, _FILM_HOLD)
