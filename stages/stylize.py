"""Stylize stage: apply the style of style images to generated faces or other images."""

from pathlib import Path

from atelier.core.files import atomic_replace_dir, write_csv, write_json
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
    from atelier.data.color_managed import load_by_name, masks_of, pixels_of, save_stylized
    from atelier.figures.style_figures import save_style_figures, square_thumbnails
    from atelier.gan.serialization import generate_from
    from atelier.style import batch, checkpoint, demo_styles
    from atelier.style.inputs import name_faces

    options, device = settings.stylize, choose_device(settings.runtime.device)
    count, seed = options.generated_count, derive_seed(options.seed, "stylize.latents")
    # Styles are drawn twice as large as needed: downscaling smooths their strokes.
    sources = demo_styles.demo_style_sources(2 * options.image_size, options.seed)
    sources["generated"] = lambda: name_faces(generate_from(GENERATOR, count, seed, device))
    contents, styles, masks = (
        load_by_name(names, PICTURES, settings.convert.max_megapixels, sources)
        for names in (options.contents, options.styles, options.style_masks)
    )
    inputs = (pixels_of(contents), pixels_of(styles), masks_of(masks), WEIGHTS, device)
    bar = progress_bar("stylize", "iterations", settings.runtime.progress)
    with bar as report, run.checkpointing() as state:
        saved = checkpoint.TransferCheckpoints(*state, settings.runtime.checkpoint_seconds)
        intermediates = checkpoint.Intermediates(state[0])
        preview = intermediates.add if options.save_intermediates else None
        images = list(batch.stylize(options, *inputs, report, saved, preview, run.warn))
    with atomic_replace_dir(STYLED) as folder:
        for image in images:
            save_stylized(image.pixels, contents[image.content_image], folder / f"{image.name}.png")
            run.log_metrics(*image.curves())
        rows, terms = [image.row() for image in images], batch.loss_terms_plot(images, options)
        steps = [intermediates.of_image(number) for number in range(len(images))]
        save_style_figures(rows, steps, terms, options.gif, folder)
    for iteration, previews in intermediates.by_iteration().items():
        run.log_images("paintings", square_thumbnails(previews), iteration)
    write_csv(LOSSES, *batch.loss_table(images))
    write_json(METRICS, batch.summary(images))
    run.log_summary(batch.summary(images))
    run.log_artifact(STYLED)
    run.log_artifact(LOSSES)


if __name__ == "__main__":
    run_stage("stylize", main)
