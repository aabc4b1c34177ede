"""Verdict on a training in words, and its table of metrics."""

from typing import Any

import pytest
import torch

from atelier.metrics.distances import compute_kid
from atelier.report.verdict import (
    CLOSE_KID,
    FAR_KID,
    metric_rows,
    number,
    percent,
    verdict,
    with_error,
)

from ..support.arrays import normal_tensor
from ..support.pipeline_outputs import EVALUATION

VARIED = EVALUATION | {"recall": 0.9}
TRAINING = {"measured_with": EVALUATION["measured_with"] | {"reference": "training"}}


def headline(**changed: Any) -> tuple[str, str]:
    metrics = {key: value for key, value in (VARIED | changed).items() if value is not None}
    found = verdict(metrics, "")
    return found.level, found.headline


@pytest.mark.parametrize(
    ("kid", "error", "expected"),
    [
        (30.0, 0.5, ("poor", "Far from real images")),
        (7.1, 0.2, ("poor", "Far from real images")),
        (6.9, 0.2, ("fair", "Visibly different from real images")),
        (2.7, 0.2, ("fair", "Visibly different from real images")),
        (0.9, 0.05, ("good", "Close to real images")),
        (0.11, 0.01, ("good", "Not distinguishable from real images by KID")),
        (0.9, 0.48, ("good", "Not distinguishable from real images by KID")),
        (0.9, 0.6, ("unknown", "Too few images for a verdict")),
        (0.0, 16.0, ("unknown", "Too few images for a verdict")),
        (30.0, 16.0, ("unknown", "Too few images for a verdict")),
        (34.0, 16.0, ("poor", "Far from real images")),
        (-0.01, 0.02, ("good", "Not distinguishable from real images by KID")),
    ],
)
def test_headline_follows_from_kid_and_errors(
    kid: float, error: float, expected: tuple[str, str]
) -> None:
    assert headline(kid=kid, kid_error=error) == expected


def test_error_of_real_images_counts_as_well() -> None:
    unknown = ("unknown", "Too few images for a verdict")
    assert headline(kid=30.0, kid_error=16.0, real_kid=0.0, real_kid_error=3.0) == unknown
    assert headline(kid=0.1, kid_error=0.1, real_kid=0.0, real_kid_error=3.0) == unknown


def test_headline_of_unscaled_or_missing_features_has_no_scale() -> None:
    inception = {"measured_with": EVALUATION["measured_with"] | {"features": "inception"}}
    assert headline(**inception) == ("unknown", "Distinguishable from real images by KID")
    assert headline(**inception, kid=0.1) == (
        "unknown",
        "Not distinguishable from real images by KID",
    )
    assert headline(kid=None) == ("unknown", "Too few images for a verdict")
    assert headline(real_kid=None, real_kid_error=None)[1] == "Visibly different from real images"


@pytest.mark.parametrize(
    ("kid", "expected"),
    [
        (0.1, ("good", "Not distinguishable from the training images by KID")),
        (0.9, ("good", "Close to the training images")),
        (6.9, ("fair", "Visibly different from the training images")),
        (7.1, ("poor", "Far from the training images")),
    ],
)
def test_headline_names_training_images_if_they_are_the_reference(
    kid: float, expected: tuple[str, str]
) -> None:
    assert headline(**TRAINING, kid=kid, kid_error=0.05) == expected
    inception = {"measured_with": TRAINING["measured_with"] | {"features": "inception"}}
    assert headline(**inception) == ("unknown", "Distinguishable from the training images by KID")


@pytest.mark.parametrize(
    ("recall", "real_recall", "is_little"),
    [
        (0.22, 0.92, True),
        (0.23, 0.92, False),
        (0.24, None, True),
        (0.25, None, False),
        (0.10, None, True),
        (None, 0.92, False),
    ],
)
@pytest.mark.parametrize("kid", [0.1, 0.9])
@pytest.mark.parametrize("reference", ["test", "training"])
def test_little_variety_is_a_remark_and_makes_the_level_fair(
    recall: float | None, real_recall: float | None, is_little: bool, kid: float, reference: str
) -> None:
    conditions = EVALUATION["measured_with"] | {"reference": reference}
    values = {"kid": kid, "kid_error": 0.05, "recall": recall, "real_recall": real_recall}
    metrics = EVALUATION | values | {"measured_with": conditions}
    metrics = {key: value for key, value in metrics.items() if value is not None}
    if recall is None:
        del metrics["precision"]  # all four numbers of the neighborhoods are absent together
    found = verdict(metrics, "")
    assert found.level == ("fair" if is_little else "good")
    assert found.headline == headline(**{**metrics, "recall": 0.9})[1]
    sentence = dict(found.reasons).get("Variety", "")
    assert sentence.startswith("Little variety: ") == is_little
    if is_little and real_recall is None:
        share = f"{100 * recall:.0f}%"
        assert sentence == f"Little variety: {share} of the real images lie among generated ones."


