"""Command that searches for good settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.cli.checkout import PARAMS, require_force, write_output

if TYPE_CHECKING:
    from atelier.search.settings import SearchSettings
    from atelier.search.study import OpenStudy


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
    out: Annotated[Path, typer.Option(help="the page", metavar="FILE")] = Path("search.html"),
    force: Annotated[bool, typer.Option("--force", help="replace an existing page")] = False,
) -> None:
    """Search for settings with a low validation KID.

    The study is described in search.yaml. Each trial is a DVC experiment, and a pipeline run in
    MLflow below the run of the study. A search that was interrupted continues.

    Example: atelier search
    """
    from atelier.search.settings import load_search
    from atelier.search.study import open_study
    from atelier.tracking.environment import repository_root
    from atelier.tracking.store import quiet_environment

    quiet_environment()
    settings, present = load_search(file, PARAMS)
    root = repository_root()
    runs_trials = not report and apply is None
    if report:
        require_force([out], force)
    may_create = runs_trials and not worker
    if runs_trials:
        _require_trials(root, settings, worker, storage)
    opened = open_study(settings, present, root, storage, may_create=may_create)
    if apply is not None:
        _apply(opened, apply, with_fixed)
    elif report:
        _write_report(opened, root, out)
    else:
        _run(opened, root, present)


def _require_trials(root: Path, settings: "SearchSettings", worker: bool, storage: str) -> None:
    """Raise unless trials can run here."""
    from atelier.core.errors import AtelierError
    from atelier.search.loop import require_recorded

    if worker and "://" not in storage:
        raise AtelierError(
            "--worker needs the PostgreSQL database of the study; set ATELIER_SEARCH_STORAGE to its"
            " address. On one machine, type `atelier search` in a second terminal instead."
        )
    if worker and not settings.git_remote:
        raise AtelierError(
            "--worker needs git_remote in search.yaml, to which it pushes its experiments."
        )
    require_recorded(root)


def _run(opened: "OpenStudy", root: Path, present: dict[str, Any]) -> None:
    from atelier.search.loop import run_search

    try:
        run_search(opened, root, present, typer.echo)
    except KeyboardInterrupt:
        typer.echo("The search is interrupted; type `atelier search` to continue it.", err=True)
        raise typer.Exit(130) from None
    for line in _summary(opened):
        typer.echo(line)


def _summary(opened: "OpenStudy") -> list[str]:
    """Return the best trials, and the commands that use them."""
    from atelier.search.loop import best_trials, present_trial

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
        lines = [f"Trial {best[0].number} of {count} is the best: {value}."]
    first = best[0]
    names = first.user_attrs.get("experiments", [])
    lines += [
        f"  atelier search --apply {first.number}   writes its settings to params.yaml; dvc repro"
        " then trains with them",
        *(f"  dvc exp apply {name}   restores the trial with its outputs" for name in names[:1]),
        "  atelier search --report   writes a page about the study",
    ]
    return lines


def _apply(opened: "OpenStudy", number: int, with_fixed: bool) -> None:
    """Write a trial's settings to ``params.yaml``."""
    from atelier.core import settings
    from atelier.core.errors import AtelierError
    from atelier.core.files import write_text
    from atelier.core.yaml_files import parse_yaml
    from atelier.search.study import trial_settings
    from atelier.tracking.experiment_record import changed_settings

    trials = {trial.number: trial for trial in opened.study.get_trials(deepcopy=False)}
    if number not in trials:
        raise AtelierError(f"the study has no trial {number}; it has {len(trials)} trials.")
    changes = trial_settings(opened, trials[number])
    if with_fixed:
        changes = dict(opened.search.fixed) | changes
    text = changed_settings(Path(), changes)
    settings.check(parse_yaml(text), PARAMS.name)
    write_text(PARAMS, text)
    for key, value in changes.items():
        typer.echo(f"{key}: {opened.present[key]} -> {value}")


def _write_report(opened: "OpenStudy", root: Path, out: Path) -> None:
    """Write the page about a study."""
    from atelier.core.files import write_text
    from atelier.search.report import build_report
    from atelier.search.report_page import render_report

    text = render_report(build_report(opened.study, root))
    with write_output(out):
        write_text(out, text)
    typer.echo(f"{out} shows the study ({len(text.encode()) / 1e6:.1f} MB).")
