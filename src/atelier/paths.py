"""Folders of the project, and the user's paths relative to them."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from atelier.errors import AtelierError


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


def refuse_lost_experiment() -> None:
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
