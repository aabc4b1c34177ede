"""Stylize: paint generated faces, or any pictures, in the style of other pictures."""

from pathlib import Path

from atelier.files import replacing_folder, write_csv, write_json
from atelier.progress import Progress, bar
from atelier.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

GENERATOR = Path("models/generator.safetensors")
PICTURES = Path("data/pictures")
STYLED = Path("styled")
METRICS = Path("metrics/stylize.json")
LOSSES = Path("plots/style_losses.csv")


def main(settings: Settings, run: Run) -> None:
    """Paint every picture in every style."""
    ...


if __name__ == "__main__":
    run_stage("stylize", main)
