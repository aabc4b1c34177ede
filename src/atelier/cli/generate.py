"""Commands that use a trained generator: what it is asked for, and where that goes."""

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

    from atelier.gan.sampling import SampledGenerator

GENERATOR = "models/generator.safetensors"
GENERATED = Path("generated")
MAX_IMAGES = 10_000  # pictures of one call; a sheet of more is larger than programs open
MAX_SIDE = 400_000_000  # pixels of a sheet, which take 1.2 GB of memory
GRID_TILE, GIF_TILE = 64, 256  # pixels that a picture has at least, where nobody says
PROGRESS_AFTER = 2.0  # seconds without a progress bar

Source = Annotated[
    str, typer.Option("--from", help="a .safetensors file, an MLflow run's id, or models:/...")
]
Force = Annotated[bool, typer.Option("--force", help="replace what is there")]


def generate(
    count: Annotated[
        int | None, typer.Option(help="how many pictures", show_default="16; of a write_gif 5")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="seed of the first; the next has the next", show_default="1")
    ] = None,
    seeds: Annotated[str, typer.Option(help="a list such as 1,5,9: a picture of each")] = "",
    truncation: Annotated[
        float | None, typer.Option(help="draw numbers beyond this again: less variety, fewer odd")
    ] = None,
    label: Annotated[
        int | None, typer.Option("--class", help="number of the class, where it learned classes")
    ] = None,
    grid: Annotated[bool, typer.Option("--grid/--files", help="a sheet, or single files")] = True,
    columns: Annotated[
        int | None, typer.Option(help="pictures in a row", show_default="a square")
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(help="pixels of each on a sheet or write_gif", show_default="64; 256"),
    ] = None,
    film: Annotated[Path | None, typer.Option(help="a .gif that goes from seed to seed")] = None,
    frames: Annotated[int, typer.Option(help="of the write_gif, from a seed to the next")] = 24,
    fps: Annotated[float, typer.Option(help="frames a second, at most 50")] = 12.0,
    source: Source = GENERATOR,
    out: Annotated[
        Path | None, typer.Option(help="a folder, or a .png", show_default="generated/")
    ] = None,
    force: Force = False,
) -> None:
    """Make pictures with a trained generator: a sheet, single files or a film."""
    asked = _seeds(count, seed, seeds, default=5 if film else 16)
    _at_least_1(columns=columns, tile=tile, frames=frames)
    _check_size(1 if film else len(asked), tile)
    looks = {"class": label, "truncation": truncation, "columns": columns, "tile": tile}
    target = _target(film, grid, out)
    names = {f"seed_{number:04d}.png": number for number in asked}
    if film:
        _check_gif(len(asked) * frames, fps)

    from atelier.gan.sampling import generate_one_by_one, interpolation_loop, latents_for_seeds

    trained = _load_generator(source)
    if grid and not film and _is_folder(target):
        target /= _sheet_name(asked, trained.weights_digest, **looks)
    made = [target] if film or grid else [target / name for name in names]
    print_comparison(made, force)
    latents = latents_for_seeds(
        asked if film or grid else names.values(), trained, truncation, label
    )
    if film:
        way = interpolation_loop(list(latents), frames, trained)
        _write_gif(generate_one_by_one(trained, way), target, len(asked) * frames, fps, tile, force)
        typer.echo(f"Wrote {target}: {_list(asked)}, {len(asked) * frames} frames at {fps:g} fps.")
    elif grid:
        _write_grid(generate_one_by_one(trained, latents), target, len(asked), columns, tile, force)
        typer.echo(f"Wrote {target}: {_list(asked)}.")
    else:
        _write_files(generate_one_by_one(trained, latents), target, list(names), force)
        typer.echo(f"Wrote {len(names)} pictures to {target}/: {_list(list(names.values()))}.")


