"""Compare page: its content from compared runs, and its HTML."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from atelier.core.errors import count_text
from atelier.pages.charts import Chart
from atelier.pages.html import render_html
from atelier.report.verdict import number, percent, with_error
from atelier.tracking.compared_run import DATA, ComparedRun
from atelier.web.compare_charts import charts
from atelier.web.compare_differences import (
    KID,
    Difference,
    Metric,
    compare_groups,
    compared_metrics,
    main_metric,
    summarize,
)
from atelier.web.compare_groups import (
    Group,
    Setting,
    differing_settings,
    group_notes,
    group_runs,
    shortened,
)
from atelier.web.compare_images import Painting, Samples, encode_paintings, encode_samples

MAX_CHARACTERS = 7_000_000
"""Limit of the sum of all data URIs, so that the page with its text stays below 8 MB."""

_PAINTINGS = 0.25  # largest share of the characters; samples get the rest
_GENERATOR = "models"
_MAX_COLUMNS = 6
_MAX_CONTENTS = 1000  # characters of the list of contents
_MAX_NAME = 120  # characters
_HASH_LENGTH = 8  # printed digits
_UNSUCCESSFUL = ("FAILED", "KILLED", "RUNNING", "SCHEDULED")


@dataclass(frozen=True)
class Verdict:
    """Statement on all groups: a headline, sentences on KID and on other metrics."""

    level: Literal["good", "unknown"]
    headline: str
    main: Sequence[str]
    others: Sequence[str]


@dataclass(frozen=True)
class MetricsRow:
    """Row of the table of metrics: a group, or one of its runs, and a text for each metric."""

    group: Group
    name: str
    detail: str
    values: Sequence[str]


@dataclass(frozen=True)
class RunRow:
    """Run with its group and the sentences on its missing parts."""

    group: Group
    run: ComparedRun
    notes: Sequence[str]

    @property
    def is_unsuccessful(self) -> bool:
        """True if the pipeline failed or has not ended."""
        return self.run.status in _UNSUCCESSFUL

    @property
    def status(self) -> str:
        """The status in words; MLflow has none for a pipeline that was stopped."""
        return "interrupted" if self.run.status == "KILLED" else self.run.status.lower()

    @property
    def is_linked(self) -> bool:
        """True if the run has the address of a page."""
        return self.run.address.startswith(("http://", "https://"))

    @property
    def commit(self) -> str:
        """The commit as text."""
        return self.run.commit[:_HASH_LENGTH] + (" with changes" if self.run.is_dirty else "")

    @property
    def images(self) -> str:
        """The first digits of the hash of the training images."""
        return self.run.hashes.get(DATA[0], "")[:_HASH_LENGTH]

    @property
    def networks(self) -> str:
        """The first digits of the hash of the networks."""
        return self.run.hashes.get(_GENERATOR, "")[:_HASH_LENGTH]


@dataclass(frozen=True)
class Page:
    """Content of the compare page.

    Attributes:
        title: the heading.
        facts: name and text of the lines of the header.
        verdict: on the groups.
        notes: sentences that readers must know to compare the groups.
        groups: in the order of the page; the first one is the baseline.
        metrics: columns of the table of metrics.
        rows: of this table, one per group.
        run_rows: of the table of single runs.
        runs: in the order of their groups.
        samples: of these runs.
        fps: frames per second of the slider.
        columns: of samples on a wide screen.
        charts: of the groups.
        settings: that differ.
        paintings: rows of the table of stylized images.
        paintings_total: their number, if it is larger.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    verdict: Verdict
    notes: Sequence[str]
    groups: Sequence[Group]
    metrics: Sequence[Metric]
    rows: Sequence[MetricsRow]
    run_rows: Sequence[MetricsRow]
    runs: Sequence[RunRow]
    samples: Samples
    fps: float
    columns: int
    charts: Sequence[Chart]
    settings: Sequence[Setting]
    paintings: Sequence[Painting]
    paintings_total: int


