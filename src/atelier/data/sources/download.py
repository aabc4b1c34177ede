"""Download of raw images from any source to ``data/raw``."""

from pathlib import Path

from atelier.core.download_settings import DownloadSettings
from atelier.core.errors import os_errors_as_sentences
from atelier.core.files import atomic_replace_dir
from atelier.core.progress import ProgressCallback, silent
from atelier.data.manifest import Manifest, write_manifest
from atelier.data.sources.download_cache import DownloadCache
from atelier.data.sources.local import fetch_archive, fetch_folders, fetch_kaggle
from atelier.data.sources.sample import fetch_sample
from atelier.data.sources.torchvision import fetch_torchvision


def download(
    settings: DownloadSettings, target: Path, cache_dir: Path, report: ProgressCallback = silent
) -> Manifest:
    """Fill the folder ``target`` with raw images and their manifest.

    The folder is replaced atomically. If an error occurs, its previous content remains.

    Args:
        settings: the source and its options.
        target: the folder to fill.
        cache_dir: folder of downloads that are not in ``target`` yet; the next call resumes them.
        report: called with the number of faces, files or bytes; its note has the unit.

    Raises:
        AtelierError: the source is unavailable or does not match its checksum, or a disk is full
            or fails.
    """
    with os_errors_as_sentences(target), DownloadCache(cache_dir) as cache:
        with atomic_replace_dir(target) as folder:
            manifest = _fetch(settings, folder, cache, report)
            write_manifest(folder, manifest)
        cache.clear()
    return manifest


def _fetch(
    settings: DownloadSettings, folder: Path, cache: DownloadCache, report: ProgressCallback
) -> Manifest:
    match settings.source:
        case "sample":
            return fetch_sample(settings.sample, folder, report)
        case "folder":
            return fetch_folders(settings.folders, folder, report)
        case "archive":
            return fetch_archive(settings.archive, folder, cache, report)
        case "kaggle":
            return fetch_kaggle(settings.kaggle, folder, report)
        case "torchvision":
            return fetch_torchvision(settings.torchvision, folder, cache, report)
