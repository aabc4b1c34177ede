"""Source ``torchvision``: its datasets' own files, by its own addresses and checksums."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from atelier.core.errors import AtelierError
from atelier.core.hashing import Checksum
from atelier.core.paths import user_path
from atelier.core.progress import ProgressCallback
from atelier.core.settings import TorchvisionSettings
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
    """One of a dataset's files: its name, its MD5, and where torchvision fetches it."""

    name: str
    md5: str
    addresses: tuple[str, ...] = ()
    drive_id: str = ""


def fetch_torchvision(
    settings: TorchvisionSettings, target: Path, scratch: DownloadCache, report: ProgressCallback
) -> Manifest:
    """Bring the original files of a dataset into ``target``, as they are.

    They are looked for in ``settings.root`` if that is given, else fetched from
    ``settings.mirror`` if that is given, else from where torchvision fetches them. Wherever
    they come from, torchvision's MD5 decides.

    Raises:
        AtelierError: a file is missing, cannot be fetched, or is not the original.
    """
    originals = _source_files(settings)
    if settings.root:
        root = user_path(settings.root)
        if not root.is_dir():
            raise AtelierError(
                f"download.torchvision.root is {root}, but there is no such folder; give the folder"
                f" that holds {originals[0].name}, or empty it to have all files fetched."
            )
        for original in originals:
            _copy_file(original, root, target / original.name, report)
    else:
        for original in originals:
            fetched = _fetch(original, settings.mirror, scratch, report)
            scratch.link_into(fetched, target / original.name, report)
    files = tuple(raw_file(target / original.name) for original in originals)
    return Manifest("torchvision", _FORMATS[settings.dataset], files, split=settings.split)


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


def _copy_file(original: _SourceFile, root: Path, target: Path, report: ProgressCallback) -> None:
    found = [
        file.path
        for file in walk(root)
        if not file.fault and PurePosixPath(file.relative).name == original.name
    ]
    for path in found:
        copy_bytes(path, target, report)
        # The copy is what counts: a file may change while it is copied.
        if Checksum("md5", original.md5).agrees(target):
            return
    if found:
        raise AtelierError(
            f"{found[0]} is not the file that torchvision knows for download.torchvision.dataset"
            f" (its MD5 should be {original.md5}); fetch it again, or empty"
            " download.torchvision.root."
        )
    raise AtelierError(
        f"there is no {original.name} in {root} or below; put it there, empty"
        " download.torchvision.root to have it fetched, or take pictures that are packed otherwise"
        " by download.source archive or folder."
    )


def _fetch(
    original: _SourceFile, mirror: str, scratch: DownloadCache, report: ProgressCallback
) -> Path:
    checksum = Checksum("md5", original.md5)
    if mirror:
        return fetch(f"{mirror.rstrip('/')}/{original.name}", scratch, checksum, report)
    if original.drive_id:
        return _fetch_from_drive(original, scratch, report)
    for address in original.addresses[:-1]:
        try:
            return fetch(address, scratch, checksum, report)
        except AtelierError:
            # The next address has the same file; the last one's fault is the one told.
            continue
    return fetch(original.addresses[-1], scratch, checksum, report)


def _fetch_from_drive(
    original: _SourceFile, scratch: DownloadCache, report: ProgressCallback
) -> Path:
    from torchvision.datasets.utils import download_file_from_google_drive

    path = scratch.lock(original.name, report)
    try:
        download_file_from_google_drive(original.drive_id, path.parent, path.name, original.md5)
    except Exception as error:
        # gdown may be missing, and raises many kinds when Google refuses.
        raise AtelierError(
            f"{original.name} could not be fetched from Google Drive ({type(error).__name__}); pip"
            " install gdown and try again, or fetch it by hand into a folder and set"
            " download.torchvision.root to that."
        ) from None
    return path
