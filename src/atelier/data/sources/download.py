"""Filling ``data/raw`` from any source."""

from pathlib import Path

from atelier.core.errors import os_errors_as_sentences
from atelier.core.files import atomic_replace_dir
from atelier.core.progress import ProgressCallback, silent
from atelier.core.settings import DownloadSettings
from atelier.data.manifest import Manifest, write_manifest
from atelier.data.sources.download_cache import DownloadCache
from atelier.data.sources.local import fetch_archive, fetch_folders, fetch_kaggle
from atelier.data.sources.sample import fetch_sample
from atelier.data.sources.torchvision import fetch_torchvision


def download(
    settings: DownloadSettings, target: Path, scratch: Path, report: ProgressCallback = silent
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
    with os_errors_as_sentences(target), DownloadCache(scratch) as waiting:
        with atomic_replace_dir(target) as folder:
            manifest = _fetch(settings, folder, waiting, report)
            write_manifest(folder, manifest)
        waiting.clear()
    return manifest


def _fetch(
    settings: DownloadSettings, folder: Path, scratch: DownloadCache, report: ProgressCallback
) -> Manifest:
    match settings.source:
        case "sample":
            return fetch_sample(settings.sample, folder, report)
        case "folder":
            return fetch_folders(settings.folders, folder, report)
        case "archive":
            return fetch_archive(settings.archive, folder, scratch, report)
        case "kaggle":
            return fetch_kaggle(settings.kaggle, folder, report)
        case "torchvision":
            return fetch_torchvision(settings.torchvision, folder, scratch, report)
