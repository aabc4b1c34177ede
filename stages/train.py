"""Train the GAN on the images of data/images.npz."""

from pathlib import Path
from typing import TYPE_CHECKING

from atelier.core.files import atomic_replace_dir, write_json
from atelier.core.progress import progress_bar
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from atelier.gan.history import History
    from atelier.gan.trainer import Trainer

IMAGES, VALIDATION = Path("data/images.npz"), Path("data/validation.npz")
MODELS, SAMPLES, METRICS = Path("models"), Path("samples"), Path("metrics/train.json")
LOSSES, QUALITY = Path("plots/losses.csv"), Path("plots/quality.csv")


def main(settings: Settings, run: Run) -> None:
    """Train the GAN, then write its networks, samples, losses and metrics."""
    from atelier.data.dataset import load_images
    from atelier.gan.distributed import init_distributed
    from atelier.gan.fit import follow_rank0, save_models
    from atelier.gan.trainer import Trainer
    from atelier.metrics.validation import build_validation

    images, validation = load_images(IMAGES), load_images(VALIDATION, True).pixels
    labels = images.classes()[1] if settings.train.conditional else None
    with init_distributed(settings.runtime.device) as (ranks, device):
        quality_fn = None
        if ranks.number == 0:
            quality_fn = build_validation(settings, images.pixels, validation, device, run.warn)
        trainer = Trainer(settings.train, images.pixels, device, ranks, labels, quality_fn)
        if ranks.number > 0:
            follow_rank0(trainer)
            return
        history = _train(settings, trainer, images.pixels, run)
    with atomic_replace_dir(MODELS) as folder:
        save_models(trainer, folder)
    history.write(LOSSES, QUALITY)
    write_json(METRICS, history.summary())
    run.log_summary(history.summary())
    run.log_model(MODELS / "generator.safetensors", "atelier.gan.serialization:load_for_serving")
    run.log_artifact(LOSSES)


def _train(
    settings: Settings, trainer: "Trainer", pixels: "NDArray[np.uint8]", run: Run
) -> "History":
    """Train to the last epoch; log each epoch and write its samples."""
    from atelier.gan.augment import augmentation_preview
    from atelier.gan.diagnostics import TrainingMonitor, training_warnings
    from atelier.gan.fit import train
    from atelier.gan.history import History
    from atelier.gan.sampling import save_augmented, save_samples
    from atelier.gan.step import STATISTICS

    values, seconds = settings.train, settings.runtime.checkpoint_seconds
    history = History()
    monitor = TrainingMonitor(values.loss, values.epochs, trainer.steps_per_epoch, values.steps)
    run.warn(*training_warnings(values.epochs, values.batch_size, len(pixels), values.steps))
    run.log_images("samples", trainer.samples(), 0, trainer.columns)  # before training: noise
    with (
        atomic_replace_dir(SAMPLES) as folder,
        progress_bar("train", "steps", settings.runtime.progress) as report,
        run.checkpointing() as (checkpoints, stop_requested),
    ):
        if (preview := augmentation_preview(values, pixels)) is not None:
            save_augmented(preview, folder)
            tiles = preview.reshape(-1, *preview.shape[2:])
            run.log_images("augmented", tiles, 0, preview.shape[1])
        for epoch in train(trainer, checkpoints, stop_requested, report, seconds, run.warn):
            save_samples(epoch.number, epoch.samples, epoch.step_samples, folder)
            history.add(epoch)
            run.warn(*monitor.check(epoch))
            run.log_steps(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
            run.log_metrics(("kid",), epoch.quality_by_epoch)
            run.log_images("samples", epoch.samples, epoch.number, trainer.columns)
    return history


if __name__ == "__main__":
    run_stage("train", main, parallel=True)
