"""Verified uploads of artifacts.

MLflow confirms an upload with status 200 and an empty body. An empty response of a proxy looks the
same, so each file is looked up on the server afterwards.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import UUID

from atelier.tracking import mlflow_names
from atelier.tracking.mlflow_errors import as_content_error
from atelier.tracking.store import is_remote

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_NOTES = "not-uploaded"


class MissingFileError(ConnectionError):
    """Raised if a server confirmed an upload, but does not have the file."""


@dataclass(frozen=True)
class LoggedImage:
    """An image of a series with a step slider.

    Attributes:
        file: a PNG file.
        key: legal name of the series.
        step: position on the slider.
        time: milliseconds since 1970.
        unique: identifier of the image; the same for every attempt to upload it.
    """

    file: Path
    key: str
    step: int
    time: int
    unique: UUID


def upload_text(client: "MlflowClient", run: str, content: str, path: str) -> None:
    """Upload text as the artifact ``path`` of a run, and verify it."""
    client.log_text(run, content, path)
    verify(client, run, {path: len(content.encode())})


def upload(client: "MlflowClient", run: str, files: Mapping[str, Path]) -> None:
    """Upload files by artifact path, all of one folder, and verify them."""
    for path, file in files.items():
        folder, _, name = path.rpartition("/")
        if name == file.name:
            client.log_artifact(run, str(file), folder or None)
            continue
        with TemporaryDirectory() as link_folder:
            Path(link_folder, name).symlink_to(file.absolute())
            client.log_artifact(run, str(Path(link_folder, name)), folder or None)
    verify(client, run, {path: file.stat().st_size for path, file in files.items()})


def upload_image(client: "MlflowClient", run: str, image: LoggedImage) -> None:
    """Upload an image and its preview under names like those of MLflow's ``log_image``.

    MLflow's names contain a random number, so an image that is uploaded again after a lost
    response would be shown twice. Here the number depends on the image's identifier.

    Raises:
        ContentError: the file is not an image.
        MissingFileError: the server confirmed the upload, but does not have the files.
    """
    from mlflow.tracking.multimedia import compress_image_size
    from PIL import Image

    series = image.key.replace("/", "~")
    name = f"{series}+step+{image.step}+timestamp+{image.time}+{image.unique}"
    with TemporaryDirectory() as folder:
        preview = Path(folder, f"{name}+compressed.webp")
        with as_content_error(), Image.open(image.file) as opened:
            compress_image_size(opened.copy()).save(preview)
        files = {f"images/{name}.png": image.file, f"images/{preview.name}": preview}
        upload(client, run, files)


def verify(client: "MlflowClient", run: str, sizes: Mapping[str, int]) -> None:
    """Raise unless the server has these artifacts of a run, by path, with these sizes in bytes.

    Raises:
        MissingFileError: one is absent, or has another size.
    """
    if not is_remote():
        return  # without HTTP, a failed write raises
    for folder in {path.rpartition("/")[0] for path in sizes}:
        found = {file.path: file.file_size for file in client.list_artifacts(run, folder or None)}
        for path, size in sizes.items():
            parent, _, name = path.rpartition("/")
            # Some stores list no sizes.
            if parent != folder or (path in found and found[path] in (None, size)):
                continue
            # MLflow lists nothing for a folder whose only file has the folder's own name.
            if not found and name == folder.rpartition("/")[2]:
                continue
            raise MissingFileError(
                f"the server accepted {path} with {size} bytes, but has {found.get(path, 'none')}"
            )


def write_note(client: "MlflowClient", run: str, name: str, reason: str) -> None:
    """Upload a note in place of a file that the server does not accept."""
    content = mlflow_names.text(f"The server did not accept {name}: {reason[:500]}\n")
    upload_text(client, run, content, _note_path(name))


def remove_note(client: "MlflowClient", run: str, name: str) -> None:
    """Remove the note about a file that was accepted later; correct it if that is not allowed."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        uri = client.get_run(run).info.artifact_uri
        repository = get_artifact_repository(uri, client.tracking_uri)
        repository.delete_artifacts(_note_path(name))
        if not client.list_artifacts(run, _NOTES):
            repository.delete_artifacts(_NOTES)
    except Exception:
        with suppress(Exception):  # the file itself is delivered
            client.log_text(run, f"The server accepted {name} later.\n", _note_path(name))


def _note_path(name: str) -> str:
    return mlflow_names.artifact_path(f"{_NOTES}/{name}.txt")
