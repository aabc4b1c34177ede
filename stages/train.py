"""Train stage: train the GAN on the images of data/images.npz."""

from pathlib import Path

from atelier.core.files import atomic_replace_dir, write_json
from atelier.core.progress import progress_bar
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

IMAGES, VALIDATION = Path("data/images.npz"), Path("data/validation.npz")
MODELS, SAMPLES, METRICS = Path("models"), Path("samples"), Path("metrics/train.json")
LOSSES, QUALITY = Path("plots/losses.csv"), Path("plots/quality.csv")


def main(settings: Settings, run: Run) -> None:
    """Train the GAN; write its networks, samples, losses and metrics; log each epoch."""
    from atelier.data.dataset import load_images
    from atelier.gan import augment, diagnostics, distributed, fit, history, length, sample_files
    from atelier.gan.step import STATISTICS
    from atelier.gan.trainer import Trainer
    from atelier.metrics.validation import build_validation

    values, runtime, images = settings.train, settings.runtime, load_images(IMAGES)
    pixels, labels = images.pixels, images.classes()[1] if values.conditional else None
    with distributed.init_distributed(runtime.device) as (ranks, device):
        if ranks.number > 0:
            fit.follow_rank0(Trainer(values, pixels, device, ranks, labels))
            return
        validation = load_images(VALIDATION, True).pixels
        kid = build_validation(settings, pixels, validation, device, run.warn)
        trainer = Trainer(values, pixels, device, ranks, labels, kid)
        steps, table = (values.epochs, trainer.steps_per_epoch, values.steps), history.History()
        monitor = diagnostics.TrainingMonitor(values.loss, *steps)
        run.warn(*length.training_warnings(values, len(pixels)))
        run.log_images("samples", trainer.samples(), 0, trainer.columns)  # before training: noise
        bar = progress_bar("train", "steps", runtime.progress)
        with atomic_replace_dir(SAMPLES) as folder, bar as report, run.checkpointing() as state:
            if (rows := augment.augmentation_preview(values, pixels)) is not None:
                sample_files.save_augmented(rows, folder)
                run.log_images("augmented", rows.reshape(-1, *rows.shape[2:]), 0, rows.shape[1])
            for epoch in fit.train(trainer, *state, report, runtime.checkpoint_seconds, run.warn):
                sample_files.save_samples(epoch.number, epoch.samples, epoch.step_samples, folder)
                table.add(epoch)
                run.warn(*monitor.check(epoch))
                run.log_steps(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
                run.log_metrics(("kid",), epoch.quality_by_epoch)
                run.log_images("samples", epoch.samples, epoch.number, trainer.columns)
    with atomic_replace_dir(MODELS) as folder:
        fit.save_models(trainer, folder)
    table.write(LOSSES, QUALITY)
    write_json(METRICS, table.summary())
    run.log_summary(table.summary())
    run.log_model(MODELS / "generator.safetensors", "atelier.gan.serialization:load_for_serving")
    run.log_artifact(LOSSES)


if __name__ == "__main__":
    run_stage("train", main, parallel=True)
