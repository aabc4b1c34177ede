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
SCALES = Path("plots/swd.csv")


def main(settings: Settings, run: Run) -> None:
    """Generate as many pictures as `evaluate.samples` says, and judge them."""
    from atelier.gan.device import choose_device
    from atelier.gan.generate import draw_latents, generate
    from atelier.gan.weights import load_generator
    from atelier.images.dataset import load_images
    from atelier.metrics.evaluate import evaluate

    device = choose_device(settings.runtime.device)
    generator, arch = load_generator(GENERATOR, device)
    wanted = settings.evaluate
    with bar("evaluate", "sets", settings.runtime.progress) as report:
        pictures = generate(generator, draw_latents(wanted.samples, arch, wanted.seed))
        result = evaluate(wanted, load_images(IMAGES).pixels, pictures, device, report)
    write_json(METRICS, result.metrics())
    write_csv(SCALES, ("pixels", "generated", "other_real"), result.swd_rows())
    run.summary(result.metrics())
    run.artifact(SCALES)
    run.pictures("generated", pictures[:64], step=0)


if __name__ == "__main__":
    run_stage("evaluate", main)
