"""Content of the report on the data, from its findings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import count_text
from atelier.core.settings import Settings
from atelier.data.image_list import ImageEntry
from atelier.data.raw import RawImages
from atelier.data_report.findings import SETS, DataSet, Findings, Measured
from atelier.data_report.outliers import FAR, NEIGHBORS
from atelier.data_report.page import Bar, Gallery, Page, Section, Thumbnail
from atelier.data_report.quality import BLURRED_TIMES_SIDE, BRIGHT, DARK, MIN_CONTRAST
from atelier.data_report.raw_thumbnails import THUMBNAIL_SIDE, read_thumbnails
from atelier.data_report.verdict import verdict
from atelier.pages.images import Format, PageImage, encode, encode_within

MAX_CHARACTERS = 2_400_000
"""Limit of the sum of all data URIs, so that the page with its text stays below 3 MB."""
NOTICE = "This page contains your images. Keep it private: it is not meant for sharing."

_PER_REASON, _REASONS = 12, 8
_PER_GROUP, _GROUPS = 8, 24
_PER_GALLERY = 24
_CLASSES = 40
_AVERAGE_SIDE = 192
_FORMATS = (
    Format(THUMBNAIL_SIDE, lossless=True),
    Format(THUMBNAIL_SIDE, 80),
    Format(THUMBNAIL_SIDE, 50),
    Format(64, 40),
)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Pixels of images in a set, and thumbnails of files that are in no set."""

    data: DataSet
    raw: Mapping[str, Pixels]

    def of(self, entry: ImageEntry) -> Pixels | None:
        """Return uint8 [h, w, 3], or ``None`` if the file cannot be decoded."""
        if entry.set not in SETS:
            return self.raw.get(entry.file)
        return _rgb(self.data.row(entry))


