"""The command that paints pictures of any folder: what is asked for, and where that goes."""

import signal
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer
from typer.core import TyperCommand

from atelier.cli.places import PARAMS, refuse_to_replace, writing
from atelier.errors import AtelierError
from atelier.progress import bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from atelier.images.original import Original
    from atelier.settings import Settings, StylizeSettings
    from atelier.style.journal import Glimpse
    from atelier.style.paintings import Painting

PAINTED = Path("painted")
WEIGHTS = Path("data/weights")
# What a picture has at most, in pixels, where nobody says how large it is to be painted.
MOST = 2**20
_LEAST = 32  # pixels of the shorter side
_FRAMES = 24  # of a film, at least
_INTERRUPTED = 130


class Lists(TyperCommand):
    """A command whose options of several values take them all at once: ``--style ONE TWO``."""

    several = ("--style", "--mask")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say the option again before each of its values, as click wants it."""
        spread: list[str] = []
        option = ""
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg in self.several else ""
                spread += [arg] * (not option)
            else:
                spread += [option, arg] if option else [arg]
        return super().parse_args(ctx, spread)


def stylize(
    pictures: Annotated[list[str], typer.Argument(help="pictures to paint")],
    style: Annotated[
        list[str], typer.Option(help="pictures to paint like, or: drawn", metavar="PICTURE...")
    ],
    size: Annotated[
        int | None,
        typer.Option(help="pixels, the shorter side", show_default="its own, up to a megapixel"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="a folder, or for one painting a file", show_default="painted/")
    ] = None,
    strength: Annotated[float | None, typer.Option(help="from 0, as it was, to 1")] = None,
    keep_colors: Annotated[
        str | None, typer.Option(help="none, luminance or histogram", metavar="HOW")
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(help="for each style, white where it goes", metavar="PICTURE..."),
    ] = None,
    mix: Annotated[
        str, typer.Option(help="all styles in each painting, so much of each, such as 2,1")
    ] = "",
    iterations: Annotated[int | None, typer.Option(help="more are slower, and painted more")] = None,
    weights: Annotated[
        str | None, typer.Option(help="random, imagenet or a file", metavar="VGG19")
    ] = None,
    film: Annotated[bool, typer.Option("--film", help="a GIF of each painting's way")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace what is there")] = False,
) -> None:
    """Paint pictures in the style of others, as params.yaml says under stylize, but for options."""
    from atelier.images.named import read_named
    from atelier.images.original import read_original  # noqa: F401 - early, before torch
    from atelier.settings import load

    settings = load(PARAMS)
    given: dict[str, Any] = {
        "strength": strength,
        "keep_colors": keep_colors,
        "iterations": iterations,
        "weights": weights and Path(weights).name,
        "film": film or None,
        "styles": [f"style_{number}" for number in range(len(style))],
        "style_masks": [f"mask_{number}" for number in range(len(mask or []))],
        "style_weights": _numbers(mix),
    }
    if mask or mix:
        given["pairing"] = "all"
    limit = settings.convert.max_megapixels
    originals = read_named(pictures, Path(), limit, {})
    by_size: defaultdict[int, list[str]] = defaultdict(list)
    for name, original in originals.items():
        by_size[size or own_size(*original.pixels.shape[:2])].append(name)
    jobs = {side: _asked(settings, {**given, "picture_size": side}) for side in by_size}
