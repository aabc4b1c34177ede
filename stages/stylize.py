"""Stylize stage: apply the style of style images to generated faces or other images."""

from functools import partial
from pathlib import Path

from atelier.core.files import atomic_replace_dir, write_csv, write_metrics
from atelier.core.progress import progress_bar
from atelier.core.random_streams import derive_seed
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

GENERATOR, PICTURES = Path("models/generator.safetensors"), Path("data/pictures")
WEIGHTS, STYLED = Path("data/weights"), Path("styled")
METRICS, LOSSES = Path("metrics/stylize.json"), Path("plots/style_losses.csv")


def main(settings: Settings, run: Run) -> None:
    """Stylize every content in every style; write results, figures, losses and metrics."""
    from atelier.core.device import choose_device
    from atelier.data.color_managed import save_stylized
    from atelier.figures.style_figures import save_style_figures, square_thumbnails
    from atelier.gan.serialization import generate_from
    from atelier.style import batch
    from atelier.style.checkpoint import Intermediates, StoringEvents, TransferCheckpoints
    from atelier.style.inputs import load_inputs

    options, device = settings.stylize, choose_device(settings.runtime.device)
    seed = derive_seed(options.seed, "stylize.latents")
    faces = partial(generate_from, GENERATOR, options.generated_count, seed, device)
    contents, inputs = load_inputs(options, PICTURES, settings.convert.max_megapixels, faces)
    vgg = batch.load_vgg(options, WEIGHTS).to(device)
    bar = progress_bar("stylize", "iterations", settings.runtime.progress)
    with bar as report, run.checkpointing() as (checkpoints, stop_requested):
        seconds = settings.runtime.checkpoint_seconds
        saved = TransferCheckpoints(checkpoints, stop_requested, seconds)
        steps = Intermediates(checkpoints)
        events = StoringEvents(report, run.warn, steps if options.save_intermediates else None)
        images = list(batch.stylize(inputs, options, vgg, events, saved))
    with atomic_replace_dir(STYLED) as folder:
        for image in images:
            save_stylized(image.pixels, contents[image.content_image], folder / f"{image.name}.png")
        rows, terms = [image.row() for image in images], batch.loss_terms_plot(images, options)
        frames = [steps.of_image(number) for number in range(len(images))]
        save_style_figures(rows, frames, terms, options.gif, folder)
    for iteration, previews in steps.by_iteration().items():
        run.log_images("paintings", square_thumbnails(previews), iteration)
    run.log_images("paintings", square_thumbnails([image.pixels for image in images]))
    write_csv(LOSSES, *batch.loss_table(images))
    metrics = write_metrics(METRICS, batch.metrics(images), batch.details(images))
    run.log_summary("style", {"loss": metrics["style_loss"]})
    shares = batch.mean_relative_losses(images)
    run.log_metrics(("style/relative_loss",), {step: [share] for step, share in shares.items()})
    run.log_artifact(STYLED)
    run.log_artifact(LOSSES)


if __name__ == "__main__":
    run_stage("stylize", main)