@pytest.mark.parametrize(("kid", "level"), [(2.7, "fair"), (30.0, "poor")])
def test_variety_does_not_change_a_level_that_is_not_good(kid: float, level: str) -> None:
    found = verdict(EVALUATION | {"kid": kid, "recall": 0.0}, "")
    assert found.level == level
    assert dict(found.reasons)["Variety"].startswith("0% of the real images lie among")


@pytest.mark.parametrize(("shift", "limit"), [(0.5, CLOSE_KID), (1.0, FAR_KID)])
def test_limits_are_the_kid_of_shifted_standardized_features(shift: float, limit: float) -> None:
    real, generated = normal_tensor(0, 400, 512), normal_tensor(1, 400, 512)
    kid = compute_kid(real, generated + shift * torch.ones(512)).value
    assert kid == pytest.approx(limit, rel=0.1)


def test_reasons_compare_with_other_real_images() -> None:
    reasons = dict(verdict(EVALUATION, "2,050 steps in 41 epochs.").reasons)
    assert reasons == {
        "Distance": "KID 2.7 ± 0.2; other real images have 0.03 ± 0.04.",
        "Realism": ("49% of the generated images lie among real ones (other real images: 94%)."),
        "Variety": ("1.5% of the real images lie among generated ones (other real images: 92%)."),
        "Copies": (
            "No sign of memorized training images: 0% of the generated images are suspiciously"
            " near to one (1.0% expected)."
        ),
        "Length": "2,050 steps in 41 epochs.",
    }


def test_reasons_without_enough_images() -> None:
    reasons = verdict({"swd": 3.0, "notes": []}, "Short.").reasons
    assert reasons == (
        ("Distance", "KID was not measured; a warning gives the reason."),
        ("Length", "Short."),
    )
    without_real = {k: v for k, v in EVALUATION.items() if not k.startswith("real_")}
    reasons = verdict(without_real, "")
    assert dict(reasons.reasons)["Distance"] == "KID 2.7 ± 0.2; equal sets have 0."
    assert "other real" not in str(reasons)


@pytest.mark.parametrize(("share", "suspicious"), [(0.02, False), (0.025, True), (0.9, True)])
def test_copies_are_reported_beyond_twice_the_error_of_their_expectation(
    share: float, suspicious: bool
) -> None:
    # 0.00995 + 2 * sqrt(0.00995 * 0.99005 / 200) is 0.0240.
    sentence = dict(verdict(EVALUATION | {"memorised": share}, "").reasons)["Copies"]
    assert sentence.startswith("Images may be memorized:") == suspicious


def test_table_has_plain_names_values_and_directions() -> None:
    rows = [(row.name, row.generated, row.real, row.better) for row in metric_rows(EVALUATION)]
    assert rows == [
        ("Distance (KID)", "2.7 ± 0.2", "0.03 ± 0.04", "lower"),
        ("Fréchet distance (FID)", "215", "28.8", "lower"),
        ("Texture (SWD)", "33.2", "21.4", "lower"),
        ("Realism (precision)", "49%", "94%", "higher"),
        ("Realism (density)", "0.270", "1.06", "higher"),
        ("Variety (recall)", "1.5%", "92%", "higher"),
        ("Variety (coverage)", "30%", "96%", "higher"),
        ("Diversity (1 - MS-SSIM)", "0.769", "0.800", "as real"),
        ("Copies (memorised)", "0%", "1.0%", "as real"),
    ]
    assert all(row.explanation.endswith(("?", ".")) for row in metric_rows(EVALUATION))
    assert metric_rows({"kid": 3.0}) == [
        type(metric_rows(EVALUATION)[0])(
            "Distance (KID)",
            "Are generated and real images alike as a whole? Equal sets have 0.",
            "3.00",
            "",
            "lower",
        )
    ]
    assert metric_rows({"notes": []}) == []


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.7153, 0.2009, "2.7 ± 0.2"),
        (-0.004, 0.03, "0.00 ± 0.03"),
        (1234.5, 60.0, "1,234 ± 60"),
        (45.6, 1.5, "46 ± 2"),
        (0.5, 0.0, "0.500"),
        (0.5, None, "0.500"),
        (0.5, float("nan"), "0.500"),
    ],
)
def test_value_is_rounded_to_the_first_digit_of_its_error(
    value: float, error: float | None, text: str
) -> None:
    assert with_error(value, error) == text


def test_numbers_and_percentages() -> None:
    assert [number(v) for v in (0.0123456, 3.0, 99.4, 214.7, 1234567.0)] == [
        "0.0123",
        "3.00",
        "99.4",
        "215",
        "1,234,567",
    ]
    assert [percent(v) for v in (0, 0.0012, 0.01, 0.015, 0.0995, 0.1, 0.305, 1)] == [
        "0%",
        "0.1%",
        "1%",
        "1.5%",
        "10%",
        "10%",
        "30%",
        "100%",
    ]
