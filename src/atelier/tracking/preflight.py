"""Checks of users, folders and links that make DVC fail, before a stage computes anything.

`make repro` runs this module before DVC; every stage calls ``check`` at its start.
"""

import configparser
import getpass
import os
import sys
from pathlib import Path

from atelier.core.errors import AtelierError

# The folders that hold outputs of dvc.yaml, and the outputs that are folders themselves.
PARENTS = (
    "data",
    "data/inputs",
    "data/listing",
    "data/start",
    "metrics",
    "metrics/details",
    "plots",
)
OUTPUTS = ("data/raw", "models", "renders", "samples", "styled")


def check(project: Path = Path()) -> None:
    """Raise if DVC cannot start or cannot store the outputs of ``project``.

    Raises:
        AtelierError: the message names the file or folder.
    """
    try:
        _check_all(project)
    except OSError as error:  # in a folder that this user cannot enter
        raise AtelierError(
            f"{error.filename} cannot be reached ({error.strerror}), and DVC needs it; change the"
            " permissions of its parent folders, or set another folder for the cache with"
            " `dvc cache dir`."
        ) from None


def _check_all(project: Path) -> None:
    _check_user()
    _check_links(project)
    dvc = _dvc_folder(project)
    if dvc is None:  # not a DVC project, e.g. an exported folder
        return
    for path in (project, dvc, dvc / "tmp", project / "dvc.lock"):
        _check_writable(path)
    cache = _cache_folder(dvc)
    for path in (cache, cache / "files", cache / "files" / "md5", cache / "runs"):
        _check_writable(path)


def _check_user() -> None:
    """Raise if DVC finds no name or home of the user, e.g. in a container."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        found = "has no name on this machine"
    else:
        if os.path.isabs(os.path.expanduser("~")):  # pathlib raises without a home
            return
        found = "has no home folder"
    raise AtelierError(
        f"user {os.getuid()} {found}, and DVC needs one; set both, e.g."
        " `export USER=me HOME=/tmp`, in a container `docker run -e USER=me -e HOME=/tmp`."
    )


def _check_links(project: Path) -> None:
    """Raise if a parent of outputs links out of the repository, or an output folder is a link."""
    here = project.resolve()
    top = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
    for folder in map(project.joinpath, PARENTS):
        if folder.is_symlink() and not folder.is_dir():
            raise AtelierError(
                f"{folder} is a link to {folder.readlink()}, which is not a folder; remove the"
                " link."
            )
        if not folder.resolve().is_relative_to(top):
            raise _linked(folder, "DVC keeps no outputs outside the repository")
    for folder in map(project.joinpath, OUTPUTS):
        if folder.is_symlink():
            raise _linked(folder, "stages replace this folder as a whole")


def _linked(folder: Path, reason: str) -> AtelierError:
    return AtelierError(
        f"{folder} leads to {folder.resolve()}, but {reason}; replace the link by a folder, and"
        " use `dvc cache dir` for a larger disk (docs/reliability.md)."
    )


def _dvc_folder(project: Path) -> Path | None:
    here = project.resolve()
    folders = (folder / ".dvc" for folder in (here, *here.parents))
    return next((folder for folder in folders if folder.is_dir()), None)


def _cache_folder(dvc: Path) -> Path:
    """Return the folder of DVC's cache; the last of four configuration files has priority.

    The files are parsed here, because importing DVC takes half a second.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))
    user = Path(os.environ.get("DVC_GLOBAL_CONFIG_DIR") or home / "dvc")
    system = Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or "/etc/xdg/dvc")
    cache = dvc / "cache"
    for file in (system / "config", user / "config", dvc / "config", dvc / "config.local"):
        config = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            config.read(file, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # DVC reports it
        named = config.get("cache", "dir", fallback="").strip("'\"")
        if named:
            cache = file.parent / os.path.expanduser(named)
    return cache


def _check_writable(path: Path) -> None:
    """Raise if a file or folder, or else its first existing parent, is read-only."""
    absolute = path.absolute()
    existing = next(one for one in (absolute, *absolute.parents) if one.exists())
    effective = os.access in os.supports_effective_ids
    needed = os.W_OK | os.X_OK if existing.is_dir() else os.W_OK
    if not os.access(existing, needed, effective_ids=effective):
        raise AtelierError(
            f"{existing} cannot be written, but DVC records results in {path}; change its"
            " permissions, or set another folder for the cache with `dvc cache dir`."
        )


if __name__ == "__main__":
    try:
        check()
    except AtelierError as error:
        sys.exit(f"ERROR: {error}")
