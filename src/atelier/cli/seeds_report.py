"""Report on several seeds of one setting: their results, a table for a terminal, and a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from atelier.core import settings
from atelier.core.errors import AtelierError, count_text
from atelier.report.verdict import number, percent
from atelier.search.seeds import SeedPlan
from atelier.tracking.compared_run import ComparedRun
from atelier.tracking.compared_selection import Selection
from atelier.web.compare_differences import (
    ALL_METRICS,
    VALIDATION_KID,
    Metric,
    Summary,
    summarize,
)
from atelier.web.compare_groups import Group
from atelier.web.compare_page import Page, build_compare_page

_LEVEL = 0.95
# Those that fit the width of a terminal; the page has all.
_KEYS = ("kid", "fid", "precision", "recall", "memorised")
_TITLES = {"kid": "KID", "fid": "FID", VALIDATION_KID.key: "Validation KID"}
_ABSENT = "-"
_STYLE = "style_loss"


def read_seeds(root: Path, plan: SeedPlan, commits: Mapping[int, str]) -> list[ComparedRun]:
    """Return the results of experiments, in the order of their seeds.

    Results of stages after the plan's last one are left out: only an experiment that DVC restored
    as a whole has them.

    Args:
        root: the project.
        plan: of the experiments.
        commits: of the finished experiments by seed, at least one.
    """
    values = settings.load(root / "params.yaml")
    selection = Selection(root, values.tracking.experiment, values.convert.share_images)
    seeds = [seed for seed in plan.seeds if seed in commits]
    runs = selection.named([plan.experiment(seed) for seed in seeds])
    if plan.target == "report":
        return runs
    if plan.target == "evaluate":
        return [
            replace(
                run,
                metrics={key: run.metrics[key] for key in run.metrics if key != _STYLE},
                stylized={},
                notes=_notes(run, "styl"),
            )
            for run in runs
        ]
    return [
        replace(
            run,
            metrics={key: run.metrics[key] for key in run.metrics if key == VALIDATION_KID.key},
            measured_with={},
            kid_by_epoch=[],
            stylized={},
            notes=_notes(run, "styl", "evaluate", "metrics", "KID"),
        )
        for run in runs
    ]


def _notes(run: ComparedRun, *others: str) -> tuple[str, ...]:
    """Return the notes on missing parts, without those of other stages."""
    return tuple(note for note in run.notes if not note.startswith(others))


def seeds_page(runs: Sequence[ComparedRun], plan: SeedPlan, fps: float) -> Page:
    """Return the content of the compare page of these runs, which are one group.

    Args:
        runs: one per seed, at least one.
        plan: of the experiments.
        fps: frames per second of the slider.

    Raises:
        AtelierError: the runs have different data or code.
    """
    # The group has the name of its runs; each has its seed and its experiment next to it.
    page = build_compare_page([replace(run, name=plan.name) for run in runs], fps=fps)
    if len(page.groups) > 1:  # e.g. images were added to a folder
        raise AtelierError(
            f"the experiments {plan.name}-seed-* have no common mean: {' '.join(page.notes)} Remove"
            " the older ones with `dvc exp remove`, and repeat the command."
        )
    return replace(page, title=f"{count_text(len(runs), 'seed')} of {plan.name}")


def mean_margin(values: Sequence[float], level: float = _LEVEL) -> float:
    """Return half of Student's confidence interval of the mean of a normal distribution.

    Args:
        values: at least two values of it.
        level: of the interval.
    """
    quantile = stats.t.ppf((1 + level) / 2, len(values) - 1)
    return float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))


def seeds_table(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the lines of the table; no line if nothing was measured.

    Args:
        runs: one per seed; of its metrics ``validation_kid`` is used if there is no ``kid``.
    """
    metrics = _columns(runs)
    if not metrics:
        return []
    rows = [["seed", *(_TITLES.get(metric.key, metric.name) for metric in metrics)]]
    rows += [[run.seed, *(_value(run, metric) for metric in metrics)] for run in runs]
    if len(runs) > 1:
        found = [(metric, summarize(_group(runs), metric)) for metric in metrics]
        pairs = [(metric, summary) for metric, summary in found if summary]  # all have a value
        rows.append(["mean ± deviation", *(_mean(*pair, len(runs)) for pair in pairs)])
        rows.append(["95% margin of mean", *(_margin(*pair) for pair in pairs)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _columns(runs: Sequence[ComparedRun]) -> list[Metric]:
    """Return the metrics that some run has."""
    measured = {key for run in runs for key in run.metrics}
    known = {metric.key: metric for metric in ALL_METRICS}
    short = [
        Metric(key, _TITLES.get(key, key), known[key].better, known[key].is_share) for key in _KEYS
    ]
    columns = [metric for metric in short if metric.key in measured]
    if not columns and VALIDATION_KID.key in measured:
        columns = [VALIDATION_KID]
    return columns


def _value(run: ComparedRun, metric: Metric) -> str:
    """Return the value of one seed; of KID, with the standard error of its estimate."""
    summary = summarize(_group([run]), metric)
    if summary is None:
        return _ABSENT
    if summary.error is not None:
        return summary.text(metric)
    return percent(summary.mean) if metric.is_share else number(summary.mean)


def _mean(metric: Metric, summary: Summary, runs: int) -> str:
    """Return mean and deviation, with the number of seeds if some lack the metric."""
    count = len(summary.values)
    return summary.text(metric) + ("" if count == runs else f" ({count_text(count, 'seed')})")


def _margin(metric: Metric, summary: Summary) -> str:
    """Return half of the interval of the mean."""
    if len(summary.values) < 2:
        return _ABSENT
    text = Summary((summary.mean,), mean_margin(summary.values)).text(metric)
    return text[text.index("±") :]


def _group(runs: Sequence[ComparedRun]) -> Group:
    return Group("A", 1, "", tuple(runs))
