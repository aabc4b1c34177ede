"""Folders of the project, and the user's paths relative to them."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from atelier.core.errors import AtelierError, did_you_mean
from atelier.core.hashing import file_digest
from atelier.core.setting_types import STYLES, WEIGHTS, is_weights_file
from atelier.core.settings import Settings

FOLDERS = (Path("data/pictures"), Path("data/weights"))
LISTS = Path("data/inputs")
# The copied networks of train.start_from, and where they came from.
START, ORIGIN = Path("data/start"), Path("data/start.json")
# Variable with the main project's folder, for stages that run in another worktree of it.
MAIN_PROJECT = "ATELIER_MAIN_PROJECT"
NETWORKS = ("generator.safetensors", "discriminator.safetensors")


def project_root() -> Path:
    """Return the main project's folder, even from within a temporary copy made by DVC.

    The project is the folder of ``params.yaml``, which may be below that of ``.dvc``. DVC sets
    ``DVC_ROOT`` to the folder of ``.dvc``; in a temporary copy, to that of the main project.
    ``ATELIER_MAIN_PROJECT`` names it for experiments that run in a worktree of their own.
    """
    if main := os.environ.get(MAIN_PROJECT):
        return Path(main)
    here = Path.cwd()
    named = os.environ.get("DVC_ROOT")
    top = _dvc_folder(here)
    if top is None:
        return Path(named) if named else here
    above = [folder for folder in (here, *here.parents) if folder.is_relative_to(top)]
    project = next((folder for folder in above if (folder / "params.yaml").is_file()), top)
    return (Path(named) if named else top) / project.relative_to(top)


def is_temporary_copy() -> bool:
    """Return whether the working directory is a copy made by ``dvc exp run --temp`` or a queue."""
    named, top = os.environ.get("DVC_ROOT"), _dvc_folder(Path.cwd())
    return bool(named and top) and Path(named or "").resolve() != (top or Path()).resolve()


def reject_lost_experiment() -> None:
    """Raise if DVC would lose the experiment of this temporary copy.

    DVC fetches the experiment from the copy with its path as a URL, in which ``%20`` means a
    space. It then finds nothing, reports nothing and removes the copy.

    Raises:
        AtelierError: the project's path contains such a sequence.
    """
    root = str(project_root())
    if is_temporary_copy() and unquote(root) != root:
        raise AtelierError(
            f"DVC cannot bring an experiment back to {root}, because a % and two digits in a path"
            " mean another character to it; rename the folder, or run without --temp and --queue."
        )


def user_path(path: str | Path) -> Path:
    """Resolve a path of the settings.

    A relative path starts at the main project's folder, even if the stage runs in a copy. If a
    linked git worktree lacks it, it starts at the same folder of the main worktree.
    """
    expanded = Path(os.path.expanduser(path))
    candidates = [root / expanded for root in project_folders()]
    return next((path for path in candidates if os.path.exists(path)), candidates[0])


def project_folders() -> Iterator[Path]:
    """Yield the main project's folder; for a linked git worktree also that of the main one."""
    root = project_root()
    yield root
    worktree = next((f for f in (root, *root.parents) if os.path.exists(f / ".git")), None)
    if worktree and (main := _main_worktree(worktree)):
        yield main / root.relative_to(worktree)


def _dvc_folder(folder: Path) -> Path | None:
    """Return the nearest folder at or above ``folder`` that holds ``.dvc``."""
    return next((f for f in (folder, *folder.parents) if (f / ".dvc").is_dir()), None)


def _main_worktree(worktree: Path) -> Path | None:
    """Return the main worktree of a linked one; ``None`` if ``worktree`` is not linked.

    In a linked worktree, ``.git`` is a file that names a folder below the main worktree's ``.git``.
    """
    try:
        pointer = (worktree / ".git").read_text("utf-8").removeprefix("gitdir:").strip()
        folder = worktree / pointer
        common = (folder / (folder / "commondir").read_text("utf-8").strip()).resolve()
    except (OSError, UnicodeDecodeError):
        return None
    return common.parent if common.name == ".git" else None


def list_path(section: str) -> Path:
    """Return the path of the list of files that a section's stage uses."""
    return LISTS / f"{section}.json"


def read_list(path: Path) -> dict[str, str]:
    """Return a list's MD5 sums by path; empty if the list is missing or damaged."""
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
    if section == "train":
        return {START / name: "" for name in NETWORKS if settings.train.start_from}
    if section != "stylize":
        return {}
    stylize = settings.stylize
    # A name in a wrong list is no missing file; a message suggests those that fit the list.
    built_in = {"generated", *STYLES, "drawn"}  # drawn: an older name of night_sky
    named: list[tuple[str, tuple[str, ...]]]
    named = [(name, ("generated", *STYLES)) for name in stylize.contents]
    named += [(name, STYLES) for name in (*stylize.styles, *stylize.style_masks)]
    files = {Path("data/pictures", name): words for name, words in named if name not in built_in}
    if stylize.weights not in WEIGHTS:
        files[Path("data/weights", stylize.weights)] = WEIGHTS
    return {file: f"{', '.join(words[:-1])} or {words[-1]}" for file, words in files.items()}


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
                if section == "train":
                    raise AtelierError(
                        f"there is no {file}, a copy of the networks of train.start_from; run"
                        " `dvc repro train`, without -s, to copy them."
                    )
                similar = did_you_mean(file.name, words.replace(" or ", ", ").split(", "))
                raise AtelierError(
                    f"there is no {file}, which params.yaml asks for under {section}; put it there,"
                    f" or choose {words}{f'{similar}?' if similar else '.'}"
                )


def hash_named(settings: Settings, section: str) -> dict[str, str]:
    """Return the MD5 sum of each file that a section names, by path.

    Raises:
        AtelierError: a file is missing.
    """
    check_files(settings, sections=(section,))
    return {
        path.as_posix(): file_digest(path, "md5") for path in sorted(files_of(settings, section))
    }


def link_named(settings: Settings, section: str) -> None:
    """Link the files that a section names, if they are missing in this copy of the project."""
    _link_missing(files_of(settings, section))


def link_all(settings: Settings, section: str) -> None:
    """Link the files that a section names; in a temporary copy, all files of both folders.

    At the end of the stage, DVC records the folders of the copy. They must equal those of the main
    project, or the project is out of date as soon as the experiment is applied.
    """
    link_named(settings, section)
    if is_temporary_copy():
        _link_missing(_files_elsewhere())


def check_named(settings: Settings, section: str) -> None:
    """Raise if a file that a section names is missing, or is not in the section's list.

    Raises:
        AtelierError: the message names the file.
    """
    check_files(settings, sections=(section,))
    if "DVC_STAGE" not in os.environ:  # a script that is run without DVC has no list
        return
    hashes = read_list(list_path(section))
    for path in files_of(settings, section):
        if path.as_posix() not in hashes:
            raise AtelierError(
                f"{list_path(section)} does not list {path}, which params.yaml names; run"
                f" `dvc repro {section}`, without -s, to list it."
            )


def _link_missing(paths: Iterable[Path]) -> None:
    """Link missing files to those of the main project, if it has them."""
    for path in paths:
        if path.exists():
            continue
        found = (folder.absolute() / path for folder in project_folders())
        source = next((file for file in found if os.path.isfile(file)), None)
        if source:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # it may be a broken link
            path.symlink_to(source)


def _files_elsewhere() -> list[Path]:
    """Return the files of both folders in the main project, as relative paths."""
    return [
        file.relative_to(root)
        for root in project_folders()
        for folder in FOLDERS
        for file in sorted((root / folder).rglob("*"))
        if file.is_file()
    ]
