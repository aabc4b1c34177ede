"""Train stage: train the GAN on the images of data/images.npz."""

from pathlib import Path

from atelier.core.files import atomic_replace_dir, write_metrics
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
    from atelier.gan.fit import build_trainer, run_training, save_models, train
    from atelier.gan.resume_rollback import Resumption
    from atelier.tracking.trained_networks import load_start
    from atelier.tracking.training_log import TrainingLog

    values, images = settings.train, load_images(IMAGES)
    labels = images.classes()[1] if values.conditional else None
    with init_distributed(settings.runtime.device, settings.runtime.cudnn_benchmark) as runtime:
        if runtime.ranks.number > 0:
            train(values, images.pixels, labels=labels, runtime=runtime)
            return
        bar = progress_bar("train", "steps", settings.runtime.progress)
        with atomic_replace_dir(SAMPLES) as folder, bar as report:
            log = TrainingLog(run, folder, report, settings)
            trainer = build_trainer(
                values,
                images.pixels,
                labels=labels,
                held_out=load_images(VALIDATION, may_be_empty=True).pixels,
                runtime=runtime,
                events=log,
                pretrained=load_start(values.start_from, run),
            )
            # From here on, an interruption waits for the end of a step and saves a checkpoint.
            with run.checkpointing() as (checkpoints, stop_requested):
                seconds = settings.runtime.checkpoint_seconds
                log.extend_finished(trainer, checkpoints)
                resumption = Resumption(checkpoints, stop_requested, seconds)
                history = run_training(trainer, log, resumption)
            log.log_final_samples()
    with atomic_replace_dir(MODELS) as folder:
        save_models(trainer, folder)
    history.write(LOSSES, QUALITY)
    write_metrics(METRICS, history.metrics(values.select_model), history.details())
    log.log_results(history, MODELS, LOSSES)


if __name__ == "__main__":
    run_stage("train", main, parallel=True)
