"""Verdict on a training in words, and its table of metrics.

The words follow from KID. Features are standardized by real images, so that KID has a scale: if
every feature of the generated images is shifted by ``t`` standard deviations of real images, KID is
about (1 + t²)³ - 1. Half a deviation gives 1, and a whole one 7 (``docs/evaluate.md``).

KID can be low although most kinds of real images are missing. So a low recall makes a good level
fair.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CLOSE_KID = 1.0  # features are shifted by half a standard deviation
FAR_KID = 7.0  # features are shifted by a standard deviation
LITTLE_VARIETY = 0.25  # recall as a share of that of other real images
# Extractors whose features are not standardized, so that the two limits do not apply.
_WITHOUT_SCALE = ("inception",)

Level = Literal["good", "fair", "poor", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """Verdict on the generated images.

    Attributes:
        level: color of the headline.
        headline: the verdict in a few words.
        reasons: a name and a sentence for each reason.
    """

    level: Level
    headline: str
    reasons: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class MetricRow:
    """Row of the table of metrics; ``real`` is the value of other real images."""

    name: str
    explanation: str
    generated: str
    real: str
    better: str


def verdict(metrics: Mapping[str, Any], length: str) -> Verdict:
    """Return the verdict that follows from the numbers of the evaluate stage.

    Args:
        metrics: content of the stage's file of details. Metrics that need more images are absent.
        length: a sentence on the length of the training.
    """
    level, headline = _headline(metrics)
    remark = ""
    # A headline that is not good needs no restriction: its reasons have the same number.
    if level == "good" and _has_little_variety(metrics):
        level, remark = "fair", "Little variety: "
    reasons = [("Distance", _distance_sentence(metrics))]
    if "precision" in metrics:
        reasons += [
            (
                "Realism",
                f"{percent(metrics['precision'])} of the generated images lie among real ones"
                f"{_of_real(metrics, 'real_precision')}.",
            ),
            (
                "Variety",
                f"{remark}{percent(metrics['recall'])} of the real images lie among generated ones"
                f"{_of_real(metrics, 'real_recall')}.",
            ),
        ]
    if "memorised" in metrics and "real_memorised" in metrics:
        reasons.append(("Copies", _copies_sentence(metrics)))
    reasons.append(("Length", length))
    return Verdict(level, headline, tuple(reasons))


def _headline(metrics: Mapping[str, Any]) -> tuple[Level, str]:
    if "kid" not in metrics:
        return "unknown", "Too few images for a verdict"
    difference = metrics["kid"] - metrics.get("real_kid", 0.0)
    error = math.hypot(metrics.get("kid_error", 0.0), metrics.get("real_kid_error", 0.0))
    conditions = metrics.get("measured_with", {})
    has_scale = conditions.get("features") not in _WITHOUT_SCALE
    real = "the training images" if conditions.get("reference") == "training" else "real images"
    if difference <= 2 * error:
        if has_scale and 2 * error >= CLOSE_KID:
            # A visible difference would not be distinguished either.
            return "unknown", "Too few images for a verdict"
        level: Level = "good" if has_scale else "unknown"
        return level, f"Not distinguishable from {real} by KID"
    if not has_scale:
        return "unknown", f"Distinguishable from {real} by KID"
    if difference < CLOSE_KID:
        return "good", f"Close to {real}"
    if difference < FAR_KID:
        return "fair", f"Visibly different from {real}"
    return "poor", f"Far from {real}"


def _has_little_variety(metrics: Mapping[str, Any]) -> bool:
    # Real images have a recall of nearly 1; it is not measured without a test set.
    return bool(
        "recall" in metrics and metrics["recall"] < LITTLE_VARIETY * metrics.get("real_recall", 1.0)
    )


def _distance_sentence(metrics: Mapping[str, Any]) -> str:
    if "kid" not in metrics:
        return "KID was not measured; a warning gives the reason."
    kid = with_error(metrics["kid"], metrics.get("kid_error"))
    if "real_kid" not in metrics:
        return f"KID {kid}; equal sets have 0."
    return f"KID {kid}; other real images have {_real_kid(metrics)}."


def _real_kid(metrics: Mapping[str, Any]) -> str:
    return with_error(metrics["real_kid"], metrics.get("real_kid_error"))


def _of_real(metrics: Mapping[str, Any], name: str) -> str:
    return f" (other real images: {percent(metrics[name])})" if name in metrics else ""


def _copies_sentence(metrics: Mapping[str, Any]) -> str:
    share, expected = metrics["memorised"], metrics["real_memorised"]
    count = metrics.get("measured_with", {}).get("samples", 1)
    near = (
        f"{percent(share)} of the generated images are suspiciously near to one"
        f" ({percent(expected)} expected)"
    )
    if share <= expected + 2 * math.sqrt(expected * (1 - expected) / count):
        return f"No sign of memorized training images: {near}."
    return f"Images may be memorized: {near}. Look at the nearest training images below."


def metric_rows(metrics: Mapping[str, Any]) -> list[MetricRow]:
    """Return the table of metrics; metrics that were not measured are left out.

    Args:
        metrics: as for :func:`verdict`.
    """
    rows = []
    if "kid" in metrics:
        kid = with_error(metrics["kid"], metrics.get("kid_error"))
        real_kid = _real_kid(metrics) if "real_kid" in metrics else ""
        text = "Are generated and real images alike as a whole? Equal sets have 0."
        rows.append(MetricRow("Distance (KID)", text, kid, real_kid, "lower"))
    for key, name, text, better in METRICS:
        if key in metrics:
            value, real = (
                ("" if found is None else percent(found) if key in SHARES else number(found))
                for found in (metrics[key], metrics.get(f"real_{key}"))
            )
            rows.append(MetricRow(name, text, value, real, better))
    return rows


SHARES = ("precision", "recall", "coverage", "memorised")
METRICS = (
    (
        "fid",
        "Fréchet distance (FID)",
        "The same by mean and covariance, for comparisons with papers. Few images raise it.",
        "lower",
    ),
    ("swd", "Texture (SWD)", "Does the texture differ, from coarse to fine?", "lower"),
    (
        "precision",
        "Realism (precision)",
        "How many generated images lie among real ones?",
        "higher",
    ),
    (
        "density",
        "Realism (density)",
        "The same, less influenced by a single unusual real image.",
        "higher",
    ),
    ("recall", "Variety (recall)", "How many real images lie among generated ones?", "higher"),
    (
        "coverage",
        "Variety (coverage)",
        "How many real images have a generated one nearby?",
        "higher",
    ),
    (
        "diversity",
        "Diversity (1 - MS-SSIM)",
        "How different are two generated images from each other?",
        "as real",
    ),
    (
        "memorised",
        "Copies (memorised)",
        "How many are nearer to a training image than 99% of unseen real images are?",
        "as real",
    ),
)


def with_error(value: float, error: float | None) -> str:
    """Return a value and its standard error, rounded to the error's first digit."""
    if not error or not math.isfinite(error):
        return number(value)
    digits = max(0, -math.floor(math.log10(error)))
    # A zero is added because a rounded negative value would be written as -0.0.
    return f"{round(value, digits) + 0.0:,.{digits}f} ± {error:,.{digits}f}"


def number(value: float) -> str:
    """Return a number with three significant digits, and thousands separators."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def percent(share: float) -> str:
    """Return a share as a percentage; below 10% with one decimal, unless it is whole."""
    value = 100 * share
    digits = 0 if value >= 9.95 or value == round(value) else 1
    return f"{value:.{digits}f}%"
