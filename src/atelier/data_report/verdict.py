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
        headline = (
            f"All {findings.found:,} files are used" if findings.found > 1 else "One file is used"
        )
    if findings.rows > findings.used:
        headline += f", with {count_text(findings.rows, 'image')}"
    return Verdict(_level(findings), headline, tuple(_remarks(findings, side)))


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


def _remarks(findings: Findings, side: int) -> list[Remark]:
    """Return a remark for each kind of problem that was found."""
    rows, measured = findings.rows, findings.measured
    rejected = count_text(sum(map(len, findings.rejected.values())), "file")
    groups = count_text(len(findings.groups), "group")
    low = {"dark": findings.dark, "bright": findings.bright, "empty": findings.flat}
    unusual = ", ".join(f"{len(found):,} {name}" for name, found in low.items() if found)
    remarks = {
        Remark("Number", f"{count_text(rows, 'image')}. Add more, if you can."): rows < FEW,
        Remark(
            "Rejected",
            f"{rejected}. Read the reasons, and export or replace the files that you need.",
            "rejected",
        ): findings.rejected,
        Remark(
            "Near-duplicates",
            f"{count_text(findings.copies, 'image')} in {groups} repeat another one. The generator"
            " learns repeated images better than others; remove the copies, or set"
            " convert.duplicates to drop.",
            "near-duplicates",
        ): findings.copies,
        Remark(
            "Dropped",
            f"{count_text(len(findings.dropped), 'near-duplicate')}, because another image of the"
            " group is used.",
            "near-duplicates",
        ): findings.dropped,
        Remark(
            "Outliers",
            f"{_images_are(len(findings.far), findings.searched, rows)} unlike the others. Remove"
            " those that you do not want to generate.",
            "outliers",
        ): findings.far,
        Remark(
            "Blurred",
            f"{_images_are(len(findings.blurred), measured, rows)} blurred. The generator learns"
            " the blur too; remove them.",
            "blurred",
        ): findings.blurred,
        Remark(
            "Enlarged",
            f"{_images_are(len(findings.enlarged), rows, rows)} smaller than {side} × {side}"
            " pixels. Choose a smaller convert.image_size, or remove them.",
            "small-originals",
        ): findings.enlarged,
        Remark("Dark, bright, empty", f"{unusual}. Remove them.", "brightness"): unusual,
    }
    found = [remark for remark, condition in remarks.items() if condition]
    return found or [Remark("Problems", "None was found.")]


def _images_are(count: int, measured: int, rows: int) -> str:
    """Return a count of images with the number of measured ones, if others were not measured."""
    verb = "is" if count == 1 else "are"
    sample = f" of {measured:,} measured" if measured < rows else ""
    noun = "image" if count == 1 and not sample else "images"
    return f"{count:,}{sample} {noun} {verb}"
