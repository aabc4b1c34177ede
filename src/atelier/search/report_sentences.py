"""Sentences of a study's report."""

import math
from typing import Literal

from atelier.core.errors import count_text
from atelier.core.progress import duration_text
from atelier.report.verdict import percent
from atelier.search.report_study import StudyRecord
from atelier.search.report_trials import saved_steps


def level(study: StudyRecord) -> Literal["good", "unknown"]:
    """Return the color of the headline: good if a trial is better than the present settings."""
    if not study.best or study.is_front or study.present is None:
        return "unknown"
    best, present = study.best[0], study.present
    error = math.hypot(best.error, present.error)
    is_clear = not error > 0 or abs(best.values[0] - present.values[0]) > 2 * error
    return "good" if not best.is_present and is_clear else "unknown"


def headline(study: StudyRecord) -> str:
    """Return the result in one sentence."""
    if not study.best:
        if not study.trials:
            return "The search has no trials yet"
        ended = study.number_of("running", "waiting") == 0
        return "No trial finished" if ended else "No trial has finished yet"
    total = count_text(len(study.trials), "trial")
    if study.is_front:
        names = " and ".join(objective.name for objective in study.objectives)
        verb = "is" if len(study.best) == 1 else "are"
        return f"{len(study.best)} of {total} {verb} on the Pareto front of {names}"
    objective, best, present = study.objectives[0], study.best[0], study.present
    value = objective.text(best.values[0], best.error)
    if best.is_present:
        worse = "lower" if objective.is_minimized else "higher"
        return f"No trial has a {worse} {objective.name} than the present settings: {value}"
    text = (
        f"Trial {best.number} has the {objective.superlative} {objective.name} of {total}: {value}"
    )
    if present is None:
        return text
    ratio = best.values[0] / present.values[0] if present.values[0] > 0 else math.nan
    if ratio > 0:
        return f"{text}, {ratio:.2g} times that of the present settings"
    return f"{text}; the present settings have {objective.text(present.values[0], present.error)}"


def reasons(study: StudyRecord) -> list[tuple[str, str]]:
    """Return the lines below the headline."""
    found = []
    if study.is_front and study.best:
        found.append(("Extremes", _extremes(study)))
    elif study.present is not None and not study.best[0].is_present:
        found.append(("Present", _present_sentence(study)))
    counts = [
        f"{count} {state}"
        for state in ("finished", "pruned", "failed", "running", "waiting")
        if (count := study.number_of(state))
    ]
    if counts:
        found.append(("Trials", f"{', '.join(counts)}."))
    saved = saved_steps(study.trials, study.seeds)
    if saved is not None:
        found.append(
            (
                "Pruning",
                f"Saved about {percent(saved.share)} of the training steps: {saved.done:,} instead"
                f" of {saved.full:,.0f}.",
            )
        )
    seconds = [trial.seconds for trial in study.trials if math.isfinite(trial.seconds)]
    if seconds:
        total, mean = duration_text(sum(seconds)), duration_text(sum(seconds) / len(seconds))
        each = f", {mean} per trial" if len(seconds) > 1 else ""
        found.append(("Time", f"{total[0].upper()}{total[1:]} of training{each}."))
    if len(study.best) > 1 or study.number_of("pruned"):
        found.append(("Caution", _caution(study)))
    return found


def _present_sentence(study: StudyRecord) -> str:
    """Return the comparison of the best trial with the present settings."""
    objective, best, present = study.objectives[0], study.best[0], study.present
    assert present is not None  # noqa: S101 - the caller has checked it
    text = (
        f"Trial {present.number} has the present settings: {objective.name}"
        f" {objective.text(present.values[0], present.error)}."
    )
    error = math.hypot(best.error, present.error)
    if error > 0 and abs(best.values[0] - present.values[0]) <= 2 * error:
        text += " The difference is less than twice its standard error; it may be chance."
    return text


def _extremes(study: StudyRecord) -> str:
    """Return the best trial of each objective."""
    sentences = []
    for place, objective in enumerate(study.objectives):
        best = sorted(study.best, key=lambda t: t.values[place], reverse=not objective.is_minimized)
        others = [
            f"{other.name} {other.text(value)}"
            for other, value in zip(study.objectives, best[0].values, strict=True)
            if other != objective
        ]
        sentences.append(
            f"Trial {best[0].number} has the {objective.superlative} {objective.name}:"
            f" {objective.text(best[0].values[place])}, with {' and '.join(others)}."
        )
    return " ".join(sentences)


def _caution(study: StudyRecord) -> str:
    """Return the sentence on chance."""
    if any(len(trial.seed_values) > 1 for trial in study.best):
        count = max(len(trial.seed_values) for trial in study.best)
        return (
            f"The number after ± is the standard error of {count} seeds. The best of many trials is"
            " partly luck. Before you decide, train its settings with new seeds, and your"
            " present settings too: set train.seed to another number and use atelier seeds."
        )
    return (
        "One seed each: the best of many trials is partly luck. Before you decide, train its"
        " settings with new seeds, and your present settings too: set train.seed to another"
        " number and use atelier seeds."
    )
