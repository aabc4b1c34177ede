"""Report of a study as HTML."""

from pathlib import Path

from atelier.pages.html import render_html
from atelier.search.report import StudyReport


def render_report(report: StudyReport) -> str:
    """Return the HTML of a report, which needs no other file."""
    return render_html(
        Path(__file__).with_name("report.html.j2"), {"report": report, "factors": {}}
    )
