"""Train: teach the GAN the pictures in data/images.npz."""

from pathlib import Path

from atelier.files import replacing_folder, write_json
from atelier.progress import bar
from atelier.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

IMAGES, HELD_OUT = Path("data/images.npz"), Path("data/held_out.npz")
MODELS, SAMPLES = Path("models"), Path("samples")
LOSSES, QUALITY = Path("plots/losses.csv"), Path("plots/quality.csv")
METRICS = Path("metrics/train.json")


def main(settings: Settings, run: Run) -> None:
    """Train epoch by epoch; write networks, samples and losses when all is done."""
    from atelier.gan.augmented import augmented
    from atelier.gan.health import Health
    from atelier.gan.history import History
    from atelier.gan.models import save_models
    from atelier.gan.ranks import joined
    from atelier.gan.resume import follow, train_on
    from atelier.gan.samples import save_augmented, save_samples
    from atelier.gan.step import STATISTICS
    from atelier.gan.training import Training
    from atelier.images.dataset import load_images

    wanted, images = settings.train, load_images(IMAGES)
    history, health, seconds = History(), Health(wanted.loss), settings.runtime.checkpoint_seconds
    labels = images.classes()[1] if wanted.conditional else None
    with joined(settings.runtime.device) as (ranks, device):
        training = Training(wanted, images.pixels, device, ranks, labels)
        if ranks.number > 0:
            follow(training)
            return
        # MLflow's step slider starts at 0: the untrained generator's noise.
        run.pictures("samples", training.samples(), 0, training.columns)
        told = bar("train", "steps", settings.runtime.progress)
        with replacing_folder(SAMPLES) as samples, told as report, run.resumable() as keep:
            if (views := augmented(wanted, images.pixels)) is not None:
                save_augmented(views, samples)
                run.pictures("augmented", views.reshape(-1, *views.shape[2:]), 0, views.shape[1])
            for epoch in train_on(training, *keep, report, seconds, run.warn):
                save_samples(epoch.number, epoch.samples, epoch.between, samples)
                history.add(epoch)
                for symptom in health.symptoms(epoch):
                    run.warn(symptom)
                run.curves(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
                if epoch.quality is not None:
                    run.series(("kid",), {epoch.number: [epoch.quality]})
                run.pictures("samples", epoch.samples, epoch.number, training.columns)
    with replacing_folder(MODELS) as models:
        save_models(training, models)
    history.write(LOSSES, QUALITY)
    write_json(METRICS, history.summary())
    run.summary(history.summary())
    run.model(MODELS / "generator.safetensors", "atelier.gan.weights:load_for_serving")
    run.artifact(LOSSES)


if __name__ == "__main__":
    run_stage("train", main, parallel=True)
