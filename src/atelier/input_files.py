"""Files of ``data/pictures`` and ``data/weights`` that the settings name.

git ignores them, so that a temporary copy of the project lacks them: they are linked from the
main project. Their hashes are listed in a file for each stage that uses them. The stage depends on
that list, so that a file that no setting names reruns nothing.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from atelier.errors import AtelierError
from atelier.paths import is_temporary_copy, project_folders
from atelier.settings import Settings, check_files, files_of

FOLDERS = (Path("data/pictures"), Path("data/weights"))
LISTS = Path("data/inputs")


def list_of(section: str) -> Path:
    """Return the file that lists what a section's stage uses."""
    return LISTS / f"{section}.json"


def listed(path: Path) -> dict[str, str]:
    """Read a list: the MD5 of each file by its path; empty if there is no such list."""
    try:
        hashes = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return hashes if isinstance(hashes, dict) else {}


def hash_named(settings: Settings, section: str) -> dict[str, str]:
    """Return the MD5 of each file that a section names, by its path.

    Raises:
        AtelierError: a file is missing.
    """
    check_files(settings, sections=(section,))
    return {path.as_posix(): md5(path) for path in sorted(files_of(settings, section))}


def link_named(settings: Settings, section: str) -> None:
    """Link the files that a section names, if they are missing here."""
    _link_missing(files_of(settings, section))


def link_all(settings: Settings, section: str) -> None:
    """Link the files that a section names; in a temporary copy all of both folders.

    DVC records the folders as they are in the copy at the stage's end, and that must be what the
    main project holds: else the project is out of date once the experiment is applied.
    """
    link_named(settings, section)
    if is_temporary_copy():
        _link_missing(_files_elsewhere())


def check_named(settings: Settings, section: str) -> None:
    """Raise if a file that a section names is missing, or is not in the section's list.

    Raises:
        AtelierError: the sentence names the file.
    """
    check_files(settings, sections=(section,))
    if "DVC_STAGE" not in os.environ:  # a script that is run by hand has no list
        return
    hashes = listed(list_of(section))
    for path in files_of(settings, section):
        if path.as_posix() not in hashes:
            raise AtelierError(
                f"{list_of(section)} does not list {path}, which params.yaml names; run `dvc repro"
                f" {section}`, without -s, to list it."
            )


def _link_missing(paths: Iterable[Path]) -> None:
    """Link files that are missing here to the main project's, if it has them."""
    for path in paths:
        if path.exists():
            continue
        found = (folder.absolute() / path for folder in project_folders())
        source = next((file for file in found if os.path.isfile(file)), None)
        if source:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # a link to a file that is gone
            path.symlink_to(source)


def md5(path: Path) -> str:
    """Return a file's MD5, which is what DVC calls a file by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _files_elsewhere() -> list[Path]:
    """List the files of both folders in the main project, as relative paths."""
    return [
        file.relative_to(root)
        for root in project_folders()
        for folder in FOLDERS
        for file in sorted((root / folder).rglob("*"))
        if file.is_file()
    ]
