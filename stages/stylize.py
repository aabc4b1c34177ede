"""Stylize: paint generated faces, or any pictures, in the style of other pictures."""

from pathlib import Path

from atelier.files import replacing_folder, write_csv, write_json
from atelier.progress import bar
from atelier.settings import Settings
from atelier.streams import stream_seed
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

GENERATOR, PICTURES = Path("models/generator.safetensors"), Path("data/pictures")
WEIGHTS, STYLED = Path("data/weights"), Path("styled")
METRICS, LOSSES = Path("metrics/stylize.json"), Path("plots/style_losses.csv")


def main(settings: Settings, run: Run) -> None:
    """Paint every picture in every style; write each, how it came about, and the losses."""
    from atelier.figures.paintings import show, squares
    from atelier.gan.weights import generate_from
    from atelier.hardware import choose_device
    from atelier.images.named import read_named
    from atelier.images.original import masks_of, pixels_of, save_painting
    from atelier.style import intermediates, pictures, resume, terms
    from atelier.style.demo_styles import demo_style_sources
    from atelier.style.paintings import loss_table, paint_all, summary

    wanted, device = settings.stylize, choose_device(settings.runtime.device)
    count, seed = wanted.count, stream_seed(wanted.seed, "stylize.latents")
    # Styles twice as large as needed: scaling them down makes their strokes smooth.
    made = demo_style_sources(2 * wanted.picture_size, wanted.seed)
    made["generated"] = lambda: pictures.named_faces(generate_from(GENERATOR, count, seed, device))
    originals, styles, masks = (
        read_named(names, PICTURES, settings.convert.max_megapixels, made)
        for names in (wanted.pictures, wanted.styles, wanted.style_masks)
    )
    given = (pixels_of(originals), pixels_of(styles), masks_of(masks), WEIGHTS)
    with bar("stylize", "iterations", settings.runtime.progress) as report, run.resumable() as keep:
        attempts = resume.Attempts(*keep, settings.runtime.checkpoint_seconds)
        seen = intermediates.Intermediates(keep[0])
        watch = seen.note if wanted.intermediates else None
        paintings = list(paint_all(wanted, *given, device, report, attempts, watch, run.warn))
    with replacing_folder(STYLED) as out:
        for one in paintings:
            save_painting(one.pixels, originals[one.picture], out / f"{one.name}.png")
            run.series(*one.curves())
        ways = [seen.of(number) for number in range(len(paintings))]
        show([p.row() for p in paintings], ways, terms.terms(paintings, wanted), wanted.film, out)
    for iteration, together in seen.by_iteration().items():
        run.pictures("paintings", squares(together), iteration)
    write_csv(LOSSES, *loss_table(paintings))
    write_json(METRICS, summary(paintings))
    run.summary(summary(paintings))
    run.artifact(STYLED)
    run.artifact(LOSSES)


if __name__ == "__main__":
    run_stage("stylize", main)
