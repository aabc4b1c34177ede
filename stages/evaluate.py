"""Evaluate: compare the generator's pictures with real ones."""

from pathlib import Path

from atelier.files import write_csv, write_json
from atelier.progress import bar
from atelier.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

IMAGES = Path("data/images.npz")
GENERATOR = Path("models/generator.safetensors")
METRICS = Path("metrics/evaluate.json")
SAMPLES = Path("samples")
SCALES = Path("plots/swd.csv")
EPOCHS = Path("plots/kid.csv")


def main(settings: Settings, run: Run) -> None:
    """Generate as many pictures as `evaluate.samples` says, and judge them."""
    from atelier.gan.samples import load_epochs
    from atelier.gan.weights import generate_from
    from atelier.hardware import choose_device
    from atelier.images.dataset import load_images
    from atelier.metrics.evaluate import evaluate

    device = choose_device(settings.runtime.device)
    wanted = settings.evaluate
    with bar("evaluate", "sets", settings.runtime.progress) as report:
        pictures = generate_from(GENERATOR, wanted.samples, wanted.seed, device)
        real = load_images(IMAGES).pixels
        result = evaluate(wanted, real, pictures, device, report, load_epochs(SAMPLES))
    write_json(METRICS, result.metrics())
    write_csv(SCALES, ("pixels", "generated", "other_real"), result.swd_rows())
    write_csv(EPOCHS, ("epoch", "kid", "error"), result.epoch_rows())
    run.summary(result.metrics())
    run.series(("kid_of_epoch",), {epoch: [kid] for epoch, kid, _ in result.epoch_rows()})
    run.artifact(SCALES)
    run.pictures("generated", pictures[:64], step=0)


if __name__ == "__main__":
    run_stage("evaluate", main)