def export(
    out: Annotated[Path, typer.Argument(help="a name that ends in .onnx, or .pt for TorchScript")],
    source: Source = GENERATOR,
    force: Force = False,
) -> None:
    """Write a trained generator as a file that other programs run: ONNX or TorchScript."""
    from atelier.gan.export import export as write

    trained = _load_generator(source, on_cpu=True)
    print_comparison([out], force)
    with _reject_changes(out, force) as new:
        write(trained, new)
    typer.echo(
        f"Wrote {out}: float32 [B, {trained.latent_size + trained.classes}] to pictures uint8."
    )


def _seeds(count: int | None, first: int | None, listed: str, default: int) -> list[int]:
    """The seeds that are asked for, one for each picture."""
    from atelier.gan.sampling import MAX_SEED

    if not listed:
        _at_least_1(count=count)
        start, number = 1 if first is None else first, count or default
        found = list(range(start, start + min(number, MAX_IMAGES + 1)))
    elif count is not None or first is not None:
        raise AtelierError("--seeds names the seed of every picture; leave --count and --seed out.")
    else:
        try:
            found = [int(part) for part in listed.split(",")]
        except ValueError:
            raise AtelierError(f"--seeds is {listed!r}, but it is a list such as 1,5,9.") from None
    if len(found) > MAX_IMAGES:
        raise AtelierError(
            f"at most {MAX_IMAGES:,} pictures are made at a time; ask again for more."
        )
    for seed in found:
        if not 0 <= seed <= MAX_SEED:
            raise AtelierError(f"a seed is a whole number from 0 to {MAX_SEED}, not {seed}.")
    return found