def build_page(settings: Settings, data: DataSet, findings: Findings, raw: RawImages) -> Page:
    """Build the content of the page.

    Args:
        settings: of the pipeline.
        data: the rows and the list.
        findings: about them.
        raw: all raw images; only those that are on the page and in no set are decoded.
    """
    unused = _unused_on_page(findings)
    names = {entry.file for entry in unused}
    pixels = _Pixels(data, read_thumbnails(raw, names, settings.convert.max_megapixels))
    sections = [section for section in _sections(findings, data.side) if section.galleries]
    average = _rgb(findings.average)
    return Page(
        title=f"{settings.download.source_title}: the images",
        notice="" if settings.shares_images else NOTICE,
        verdict=verdict(findings, data.side),
        sampled=_sampled(findings),
        sets=_bars({name: findings.sets.get(name, 0) for name in SETS}),
        average=encode(average, "Average of all images", Format(lossless=True)),
        average_factor=max(1, _AVERAGE_SIDE // data.side),
        sizes=_size_bars(findings.sizes),
        classes=_bars(dict(list(findings.classes.items())[:_CLASSES])),
        omitted_classes=max(0, len(findings.classes) - _CLASSES),
        sections=_with_images(sections, pixels),
    )


@dataclass(frozen=True)
class _Draft(Thumbnail):
    """Thumbnail whose image is not encoded yet."""

    entry: ImageEntry | None = None


def _unused_on_page(findings: Findings) -> list[ImageEntry]:
    """Return the decodable files that are on the page and in no set."""
    rejected = [each for files in _shown_reasons(findings).values() for each in files]
    grouped = [each for group in findings.groups[:_GROUPS] for each in group[:_PER_GROUP]]
    return [entry for entry in (*rejected, *grouped) if entry.width and entry.set not in SETS]


def _shown_reasons(findings: Findings) -> dict[str, Sequence[ImageEntry]]:
    reasons = list(findings.rejected.items())[:_REASONS]
    return {reason: files[:_PER_REASON] for reason, files in reasons}


def _sections(findings: Findings, side: int) -> list[Section]:
    return [
        _rejected(findings),
        _near_duplicates(findings),
        Section(
            "outliers",
            "Outliers",
            "Images whose features are far from those of all others, the farthest first. The number"
            f" is the mean distance from the {NEIGHBORS} nearest images; 1 is usual, more than"
            f" {FAR} is counted as an outlier.",
            _gallery(findings.far or findings.outliers[:6], "{:.2f}"),
        ),
        Section(
            "blurred",
            "Blurred images",
            "The most blurred first. The number is the sharpness: the variance of the Laplacian"
            f" divided by that of the image. Below {BLURRED_TIMES_SIDE / side:.2g}, an image of"
            " this size counts as blurred.",
            _gallery(findings.blurred, "{:.2g}"),
        ),
        Section(
            "enlarged",
            "Enlarged images",
            f"Their originals are smaller than {side} × {side} pixels. The number is the size of"
            " the original.",
            _gallery(findings.enlarged, "{:.0f} pixels"),
        ),
        Section(
            "brightness",
            "Dark, bright and empty images",
            f"In a dark image, 95% of the pixels are darker than {DARK} of 255. In a bright one,"
            f" 95% are brighter than {BRIGHT}. An empty one has a contrast of less than"
            f" {MIN_CONTRAST}.",
            [
                *_gallery(findings.dark, "brightness up to {:.0f}", "Dark"),
                *_gallery(findings.bright, "brightness from {:.0f}", "Bright"),
                *_gallery(findings.flat, "contrast {:.0f}", "Empty"),
            ],
        ),
    ]


def _rejected(findings: Findings) -> Section:
    galleries = [
        Gallery(reason, len(findings.rejected[reason]), [_draft(entry) for entry in files])
        for reason, files in _shown_reasons(findings).items()
    ]
    others = len(findings.rejected) - len(galleries)
    return Section(
        "rejected",
        "Rejected files",
        "Files that are not used, by reason. The complete list is data/images.csv.",
        galleries,
        f"{count_text(others, 'other reason')} are not shown." if others > 0 else "",
    )


def _near_duplicates(findings: Findings) -> Section:
    galleries = [
        Gallery(f"Group {number}", len(group), [_draft(entry) for entry in group[:_PER_GROUP]])
        for number, group in enumerate(findings.groups[:_GROUPS], start=1)
    ]
    others = len(findings.groups) - len(galleries)
    return Section(
        "near-duplicates",
        "Near-duplicates",
        "Images that are copies of one another, perhaps resized, encoded again, mirrored, brighter"
        " or darker. A group is always in one set. The largest groups come first.",
        galleries,
        f"{count_text(others, 'smaller group')} are not shown." if others > 0 else "",
    )


def _gallery(measured: Measured, note: str, title: str = "") -> list[Gallery]:
    """Return a gallery of images with their measure, or none without images."""
    drafts = [_draft(entry, note.format(value)) for entry, value in measured[:_PER_GALLERY]]
    return [Gallery(title, len(measured), drafts)] if drafts else []


def _draft(entry: ImageEntry, note: str = "") -> _Draft:
    text = note or (entry.set if entry.set in SETS else "")
    return _Draft(entry.name or entry.file, None, text, entry=entry)


def _with_images(sections: Iterable[Section], pixels: _Pixels) -> list[Section]:
    """Encode the images of all sections, in one quality that their number permits."""
    sections = list(sections)
    drafts = [each for s in sections for gallery in s.galleries for each in gallery.thumbnails]
    images = [pixels.of(each.entry) for each in drafts if isinstance(each, _Draft) and each.entry]
    texts = [", ".join(filter(None, (each.name, each.note))) for each in drafts]
    found = [(image, text) for image, text in zip(images, texts, strict=True) if image is not None]
    encoded = iter(
        encode_within([i for i, _ in found], [t for _, t in found], MAX_CHARACTERS, _FORMATS)
    )
    thumbnails = iter(
        [
            _thumbnail(d, next(encoded) if i is not None else None)
            for d, i in zip(drafts, images, strict=True)
        ]
    )
    return [
        replace(
            section,
            galleries=[
                replace(gallery, thumbnails=[next(thumbnails) for _ in gallery.thumbnails])
                for gallery in section.galleries
            ],
        )
        for section in sections
    ]


def _thumbnail(draft: Thumbnail, image: PageImage | None) -> Thumbnail:
    factor = max(1, THUMBNAIL_SIDE // max(image.width, image.height)) if image else 1
    return Thumbnail(draft.name, image, draft.note, factor)


def _rgb(pixels: Pixels) -> Pixels:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _sampled(findings: Findings) -> str:
    parts = []
    if findings.measured < findings.rows:
        parts.append(f"sharpness and brightness of {findings.measured:,}")
    if 0 < findings.searched < findings.rows:
        parts.append(f"outliers among {findings.searched:,}")
    if not parts:
        return ""
    return f"Of {findings.rows:,} images, an evenly spread part was examined: {', '.join(parts)}."


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    longest = max(counts.values(), default=0) or 1
    return [Bar(name, count, 100 * count / longest) for name, count in counts.items()]


def _size_bars(sizes: Sequence[tuple[int, int]]) -> list[Bar]:
    """Return a histogram of the shorter sides, in intervals from one power of two to the next."""
    powers = [min(size).bit_length() - 1 for size in sizes]
    if not powers:
        return []
    counts = dict.fromkeys(range(min(powers), max(powers) + 1), 0)
    for power in powers:
        counts[power] += 1
    return _bars({f"{2**power:,} to {2 ** (power + 1) - 1:,}": n for power, n in counts.items()})
