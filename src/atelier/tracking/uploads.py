"""Uploads of artifacts that are verified: MLflow answers them with 200 and an empty body.

A proxy's empty answer looks the same, so the file is looked for on the server afterwards.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from atelier.tracking import mlflow_names
from atelier.tracking.store import is_remote

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_NOTES = "not-uploaded"


class MissingFileError(ConnectionError):
    """Raised if an upload was answered with success, but the server does not have the file."""


def upload_text(client: "MlflowClient", run: str, content: str, path: str) -> None:
    """Upload text as the artifact ``path`` of a run, and verify that it is there."""
    client.log_text(run, content, path)
    verify(client, run, {path: len(content.encode())})


def upload(client: "MlflowClient", run: str, files: Mapping[str, Path]) -> None:
    """Upload files of one folder by artifact path, and verify that they are there."""
    for path, file in files.items():
        folder, _, name = path.rpartition("/")
        if name == file.name:
            client.log_artifact(run, str(file), folder or None)
            continue
        with TemporaryDirectory() as place:
            Path(place, name).symlink_to(file.absolute())
            client.log_artifact(run, str(Path(place, name)), folder or None)
    verify(client, run, {path: file.stat().st_size for path, file in files.items()})


def verify(client: "MlflowClient", run: str, sizes: Mapping[str, int]) -> None:
    """Raise unless a server has these artifacts of a run, with these sizes as far as it says.

    Raises:
        MissingFileError: one is absent, or has another size.
    """
    if not is_remote():
        return  # without HTTP, a failed write raises
    for folder in {path.rpartition("/")[0] for path in sizes}:
        found = {file.path: file.file_size for file in client.list_artifacts(run, folder or None)}
        for path, size in sizes.items():
            at, _, name = path.rpartition("/")
            # Some stores list no sizes.
            if at != folder or (path in found and found[path] in (None, size)):
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
    upload_text(client, run, content, _note(name))


def remove_note(client: "MlflowClient", run: str, name: str) -> None:
    """Remove the note about a file that was accepted after all; correct it if that is refused."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        place = client.get_run(run).info.artifact_uri
        repository = get_artifact_repository(place, client.tracking_uri)
        repository.delete_artifacts(_note(name))
        if not client.list_artifacts(run, _NOTES):
            repository.delete_artifacts(_NOTES)
    except Exception:
        with suppress(Exception):  # the file itself is delivered
            client.log_text(run, f"The server accepted {name} later.\n", _note(name))


def _note(name: str) -> str:
    return mlflow_names.artifact_path(f"{_NOTES}/{name}.txt")
