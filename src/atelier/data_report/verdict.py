"""Verdict on a data set in words, with advice."""

from dataclasses import dataclass
from typing import Literal

from atelier.core.errors import count_text
from atelier.data_report.findings import Findings

FEW = 100
"""Number of images below which a training rarely succeeds."""
_POOR_SHARE, _FAIR_SHARE = 0.5, 0.02


@dataclass(frozen=True)
class Remark:
    """Sentences on one finding.

    Attributes:
        name: of the finding.
        text: count and advice.
        section: id of the section with its images; empty if there is none.
    """

    name: str
    text: str
    section: str = ""


@dataclass(frozen=True)
class Verdict:
    """Verdict on a data set.

    Attributes:
        level: of its color.
        headline: how many files are used.
        remarks: one for each kind of problem.
    """

    level: Literal["good", "fair", "poor"]
    headline: str
    remarks: tuple[Remark, ...]


def verdict(findings: Findings, side: int) -> Verdict:
    """Return the verdict; ``side`` is that of the rows in pixels."""
    headline = f"{findings.used:,} of {count_text(findings.found, 'file')} are used"
    if findings.used == findings.found:
        headline = f"All {count_text(findings.found, 'file')} are used"
        if findings.found == 1:
            headline = "The only file is used"
    remarks = tuple(remark for remark in _remarks(findings, side) if remark)
    return Verdict(_level(findings), headline, remarks)


def _level(findings: Findings) -> Literal["good", "fair", "poor"]:
    """Return the level by the largest share of files or images with a problem."""
    rejected = 1 - findings.used / max(1, findings.found)
    doubtful = {
        *(entry for entry, _ in findings.blurred),
        *(entry for entry, _ in findings.dark),
        *(entry for entry, _ in findings.bright),
        *(entry for entry, _ in findings.flat),
    }
    shares = [
        rejected,
        len(doubtful) / max(1, findings.measured),
        len(findings.far) / max(1, findings.searched),
        len(findings.enlarged) / findings.rows,
        findings.copies / findings.rows,
    ]
    if max(shares) > _POOR_SHARE:
        return "poor"
    return "fair" if max(shares) > _FAIR_SHARE or findings.rows < FEW else "good"


def _remarks(findings: Findings, side: int) -> list[Remark | None]:
    rejected = sum(map(len, findings.rejected.values()))
    low = (
        ("dark", len(findings.dark)),
        ("bright", len(findings.bright)),
        ("empty", len(findings.flat)),
    )
    low_text = ", ".join(f"{count:,} {name}" for name, count in low if count)
    copies, groups = findings.copies, len(findings.groups)
    found = [
        (
            findings.rows < FEW,
            Remark("Number", f"{count_text(findings.rows, 'image')}: add images, if you can."),
        ),
        (
            rejected,
            Remark(
                "Rejected",
                f"{count_text(rejected, 'file')}. Read the reasons, and export or replace the files"
                " that you need.",
                "rejected",
            ),
        ),
        (
            copies,
            Remark(
                "Near-duplicates",
                f"{count_text(copies, 'image')} in {count_text(groups, 'group')} repeat another"
                " one. The generator learns them better than others; remove the copies.",
                "near-duplicates",
            ),
        ),
        (
            len(findings.far),
            Remark(
                "Outliers",
                f"{_of(len(findings.far), findings.searched, findings.rows)} unlike the others."
                " Remove those that you do not want to generate.",
                "outliers",
            ),
        ),
        (
            len(findings.blurred),
            Remark(
                "Blurred",
                f"{_of(len(findings.blurred), findings.measured, findings.rows)} blurred. The"
                " generator learns the blur too; remove them.",
                "blurred",
            ),
        ),
        (
            len(findings.enlarged),
            Remark(
                "Enlarged",
                f"{_of(len(findings.enlarged), findings.rows, findings.rows)} smaller than"
                f" {side} × {side} pixels. Choose a smaller convert.image_size, or remove them.",
                "enlarged",
            ),
        ),
        (
            low_text,
            Remark("Dark, bright, empty", f"{low_text}. Remove them.", "brightness"),
        ),
    ]
    remarks: list[Remark | None] = [remark if condition else None for condition, remark in found]
    return remarks if any(remarks) else [Remark("Problems", "None was found.")]


def _of(count: int, measured: int, rows: int) -> str:
    """Return a count of images with the number of measured ones, if others were not measured."""
    verb = "is" if count == 1 else "are"
    sample = f" of {measured:,} measured" if measured < rows else ""
    noun = "image" if count == 1 and not sample else "images"
    return f"{count:,}{sample} {noun} {verb}"
