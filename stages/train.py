"""Train: teach the GAN the pictures in data/images.npz."""

from pathlib import Path

from atelier.files import replacing_folder, write_json
from atelier.progress import bar
from atelier.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

IMAGES = Path("data/images.npz")
MODELS = Path("models")
SAMPLES = Path("samples")
LOSSES = Path("plots/losses.csv")
METRICS = Path("metrics/train.json")


def main(settings: Settings, run: Run) -> None:
    """Train epoch by epoch; write networks, samples and losses when all is done."""
    from atelier.gan.health import Health
    from atelier.gan.history import History
    from atelier.gan.ranks import joined
    from atelier.gan.resume import follow, train_on
    from atelier.gan.samples import save_samples
    from atelier.gan.step import STATISTICS
    from atelier.gan.training import Training
    from atelier.gan.weights import save_networks
    from atelier.images.dataset import load_images

    pixels = load_images(IMAGES).pixels
    history, health, seconds = History(), Health(), settings.runtime.checkpoint_seconds
    with joined(settings.runtime.device) as (ranks, device):
        training = Training(settings.train, pixels, device, ranks)
        if ranks.number > 0:
            follow(training)
            return
        # MLflow's step slider starts at 0: the untrained generator's noise.
        run.pictures("samples", training.samples(), step=0)
        told = bar("train", "steps", settings.runtime.progress)
        with replacing_folder(SAMPLES) as samples, told as report, run.resumable() as keep:
            for epoch in train_on(training, *keep, report, seconds, run.warn):
                save_samples(epoch.number, epoch.samples, epoch.between, samples)
                history.add(epoch)
                for symptom in health.symptoms(epoch):
                    run.warn(symptom)
                run.curves(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
                run.pictures("samples", epoch.samples, step=epoch.number)
    with replacing_folder(MODELS) as models:
        save_networks(training.gan.generator, training.gan.discriminator, training.arch, models)
    history.write(LOSSES)
    write_json(METRICS, history.summary())
    run.summary(history.summary())
    run.model(MODELS / "generator.safetensors", "atelier.gan.weights:load_for_serving")
    run.artifact(LOSSES)


if __name__ == "__main__":
    run_stage("train", main, parallel=True)
