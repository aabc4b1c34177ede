"""Report stage: one page with the results of all stages."""

from pathlib import Path

from atelier.core.settings import Settings
from atelier.tracking.environment import repository_root
from atelier.tracking.links import pipeline_location
from atelier.tracking.redact import redact_values
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage
from atelier.tracking.timings import run_facts

REPORT, PRESETS = Path("report.html"), Path("presets")
STAGES = ("download", "convert", "data_report", "train", "evaluate", "render", "stylize")


def main(settings: Settings, run: Run) -> None:
    """Write the report page; the run of the pipeline gets it as an artifact."""
    from atelier.report.build import Results, build_page
    from atelier.report.page import Fact, write_page

    results = Results(
        images=Path("data/images.npz"),
        samples=Path("samples"),
        losses=Path("plots/losses.csv"),
        kid=Path("plots/kid.csv"),
        nearest=Path("plots/nearest.png"),
        styled=Path("styled"),
        animation=Path("renders/training.gif"),
        metrics=Path("metrics/details"),
    )
    facts = [Fact(name, text) for name, text in run_facts(STAGES)]
    if location := pipeline_location(repository_root()):
        server = " (make ui starts its server)" if location.is_local else ""
        facts.append(Fact("MLflow", f"this run{server}", location.page()))
    values = redact_values(settings.model_dump())
    write_page(REPORT, build_page(settings, values, results, PRESETS, facts))


if __name__ == "__main__":
    run_stage("report", main, logged=False)
