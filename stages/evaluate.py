"""Evaluate: compare the generator's pictures with real ones."""

from pathlib import Path

from atelier.core.files import write_csv, write_json
from atelier.core.progress import progress_bar
from atelier.core.random_streams import derive_seed
from atelier.core.settings import Settings
from atelier.tracking.environment import private_folder, repository_root
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

IMAGES = Path("data/images.npz")
TEST = Path("data/test.npz")
GENERATOR = Path("models/generator.safetensors")
METRICS = Path("metrics/evaluate.json")
SAMPLES = Path("samples")
SCALES = Path("plots/swd.csv")
EPOCHS = Path("plots/kid.csv")
NEAREST = Path("plots/nearest.png")
PAIRS, COLUMNS, TILE = 24, 4, 64


def main(settings: Settings, run: Run) -> None:
    """Generate as many pictures as `evaluate.samples` says, and judge them."""
    from atelier.core.device import choose_device
    from atelier.data.dataset import load_images
    from atelier.figures.grid import save_png, side_by_side
    from atelier.gan.sampling import load_epochs
    from atelier.gan.serialization import generate_from
    from atelier.metrics.cache import FeatureCache
    from atelier.metrics.evaluate import evaluate

    device, wanted = choose_device(settings.runtime.device), settings.evaluate
    training = load_images(IMAGES).pixels
    test = load_images(TEST, may_be_empty=True).pixels
    cache = FeatureCache(private_folder(repository_root()) / "features")
    with progress_bar("evaluate", "steps", settings.runtime.progress) as report:
        latents = derive_seed(wanted.seed, "evaluate.latents")
        pictures = generate_from(GENERATOR, wanted.samples, latents, device)
        epochs = load_epochs(SAMPLES)
        result = evaluate(wanted, training, test, pictures, device, report, epochs, cache)
    places, nearest = result.closest(PAIRS)
    titles = ("Generated", "Nearest in the training")
    save_png(side_by_side(pictures[places], nearest, titles, COLUMNS, TILE), NEAREST)
    write_json(METRICS, result.metrics())
    write_csv(SCALES, ("pixels", "generated", "other_real"), result.swd_rows())
    write_csv(EPOCHS, ("epoch", "kid", "error"), result.epoch_rows())
    run.log_summary(result.metrics())
    run.warn(*result.notes)
    run.set_tags(
        **{f"measured_with.{name}": str(told) for name, told in result.measured_with.items()}
    )
    run.log_metrics(("kid_of_epoch",), {epoch: [kid] for epoch, kid, _ in result.epoch_rows()})
    for file in (SCALES, NEAREST):
        run.log_artifact(file)
    run.log_images("generated", pictures[:64], step=0)


if __name__ == "__main__":
    run_stage("evaluate", main)
