"""Everything the render stage makes: montages, film, curves and report page."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.core.array_headers import read_array
from atelier.core.errors import AtelierError
from atelier.core.files import NotRegularError, atomic_replace_dir
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.settings import RenderSettings
from atelier.figures.captions import caption, captioned
from atelier.figures.curves import loss_curves, read_losses
from atelier.figures.gif import write_gif
from atelier.figures.grid import labeled_rows, limit_size, montage, save_png, side_by_side
from atelier.figures.report import report_page

GIF_SIDE = 1080
HOLD_LAST = 2.0


@dataclass(frozen=True)
class Rendered:
    """What was written: paths relative to the folder of renders, and the epochs shown.

    ``steps`` are the montages of steps between epochs, where the samples hold any; ``augmented``
    is there where the training changed its pictures.
    """

    epochs: tuple[int, ...]
    montages: tuple[Path, ...]
    steps: tuple[Path, ...]
    gif: Path = Path("training.gif")
    curves: Path = Path("losses.png")
    comparison: Path = Path("real_and_generated.png")
    page: Path = Path("report.html")
    augmented: Path | None = None

    @classmethod
    def of(
        cls, epochs: Mapping[int, Path], steps: Mapping[int, Path], augmented: bool
    ) -> "Rendered":
        """Name the montages of these files of samples, by epoch and by step."""
        return cls(
            epochs=tuple(epochs),
            montages=tuple(Path("montages", f"{path.stem}.png") for path in epochs.values()),
            steps=tuple(Path("steps", f"{path.stem}.png") for path in steps.values()),
            augmented=Path("augmented.png") if augmented else None,
        )


def render(
    settings: RenderSettings,
    samples: Path,
    losses: Path,
    real: NDArray[np.uint8],
    metrics: Mapping[str, Any],
    parameters: Mapping[str, Any],
    target: Path,
    report: ProgressCallback = silent,
    classes: Sequence[str] = (),
    nearest: Path | None = None,
    warnings: Sequence[str] = (),
) -> Rendered:
    """Show a training in a folder of files.

    Args:
        settings: of the render stage.
        samples: a folder of ``epoch_0001.npy``, ...: uint8 [N, H, W, C], H = W, C 1 or 3,
            pictures of the same latents after each epoch; and of ``step_00000010.npy``, ...:
            the same after steps between; and, where the training changes its pictures,
            ``augmented.npy``: uint8 [rows, columns, H, W, C], each as it is and then changed.
        losses: the CSV file that :func:`atelier.figures.curves.read_losses` reads.
        real: uint8 [M, H, W, C], M >= 1, what the generator learned from.
        metrics: numbers, nested by stage.
        parameters: settings, nested by section.
        target: the folder to write; all of it is replaced.
        report: told the montages and frames of the film done.
        classes: names of what the samples show, each as many as the next and in this order: a
            row of the montages for each, instead of ``settings.columns``.
        nearest: a PNG file that the report page shows: generated pictures beside the training
            pictures that are nearest to them.
        warnings: sentences about the training, for the report page.

    Returns:
        What was written.

    Raises:
        AtelierError: samples or losses are missing, empty or damaged, or the samples of two
            epochs differ in shape.
    """
    files = _epoch_files(samples)
    steps = _sample_files(samples, "step")
    table = read_losses(losses)
    last = max(files)
    shown = {
        e: path for e, path in files.items() if e % settings.montage_every_epochs == 0 or e == last
    }
    augmented = _augmented(settings, samples / "augmented.npy")
    pairs = _read_png(nearest) if nearest else None
    rendered = Rendered.of(shown, steps, augmented is not None)
    generated = _read_samples(files[last])
    if classes:
        settings = settings.model_copy(update={"columns": len(generated) // len(classes)})
    comparison = _comparison(settings, real, generated)
    with atomic_replace_dir(target) as folder:
        _save_montages(folder, rendered, _montages(settings, shown, classes), report)
        for path, (_, picture) in zip(
            rendered.steps, _montages(settings, steps, classes), strict=True
        ):
            save_png(picture, folder / path)
        _save_gif(settings, folder, rendered, _montages(settings, shown, classes), report)
        loss_curves(table, folder / rendered.curves)
        save_png(comparison, folder / rendered.comparison)
        if augmented is not None and rendered.augmented:
            save_png(augmented, folder / rendered.augmented)
        report_page(
            folder / rendered.page,
            title="What the generator learned",
            summary=_summary(real, last, len(table["step"])),
            montages=_montages(settings, shown, classes),
            fps=settings.fps,
            film=folder / rendered.gif,
            curves=folder / rendered.curves,
            comparison=comparison,
            augmented=augmented,
            nearest=pairs,
            metrics=metrics,
            parameters=parameters,
            warnings=warnings,
        )
    return rendered


def _epoch_files(folder: Path) -> dict[int, Path]:
    files = _sample_files(folder, "epoch")
    if not files:
        raise AtelierError(
            f"no samples such as epoch_0001.npy in {folder.name}/; run the train stage first."
        )
    return files


def _sample_files(folder: Path, unit: str) -> dict[int, Path]:
    """Find the samples of every epoch or step, in order, and see that they fit each other."""
    names = ((re.fullmatch(rf"{unit}_(\d+)\.npy", path.name), path) for path in folder.glob("*"))
    files = dict(sorted((int(match[1]), path) for match, path in names if match))
    if not files:
        return {}
    first, *others = files.values()
    shape = _read_samples(first).shape
    for path in others:
        if (found := _read_samples(path).shape) != shape:
            raise AtelierError(
                f"{path.name} has shape {found}, but {first.name} has {shape}; samples must be of"
                " one training: run the train stage again."
            )
    return files


def _read_samples(path: Path) -> NDArray[np.uint8]:
    """Map one epoch's samples into memory: uint8 [N, H, W, C], N >= 1, H = W, C 1 or 3."""
    try:
        pictures: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise AtelierError(
            f"{path.name} cannot be read as samples ({error}); run the train stage again."
        ) from None
    shape = pictures.shape
    square = pictures.ndim == 4 and shape[1] == shape[2] and shape[3] in (1, 3)
    if pictures.dtype != np.uint8 or not square:
        raise AtelierError(
            f"{path.name} holds {pictures.dtype} {shape}, but samples are square pictures, uint8"
            " [N, H, W, 1 or 3]; run the train stage again."
        )
    return pictures


