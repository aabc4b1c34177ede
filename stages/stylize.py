"""Stylize: paint generated faces, or any pictures, in the style of other pictures."""

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
    """Paint every picture in every style; write each, how it came about, and the losses."""
    from atelier.core.device import choose_device
    from atelier.data.color_managed import load_by_name, mask_of, pixels_of, save_stylized
    from atelier.figures.style_figures import save_style_figures, square_thumbnails
    from atelier.gan.serialization import generate_from
    from atelier.style import batch, checkpoint, image_ops
    from atelier.style.batch import loss_table, stylize, summary
    from atelier.style.demo_styles import demo_style_sources

    wanted, device = settings.stylize, choose_device(settings.runtime.device)
    count, seed = wanted.generated_count, derive_seed(wanted.seed, "stylize.latents")
    # Styles twice as large as needed: scaling them down makes their strokes smooth.
    made = demo_style_sources(2 * wanted.image_size, wanted.seed)
    made["generated"] = lambda: image_ops.name_faces(generate_from(GENERATOR, count, seed, device))
    originals, styles, masks = (
        load_by_name(names, PICTURES, settings.convert.max_megapixels, made)
        for names in (wanted.contents, wanted.styles, wanted.style_masks)
    )
    given = (pixels_of(originals), pixels_of(styles), mask_of(masks), WEIGHTS)
    with (
        progress_bar("stylize", "iterations", settings.runtime.progress) as report,
        run.checkpointing() as keep,
    ):
        attempts = checkpoint.TransferCheckpoints(*keep, settings.runtime.checkpoint_seconds)
        seen = checkpoint.Intermediates(keep[0])
        watch = seen.note if wanted.save_intermediates else None
        paintings = list(stylize(wanted, *given, device, report, attempts, watch, run.warn))
    with atomic_replace_dir(STYLED) as out:
        for one in paintings:
            save_stylized(one.pixels, originals[one.content_image], out / f"{one.name}.png")
            run.log_metrics(*one.curves())
        ways = [seen.of(number) for number in range(len(paintings))]
        save_style_figures(
            [p.row() for p in paintings],
            ways,
            batch.loss_terms_plot(paintings, wanted),
            wanted.gif,
            out,
        )
    for iteration, together in seen.by_iteration().items():
        run.log_images("paintings", square_thumbnails(together), iteration)
    write_csv(LOSSES, *loss_table(paintings))
    write_json(METRICS, summary(paintings))
    run.log_summary(summary(paintings))
    run.log_artifact(STYLED)
    run.log_artifact(LOSSES)


if __name__ == "__main__":
    run_stage("stylize", main)
