"""Sections of the page with galleries, before their images are encoded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atelier.core.errors import count_text
from atelier.data.image_list import ImageEntry
from atelier.data.skipped import general_reason
from atelier.data_report.findings import SETS, Findings, Measured, spread
from atelier.data_report.outliers import FAR, NEIGHBORS
from atelier.data_report.page import Gallery, Section, Thumbnail
from atelier.data_report.quality import BLURRED_TIMES_SIDE, BRIGHT, DARK, MIN_CONTRAST

_PER_REASON, _REASONS = 12, 8
_PER_GROUP, _GROUPS = 8, 24
_PER_GALLERY = 24
_EXAMPLES = 48
_USUAL = 6  # images to compare with, if there is no outlier


@dataclass(frozen=True, kw_only=True)
class Draft(Thumbnail):
    """Thumbnail whose image is not encoded yet, with the entry of the image."""

    entry: ImageEntry


def draft_sections(findings: Findings, side: int, nouns: str) -> list[Section]:
    """Return all sections that have a gallery; their thumbnails are drafts.

    Args:
        findings: about the data set.
        side: of its rows, in pixels.
        nouns: what the rows are, ``images`` or ``faces``.
    """
    sections = (
        _examples(findings, nouns),
        _rejected(findings),
        _near_duplicates(findings, nouns),
        _outliers(findings, nouns),
        _blurred(findings, side, nouns),
        _enlarged(findings, side, nouns),
        _brightness(findings, nouns),
    )
    return [section for section in sections if section.galleries]


def drafts_of(sections: Sequence[Section]) -> list[Draft]:
    """Return the thumbnails of sections, in their order on the page."""
    thumbnails = _thumbnails(sections)
    return [each for each in thumbnails if isinstance(each, Draft)]


def _thumbnails(sections: Sequence[Section]) -> Iterator[Thumbnail]:
    for section in sections:
        for gallery in section.galleries:
            yield from gallery.thumbnails


def _examples(findings: Findings, nouns: str) -> Section:
    chosen = spread(findings.by_side, _EXAMPLES)
    drafts = [_draft(entry, f"{side:.0f} pixels") for entry, side in chosen]
    return Section(
        "examples",
        f"The {nouns}",
        f"Evenly chosen from all {nouns}, from the one made from the fewest pixels of its original"
        " to the one made from the most. The number is the side of that part of the original.",
        [Gallery("", findings.rows, drafts)],
    )


def _rejected(findings: Findings) -> Section:
    reasons: dict[str, list[ImageEntry]] = {}
    for reason, files in findings.rejected.items():
        reasons.setdefault(general_reason(reason), []).extend(files)
    galleries = [
        Gallery(
            reason,
            len(files),
            [_draft(e, "" if e.reason == reason else e.reason) for e in files[:_PER_REASON]],
        )
        for reason, files in list(reasons.items())[:_REASONS]
    ]
    return Section(
        "rejected",
        "Rejected files",
        "Files that are not used, by reason. The complete list is data/images.csv.",
        galleries,
        _omitted(len(reasons) - len(galleries), "other reason"),
    )


def _near_duplicates(findings: Findings, nouns: str) -> Section:
    galleries = [
        Gallery(f"Group {number}", len(group), [_draft(e, e.set) for e in group[:_PER_GROUP]])
        for number, group in enumerate(findings.groups[:_GROUPS], start=1)
    ]
    return Section(
        "near-duplicates",
        "Near-duplicates",
        f"{nouns.capitalize()} that are copies of one another, perhaps resized, encoded again,"
        f" mirrored, brighter or darker. The {nouns} of a group are in one set. The largest groups"
        " come first.",
        galleries,
        _omitted(len(findings.groups) - len(galleries), "smaller group"),
    )


def _outliers(findings: Findings, nouns: str) -> Section:
    galleries = _gallery(findings.far, "{:.2f}")
    if not galleries:
        usual = findings.outliers[:_USUAL]
        galleries = _gallery(usual, "{:.2f}", f"No outlier was found; the farthest {nouns}")
    return Section(
        "outliers",
        "Outliers",
        f"{nouns.capitalize()} whose features are far from those of all others, the farthest"
        f" first. The number is the mean distance from the {NEIGHBORS} nearest {nouns}; 1 is usual,"
        f" and an outlier has more than {FAR}.",
        galleries,
    )


def _blurred(findings: Findings, side: int, nouns: str) -> Section:
    return Section(
        "blurred",
        f"Blurred {nouns}",
        "The most blurred first. The number is the sharpness: the variance of the Laplacian"
        " divided by that of the pixels. A blurred one has less than"
        f" {BLURRED_TIMES_SIDE / side:.2g} at this size.",
        _gallery(findings.blurred, "{:.2g}"),
    )


def _enlarged(findings: Findings, side: int, nouns: str) -> Section:
    return Section(
        "small-originals",
        f"Enlarged {nouns}",
        f"They are made from parts of the originals, or from originals, smaller than {side} ×"
        f" {side} pixels, and have no finer details. The number is the side of the part.",
        _gallery(findings.enlarged, "{:.0f} pixels"),
    )


def _brightness(findings: Findings, nouns: str) -> Section:
    return Section(
        "brightness",
        f"Dark, bright and empty {nouns}",
        f"In a dark one, 95% of the pixels are darker than {DARK} of 255. In a bright one, 95%"
        f" are brighter than {BRIGHT}. An empty one has a contrast of less than {MIN_CONTRAST}.",
        [
            *_gallery(findings.dark, "95% below {:.0f}", "Dark"),
            *_gallery(findings.bright, "95% above {:.0f}", "Bright"),
            *_gallery(findings.flat, "contrast {:.0f}", "Empty"),
        ],
    )


def _gallery(measured: Measured, note: str, title: str = "") -> list[Gallery]:
    """Return a gallery of images with their measure, or none without images."""
    drafts = [_draft(entry, note.format(value)) for entry, value in measured[:_PER_GALLERY]]
    return [Gallery(title, len(measured), drafts)] if drafts else []


def _draft(entry: ImageEntry, note: str) -> Draft:
    return Draft(name=entry.name or entry.file, image=None, note=note, entry=entry)


def _omitted(count: int, noun: str) -> str:
    return f"Not shown: {count_text(count, noun)}." if count > 0 else ""


def is_unused(entry: ImageEntry) -> bool:
    """Return whether an image can be decoded but is in no set."""
    return entry.width > 0 and entry.set not in SETS


def is_dropped_face(entry: ImageEntry) -> bool:
    """Return whether a row is a face of an image, and in no set."""
    return entry.set == "dropped" and entry.name != entry.file
