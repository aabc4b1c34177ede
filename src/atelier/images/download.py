"""Filling ``data/raw`` from any source."""

from pathlib import Path

from atelier.files import replacing_folder
from atelier.images.disk import disk_faults
from atelier.images.manifest import Manifest, write_manifest
from atelier.images.sources.archive import take_archive
from atelier.images.sources.folder import take_folders
from atelier.images.sources.kaggle import take_kaggle
from atelier.images.sources.sample import take_sample
from atelier.images.sources.scratch import Scratch
from atelier.images.sources.torchvision import take_torchvision
from atelier.progress import Report, silent
from atelier.settings import DownloadSettings


def download(
    settings: DownloadSettings, target: Path, scratch: Path, report: Report = silent
) -> Manifest:
    """Fill the folder ``target`` with raw pictures and a manifest of them.

    The folder is replaced whole, and only once everything is there: whatever fails, what was
    in it before stays.

    Args:
        settings: which source, and what it needs to know.
        target: the folder to fill.
        scratch: a folder where downloads stay until they are in ``target``: if anything fails
            before, the next try goes on from there.
        report: told of faces, files or bytes, as the source counts; the note says which.

    Raises:
        AtelierError: the source cannot be had or is not what it should be, or a disk is full or
            fails.
    """
    with disk_faults(target), Scratch(scratch) as waiting:
        with replacing_folder(target) as folder:
            manifest = _take(settings, folder, waiting, report)
            write_manifest(folder, manifest)
        waiting.forget()
    return manifest


def _take(settings: DownloadSettings, folder: Path, scratch: Scratch, report: Report) -> Manifest:
    match settings.source:
        case "sample":
            return take_sample(settings.sample, folder, report)
        case "folder":
            return take_folders(settings.folders, folder, report)
        case "archive":
            return take_archive(settings.archive, folder, scratch, report)
        case "kaggle":
            return take_kaggle(settings.kaggle, folder, report)
        case "torchvision":
            return take_torchvision(settings.torchvision, folder, scratch, report)
