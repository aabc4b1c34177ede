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
    from atelier.data.color_managed import load_by_name, mask_of, pixels_of, save_stylized
    from atelier.figures.style_figures import save_style_figures, square_thumbnails
    from atelier.gan.serialization import generate_from
    from atelier.style.batch import loss_table, loss_terms_plot, stylize, summary
    from atelier.style.checkpoint import Intermediates, TransferCheckpoints
    from atelier.style.demo_styles import demo_style_sources
    from atelier.style.image_ops import name_faces

    options, device = settings.stylize, choose_device(settings.runtime.device)
    count, seed = options.generated_count, derive_seed(options.seed, "stylize.latents")
    # Styles are drawn twice as large as needed: downscaling smooths their strokes.
    sources = demo_style_sources(2 * options.image_size, options.seed)
    sources["generated"] = lambda: name_faces(generate_from(GENERATOR, count, seed, device))
    contents, styles, masks = (
        load_by_name(names, PICTURES, settings.convert.max_megapixels, sources)
        for names in (options.contents, options.styles, options.style_masks)
    )
    with (
        progress_bar("stylize", "iterations", settings.runtime.progress) as report,
        run.checkpointing() as (checkpoints, stop_requested),
    ):
        intermediates = Intermediates(checkpoints)
        results = stylize(
            options,
            pixels_of(contents),
            pixels_of(styles),
            mask_of(masks),
            WEIGHTS,
            device,
            report=report,
            checkpoints=TransferCheckpoints(
                checkpoints, stop_requested, settings.runtime.checkpoint_seconds
            ),
            on_preview=intermediates.add if options.save_intermediates else None,
            warn=run.warn,
        )
        images = list(results)
    with atomic_replace_dir(STYLED) as folder:
        for image in images:
            original = contents[image.content_image]
            save_stylized(image.pixels, original, folder / f"{image.name}.png")
            run.log_metrics(*image.curves())
        save_style_figures(
            [image.row() for image in images],
            [intermediates.of_image(number) for number in range(len(images))],
            loss_terms_plot(images, options),
            options.gif,
            folder,
        )
    for iteration, previews in intermediates.by_iteration().items():
        run.log_images("paintings", square_thumbnails(previews), iteration)
    write_csv(LOSSES, *loss_table(images))
    write_json(METRICS, summary(images))
    run.log_summary(summary(images))
    run.log_artifact(STYLED)
    run.log_artifact(LOSSES)


if __name__ == "__main__":
    run_stage("stylize", main)
