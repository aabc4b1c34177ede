"""Template of DVC's page of plots."""

import json
from pathlib import Path

from atelier.core.yaml_files import read_yaml

ROOT = Path(__file__).parents[1]


def test_template_links_to_the_script_of_a_stage_and_to_no_server() -> None:
    text = (ROOT / ".dvc/plots/page.html").read_text("utf-8")
    assert text.count("{plot_divs}") == 1
    assert "{scripts}" not in text, "DVC would add scripts from a server"
    (output,) = read_yaml(ROOT / "dvc.yaml")["stages"]["plots_script"]["outs"]
    assert text.count("<script src=") == text.count(f'<script src="../{output}">') == 1
    assert "https://" not in text.replace("https://vega.github.io/schema/vega-lite/v6.json", "")


def test_every_template_of_a_curve_exists() -> None:
    curves = [plot for plot in read_yaml(ROOT / "dvc.yaml")["plots"] if isinstance(plot, dict)]
    names = {settings["template"] for plot in curves for settings in plot.values()}
    assert names == {file.stem for file in (ROOT / ".dvc/plots").glob("*.json")}
    for name in names:
        json.loads((ROOT / f".dvc/plots/{name}.json").read_text("utf-8"))
