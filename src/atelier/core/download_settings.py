"""Settings of the download stage: where raw images come from."""

from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from atelier.core.setting_types import KaggleHandle, Name, Section, Seed, Sha256

PUBLIC_SOURCES = ("sample", "torchvision")
"""Values of ``download.source`` whose images are public for certain."""


class SampleSettings(Section):
    """The built-in sample: faces that the program draws."""

    count: Annotated[int, Field(ge=16, le=100_000)]
    seed: Seed


class ArchiveSettings(Section):
    """A zip or tar archive of images, at a path or an http(s) address."""

    location: str
    sha256: Sha256


class KaggleSettings(Section):
    """A Kaggle dataset, as ``owner/name`` or ``owner/name/versions/3``."""

    handle: KaggleHandle


class TorchvisionSettings(Section):
    """One of torchvision's datasets; ``root`` and ``mirror`` may be empty."""

    dataset: Literal["MNIST", "FashionMNIST", "CIFAR10", "CelebA"]
    split: Literal["train", "test", "all"]
    root: str
    mirror: str


def _archive_name(location: str) -> str:
    """Return the file name of a path or an address, or the host of an address without a path."""
    try:
        address = urlsplit(location)
        host = address.hostname if address.scheme else None
    except ValueError:  # e.g. of brackets
        return "archive"
    path = address.path if host else location
    return PurePosixPath(path).name or host or "archive"


class DownloadSettings(Section):
    """The source of raw images."""

    source: Literal["sample", "folder", "archive", "kaggle", "torchvision"]
    sample: SampleSettings
    folders: dict[Name, Annotated[str, Field(min_length=1)]]
    archive: ArchiveSettings
    kaggle: KaggleSettings
    torchvision: TorchvisionSettings

    @property
    def is_public(self) -> bool:
        """True if the images are public for certain: the sample and torchvision's datasets."""
        return self.source in PUBLIC_SOURCES

    @property
    def source_text(self) -> str:
        """The source in words; the location of an archive may contain a password."""
        names = ", ".join(self.folders.values())
        return {
            "sample": "the built-in sample",
            "folder": f"folder{'s' * (len(self.folders) > 1)} {names}",
            "archive": self.archive.location,
            "kaggle": f"Kaggle, {self.kaggle.handle}",
            "torchvision": self.torchvision.dataset,
        }[self.source]

    @property
    def source_name(self) -> str:
        """Short name of the source, without the user and the password of an address."""
        match self.source:
            case "folder":
                return " and ".join(self.folders)
            case "archive":
                return _archive_name(self.archive.location)
            case "kaggle":
                return self.kaggle.handle.split("/")[1]
            case "torchvision":
                return self.torchvision.dataset
        return "sample"

    @property
    def source_title(self) -> str:
        """The source as the beginning of a title."""
        match self.source:
            case "sample":
                return "Sample data"
            case "kaggle":
                return f"Kaggle's {self.source_name}"
            case "folder":
                return f"Folder{'s' if len(self.folders) > 1 else ''} {self.source_name}"
        return self.source_name

    @model_validator(mode="after")
    def _require_source_location(self) -> "DownloadSettings":
        if self.source == "folder" and not self.folders:
            raise ValueError(
                "source: folder needs at least one entry under folders, for example"
                " folders: {faces: /home/me/faces}"
            )
        if self.source != "folder" and self.folders:
            raise ValueError(
                f"folders is for source: folder, but source is {self.source};"
                " empty it ({}) or change source"
            )
        if self.source == "archive" and not self.archive.location:
            raise ValueError(
                "source: archive needs archive.location, the path or address of a zip or tar file"
            )
        return self
