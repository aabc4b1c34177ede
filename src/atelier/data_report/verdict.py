"""Verdict on a data set in words, with advice."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from atelier.core.errors import count_text
from atelier.data.rows import NO_FACE
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


@dataclass(frozen=True)
class _Advice:
    """Advice on rows of one kind.

    Attributes:
        noun: singular noun for a row.
        outliers: on rows that are unlike the others.
        blurred: on blurred rows.
        enlarged: on rows made from few pixels.
        brightness: on dark, bright and empty rows.
    """

    noun: str
    outliers: str
    blurred: str
    enlarged: str
    brightness: str


_IMAGES = _Advice(
    noun="image",
    outliers="Remove those that you do not want to generate.",
    blurred="The generator learns the blur too; remove them.",
    enlarged="Choose a smaller convert.image_size, or remove them.",
    brightness="Remove them.",
)
# A face cannot be removed without the other faces of its photograph.
_FACES = _Advice(
    noun="face",
    outliers="If some show no face, raise convert.face_confidence.",
    blurred="The generator learns the blur too. If blurred faces are small in their photographs,"
    " raise convert.smallest_face; else remove the photographs.",
    enlarged="To leave them out, raise convert.smallest_face; or choose a smaller"
    " convert.image_size.",
    brightness="Correct the brightness of such photographs, or remove them.",
)


def verdict(findings: Findings, side: int, faces: bool = False) -> Verdict:
    """Return the verdict.

    Args:
        findings: about the data set.
        side: of the rows in pixels.
        faces: whether a row is a face instead of a whole image.
    """
    headline = f"{findings.used:,} of {count_text(findings.found, 'file')} are used"
    if findings.used == findings.found:
        headline = (
            f"All {findings.found:,} files are used" if findings.found > 1 else "One file is used"
        )
    if faces or findings.rows > findings.used:
        headline += f", with {count_text(findings.rows, 'face' if faces else 'image')}"
    remarks = [
        *_remarks_on_files(findings, faces),
        *_remarks_on_copies(findings, "face" if faces else "image"),
        *_remarks_on_rows(findings, side, _FACES if faces else _IMAGES),
    ]
    remarks = remarks or [Remark("Problems", "None was found.")]
    return Verdict(_level(findings), headline, tuple(remarks))


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


def _remarks_on_files(findings: Findings, faces: bool) -> Iterator[Remark]:
    noun = "face" if faces else "image"
    if findings.rows < FEW:
        yield Remark("Number", f"{count_text(findings.rows, noun)}. Add more, if you can.")
    without_face = len(findings.rejected.get(NO_FACE, ()))
    rejected = sum(map(len, findings.rejected.values())) - without_face
    if rejected:
        yield Remark(
            "Rejected",
            f"{count_text(rejected, 'file')}. Read the reasons, and export or replace the files"
            " that you need.",
            "rejected",
        )
    if without_face:
        yield Remark(
            "Without a face",
            f"{count_text(without_face, 'file')}. If you see faces in them, lower"
            " convert.smallest_face, or convert.face_confidence to 0.7.",
            "rejected",
        )


def _remarks_on_copies(findings: Findings, noun: str) -> Iterator[Remark]:
    if findings.copies:
        groups = count_text(len(findings.groups), "group")
        verb = "repeats" if findings.copies == 1 else "repeat"
        yield Remark(
            "Near-duplicates",
            f"{count_text(findings.copies, noun)} in {groups} {verb} another one. The generator"
            f" learns repeated {noun}s better than others; remove the copies, or set"
            " convert.duplicates to drop.",
            "near-duplicates",
        )
    if findings.dropped:
        yield Remark(
            "Dropped",
            f"{count_text(len(findings.dropped), 'near-duplicate')}, because another {noun} of the"
            " group is used.",
            "near-duplicates",
        )


def _remarks_on_rows(findings: Findings, side: int, advice: _Advice) -> Iterator[Remark]:
    def rows_are(count: int, measured: int) -> str:
        """Return a count of rows with the number of measured ones, if others were not measured."""
        sample = f" of {measured:,} measured" if measured < findings.rows else ""
        plural = "" if count == 1 and not sample else "s"
        return f"{count:,}{sample} {advice.noun}{plural} {'is' if count == 1 else 'are'}"

    if findings.far:
        text = f"{rows_are(len(findings.far), findings.searched)} unlike the others."
        yield Remark("Outliers", f"{text} {advice.outliers}", "outliers")
    if findings.blurred:
        text = f"{rows_are(len(findings.blurred), findings.measured)} blurred."
        yield Remark("Blurred", f"{text} {advice.blurred}", "blurred")
    if findings.enlarged:
        count = rows_are(len(findings.enlarged), findings.rows)
        text = f"{count} smaller than {side} × {side} pixels. {advice.enlarged}"
        yield Remark("Enlarged", text, "small-originals")
    low = {"dark": findings.dark, "bright": findings.bright, "empty": findings.flat}
    unusual = ", ".join(f"{len(found):,} {name}" for name, found in low.items() if found)
    if unusual:
        yield Remark("Dark, bright, empty", f"{unusual}. {advice.brightness}", "brightness")