def build_compare_page(
    runs: Sequence[ComparedRun], characters: int = MAX_CHARACTERS, fps: float = 4.0
) -> Page:
    """Build the content of the page.

    Args:
        runs: at least one; the group of the first one is the baseline.
        characters: limit of the sum of all data URIs.
        fps: frames per second of the slider.
    """
    groups = group_runs([_with_short_names(run) for run in runs])
    ordered = [(group, run) for group in groups for run in group.runs]
    own = [run for _, run in ordered]
    paintings, total, painting_notes = encode_paintings(own, int(_PAINTINGS * characters))
    used = sum(len(image.uri) for row in paintings for image in row.images if image)
    samples = encode_samples(own, characters - used)
    metrics = compared_metrics(groups)
    return Page(
        title=_title(groups, len(own)),
        facts=_facts(groups, own),
        verdict=_verdict(groups),
        notes=group_notes(groups),
        groups=groups,
        metrics=metrics,
        rows=[_group_row(group, metrics) for group in groups],
        run_rows=[_run_row(group, run, metrics) for group, run in ordered],
        runs=[
            RunRow(group, run, [*run.notes, *damaged, *others])
            for (group, run), damaged, others in zip(
                ordered, samples.notes, painting_notes, strict=True
            )
        ],
        samples=samples,
        fps=fps,
        columns=_columns(len(own)),
        charts=charts(groups),
        settings=differing_settings(groups),
        paintings=paintings,
        paintings_total=total,
    )


def _with_short_names(run: ComparedRun) -> ComparedRun:
    """Return a run with names that a page can repeat for each image."""
    stylized = {
        name: replace(
            file,
            content=shortened(file.content, _MAX_NAME),
            style=shortened(file.style, _MAX_NAME),
        )
        for name, file in run.stylized.items()
    }
    return replace(
        run,
        name=shortened(run.name, _MAX_NAME),
        source=shortened(run.source, _MAX_NAME),
        status=shortened(run.status, _MAX_NAME),
        date=shortened(run.date, _MAX_NAME),
        experiment=shortened(run.experiment, _MAX_NAME),
        notes=tuple(shortened(note, _MAX_NAME) for note in run.notes),
        stylized=stylized,
    )


def render_compare_page(page: Page) -> str:
    """Return the HTML of the page, which needs no other file."""
    values = {"page": page, "factors": {}}
    return render_html(Path(__file__).with_name("compare.html.j2"), values)


def _columns(runs: int) -> int:
    """Return the number of columns with which the rows are nearly full."""
    rows = math.ceil(runs / _MAX_COLUMNS)
    return math.ceil(runs / rows)


def _title(groups: Sequence[Group], runs: int) -> str:
    text = f"Comparison of {count_text(runs, 'run')}"
    return f"{text} of {len(groups)} settings" if len(groups) < runs else text


def _facts(groups: Sequence[Group], runs: Sequence[ComparedRun]) -> list[tuple[str, str]]:
    dates = sorted(run.date for run in runs if run.date)
    facts = [("Baseline", f"{groups[0].name}; name another run first to compare with it")]
    if dates:
        facts.append(("Runs", " to ".join(dict.fromkeys([dates[0], dates[-1]]))))
    facts.append(("Contains", contains(runs)))
    facts.append(("Made", f"{datetime.now():%Y-%m-%d %H:%M}"))
    return facts if len(groups) > 1 else facts[1:]


