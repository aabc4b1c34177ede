"""Plots script stage: write the scripts that draw the curves of `dvc plots show`."""

from pathlib import Path

from atelier.core.files import write_text
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

SCRIPT = Path("plots/vega.js")
LICENSES = Path("src/atelier/report/vega_licenses.txt")


def main(settings: Settings, run: Run) -> None:
    """Write Vega and what it needs as one file that works without a network."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    write_text(SCRIPT, f"/*\n{LICENSES.read_text('utf-8')}*/\n{script}")


if __name__ == "__main__":
    run_stage("plots_script", main, logged=False)
