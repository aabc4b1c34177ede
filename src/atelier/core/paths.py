"""Folders of the project, and the user's paths relative to them."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from atelier.core.errors import AtelierError
from atelier.core.setting_types import STYLES, WEIGHTS, is_weights_file
from atelier.core.settings import Settings


def project_root() -> Path:
    """Return the main project's folder, also from a temporary copy that DVC made of it.

    The project is the folder of ``params.yaml``, which may lie below that of ``.dvc``. DVC names
    the folder of ``.dvc`` in ``DVC_ROOT``, for a temporary copy that of the main project.
    """
    here = Path.cwd()
    named = os.environ.get("DVC_ROOT")
    top = _dvc_folder(here)
    if top is None:
        return Path(named) if named else here
    above = [folder for folder in (here, *here.parents) if folder.is_relative_to(top)]
    project = next((folder for folder in above if (folder / "params.yaml").is_file()), top)
    return (Path(named) if named else top) / project.relative_to(top)


def is_temporary_copy() -> bool:
    """Whether the working directory is a copy that ``dvc exp run --temp`` or a queue made."""
    named, top = os.environ.get("DVC_ROOT"), _dvc_folder(Path.cwd())
    return bool(named and top) and Path(named or "").resolve() != (top or Path()).resolve()


def reject_lost_experiment() -> None:
    """Raise if DVC would lose the experiment of this temporary copy.

    DVC fetches the experiment from the copy by its path as an address, in which ``%20`` means a
    space. It then finds nothing, says nothing and removes the copy.

    Raises:
        AtelierError: the project's path holds such a sequence.
    """
    root = str(project_root())
    if is_temporary_copy() and unquote(root) != root:
        raise AtelierError(
            f"DVC cannot bring an experiment back to {root}, because a % and two digits in a path"
            " mean another character to it; rename the folder, or run without --temp and --queue."
        )


def user_path(path: str | Path) -> Path:
    """Return the place that a path of the settings names.

    A relative path starts at the main project's folder, wherever the stage runs. In a linked git
    worktree that lacks it, it starts at the same folder of the main worktree.
    """
    expanded = Path(os.path.expanduser(path))
    places = [root / expanded for root in project_folders()]
    return next((place for place in places if os.path.exists(place)), places[0])


def project_folders() -> Iterator[Path]:
    """Yield the main project's folder and, for a linked git worktree, that of the main one."""
    root = project_root()
    yield root
    worktree = next((f for f in (root, *root.parents) if os.path.exists(f / ".git")), None)
    if worktree and (main := _main_worktree(worktree)):
        yield main / root.relative_to(worktree)


def _dvc_folder(folder: Path) -> Path | None:
    """Return the nearest folder at or above ``folder`` that holds ``.dvc``."""
    return next((f for f in (folder, *folder.parents) if (f / ".dvc").is_dir()), None)


def _main_worktree(worktree: Path) -> Path | None:
    """Return the repository's main worktree; ``None`` if this is it, or if there is none.

    In a linked worktree ``.git`` is a file that names a folder below the main one's ``.git``.
    """
    try:
        pointer = (worktree / ".git").read_text("utf-8").removeprefix("gitdir:").strip()
        folder = worktree / pointer
        common = (folder / (folder / "commondir").read_text("utf-8").strip()).resolve()
    except (OSError, UnicodeDecodeError):
        return None
    return common.parent if common.name == ".git" else None


FOLDERS = (Path("data/pictures"), Path("data/weights"))
LISTS = Path("data/inputs")


def list_path(section: str) -> Path:
    """Return the file that lists what a section's stage uses."""
    return LISTS / f"{section}.json"


def read_list(path: Path) -> dict[str, str]:
    """Read a list: the MD5 of each file by its path; empty if there is no such list."""
    try:
        hashes = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return hashes if isinstance(hashes, dict) else {}


def files_of(settings: Settings, section: str) -> dict[Path, str]:
    """Return the files that a section names; for each the names that need no file, in words."""
    if section == "evaluate":
        name = settings.evaluate.features
        words = "vgg19_caffe, random or inception"
        return {Path("data/weights", name): words} if is_weights_file(name) else {}
    if section != "stylize":
        return {}
    stylize = settings.stylize
    images = [*stylize.contents, *stylize.styles, *stylize.style_masks]
    named: list[tuple[str, str, tuple[str, ...]]]
    named = [("pictures", name, ("generated", *STYLES, "drawn")) for name in images]
    named += [("weights", stylize.weights, WEIGHTS)]
    return {
        Path("data", folder, name): f"{', '.join(words[:-1])} or {words[-1]}"
        for folder, name, words in named
        if name not in words
    }


def check_files(
    settings: Settings, root: Path = Path(), sections: Iterable[str] = ("stylize", "evaluate")
) -> None:
    """Raise if a file that one of the sections names is missing.

    Raises:
        AtelierError: an image or a file of weights is missing.
    """
    for section in sections:
        for file, words in files_of(settings, section).items():
            if not (root / file).is_file():
                raise AtelierError(
                    f"there is no {file}, which params.yaml asks for under {section}; put it there,"
                    f" or choose {words}."
                )


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
    hashes = read_list(list_path(section))
    for path in files_of(settings, section):
        if path.as_posix() not in hashes:
            raise AtelierError(
                f"{list_path(section)} does not list {path}, which params.yaml names; run"
                f" `dvc repro {section}`, without -s, to list it."
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
