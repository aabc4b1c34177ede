"""Commands that use a trained generator: ``atelier generate`` and ``atelier export``."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from math import ceil, isqrt, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.cli.checkout import PARAMS, keep_if_equal, print_comparison, write_output
from atelier.core.errors import AtelierError
from atelier.core.progress import Progress, ProgressCallback, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from atelier.gan.generation import TrainedGenerator

GENERATOR = "models/generator.safetensors"
GENERATED = Path("generated")
MAX_IMAGES = 10_000  # images of one call; few programs open a larger grid
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
_Model = Annotated[
    str, typer.Option("--model", help="a .safetensors file, an MLflow run's id, or models:/...")
]
_Out = Annotated[Path | None, typer.Option(help="a folder, or a .png", show_default="generated/")]
_Force = Annotated[bool, typer.Option("--force", help="replace existing files")]


def generate(
    *,
    count: _Count = None,
    seed: _Seed = None,
    seeds: _Seeds = "",
    truncation: _Truncation = None,
    label: _Labels = None,
    grid: _Grid = True,
    columns: _Columns = None,
    tile_pixels: _TilePixels = None,
    gif: _Gif = None,
    frames: _Frames = 24,
    fps: _Fps = 12.0,
    model: _Model = GENERATOR,
    out: _Out = None,
    force: _Force = False,
) -> None:
    """Generate images with a trained generator: a grid, separate files or a GIF.

    Example: atelier generate --seed 3 --seed 5 --gif walk.gif
    """
    numbers = _seeds(count, seed or [], seeds, default=5 if gif else 16)
    _check_at_least_1(columns=columns, tile_pixels=tile_pixels, frames=frames)
    _check_size(1 if gif else len(numbers), tile_pixels)
    target = _target(gif, grid, out)
    names = {f"seed_{number:04d}.png": number for number in numbers}
    frame_count = len(numbers) * frames
    if gif:
        _check_gif(frame_count, fps)

    from atelier.gan.sampling import generate_one_by_one, interpolation_loop, latents_for_seeds

    trained = _load_generator(model)
    if grid and not gif and _is_folder(target):
        options = {"truncation": truncation, "columns": columns, "tile": tile_pixels}
        target /= _grid_name(numbers, label or [], trained.weights_digest(), **options)
    print_comparison([target] if gif or grid else [target / name for name in names], force)
    latents = latents_for_seeds(
        numbers if gif or grid else names.values(), trained, truncation, label or ()
    )
    if gif:
        path = interpolation_loop(list(latents), frames, trained)
        images = generate_one_by_one(trained, path)
        _write_gif(images, target, frame_count, fps, tile_pixels, force)
        typer.echo(f"Wrote {target}: {_seeds_text(numbers)}, {frame_count} frames at {fps:g} fps.")
    elif grid:
        images = generate_one_by_one(trained, latents)
        _write_grid(images, target, len(numbers), columns, tile_pixels, force)
        typer.echo(f"Wrote {target}: {_seeds_text(numbers)}.")
    else:
        _write_files(generate_one_by_one(trained, latents), target, list(names), force)
        written = list(names.values())
        typer.echo(f"Wrote {len(names)} images to {target}/: {_seeds_text(written)}.")


def export(
    out: Annotated[Path, typer.Argument(help="a name that ends in .onnx, or .pt for TorchScript")],
    *,
    model: _Model = GENERATOR,
    force: _Force = False,
) -> None:
    """Export a trained generator for other programs, to ONNX or TorchScript.

    Example: atelier export faces.onnx
    """
    from atelier.gan.export import export as write

    trained = _load_generator(model, on_cpu=True)
    print_comparison([out], force)
    with _compared_write(out, force) as new:
        write(trained, new)
    inputs = trained.latent_size + trained.classes
    typer.echo(f"Wrote {out}: float32 [B, {inputs}] to images uint8.")


def _seeds(count: int | None, seeds: list[int], listed: str, default: int) -> list[int]:
    """Return the seed of each image."""
    from atelier.gan.sampling import MAX_SEED

    if listed:
        if count is not None or seeds:
            raise AtelierError(
                "--seeds lists the seeds of all images; leave --count and --seed out."
            )
        try:
            seeds = [int(part) for part in listed.split(",")]
        except ValueError:
            raise AtelierError(f"--seeds is {listed!r}, but it is a list, e.g. 1,5,9.") from None
    elif len(seeds) < 2:
        _check_at_least_1(count=count)
        start, number = seeds[0] if seeds else 1, count or default
        seeds = list(range(start, start + min(number, MAX_IMAGES + 1)))
    elif count is not None:
        raise AtelierError("several --seed are the seeds of all images; leave --count out.")
    if len(seeds) > MAX_IMAGES:
        raise AtelierError(
            f"at most {MAX_IMAGES:,} images are generated by one command; use several for more."
        )
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise AtelierError(f"a seed is a whole number from 0 to {MAX_SEED}, not {seed}.")
    return seeds


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
    seeds: list[int], labels: list[int], weights_digest: str, **options: float | None
) -> str:
    """Return a file name from seeds, options and generator; a long list of seeds is hashed.

    The same command with another generator writes another file.
    """
    numbers = [str(seed) for seed in seeds]
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        numbers = [numbers[0], "to", numbers[-1]]
    if len(numbers) > 8:
        numbers = [*numbers[:2], "and", sha256(",".join(numbers).encode()).hexdigest()[:12]]
    parts = ["seeds", *numbers]
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


def _load_generator(model: str, on_cpu: bool = False) -> "TrainedGenerator":
    """Load a generator from a file or from MLflow."""
    from atelier.core import settings
    from atelier.core.device import choose_device
    from atelier.gan.generation import TrainedGenerator
    from atelier.gan.serialization import load_generator
    from atelier.tracking.environment import repository_root
    from atelier.tracking.models import is_reference, load_model
    from atelier.tracking.store import existing_store, quiet_environment

    if is_reference(model):
        quiet_environment()
        logged = load_model(model, existing_store(repository_root()))
        cpu = choose_device("cpu")
        return TrainedGenerator.from_module(logged.network, logged.inputs, logged.about, cpu)
    if not Path(model).exists():
        expected = "a .safetensors file, the id of an MLflow run or models:/name@champion"
        is_default = model == GENERATOR
        advice = "run `dvc repro train`" if is_default else f"--model takes {expected}"
        raise AtelierError(f"there is no {model}; {advice}.")
    device = "cpu" if on_cpu else settings.load(PARAMS).runtime.device
    return load_generator(Path(model), choose_device(device))


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


def _seeds_text(seeds: list[int]) -> str:
    """Return the seeds as text, e.g. ``seeds 1 to 16``."""
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    listed = ", ".join(map(str, seeds[:12]))
    more = f" and {len(seeds) - 12} more" if len(seeds) > 12 else ""
    return f"seed{'s' if len(seeds) > 1 else ''} {listed}{more}"
