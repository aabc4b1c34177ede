"""Page of the report on the data: its content, and its HTML."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atelier.data_report.verdict import Verdict
from atelier.pages.html import write_html
from atelier.pages.images import PageImage


@dataclass(frozen=True)
class Thumbnail:
    """Image of a gallery.

    Attributes:
        name: of the image or file.
        image: ``None`` if the file cannot be decoded.
        note: a measure.
        scale: factor by which the image is enlarged.
    """

    name: str
    image: PageImage | None
    note: str = ""
    scale: float = 1

    @property
    def short_name(self) -> str:
        """Name without its folders."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Gallery:
    """Images with one property.

    Attributes:
        title: empty for the only gallery of a section.
        total: number of images with the property; the gallery may have fewer.
        thumbnails: the images.
    """

    title: str
    total: int
    thumbnails: Sequence[Thumbnail]

    @property
    def has_images(self) -> bool:
        """True unless none of the files can be decoded."""
        return any(each.image for each in self.thumbnails)


@dataclass(frozen=True)
class Section:
    """Section of galleries.

    Attributes:
        id: of its element.
        title: its heading.
        text: explanation with the limits.
        galleries: at least one.
        omitted: sentence about further galleries; empty if there is none.
    """

    id: str
    title: str
    text: str
    galleries: Sequence[Gallery]
    omitted: str = ""


@dataclass(frozen=True)
class Bar:
    """Bar of a chart: label, count, and percentage of the longest bar."""

    label: str
    count: int
    percent: float


@dataclass(frozen=True)
class Page:
    """Content of the page.

    Attributes:
        title: the heading.
        notice: sentence on privacy; empty if the images are shared.
        verdict: on the data.
        nouns: what the rows are, ``images`` or ``faces``.
        sampled: sentences on parts that were not measured; empty if all were.
        sets: number of images by set.
        average: the mean of the images.
        average_factor: whole factor by which it is enlarged.
        sizes: number of files by the shorter side.
        face_sizes: number of faces by the side of their part of the original; empty without faces.
        classes: number of images by class; empty without classes.
        omitted_classes: number of classes without a bar.
        sections: of images.
    """

    title: str
    notice: str
    verdict: Verdict
    nouns: str
    sampled: str
    sets: Sequence[Bar]
    average: PageImage
    average_factor: int
    sizes: Sequence[Bar]
    face_sizes: Sequence[Bar]
    classes: Sequence[Bar]
    omitted_classes: int
    sections: Sequence[Section]


def write_page(target: Path, page: Page) -> None:
    """Write the page, see :func:`atelier.pages.html.write_html`."""
    template = Path(__file__).with_name("data_page.html.j2")
    write_html(target, template, {"page": page, "factors": {}})
