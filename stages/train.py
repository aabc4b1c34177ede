"""Train: teach the GAN the pictures in data/images.npz."""

from pathlib import Path

from atelier.files import replacing_folder, write_json
from atelier.progress import bar
from atelier.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

IMAGES, VALIDATION = Path("data/images.npz"), Path("data/validation.npz")
MODELS, SAMPLES, METRICS = Path("models"), Path("samples"), Path("metrics/train.json")
LOSSES, QUALITY = Path("plots/losses.csv"), Path("plots/quality.csv")


def main(settings: Settings, run: Run) -> None:
    """Train epoch by epoch; write networks, samples and losses when all is done."""
    from atelier.gan import augmented, health, history, length, models, ranks, resume, samples
    from atelier.gan.step import STATISTICS
    from atelier.gan.training import Training
    from atelier.images.dataset import load_images
    from atelier.metrics.judge import judge_of

    wanted, runtime = settings.train, settings.runtime
    images, unseen = load_images(IMAGES), load_images(VALIDATION, True).pixels
    labels = images.classes()[1] if wanted.conditional else None
    with ranks.joined(runtime.device) as (rank, device):
        judge = None if rank.number else judge_of(settings, images.pixels, unseen, device, run.warn)
        training = Training(wanted, images.pixels, device, rank, labels, judge)
        if rank.number > 0:
            resume.follow(training)
            return
        table, steps = history.History(), training.steps_per_epoch
        doctor = health.Health(wanted.loss, wanted.epochs, steps)
        run.warn(*length.training_warnings(wanted.epochs, wanted.batch_size, len(images.pixels)))
        run.pictures("samples", training.samples(), 0, training.columns)  # untrained: noise
        told, seconds = bar("train", "steps", runtime.progress), runtime.checkpoint_seconds
        with replacing_folder(SAMPLES) as folder, told as report, run.resumable() as keep:
            if (views := augmented.augmented(wanted, images.pixels)) is not None:
                samples.save_augmented(views, folder)
                run.pictures("augmented", views.reshape(-1, *views.shape[2:]), 0, views.shape[1])
            for epoch in resume.train_on(training, *keep, report, seconds, run.warn):
                samples.save_samples(epoch.number, epoch.samples, epoch.between, folder)
                table.add(epoch)
                run.warn(*doctor.symptoms(epoch))
                run.curves(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
                run.series(("kid",), epoch.measured)
                run.pictures("samples", epoch.samples, epoch.number, training.columns)
    with replacing_folder(MODELS) as place:
        models.save_models(training, place)
    table.write(LOSSES, QUALITY)
    write_json(METRICS, table.summary())
    run.summary(table.summary())
    run.model(MODELS / "generator.safetensors", "atelier.gan.weights:load_for_serving")
    run.artifact(LOSSES)


if __name__ == "__main__":
    run_stage("train", main, parallel=True)
