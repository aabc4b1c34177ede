"""Command that searches for good settings."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.cli.checkout import PARAMS, require_force, size_text, write_output

if TYPE_CHECKING:
    from atelier.search.settings import SearchSettings
    from atelier.search.study import OpenStudy

_WITHOUT_RESULT = {"RUNNING": "has not finished", "FAIL": "failed", "PRUNED": "was pruned"}
_PAGE = Path("search.html")  # replaced by each --report, which is repeated during a search


def search(
    file: Annotated[Path, typer.Argument(help="description of the study")] = Path("search.yaml"),
    *,
    worker: Annotated[
        bool, typer.Option("--worker", help="join a study that another machine has started")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="write a page about the study; run no trial")
    ] = False,
    apply: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="write a trial's searched settings to params.yaml; run no trial",
            metavar="TRIAL",
            show_default="none",
        ),
    ] = None,
    with_fixed: Annotated[
        bool, typer.Option("--with-fixed", help="with --apply: its fixed settings too")
    ] = False,
    storage: Annotated[
        str,
        typer.Option(
            envvar="ATELIER_SEARCH_STORAGE",
            help="SQLite file of the study, or address of a PostgreSQL database",
            metavar="FILE|URL",
            show_default=".atelier/search.db",
            show_envvar=True,
        ),
    ] = "",
    out: Annotated[Path, typer.Option(help="the page", metavar="FILE")] = _PAGE,
    force: Annotated[bool, typer.Option("--force", help="replace an existing page")] = False,
) -> None:
    """Search for settings with a low validation KID.

    The study is described in search.yaml. Each trial is a DVC experiment, and a pipeline run in
    MLflow below the run of the study. A search that was interrupted continues.

    Example: atelier search
    """
    from atelier.tracking.store import quiet_environment

    _reject_contradictions(worker, report, apply, with_fixed)
    if report and out != _PAGE:
        require_force([out], force)
    quiet_environment()
    is_run = not report and apply is None
    opened, root, present = _open(file, storage, is_run=is_run, worker=worker)
    if apply is not None:
        _apply(opened, apply, with_fixed)
    elif report:
        _write_report(opened, root, out)
    else:
        _run(opened, root, present, _command(file, storage))


def _open(
    file: Path, storage: str, *, is_run: bool, worker: bool
) -> "tuple[OpenStudy, Path, dict[str, Any]]":
    """Return the study, the project, and all present settings by dotted key."""
    from atelier.search.settings import load_search
    from atelier.search.study import open_study
    from atelier.tracking.environment import repository_root

    settings, present = load_search(file, PARAMS)
    root = repository_root()
    if is_run:
        _require_trials(root, settings, worker, storage, file)
    may_create = is_run and not worker
    opened = open_study(settings, present, root, storage, may_create=may_create, is_run=is_run)
    return opened, root, present


def _reject_contradictions(worker: bool, report: bool, apply: int | None, with_fixed: bool) -> None:
    from atelier.core.errors import AtelierError

    if worker + report + (apply is not None) > 1:
        raise AtelierError("--worker, --report and --apply exclude each other; give one of them.")
    if with_fixed and apply is None:
        raise AtelierError("--with-fixed belongs to --apply TRIAL.")


def _command(file: Path, storage: str) -> str:
    """Return the command of this search; a database's address stays in the environment."""
    words = ["atelier", "search"] + [str(file)] * (file != Path("search.yaml"))
    if storage and "://" not in storage and storage != os.environ.get("ATELIER_SEARCH_STORAGE"):
        words += ["--storage", storage]
    return shlex.join(words)


def _require_trials(
    root: Path, settings: "SearchSettings", worker: bool, storage: str, file: Path
) -> None:
    """Raise unless trials can run here."""
    from atelier.core.errors import AtelierError
    from atelier.search.loop import require_recorded, require_validation_images
    from atelier.tracking.experiment_remote import require_remotes

    if worker and "://" not in storage:
        raise AtelierError(
            "--worker needs the PostgreSQL database of the study; set ATELIER_SEARCH_STORAGE to its"
            " address. On one machine, type `atelier search` in a second terminal instead."
        )
    if worker and not settings.git_remote:
        raise AtelierError(
            "--worker needs git_remote in search.yaml, to which it pushes its experiments."
        )
    if settings.git_remote:
        require_remotes(root, settings.git_remote)
    require_recorded(root, file)
    require_validation_images(root, settings)


