"""Evaluate stage: compare generated images with real ones."""

from pathlib import Path

from atelier.core.files import write_csv, write_metrics
from atelier.core.progress import progress_bar
from atelier.core.random_streams import derive_seed
from atelier.core.settings import Settings
from atelier.tracking.environment import private_folder, repository_root
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

IMAGES, TEST = Path("data/images.npz"), Path("data/test.npz")
GENERATOR = Path("models/generator.safetensors")
METRICS, SAMPLES = Path("metrics/evaluate.json"), Path("samples")
SCALES, EPOCHS, NEAREST = (Path(f"plots/{name}") for name in ("swd.csv", "kid.csv", "nearest.png"))
PAIRS = 24


def main(settings: Settings, run: Run) -> None:
    """Generate ``evaluate.samples`` images, compare them with real ones, and log the metrics."""
    from atelier.core.device import choose_device
    from atelier.data.dataset import load_images
    from atelier.figures.montage import save_png
    from atelier.figures.nearest import nearest_figure
    from atelier.gan.sample_files import load_epochs
    from atelier.gan.serialization import generate_from
    from atelier.metrics.cache import FeatureCache
    from atelier.metrics.evaluate import evaluate

    device, options = choose_device(settings.runtime.device), settings.evaluate
    training = load_images(IMAGES).pixels
    test = load_images(TEST, may_be_empty=True).pixels
    cache = FeatureCache(private_folder(repository_root()) / "features", device)
    with progress_bar("evaluate", "steps", settings.runtime.progress) as report:
        seed = derive_seed(options.seed, "evaluate.latents")
        generated = generate_from(GENERATOR, options.samples, seed, device)
        epochs = load_epochs(SAMPLES)
        result = evaluate(options, training, test, generated, cache, report, epochs)
    indices, neighbors, distances = result.closest(PAIRS)
    shared = neighbors if settings.shares_images else None
    save_png(nearest_figure(generated[indices], distances, shared), NEAREST)
    write_csv(SCALES, ("pixels", "generated", "other_real"), result.swd_rows())
    write_csv(EPOCHS, ("epoch", "kid", "error"), result.epoch_rows())
    compared = write_metrics(METRICS, result.metrics(), result.details())
    run.log_summary("quality", result.quality() | compared)
    run.log_summary("real", result.real())
    run.warn(*result.notes)
    measured_with = {f"measured_with.{name}": str(v) for name, v in result.measured_with.items()}
    run.set_tags(**measured_with)
    kids = {epoch: [kid] for epoch, kid, _ in result.epoch_rows()}
    run.log_metrics(("quality/kid_by_epoch",), kids)
    for file in (SCALES, NEAREST):
        run.log_artifact(file)
    run.log_images("generated", generated[:64])


if __name__ == "__main__":
    run_stage("evaluate", main)
