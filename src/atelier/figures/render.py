"""Montages, progress, training GIF and loss curves of a training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.core.files import atomic_replace_dir
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.settings import RenderSettings
from atelier.figures.captions import IMAGES_NOT_SHARED, caption, captioned
from atelier.figures.curves import loss_curves, read_losses
from atelier.figures.gif import write_gif
from atelier.figures.montage import labeled_rows, limit_size, montage, save_png, side_by_side
from atelier.gan.sample_files import (
    epoch_files,
    load_augmented,
    load_samples,
    shape_of_samples,
    step_files,
)

GIF_SIDE = 1080
HOLD_LAST = 2.0
PROGRESS_EPOCHS, PROGRESS_COLUMNS, PROGRESS_TILE = 6, 8, 128


@dataclass(frozen=True)
class Rendered:
    """Paths that were written, relative to the folder of renders, and the epochs of montages.

    ``steps`` are montages of steps within epochs. ``augmented`` is ``None`` without augmentation.
    """

    epochs: tuple[int, ...]
    montages: tuple[Path, ...]
    steps: tuple[Path, ...]
    progress: Path = Path("progress.png")
    gif: Path = Path("training.gif")
    curves: Path = Path("losses.png")
    comparison: Path = Path("real_and_generated.png")
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


@dataclass(frozen=True)
class Training:
    """Results of a training to show.

    Attributes:
        samples: the folder of :mod:`atelier.gan.sample_files`.
        losses: the CSV file that :func:`atelier.figures.curves.read_losses` reads.
        real: uint8 [M, H, W, C], M >= 1, the training images.
        classes: names of the samples' classes, in order and equally many of each. Each class gets
            a row of the montages, instead of ``columns`` images.
        shares_images: show the training images and their augmentations.
    """

    samples: Path
    losses: Path
    real: NDArray[np.uint8]
    classes: Sequence[str] = ()
    shares_images: bool = True


def render(
    settings: RenderSettings, training: Training, target: Path, report: ProgressCallback = silent
) -> Rendered:
    """Write the figures of a training.

    Args:
        settings: of the render stage.
        training: what to show.
        target: the folder to write; its content is replaced.
        report: receives the number of montages and GIF frames done.

    Returns:
        The paths that were written.

    Raises:
        AtelierError: samples or losses are missing, empty or damaged, or two epochs' samples
            differ in shape.
    """
    files = _equal_shapes(epoch_files(training.samples))
    steps = _equal_shapes(step_files(training.samples))
    table = read_losses(training.losses)
    last, every = max(files), settings.montage_every_epochs
    epochs = {e: path for e, path in files.items() if e % every == 0 or e == last}
    augmented = _augmented(settings, training.samples) if training.shares_images else None
    rendered = Rendered.of(epochs, steps, augmented is not None)
    generated = load_samples(files[last])
    columns = len(generated) // len(training.classes) if training.classes else settings.columns
    layout = _Layout(columns, settings.tile_pixels, training.classes)
    comparison = layout.comparison(training.real if training.shares_images else None, generated)
    with atomic_replace_dir(target) as folder:
        for done, (path, (_, image)) in enumerate(
            zip(rendered.montages, layout.montages(epochs), strict=True), start=1
        ):
            save_png(image, folder / path)
            report(Progress(done, 2 * len(epochs), "montages"))
        for path, (_, image) in zip(rendered.steps, layout.montages(steps), strict=True):
            save_png(image, folder / path)
        save_png(_progress(files), folder / rendered.progress)
        _save_gif(folder / rendered.gif, settings.fps, epochs, layout, report)
        loss_curves(table, folder / rendered.curves)
        save_png(comparison, folder / rendered.comparison)
        if augmented is not None and rendered.augmented:
            save_png(augmented, folder / rendered.augmented)
    return rendered


@dataclass(frozen=True)
class _Layout:
    """Arrangement of samples in montages."""

    columns: int
    tile_pixels: int
    classes: Sequence[str]

    def montages(self, files: Mapping[int, Path]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield the montage of each epoch; memory holds one at a time."""
        for epoch, path in files.items():
            image = montage(load_samples(path), self.columns, self.tile_pixels)
            yield epoch, labeled_rows(image, self.classes) if self.classes else image

    def comparison(
        self, real: NDArray[np.uint8] | None, generated: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Return equally many real images, evenly spaced in the data, next to generated ones.

        Without real images, return the generated ones and the reason.
        """
        if real is None:
            images = montage(generated, self.columns, self.tile_pixels)
            strips = [caption(text, images.shape[1]) for text in ("Generated", IMAGES_NOT_SHARED)]
            return np.vstack([strips[0], images, strips[1]])
        count = min(len(real), len(generated))
        real = real[np.linspace(0, len(real) - 1, count).astype(np.int64)]
        titles = ("Real", "Generated")
        return side_by_side(real, generated[:count], titles, self.columns, self.tile_pixels)


def _equal_shapes(files: dict[int, Path]) -> dict[int, Path]:
    """Return the files of samples; raise if their shapes differ."""
    shapes = {path.name: shape_of_samples(path) for path in files.values()}
    for name, shape in shapes.items():
        first = next(iter(shapes))
        if shape != shapes[first]:
            raise AtelierError(
                f"{name} has shape {shape}, but {first} has {shapes[first]}; samples must come"
                " from one training: run the train stage again."
            )
    return files


def _progress(files: Mapping[int, Path]) -> NDArray[np.uint8]:
    """Return a row of samples for each of a few epochs; a column shows one latent."""
    epochs = [list(files)[place] for place in _evenly(len(files), PROGRESS_EPOCHS)]
    rows = [load_samples(files[epoch]) for epoch in epochs]
    # Evenly spaced samples are of different classes, if there are classes.
    latents = _evenly(len(rows[0]), PROGRESS_COLUMNS)
    images = montage(np.concatenate([row[latents] for row in rows]), len(latents), PROGRESS_TILE)
    labeled = labeled_rows(images, [f"epoch {epoch}" for epoch in epochs])
    title = caption("The same latents after several epochs", labeled.shape[1])
    return np.vstack([title, labeled])


def _evenly(available: int, count: int) -> list[int]:
    """Return at most ``count`` evenly spaced places, with the first and the last one."""
    places = np.linspace(0, available - 1, min(count, available)).round()
    return [int(place) for place in places]


def _save_gif(
    target: Path, fps: float, files: Mapping[int, Path], layout: _Layout, report: ProgressCallback
) -> None:
    count, last = len(files), max(files)
    frames = (
        captioned(limit_size(image, GIF_SIDE), f"epoch {epoch} of {last}")
        for epoch, image in layout.montages(files)
    )

    def forward(progress: Progress) -> None:
        report(Progress(count + progress.done, 2 * count, "GIF"))

    write_gif(frames, target, fps, HOLD_LAST, forward)


def _augmented(settings: RenderSettings, samples: Path) -> NDArray[np.uint8] | None:
    """Return a montage of augmented images; ``None`` without augmentation."""
    rows = load_augmented(samples)
    if rows is None:
        return None
    count, columns, *shape = rows.shape
    images = montage(rows.reshape(count * columns, *shape), columns, settings.tile_pixels)
    return np.vstack([caption("Image and its augmentations", images.shape[1]), images])
