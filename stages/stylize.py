"""Stylize: paint generated faces, or any pictures, in the style of other pictures."""

from pathlib import Path

from atelier.files import replacing_folder, write_csv, write_json
from atelier.progress import bar
from atelier.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

GENERATOR = Path("models/generator.safetensors")
PICTURES = Path("data/pictures")
WEIGHTS = Path("data/weights")
STYLED = Path("styled")
METRICS = Path("metrics/stylize.json")
LOSSES = Path("plots/style_losses.csv")


def main(settings: Settings, run: Run) -> None:
    """Paint every picture in every style; write each, a sheet of all, and the losses."""
    from atelier.figures.montage import save_png
    from atelier.gan.weights import generate_from
    from atelier.hardware import choose_device
    from atelier.images.named import read_named
    from atelier.style.drawn import drawn_style
    from atelier.style.paintings import loss_table, overview, paint_all, summary
    from atelier.style.pictures import named_faces
    from atelier.style.resume import Attempts

    wanted, device = settings.stylize, choose_device(settings.runtime.device)

    # Drawn twice as large as needed: scaling it down makes its strokes smooth.
    size, seed = 2 * wanted.picture_size, wanted.seed
    made = {
        "generated": lambda: named_faces(generate_from(GENERATOR, wanted.count, seed, device)),
        "drawn": lambda: {"drawn": drawn_style(size, seed)},
    }
    contents, styles, masks = (
        read_named(names, PICTURES, settings.convert.max_megapixels, made)
        for names in (wanted.pictures, wanted.styles, wanted.style_masks)
    )
    with bar("stylize", "iterations", settings.runtime.progress) as report, run.resumable() as keep:
        attempts = Attempts(*keep, settings.runtime.checkpoint_seconds, wanted.iterations)
        pictures = (contents, styles, list(masks.values()))
        paintings = paint_all(wanted, *pictures, WEIGHTS, device, report, attempts, say=run.warn)
    with replacing_folder(STYLED) as folder:
        for painting in paintings:
            save_png(painting.pixels, folder / f"{painting.name}.png")
            run.series(*painting.curves())
        save_png(overview(paintings), folder / "sheet.png")
    write_csv(LOSSES, *loss_table(paintings))
    write_json(METRICS, summary(paintings))
    run.summary(summary(paintings))
    run.artifact(STYLED)
    run.artifact(LOSSES)


if __name__ == "__main__":
    run_stage("stylize", main)