def contains(runs: Sequence[ComparedRun]) -> str:
    """Return sentences on the images and data in the page, for readers who want to share it."""
    parts = ["settings and metrics"]
    if any(run.samples for run in runs):
        parts.append("generated images")
    if any(run.shown_stylized for run in runs):
        parts.append("stylized images")
    text = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    sentences = [f"{text[0].upper()}{text[1:]}; no original photographs."]
    files = [run for run in runs if run.stylizes_files and run.shown_stylized]
    if files:
        contents = ", ".join(
            dict.fromkeys(run.settings.get("stylize.contents", "") for run in files)
        )
        contents = shortened(contents, _MAX_CONTENTS)
        sentences.append(
            f"The stylized images of {count_text(len(files), 'run')} show files that"
            f" stylize.contents names ({contents}), because convert.share_images allows it."
        )
    hidden = [run for run in runs if run.stylized and not run.shown_stylized]
    if hidden:
        sentences.append(
            f"The stylized images of {count_text(len(hidden), 'run')} are left out: their contents"
            " are files, and convert.share_images does not allow to show images of this data."
        )
    return " ".join(sentences)


def _verdict(groups: Sequence[Group]) -> Verdict:
    """Return the statement on all groups, KID first."""
    differences = [each for each in compare_groups(groups) if each.sentence]
    metric = main_metric(groups)
    main = [each for each in differences if each.metric is metric]
    others = [each for each in differences if each.metric is not metric]
    larger = [each.sentence for each in others if each.outcome == "larger"]
    rest = [each.sentence for each in others if each.outcome != "larger"]
    level, headline = _headline(groups, main)
    return Verdict(level, headline, [*(each.sentence for each in main), *larger], rest)


def _headline(
    groups: Sequence[Group], differences: Sequence[Difference]
) -> tuple[Literal["good", "unknown"], str]:
    """Return the color and the statement on KID in a few words."""
    baseline, metric = groups[0], main_metric(groups)
    name = "KID" if metric is KID else "validation KID"
    if len(groups) == 1:
        summary = summarize(baseline, metric)
        if summary is None:
            return "unknown", "KID was not measured"
        text = f"{name[0].upper()}{name[1:]} {summary.text(metric)}"
        seeds = len(summary.values)
        return "unknown", f"{text} in {count_text(seeds, 'seed')} of one setting"
    larger = [each for each in differences if each.outcome == "larger"]
    judged = [each for each in differences if each.outcome != "unknown"]
    if len(larger) == 1:
        direction = "lower (better)" if larger[0].value < 0 else "higher (worse)"
        return (
            "good",
            f"The {name} of {larger[0].group.name} is {direction} than that of {baseline.name}",
        )
    if larger:
        letters = ", ".join(each.group.letter for each in larger)
        return "good", f"The {name} of {letters} differs from that of {baseline.letter}"
    if judged:
        return "unknown", f"No difference in {name} is larger than its error"
    if all(math.isnan(each.value) for each in differences):
        return "unknown", f"The {name} of these settings cannot be compared"
    # The sentences compare single generators.
    few = "Too few seeds" if any(len(group.measured()) > 1 for group in groups) else "One seed each"
    return "unknown", f"{few}: no statement on the settings"


def _group_row(group: Group, metrics: Sequence[Metric]) -> MetricsRow:
    count = max((len(group.measured(metric.key)) for metric in metrics), default=0)
    values = [_group_value(group, metric, count) for metric in metrics]
    detail = count_text(count, "seed") if count else "not measured"
    return MetricsRow(group, group.label, detail, values)


def _group_value(group: Group, metric: Metric, seeds: int) -> str:
    """Return mean and deviation as text, with the number of seeds if some lack the metric."""
    summary = summarize(group, metric)
    if summary is None:
        return ""
    count = len(summary.values)
    return summary.text(metric) + ("" if count == seeds else f" ({count_text(count, 'seed')})")


def _run_row(group: Group, run: ComparedRun, metrics: Sequence[Metric]) -> MetricsRow:
    values = [_value(run.metrics, metric) for metric in metrics]
    return MetricsRow(group, run.name, f"seed {run.seed}" if run.seed else "", values)


def _value(values: Mapping[str, float], metric: Metric) -> str:
    if metric.key not in values:
        return ""
    value = values[metric.key]
    if metric is KID:
        return with_error(value, values.get("kid_error"))
    return percent(value) if metric.is_share else number(value)
