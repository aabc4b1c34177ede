"""Commands that use a trained generator: ``atelier generate`` and ``atelier export``."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, isqrt, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.cli.checkout import PARAMS, keep_if_equal, print_comparison, write_output
from atelier.cli.generator_inputs import MAX_IMAGES, GeneratorInputs, generator_inputs
from atelier.cli.generators import GENERATED, GENERATOR, ModelOption, load_generator
from atelier.core.errors import AtelierError
from atelier.core.progress import Progress, ProgressCallback, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_GRID_PIXELS = 400_000_000  # pixels of a grid, which take 1.2 GB of memory
GRID_TILE, GIF_TILE = 64, 256  # default minimum size of an image in pixels
PROGRESS_AFTER = 2.0  # seconds without a progress bar

_Count = Annotated[
    int | None, typer.Option(help="number of images", show_default="16; with --gif 5")
]
_Seed = Annotated[
    list[int] | None,
    typer.Option(
        help="seed of the first image; repeated, the seed of each image",
        metavar="SEED",
        show_default="1",
    ),
]
_Latent = Annotated[
    list[Path] | None,
    typer.Option(
        help="a file of `atelier invert`; repeat it for several", metavar="FILE", show_default=False
    ),
]
_Variation = Annotated[
    float | None,
    typer.Option(help="from 0 to 1: move the --latent this far towards each seed's latent"),
]
_Seeds = Annotated[str, typer.Option(hidden=True)]  # a list, the former syntax of several --seed
_Truncation = Annotated[
    float | None, typer.Option(help="draw larger latents again: less variety, fewer artifacts")
]
_Labels = Annotated[
    list[int] | None,
    typer.Option(
        "--class",
        help="class number; repeated, seeds take turns",
        metavar="CLASS",
        show_default="all",
    ),
]
_Grid = Annotated[
    bool, typer.Option("--grid/--separate-files", help="one grid, or a file for each image")
]
_Columns = Annotated[
    int | None, typer.Option(help="images in a row of the grid", show_default="a square")
]
_TilePixels = Annotated[
    int | None,
    typer.Option(help="size of each image in the grid or GIF", show_default="64; with --gif 256"),
]
_Gif = Annotated[Path | None, typer.Option(help="write a .gif that interpolates between the seeds")]
_Frames = Annotated[int, typer.Option(help="frames of the GIF from a seed to the next")]
_Fps = Annotated[float, typer.Option(help="frames per second of the GIF, at most 50")]
_Out = Annotated[Path | None, typer.Option(help="a folder, or a .png", show_default="generated/")]
_Force = Annotated[bool, typer.Option("--force", help="replace existing files")]


def generate(
    *,
    count: _Count = None,
    seed: _Seed = None,
    seeds: _Seeds = "",
    latent: _Latent = None,
    variation: _Variation = None,
    truncation: _Truncation = None,
    label: _Labels = None,
    grid: _Grid = True,
    columns: _Columns = None,
    tile_pixels: _TilePixels = None,
    gif: _Gif = None,
    frames: _Frames = 24,
    fps: _Fps = 12.0,
    model: ModelOption = GENERATOR,
    out: _Out = None,
    force: _Force = False,
) -> None:
    """Generate images with a trained generator: a grid, separate files or a GIF.

    Example: atelier generate --seed 3 --seed 5 --gif walk.gif
    """
    _check_at_least_1(count=count, columns=columns, tile_pixels=tile_pixels, frames=frames)
    inputs = generator_inputs(
        count, seed or [], seeds, latents=latent or [], variation=variation, gif=gif is not None
    )
    inputs = inputs if gif or grid else inputs.without_repetitions()
    _check_size(1 if gif else len(inputs), tile_pixels)
    target = _target(gif, grid, out)
    frame_count = len(inputs) * frames
    if gif:
        _check_gif(frame_count, fps)

    from atelier.gan.sampling import generate_one_by_one, interpolation_loop

    trained = load_generator(model)
    latents = inputs.load(trained, truncation, label or ())
    if grid and not gif and _is_folder(target):
        options = {"truncation": truncation, "columns": columns, "tile": tile_pixels}
        target /= _grid_name(inputs, label or [], trained.weights_digest(), **options)
    names = inputs.names()
    print_comparison([target] if gif or grid else [target / name for name in names], force)
    if gif:
        images = generate_one_by_one(trained, interpolation_loop(latents, frames, trained))
        _write_gif(images, target, frame_count, fps, tile_pixels, force)
        typer.echo(f"Wrote {target}: {inputs.text()}, {frame_count} frames at {fps:g} fps.")
    elif grid:
        images = generate_one_by_one(trained, latents)
        _write_grid(images, target, len(inputs), columns, tile_pixels, force)
        typer.echo(f"Wrote {target}: {inputs.text()}.")
    else:
        _write_files(generate_one_by_one(trained, latents), target, names, force)
        typer.echo(f"Wrote {len(names)} images to {target}/: {inputs.text()}.")


def export(
    out: Annotated[Path, typer.Argument(help="a name that ends in .onnx, or .pt for TorchScript")],
    *,
    model: ModelOption = GENERATOR,
    force: _Force = False,
) -> None:
    """Export a trained generator for other programs, to ONNX or TorchScript.

    Example: atelier export faces.onnx
    """
    from atelier.gan.export import export as write

    trained = load_generator(model, on_cpu=True)
    print_comparison([out], force)
    with _compared_write(out, force) as new:
        write(trained, new)
    inputs = trained.latent_size + trained.classes
    typer.echo(f"Wrote {out}: float32 [B, {inputs}] to images uint8.")


def _check_at_least_1(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < 1:
            raise AtelierError(f"--{name.replace('_', '-')} is {value}, but it is 1 or more.")


def _check_size(images: int, tile_pixels: int | None) -> None:
    if tile_pixels and images * tile_pixels**2 > MAX_GRID_PIXELS:
        raise AtelierError(
            f"--tile-pixels is {tile_pixels}, but a grid or GIF cannot hold {images:,} images of"
            f" that size; use at most {isqrt(MAX_GRID_PIXELS // images)}."
        )


def _check_gif(frames: int, fps: float) -> None:
    if frames > MAX_IMAGES:
        raise AtelierError(
            f"the GIF would have {frames:,} frames, but at most {MAX_IMAGES:,} are possible; use"
            " fewer --frames."
        )
    if not 0 < fps <= 50:  # viewers play frames of less than 20 ms ten times slower
        raise AtelierError(f"--fps is {fps:g}, but it is more than 0 and at most 50.")


def _grid_name(
    inputs: GeneratorInputs, labels: list[int], weights_digest: str, **options: float | None
) -> str:
    """Return a file name from inputs, options and generator; a long list is hashed.

    The same command with another generator writes another file.
    """
    parts = inputs.name_parts()
    parts += ["class", *map(str, labels)] if labels else []
    for name, value in options.items():
        parts += [name, repr(value)] if value is not None else []
    parts += ["generator", weights_digest[:8]]
    return f"{'-'.join(parts)}.png"


def _target(gif: Path | None, grid: bool, out: Path | None) -> Path:
    """Return the file to write, or the folder for separate files or a grid."""
    if gif:
        if out or not grid:
            raise AtelierError("--gif names its own file; leave --out and --separate-files out.")
        if gif.suffix != ".gif":
            raise AtelierError(f"--gif is {gif}, but its name must end in .gif.")
        return gif
    target = out or GENERATED
    if _is_folder(target):
        return target
    if target.suffix != ".png" or not grid:
        expected = "a folder, or a file that ends in .png"
        expected = expected if grid else "with --separate-files a folder"
        raise AtelierError(f"--out is {target}, but it is {expected}.")
    return target


def _is_folder(target: Path) -> bool:
    """Return True for a folder, or a name that will become one."""
    return target.is_dir() or not target.suffix


def _write_grid(
    images: "Iterator[NDArray[np.uint8]]",
    target: Path,
    count: int,
    columns: int | None,
    tile_pixels: int | None,
    force: bool,
) -> None:
    from atelier.figures.montage import montage, save_png

    with _bar("images") as report:
        tiles = list(_with_progress(images, count, report))
    columns = min(columns, count) if columns else ceil(sqrt(count))
    with _compared_write(target, force) as new:
        save_png(montage(tiles, columns, _tile_size(tile_pixels, tiles[0], GRID_TILE)), new)


def _write_files(
    images: "Iterator[NDArray[np.uint8]]", folder: Path, names: list[str], force: bool
) -> None:
    from atelier.core.files import atomic_merge_dir
    from atelier.figures.montage import montage, save_png

    with write_output(folder), atomic_merge_dir(folder) as new, _bar("images") as report:
        for name, image in zip(names, _with_progress(images, len(names), report), strict=True):
            save_png(montage([image], 1, len(image)), new / name)
            keep_if_equal(folder / name, new / name, force)


def _write_gif(
    images: "Iterator[NDArray[np.uint8]]",
    target: Path,
    frames: int,
    fps: float,
    tile_pixels: int | None,
    force: bool,
) -> None:
    from atelier.figures.gif import write_gif
    from atelier.figures.montage import montage

    tiles = (montage([image], 1, _tile_size(tile_pixels, image, GIF_TILE)) for image in images)
    with _compared_write(target, force) as new, _bar("frames") as report:
        write_gif(_with_progress(tiles, frames, report), new, fps)


@contextmanager
def _compared_write(target: Path, force: bool) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``target``, unless that exists with other content."""
    from atelier.core.files import atomic_write

    with write_output(target), atomic_write(target) as new:
        yield new
        keep_if_equal(target, new, force)


def _tile_size(tile_pixels: int | None, image: "NDArray[np.uint8]", at_least: int) -> int:
    """Return the requested size, or a multiple of the image's own size."""
    return tile_pixels or len(image) * ceil(at_least / len(image))


def _with_progress(
    images: "Iterator[NDArray[np.uint8]]", total: int, report: ProgressCallback
) -> "Iterator[NDArray[np.uint8]]":
    for done, image in enumerate(images, 1):
        yield image
        report(Progress(done, total))


@contextmanager
def _bar(unit: str) -> Iterator[ProgressCallback]:
    from atelier.core import settings

    with progress_bar(
        "generate", unit, settings.load(PARAMS).runtime.progress, PROGRESS_AFTER
    ) as report:
        yield report
