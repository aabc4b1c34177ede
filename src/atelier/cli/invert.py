"""The command ``atelier invert``, which finds photographs in a generator."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.cli.checkout import PARAMS, require_force, write_output
from atelier.cli.generators import GENERATED, GENERATOR, ModelOption, load_generator
from atelier.core.errors import AtelierError, printable
from atelier.core.events import Events
from atelier.core.progress import Progress, ProgressCallback, print_above_bars, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from atelier.core.settings import Settings
    from atelier.gan.generation import TrainedGenerator
    from atelier.latents.inversion import Inversion

WEIGHTS = Path("data/weights")
_TILE = 256  # minimum size of both images of a comparison in pixels
_MARGIN = 16
_MAX_NAME = 500  # characters of a path in messages

_Images = Annotated[list[Path], typer.Argument(help="photographs", metavar="IMAGE")]
_Labels = Annotated[
    list[int] | None,
    typer.Option(
        "--class", help="class number; repeat it for several", metavar="CLASS", show_default="all"
    ),
]
_Starts = Annotated[int, typer.Option(min=1, max=256, help="latents that are optimized at once")]
_Iterations = Annotated[
    int, typer.Option(min=1, max=100_000, help="optimization steps; more find nearer images")
]
_Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="seed of the random latents")]
_Out = Annotated[Path, typer.Option(help="a folder", show_default="generated/")]
_Force = Annotated[bool, typer.Option("--force", help="replace existing files")]


def invert(
    images: _Images,
    *,
    label: _Labels = None,
    starts: _Starts = 4,
    iterations: _Iterations = 100,
    seed: _Seed = 0,
    model: ModelOption = GENERATOR,
    out: _Out = GENERATED,
    force: _Force = False,
) -> None:
    """Find the generated images that are nearest to photographs, and their latents.

    Example: atelier invert me.jpg
    """
    targets = {name: _files(out, name) for name in _names(images)}
    require_force([file for files in targets.values() for file in files], force)
    if out.exists() and not out.is_dir():
        raise AtelierError(f"--out is {printable(out, _MAX_NAME)}, which is a file; name a folder.")

    from atelier.core import settings as all_settings
    from atelier.latents.distances import load_vgg
    from atelier.latents.inversion import InversionOptions, invert, psnr_text

    settings = all_settings.load(PARAMS)
    generator = load_generator(model)
    photographs = _photographs(images, generator, settings)
    options = InversionOptions(
        starts=starts, iterations=iterations, refinements=iterations // 4, seed=seed
    )
    vgg = load_vgg(generator.device)
    for name, photograph in zip(targets, photographs, strict=True):
        title = f"invert {printable(name)}"
        with progress_bar(title, "steps", settings.runtime.progress, 2.0) as report:
            result = invert(
                generator,
                photograph,
                options,
                vgg=vgg,
                events=_BarEvents(report),
                labels=label or (),
            )
        _write(result, photograph, generator, out, name)
        file = printable(f"{out / name}-inverted.png", _MAX_NAME)
        print_above_bars(
            f"Wrote {file}: {psnr_text(result.psnr)}.",
            f"{printable(f'{name}-comparison.png')} next to it contains your photograph.",
        )


class _BarEvents(Events):
    """Progress in a bar, warnings above it."""

    def __init__(self, report: ProgressCallback) -> None:
        self.report = report

    def on_progress(self, progress: Progress) -> None:
        self.report(progress)


class _WarningEvents(Events):
    """Warnings on standard error."""

    def warn(self, *warnings: str) -> None:
        for warning in warnings:
            typer.echo(f"WARNING: {warning}", err=True)


def _names(images: Sequence[Path]) -> list[str]:
    """Return the name of each image: its file's name without suffix."""
    names = [image.stem for image in images]
    for name in names:
        if names.count(name) > 1:
            raise AtelierError(
                f"two images are called {printable(name)}, so that their files would overwrite"
                " each other; rename one."
            )
    return names


def _files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Return the files of an image: the comparison, the generated image and the latent."""
    from atelier.latents.latent_file import SUFFIX

    names = (f"{name}-comparison.png", f"{name}-inverted.png", f"{name}{SUFFIX}")
    return folder / names[0], folder / names[1], folder / names[2]


def _photographs(
    images: Sequence[Path], generator: "TrainedGenerator", settings: "Settings"
) -> "list[NDArray[np.uint8]]":
    """Return all photographs in the generator's size, so that an unreadable one ends the command.

    Raises:
        AtelierError: an image is missing or cannot be read.
    """
    from atelier.data.faces.yunet import face_detector_weights
    from atelier.latents.photograph import prepare_target, read_photograph

    convert = settings.convert
    face_weights = face_detector_weights(convert, WEIGHTS)
    return [
        prepare_target(
            read_photograph(image),
            generator,
            convert,
            name=str(image),
            face_weights=face_weights,
            events=_WarningEvents(),
        )
        for image in images
    ]


def _write(
    result: "Inversion",
    photograph: "NDArray[np.uint8]",
    generator: "TrainedGenerator",
    folder: Path,
    name: str,
) -> None:
    """Write the three files of an image, all or none."""
    from atelier.core.files import atomic_merge_dir
    from atelier.figures.montage import montage, save_png
    from atelier.latents.latent_file import save_latent

    with write_output(folder), atomic_merge_dir(folder) as new:
        files = _files(new, name)
        save_png(_comparison(photograph, result), files[0])
        save_png(montage([result.image], 1, len(result.image)), files[1])
        save_latent(result.latent, generator, files[2])


def _comparison(photograph: "NDArray[np.uint8]", result: "Inversion") -> "NDArray[np.uint8]":
    """Return both images next to each other, with titles and the PSNR, uint8 [H, W, 3]."""
    import numpy as np

    from atelier.figures.captions import BACKGROUND, caption, captioned
    from atelier.figures.montage import montage
    from atelier.latents.inversion import psnr_text

    tile = len(photograph) * -(-_TILE // len(photograph))
    titled = [
        np.vstack([caption(title, tile), montage([image], 1, tile)])
        for title, image in (
            ("Photograph", photograph),
            ("Nearest generated image", result.image),
        )
    ]
    margin = np.full((len(titled[0]), _MARGIN, 3), BACKGROUND, np.uint8)
    row = np.hstack([margin, titled[0], margin, titled[1], margin])
    return captioned(row, psnr_text(result.psnr))
