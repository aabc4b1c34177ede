"""Template of DVC's page of plots."""

import json
from pathlib import Path

import pytest

from atelier.core.yaml_files import read_yaml

from .support.modules import load_module

ROOT = Path(__file__).parents[1]


def test_template_is_the_one_of_the_installed_package() -> None:
    """Scripts in the repository are those of a package whose hash is pinned."""
    pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")
    script = load_module(ROOT / "scripts/plots_page.py", "plots_page")
    assert script.TEMPLATE.read_text("utf-8") == script.page(), "run python scripts/plots_page.py"


def test_template_has_licenses_and_dvcs_placeholder() -> None:
    text = (ROOT / ".dvc/plots/page.html").read_text("utf-8")
    assert text.count("{plot_divs}") == 1
    assert "{scripts}" not in text, "DVC would add scripts from a server"
    for name in ("BSD 3-Clause", "ISC", "MIT"):
        assert f"\n{name} License\n" in text


def test_every_template_of_a_curve_exists() -> None:
    curves = [plot for plot in read_yaml(ROOT / "dvc.yaml")["plots"] if isinstance(plot, dict)]
    names = {settings["template"] for plot in curves for settings in plot.values()}
    assert names == {file.stem for file in (ROOT / ".dvc/plots").glob("*.json")}
    for name in names:
        json.loads((ROOT / f".dvc/plots/{name}.json").read_text("utf-8"))
