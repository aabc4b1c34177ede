"""Plots script stage: write the scripts that draw the curves of `dvc plots show`."""

from pathlib import Path

from atelier.core.files import write_text
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

SCRIPT = Path("plots/vega.js")
LICENSES = """/*
Vega, Vega-Lite, Vega-Embed (BSD 3-Clause), D3, topojson-client, delaunator, semver (ISC),
fast-json-patch, json-stringify-pretty-compact, lodash.debounce (MIT), robust-predicates (public
domain) and tslib (0BSD), from the package vl-convert-python.
*/
"""


def main(settings: Settings, run: Run) -> None:
    """Write Vega and what it needs as one file that works without a network."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    write_text(SCRIPT, LICENSES + script)


if __name__ == "__main__":
    run_stage("plots_script", main, logged=False)
