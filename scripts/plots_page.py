"""Write the template of DVC's page of plots, with the scripts that draw the curves.

    python scripts/plots_page.py

`dvc plots show` and `dvc plots diff` fill `.dvc/plots/page.html`. DVC's own template loads Vega
from a server, so it shows no curve without a network. This one has Vega in it, from the package
vl-convert-python. Run this script after a change of `plots_page.html` or of the package's version.
"""

from pathlib import Path

import vl_convert

SCRIPTS = Path(__file__).parent
TEMPLATE = SCRIPTS.parent / ".dvc/plots/page.html"
DVC_PLACEHOLDERS = ("{plot_divs}", "{refresh_tag}", "{scripts}")


def page() -> str:
    """Return the template: the page with the scripts and their licenses in it."""
    vega = vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;")
    licenses = (SCRIPTS / "plots_page_licenses.txt").read_text("utf-8")
    # In a script, these texts would end it, start a comment, or be replaced by DVC.
    for text in ("</script", "<!--", *DVC_PLACEHOLDERS):
        if text in vega:
            raise SystemExit(f"The bundle contains {text}; escape it before it is written.")
    html = (SCRIPTS / "plots_page.html").read_text("utf-8")
    return html.replace("{licenses}", licenses).replace("{vega}", vega)


if __name__ == "__main__":
    TEMPLATE.write_text(page(), "utf-8")