def _montages(
    settings: RenderSettings, files: Mapping[int, Path], classes: Sequence[str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Lay out one epoch after the other, so that memory holds one at a time."""
    for epoch, path in files.items():
        picture = montage(_read_samples(path), settings.columns, settings.tile_pixels)
        yield epoch, labeled_rows(picture, classes) if classes else picture


def _save_montages(
    folder: Path,
    rendered: Rendered,
    montages: Iterator[tuple[int, NDArray[np.uint8]]],
    report: ProgressCallback,
) -> None:
    for done, (path, (_, picture)) in enumerate(zip(rendered.montages, montages, strict=True), 1):
        save_png(picture, folder / path)
        report(Progress(done, 2 * len(rendered.epochs), "montages"))


def _save_gif(
    settings: RenderSettings,
    folder: Path,
    rendered: Rendered,
    montages: Iterator[tuple[int, NDArray[np.uint8]]],
    report: ProgressCallback,
) -> None:
    count = len(rendered.epochs)
    frames = (
        captioned(limit_size(picture, GIF_SIDE), f"epoch {epoch} of {rendered.epochs[-1]}")
        for epoch, picture in montages
    )

    def onward(progress: Progress) -> None:
        report(Progress(count + progress.done, 2 * count, "film"))

    write_gif(frames, folder / rendered.gif, settings.fps, HOLD_LAST, onward)


def _augmented(settings: RenderSettings, path: Path) -> NDArray[np.uint8] | None:
    """Lay out what the discriminator saw of some pictures; ``None`` where it saw all as it is."""
    if not path.is_file():
        return None
    try:
        rows = read_array(path)
        count, columns, *shape = rows.shape
        pictures = montage(rows.reshape(count * columns, *shape), columns, settings.tile_pixels)
    except (OSError, ValueError, NotRegularError) as error:
        reason = error.reason if isinstance(error, NotRegularError) else error
        raise AtelierError(
            f"{path.name} cannot be read as pictures ({reason}); run the train stage again."
        ) from None
    told = "As it is, and as the discriminator may see it"
    return np.vstack([caption(told, pictures.shape[1]), pictures])


def _read_png(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:  # the latter of a damaged PNG
        raise AtelierError(
            f"{path.name} cannot be read as a picture ({type(error).__name__}); run the evaluate"
            " stage again."
        ) from None


def _comparison(
    settings: RenderSettings, real: NDArray[np.uint8], generated: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Lay as many real pictures, from all over the data, beside as many generated ones."""
    count = min(len(real), len(generated))
    chosen = np.linspace(0, len(real) - 1, count).astype(np.int64)
    return side_by_side(
        real[chosen],
        generated[:count],
        ("Real", "Generated"),
        settings.columns,
        settings.tile_pixels,
    )


def _summary(real: NDArray[np.uint8], epochs: int, steps: int) -> str:
    count, height, width, channels = real.shape
    color = "grey" if channels == 1 else "colour"
    return (
        f"Learned from {_count_text(count, 'picture')} of {width} × {height} pixels in {color},"
        f" in {_count_text(epochs, 'epoch')} and {_count_text(steps, 'step')}."
    )


def _count_text(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