def _run(opened: "OpenStudy", root: Path, present: dict[str, Any], command: str) -> None:
    from atelier.core.progress import print_above_bars
    from atelier.search.loop import run_search

    try:
        run_search(opened, root, present, print_above_bars)
    except KeyboardInterrupt:
        typer.echo(f"The search is interrupted; type `{command}` to continue it.", err=True)
        raise typer.Exit(130) from None
    for line in _summary(opened, root, command):
        typer.echo(line)


def _summary(opened: "OpenStudy", root: Path, command: str) -> list[str]:
    """Return the best trials, and the commands that use them."""
    from atelier.search.best import best_trials, present_trial

    best = best_trials(opened.study)
    if not best:
        return ["No trial has finished."]
    count = len(opened.study.get_trials(deepcopy=False))
    objectives = opened.search.objectives
    if len(objectives) > 1:
        lines = [f"{len(best)} of {count} trials are on the Pareto front:"]
        for trial in best:
            values = zip(objectives, trial.values or (), strict=True)
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values)
            lines.append(f"  trial {trial.number}: {shown}")
    else:
        before = present_trial(opened.study)
        than = f" (present settings: {before.value:.4g})" if before and before.value else ""
        value = f"{objectives[0]} {best[0].value:.4g}{than}"
        lines = [f"Trial {best[0].number} is the best of {count}: {value}."]
    first = best[0]
    names = first.user_attrs.get("experiments", [])[:1]
    remote = opened.search.git_remote
    missing = _missing(opened, root, names)
    without = ", without the fixed ones" if opened.search.fixed else ""
    lines += [
        f"  {command} --apply {first.number}   writes its settings to params.yaml{without};"
        " dvc repro then trains with them",
        *(f"  dvc exp pull {remote} {name}   gets it from the other machine" for name in missing),
        *(f"  dvc exp apply {name}   restores the trial with its outputs" for name in names),
        f"  {command} --report   writes a page about the study",
    ]
    return lines


def _apply(opened: "OpenStudy", number: int, with_fixed: bool) -> None:
    """Write a trial's settings to ``params.yaml``."""
    from atelier.core import settings
    from atelier.core.errors import AtelierError
    from atelier.core.files import write_text
    from atelier.core.yaml_files import parse_yaml
    from atelier.search.settings import EXACT_DIGITS, value_text
    from atelier.search.study import trial_settings
    from atelier.tracking.experiment_record import changed_settings

    trials = {trial.number: trial for trial in opened.study.get_trials(deepcopy=False)}
    if number not in trials:
        raise AtelierError(
            f"the study has no trial {number}; they are numbered from 0 to {len(trials) - 1}."
        )
    changes = trial_settings(opened, trials[number])
    if with_fixed:
        changes = dict(opened.search.fixed) | changes
    text = changed_settings(PARAMS.read_text("utf-8"), changes)
    settings.check(parse_yaml(text), PARAMS.name)
    write_text(PARAMS, text)
    for key, value in changes.items():
        old, new = (value_text(each, EXACT_DIGITS) for each in (opened.present[key], value))
        typer.echo(f"{key}: {old} -> {new}")
    if missing := _WITHOUT_RESULT.get(trials[number].state.name):
        text = f"WARNING: trial {number} {missing}, so its result is not known."
        typer.echo(text, err=True)
    typer.echo("`dvc repro` trains with them; commit them before `atelier seeds 3`.")


def _write_report(opened: "OpenStudy", root: Path, out: Path) -> None:
    """Write the page about a study."""
    from atelier.core.files import write_text
    from atelier.search.report import build_report
    from atelier.search.report_page import render_report

    content = build_report(opened.study, root)
    text = render_report(content)
    with write_output(out):
        write_text(out, text)
    typer.echo(f"{out} shows the study ({size_text(text)}).")
    best = [name for one in content.best for name in one.trial.experiments]
    if missing := _missing(opened, root, best):
        typer.echo(
            "To show the samples of other machines too, type this and write the page again:\n"
            f"  dvc exp pull {opened.search.git_remote} {' '.join(missing)}"
        )


def _missing(opened: "OpenStudy", root: Path, names: list[str]) -> list[str]:
    """Return the experiments that only other machines have."""
    from atelier.tracking.experiments import experiments

    found = experiments(root, opened.commit) if opened.search.git_remote else names
    return [name for name in names if name not in found]