def _at_least_1(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < 1:
            raise AtelierError(f"--{name} is {value}, but it is 1 or more.")


def _check_size(pictures: int, tile: int | None) -> None:
    if tile and pictures * tile**2 > MAX_SIDE:
        raise AtelierError(
            f"--tile is {tile}, but {pictures:,} pictures so large are more than a sheet or film"
            f" holds; at most {isqrt(MAX_SIDE // pictures)} fit."
        )


def _check_gif(frames: int, fps: float) -> None:
    if frames > MAX_IMAGES:
        raise AtelierError(
            f"that makes {frames:,} frames, but a film has at most {MAX_IMAGES:,}; give fewer --frames."
        )
    if not 0 < fps <= 50:  # programs play a GIF's frames of less than 20 ms ten times slower
        raise AtelierError(f"--fps is {fps:g}, but it is more than 0 and at most 50.")


def _sheet_name(seeds: list[int], weights: str, **options: float | None) -> str:
    """Return the name of a sheet, by its seeds, options and generator; a long list is a digest.

    So the same command makes a sheet beside the first one after another training.
    """
    numbers = [str(seed) for seed in seeds]
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        numbers = [numbers[0], "to", numbers[-1]]
    if len(numbers) > 8:
        numbers = [*numbers[:2], "and", sha256(",".join(numbers).encode()).hexdigest()[:12]]
    parts = ["seeds", *numbers]
    for name, value in options.items():
        parts += [name, repr(value)] if value is not None else []
    parts += ["generator", weights[:8]]
    return f"{'-'.join(parts)}.png"


def _target(film: Path | None, grid: bool, out: Path | None) -> Path:
    """The file that is going to be written, or the folder for single files or a named sheet."""
    if film:
        if out or not grid:
            raise AtelierError("--film names its own file; leave --out and --files out.")
        if film.suffix != ".gif":
            raise AtelierError(f"--film is {film}, but a film is a GIF: give a name.gif.")
        return film
    place = out or GENERATED
    if _is_folder(place):
        return place
    if place.suffix != ".png" or not grid:
        takes = "a folder, or a file that ends in .png" if grid else "with --files a folder"
        raise AtelierError(f"--out is {place}, but it is {takes}.")
    return place


def _is_folder(place: Path) -> bool:
    """Whether a place is a folder, or will be one."""
    return place.is_dir() or not place.suffix


def _load_generator(source: str, on_cpu: bool = False) -> "SampledGenerator":
    """Open a generator: a file, or what MLflow keeps."""
    from atelier.core import settings
    from atelier.core.device import choose_device
    from atelier.gan.sampling import SampledGenerator
    from atelier.tracking.environment import repository_root
    from atelier.tracking.models import is_reference, load_model
    from atelier.tracking.store import existing_store, quiet_environment

    if is_reference(source):
        quiet_environment()
        logged = load_model(source, existing_store(repository_root()))
        cpu = choose_device("cpu")
        return SampledGenerator.from_module(logged.network, logged.inputs, logged.about, cpu)
    if not Path(source).exists():
        takes = "a .safetensors file, the id of an MLflow run or models:/name@champion"
        how = "`dvc repro train` makes it" if source == GENERATOR else f"--from takes {takes}"
        raise AtelierError(f"there is no {source}; {how}.")
    device = "cpu" if on_cpu else settings.load(PARAMS).runtime.device
    return SampledGenerator.from_file(Path(source), choose_device(device))


def _write_grid(
    pictures: "Iterator[NDArray[np.uint8]]",
    target: Path,
    count: int,
    columns: int | None,
    tile: int | None,
    force: bool,
) -> None:
    from atelier.figures.grid import montage, save_png

    with _bar("pictures") as report:
        made = list(_report_saved(pictures, count, report))
    columns = min(columns, count) if columns else ceil(sqrt(count))
    with _reject_changes(target, force) as new:
        save_png(montage(made, columns, _tile(tile, made[0], GRID_TILE)), new)


def _write_files(
    pictures: "Iterator[NDArray[np.uint8]]", folder: Path, names: list[str], force: bool
) -> None:
    from atelier.core.files import atomic_merge_dir
    from atelier.figures.grid import montage, save_png

    with write_output(folder), atomic_merge_dir(folder) as made, _bar("pictures") as report:
        for name, picture in zip(names, _report_saved(pictures, len(names), report), strict=True):
            save_png(montage([picture], 1, len(picture)), made / name)
            keep_if_equal(folder / name, made / name, force)


def _write_gif(
    pictures: "Iterator[NDArray[np.uint8]]",
    target: Path,
    frames: int,
    fps: float,
    tile: int | None,
    force: bool,
) -> None:
    from atelier.figures.gif import write_gif
    from atelier.figures.grid import montage

    shown = (montage([made], 1, _tile(tile, made, GIF_TILE)) for made in pictures)
    with _reject_changes(target, force) as new, _bar("frames") as report:
        write_gif(_report_saved(shown, frames, report), new, fps)


@contextmanager
def _reject_changes(target: Path, force: bool) -> Iterator[Path]:
    """Yield a path to write to; it becomes ``target``, unless that is another file."""
    from atelier.core.files import atomic_write

    with write_output(target), atomic_write(target) as new:
        yield new
        keep_if_equal(target, new, force)


def _tile(asked: int | None, picture: "NDArray[np.uint8]", at_least: int) -> int:
    """How large a picture is shown: what is asked for, or a whole multiple of its own size."""
    return asked or len(picture) * ceil(at_least / len(picture))


def _report_saved(
    pictures: "Iterator[NDArray[np.uint8]]", total: int, report: ProgressCallback
) -> "Iterator[NDArray[np.uint8]]":
    for done, picture in enumerate(pictures, 1):
        yield picture
        report(Progress(done, total))


@contextmanager
def _bar(unit: str) -> Iterator[ProgressCallback]:
    from atelier.core import settings

    with progress_bar(
        "generate", unit, settings.load(PARAMS).runtime.progress, PROGRESS_AFTER
    ) as report:
        yield report


def _list(seeds: list[int]) -> str:
    """The seeds in words, such as ``seeds 1 to 16``."""
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    shown = ", ".join(map(str, seeds[:12]))
    more = f" and {len(seeds) - 12} more" if len(seeds) > 12 else ""
    return f"seed{'s' if len(seeds) > 1 else ''} {shown}{more}"
