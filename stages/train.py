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
    from atelier.gan.distributed import init_distributed
    from atelier.gan.fit import Resumption, follow_rank0, save_models, train
    from atelier.gan.trainer import Trainer
    from atelier.tracking.training_log import TrainingLog

    images = load_images(IMAGES)
    labels = images.classes()[1] if settings.train.conditional else None
    with init_distributed(settings.runtime.device) as runtime:
        ranks, device = runtime.ranks, runtime.device
        if ranks.number > 0:
            follow_rank0(Trainer(settings.train, images.pixels, device, ranks, labels))
            return
        bar = progress_bar("train", "steps", settings.runtime.progress)
        with atomic_replace_dir(SAMPLES) as folder, bar as report, run.checkpointing() as state:
            result = train(
                settings.train,
                images.pixels,
                labels=labels,
                held_out=load_images(VALIDATION, may_be_empty=True).pixels,
                runtime=runtime,
                resumption=Resumption(*state, settings.runtime.checkpoint_seconds),
                events=TrainingLog(run, folder, report),
            )
    with atomic_replace_dir(MODELS) as folder:
        save_models(result.trainer, folder)
    result.history.write(LOSSES, QUALITY)
    write_json(METRICS, result.history.summary())
    run.log_summary(result.history.summary())
    run.log_model(MODELS / "generator.safetensors", "atelier.gan.serialization:load_for_serving")
    run.log_artifact(LOSSES)


if __name__ == "__main__":
    run_stage("train", main, parallel=True)
