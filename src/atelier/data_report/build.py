"""Content of the report on the data, from its findings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from atelier.core.settings import Settings
from atelier.data.raw import RawImages
from atelier.data_report.dropped_faces import read_dropped_faces
from atelier.data_report.findings import SETS, DataSet, Findings
from atelier.data_report.page import Bar, Page, Section, Thumbnail
from atelier.data_report.raw_thumbnails import THUMBNAIL_SIDE, read_thumbnails
from atelier.data_report.sections import (
    Draft,
    draft_sections,
    drafts_of,
    is_dropped_face,
    is_unused,
)
from atelier.data_report.verdict import verdict
from atelier.pages.images import Format, PageImage, encode, encode_within

MAX_CHARACTERS = 2_400_000
"""Limit of the sum of all data URIs, so that the page with its text stays below 3 MB."""
NOTICE = "This page contains your images. Keep it private: it is not meant for sharing."

_CLASSES = 40
_AVERAGE_SIDE = 192
_FORMATS = (
    Format(THUMBNAIL_SIDE, lossless=True),
    Format(THUMBNAIL_SIDE, 80),
    Format(THUMBNAIL_SIDE, 50),
    Format(64, 40),
)

Pixels = NDArray[np.uint8]


def build_page(settings: Settings, data: DataSet, findings: Findings, raw: RawImages) -> Page:
    """Build the content of the page.

    Args:
        settings: of the pipeline.
        data: the rows and the list.
        findings: about them.
        raw: all raw images; only those that are on the page and in no set are decoded.
    """
    has_faces = settings.convert.faces != "none"
    nouns = "faces" if has_faces else "images"
    sections = draft_sections(findings, data.side, nouns)
    drafts = drafts_of(sections)
    faces = [draft.entry for draft in drafts if is_dropped_face(draft.entry)]
    dropped = read_dropped_faces(raw, faces, settings.convert)
    others = [draft.entry for draft in drafts if not is_dropped_face(draft.entry)]
    unused = [entry for entry in others if is_unused(entry)]
    thumbnails = read_thumbnails(raw, unused, settings.convert.max_megapixels)
    classes = list(findings.classes.items())
    return Page(
        title=f"{settings.download.source_title}: the images",
        notice="" if settings.shares_images else NOTICE,
        verdict=verdict(findings, data.side, faces=has_faces),
        nouns=nouns,
        sampled=_sampled(findings),
        sets=_bars({name: findings.sets.get(name, 0) for name in SETS}),
        average=encode(_rgb(findings.average), f"Average of all {nouns}", Format(lossless=True)),
        average_factor=max(1, _AVERAGE_SIDE // data.side),
        sizes=_size_bars([min(size) for size in findings.sizes]),
        face_sizes=_size_bars([int(side) for _, side in findings.by_side]) if has_faces else [],
        classes=_bars(dict(classes[:_CLASSES])),
        omitted_classes=max(0, len(classes) - _CLASSES),
        sections=_with_thumbnails(sections, _encode(drafts, data, thumbnails, dropped)),
    )


def _encode(
    drafts: Sequence[Draft],
    data: DataSet,
    thumbnails: Mapping[str, Pixels],
    faces: Mapping[tuple[str, str], Pixels],
) -> list[Thumbnail]:
    """Encode the images of all drafts, in one quality that their number permits.

    Args:
        drafts: of the thumbnails.
        data: the rows.
        thumbnails: of files that are in no set, by the SHA-256 of the file.
        faces: that are in no set, by the SHA-256 of their file and their name.
    """
    found: dict[int, Pixels] = {}
    for number, draft in enumerate(drafts):
        if draft.entry.set in SETS:
            found[number] = _rgb(data.row(draft.entry))
        elif (draft.entry.sha256, draft.entry.name) in faces:
            found[number] = _rgb(faces[draft.entry.sha256, draft.entry.name])
        elif draft.entry.sha256 in thumbnails:
            found[number] = thumbnails[draft.entry.sha256]
    texts = [", ".join(filter(None, (drafts[i].name, drafts[i].note))) for i in found]
    images = encode_within(list(found.values()), texts, MAX_CHARACTERS, _FORMATS)
    encoded = dict(zip(found, images, strict=True))
    return [_thumbnail(draft, encoded.get(number)) for number, draft in enumerate(drafts)]


def _thumbnail(draft: Draft, image: PageImage | None) -> Thumbnail:
    scale = THUMBNAIL_SIDE / max(image.width, image.height) if image else 1.0
    # Whole factors give all pixels one size.
    return Thumbnail(draft.name, image, draft.note, int(scale) if scale >= 2 else scale)


def _with_thumbnails(sections: Sequence[Section], thumbnails: Sequence[Thumbnail]) -> list[Section]:
    """Replace the drafts of all sections, in their order."""
    remaining = iter(thumbnails)
    return [
        replace(
            section,
            galleries=[
                replace(gallery, thumbnails=[next(remaining) for _ in gallery.thumbnails])
                for gallery in section.galleries
            ],
        )
        for section in sections
    ]


def _rgb(pixels: Pixels) -> Pixels:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _sampled(findings: Findings) -> str:
    """Return a sentence on the parts that were not examined; empty if all were."""
    parts = []
    if findings.measured < findings.rows:
        parts.append(f"sharpness, brightness and the average of {findings.measured:,}")
    if 0 < findings.searched < findings.rows:
        parts.append(f"outliers among {findings.searched:,}")
    if not parts:
        return ""
    return f"Of {findings.rows:,} images, evenly spread ones were examined: {', '.join(parts)}."


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    longest = max(counts.values(), default=0) or 1
    return [Bar(name, count, 100 * count / longest) for name, count in counts.items()]


def _size_bars(sides: Sequence[int]) -> list[Bar]:
    """Return a histogram of sides, in intervals from one power of two to the next."""
    counts = Counter(side.bit_length() - 1 for side in sides)
    if not counts:
        return []
    powers = range(min(counts), max(counts) + 1)
    return _bars({f"{2**power:,} to {2 ** (power + 1) - 1:,}": counts[power] for power in powers})
