"""Source ``torchvision``: original files of datasets, by torchvision's addresses and checksums."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from atelier.core.download_settings import TorchvisionSettings
from atelier.core.errors import AtelierError
from atelier.core.hashing import Checksum
from atelier.core.paths import user_path
from atelier.core.progress import ProgressCallback
from atelier.data.manifest import Manifest, raw_file
from atelier.data.sources.download_cache import DownloadCache, copy_bytes
from atelier.data.sources.http import fetch
from atelier.data.sources.listing import walk

_FORMATS: dict[str, Literal["zip", "mnist", "cifar10"]] = {
    "MNIST": "mnist",
    "FashionMNIST": "mnist",
    "CIFAR10": "cifar10",
    "CelebA": "zip",
}


@dataclass(frozen=True)
class _SourceFile:
    """File of a dataset: name, MD5, and torchvision's addresses or Google Drive id."""

    name: str
    md5: str
    addresses: tuple[str, ...] = ()
    drive_id: str = ""


def fetch_torchvision(
    settings: TorchvisionSettings, target: Path, cache: DownloadCache, report: ProgressCallback
) -> Manifest:
    """Copy or download the original files of a dataset into ``target``.

    Files come from the folder ``settings.root``, from ``settings.mirror`` if ``root`` is empty, or
    from torchvision's addresses if both are empty. Every file must have torchvision's MD5.

    Raises:
        AtelierError: a file is missing, cannot be fetched, or has another MD5.
    """
    files = _source_files(settings)
    if settings.root:
        root = user_path(settings.root)
        if not root.is_dir():
            raise AtelierError(
                f"download.torchvision.root is {root}, but there is no such folder; give the folder"
                f" that holds {files[0].name}, or leave it empty to download all files."
            )
        for file in files:
            _copy_file(file, root, target / file.name, report)
    else:
        for file in files:
            fetched = _fetch(file, settings.mirror, cache, report)
            cache.link_into(fetched, target / file.name, report)
    raw_files = tuple(raw_file(target / file.name) for file in files)
    return Manifest("torchvision", _FORMATS[settings.dataset], raw_files, split=settings.split)


def _source_files(settings: TorchvisionSettings) -> list[_SourceFile]:
    from torchvision import datasets  # slow to import, and needed by this source only

    if settings.dataset == "CIFAR10":
        cifar = datasets.CIFAR10
        return [_SourceFile(cifar.filename, cifar.tgz_md5, (cifar.url,))]
    if settings.dataset == "CelebA":
        if settings.split != "all":
            raise AtelierError(
                f"download.torchvision.split is {settings.split}, but CelebA is taken whole; set it"
                " to all."
            )
        return [
            _SourceFile(name, md5, drive_id=drive_id)
            for drive_id, md5, name in datasets.CelebA.file_list
            if name == "img_align_celeba.zip"
        ]
    return _mnist_files(getattr(datasets, settings.dataset), settings.split)


def _mnist_files(dataset: Any, split: str) -> list[_SourceFile]:
    start = {"train": "train", "test": "t10k", "all": ""}[split]
    return [
        _SourceFile(name, md5, tuple(mirror + name for mirror in dataset.mirrors))
        for name, md5 in dataset.resources
        if name.startswith(start)
    ]


def _copy_file(file: _SourceFile, root: Path, target: Path, report: ProgressCallback) -> None:
    """Copy the first file below ``root`` that has the file's name and MD5."""
    found = [
        candidate.path
        for candidate in walk(root)
        if not candidate.skip_reason and PurePosixPath(candidate.relative).name == file.name
    ]
    for path in found:
        copy_bytes(path, target, report)
        # Verify the copy, because the file may change during copying.
        if Checksum("md5", file.md5).agrees(target):
            return
    if found:
        raise AtelierError(
            f"{found[0]} is not the file that torchvision knows for download.torchvision.dataset"
            f" (its MD5 should be {file.md5}); fetch it again, or leave"
            " download.torchvision.root empty."
        )
    raise AtelierError(
        f"there is no {file.name} in {root} or below; put it there, leave"
        " download.torchvision.root empty to download it, or use download.source archive or folder"
        " for images in other files."
    )


def _fetch(file: _SourceFile, mirror: str, cache: DownloadCache, report: ProgressCallback) -> Path:
    checksum = Checksum("md5", file.md5)
    if mirror:
        return fetch(f"{mirror.rstrip('/')}/{file.name}", cache, checksum, report)
    if file.drive_id:
        return _fetch_from_drive(file, cache, report)
    for address in file.addresses[:-1]:
        try:
            return fetch(address, cache, checksum, report)
        except AtelierError:
            # The next address has the same file; only the last error is raised.
            continue
    return fetch(file.addresses[-1], cache, checksum, report)


def _fetch_from_drive(file: _SourceFile, cache: DownloadCache, report: ProgressCallback) -> Path:
    from torchvision.datasets.utils import download_file_from_google_drive

    path = cache.lock(file.name, report)
    try:
        download_file_from_google_drive(file.drive_id, path.parent, path.name, file.md5)
    except Exception as error:
        # gdown may be missing, and raises many exception types if Google refuses.
        raise AtelierError(
            f"{file.name} could not be fetched from Google Drive ({type(error).__name__}); pip"
            " install gdown and try again, or fetch it by hand into a folder and set"
            " download.torchvision.root to that."
        ) from None
    return path
