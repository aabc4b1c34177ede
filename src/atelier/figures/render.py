"""Montages, training GIF, loss curves and report page of a training."""

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
    """Paths that were written, relative to the folder of renders, and the epochs shown.

    ``steps`` are montages of steps within epochs. ``augmented`` is ``None`` without augmentation.
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
        """Return the paths of the montages of sample files, by epoch and by step."""
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
    """Write the figures and the report page of a training.

    Args:
        settings: of the render stage.
        samples: a folder with ``epoch_0001.npy``, ...: uint8 [N, H, W, C], H = W, C 1 or 3,
            images of the same latents after each epoch. ``step_00000010.npy``, ... hold the same
            for steps. ``augmented.npy`` holds uint8 [rows, columns, H, W, C]: in each row an image
            and its augmentations.
        losses: the CSV file that :func:`atelier.figures.curves.read_losses` reads.
        real: uint8 [M, H, W, C], M >= 1, the training images.
        metrics: numbers, nested by stage.
        parameters: settings, nested by section.
        target: the folder to write; its content is replaced.
        report: receives the number of montages and GIF frames done.
        classes: names of the samples' classes, in order and equally many of each. Each class gets
            a row of the montages, instead of ``settings.columns``.
        nearest: a PNG file of generated images and their nearest training images.
        warnings: sentences about the training, for the report page.

    Returns:
        The paths that were written.

    Raises:
        AtelierError: samples or losses are missing, empty or damaged, or two epochs' samples
            differ in shape.
    """
    files = _epoch_files(samples)
    steps = _sample_files(samples, "step")
    table = read_losses(losses)
    last = max(files)
    epochs = {
        e: path for e, path in files.items() if e % settings.montage_every_epochs == 0 or e == last
    }
    augmented = _augmented(settings, samples / "augmented.npy")
    pairs = _read_png(nearest) if nearest else None
    rendered = Rendered.of(epochs, steps, augmented is not None)
    generated = _read_samples(files[last])
    if classes:
        settings = settings.model_copy(update={"columns": len(generated) // len(classes)})
    comparison = _comparison(settings, real, generated)
    with atomic_replace_dir(target) as folder:
        _save_montages(folder, rendered, _montages(settings, epochs, classes), report)
        for path, (_, image) in zip(
            rendered.steps, _montages(settings, steps, classes), strict=True
        ):
            save_png(image, folder / path)
        _save_gif(settings, folder, rendered, _montages(settings, epochs, classes), report)
        loss_curves(table, folder / rendered.curves)
        save_png(comparison, folder / rendered.comparison)
        if augmented is not None and rendered.augmented:
            save_png(augmented, folder / rendered.augmented)
        report_page(
            folder / rendered.page,
            title="Training report",
            summary=_summary(real, last, len(table["step"])),
            montages=_montages(settings, epochs, classes),
            fps=settings.fps,
            gif=folder / rendered.gif,
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
    """Return the sample files of every epoch or step, in order; raise if their shapes differ."""
    names = ((re.fullmatch(rf"{unit}_(\d+)\.npy", path.name), path) for path in folder.glob("*"))
    files = dict(sorted((int(match[1]), path) for match, path in names if match))
    if not files:
        return {}
    first, *others = files.values()
    shape = _read_samples(first).shape
    for path in others:
        if (found := _read_samples(path).shape) != shape:
            raise AtelierError(
                f"{path.name} has shape {found}, but {first.name} has {shape}; samples must come"
                " from one training: run the train stage again."
            )
    return files


def _read_samples(path: Path) -> NDArray[np.uint8]:
    """Map one epoch's samples into memory: uint8 [N, H, W, C], N >= 1, H = W, C 1 or 3."""
    try:
        images: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise AtelierError(
            f"{path.name} cannot be read as samples ({error}); run the train stage again."
        ) from None
    shape = images.shape
    square = images.ndim == 4 and shape[1] == shape[2] and shape[3] in (1, 3)
    if images.dtype != np.uint8 or not square:
        raise AtelierError(
            f"{path.name} holds {images.dtype} {shape}, but samples are square images, uint8"
            " [N, H, W, 1 or 3]; run the train stage again."
        )
    return images


def _montages(
    settings: RenderSettings, files: Mapping[int, Path], classes: Sequence[str]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the montage of each epoch; memory holds one at a time."""
    for epoch, path in files.items():
        image = montage(_read_samples(path), settings.columns, settings.tile_pixels)
        yield epoch, labeled_rows(image, classes) if classes else image


def _save_montages(
    folder: Path,
    rendered: Rendered,
    montages: Iterator[tuple[int, NDArray[np.uint8]]],
    report: ProgressCallback,
) -> None:
    for done, (path, (_, image)) in enumerate(zip(rendered.montages, montages, strict=True), 1):
        save_png(image, folder / path)
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
        captioned(limit_size(image, GIF_SIDE), f"epoch {epoch} of {rendered.epochs[-1]}")
        for epoch, image in montages
    )

    def forward(progress: Progress) -> None:
        report(Progress(count + progress.done, 2 * count, "GIF"))

    write_gif(frames, folder / rendered.gif, settings.fps, HOLD_LAST, forward)


def _augmented(settings: RenderSettings, path: Path) -> NDArray[np.uint8] | None:
    """Return a montage of augmented images; ``None`` without augmentation."""
    if not path.is_file():
        return None
    try:
        rows = read_array(path)
        count, columns, *shape = rows.shape
        images = montage(rows.reshape(count * columns, *shape), columns, settings.tile_pixels)
    except (OSError, ValueError, NotRegularError) as error:
        reason = error.reason if isinstance(error, NotRegularError) else error
        raise AtelierError(
            f"{path.name} cannot be read as images ({reason}); run the train stage again."
        ) from None
    title = "Image and its augmentations"
    return np.vstack([caption(title, images.shape[1]), images])


def _read_png(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # the latter of a damaged PNG
        raise AtelierError(
            f"{path.name} cannot be read as an image ({type(error).__name__}); run the evaluate"
            " stage again."
        ) from None


def _comparison(
    settings: RenderSettings, real: NDArray[np.uint8], generated: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return equally many real images, evenly spaced in the data, next to generated ones."""
    count = min(len(real), len(generated))
    indices = np.linspace(0, len(real) - 1, count).astype(np.int64)
    return side_by_side(
        real[indices],
        generated[:count],
        ("Real", "Generated"),
        settings.columns,
        settings.tile_pixels,
    )


def _summary(real: NDArray[np.uint8], epochs: int, steps: int) -> str:
    count, height, width, channels = real.shape
    color = "grayscale" if channels == 1 else "color"
    return (
        f"Trained on {_count_text(count, 'image')} of {width} × {height} pixels in {color},"
        f" in {_count_text(epochs, 'epoch')} and {_count_text(steps, 'step')}."
    )


def _count_text(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
