"""Train: teach the GAN the pictures in data/images.npz."""

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
    """Train epoch by epoch; write networks, samples and losses when all is done."""
    from atelier.data.dataset import load_images
    from atelier.gan import (
        augment,
        diagnostics,
        distributed,
        fit,
        history,
        sampling,
    )
    from atelier.gan.step import STATISTICS
    from atelier.gan.trainer import Trainer
    from atelier.metrics.validation import build_validation

    wanted, runtime = settings.train, settings.runtime
    images, unseen = load_images(IMAGES), load_images(VALIDATION, True).pixels
    labels = images.classes()[1] if wanted.conditional else None
    with distributed.init_distributed(runtime.device) as (rank, device):
        judge = (
            None
            if rank.number
            else build_validation(settings, images.pixels, unseen, device, run.warn)
        )
        training = Trainer(wanted, images.pixels, device, rank, labels, judge)
        if rank.number > 0:
            fit.follow_rank0(training)
            return
        table, steps = history.History(), training.steps_per_epoch
        doctor = diagnostics.TrainingMonitor(wanted.loss, wanted.epochs, steps, wanted.steps)
        run.warn(
            *diagnostics.training_warnings(
                wanted.epochs, wanted.batch_size, len(images.pixels), wanted.steps
            )
        )
        run.log_images("samples", training.samples(), 0, training.columns)  # untrained: noise
        told, seconds = progress_bar("train", "steps", runtime.progress), runtime.checkpoint_seconds
        with atomic_replace_dir(SAMPLES) as folder, told as report, run.checkpointing() as keep:
            if (views := augment.augmentation_preview(wanted, images.pixels)) is not None:
                sampling.save_augmented(views, folder)
                run.log_images("augmented", views.reshape(-1, *views.shape[2:]), 0, views.shape[1])
            for epoch in fit.train(training, *keep, report, seconds, run.warn):
                sampling.save_samples(epoch.number, epoch.samples, epoch.step_samples, folder)
                table.add(epoch)
                run.warn(*doctor.check(epoch))
                run.log_steps(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
                run.log_metrics(("kid",), epoch.measured)
                run.log_images("samples", epoch.samples, epoch.number, training.columns)
    with atomic_replace_dir(MODELS) as place:
        fit.save_models(training, place)
    table.write(LOSSES, QUALITY)
    write_json(METRICS, table.summary())
    run.log_summary(table.summary())
    run.log_model(MODELS / "generator.safetensors", "atelier.gan.serialization:load_for_serving")
    run.log_artifact(LOSSES)


if __name__ == "__main__":
    run_stage("train", main, parallel=True)
