"""Commands about MLflow runs: deliver pending entries, find a file's run, remove old runs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.cli.checkout import PARAMS
from atelier.core.errors import AtelierError, count_text

if TYPE_CHECKING:
    from atelier.tracking.outbox import Pending, Unwritten


def sync(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="also end executions of other hosts that show no activity")
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", help="deliver entries for another store to this store")
    ] = False,
) -> None:
    """Deliver pending entries to MLflow, and report waiting and rejected ones.

    Example: atelier sync --all
    """
    from atelier.tracking import rejected
    from atelier.tracking.delivery_worker import DeliveryCount, flush, outcome_problem
    from atelier.tracking.environment import repository_root
    from atelier.tracking.outbox import pending, unwritten
    from atelier.tracking.store import (
        SchemaError,
        existing_store,
        quiet_environment,
        short_message,
    )

    quiet_environment()
    root, tally = repository_root(), DeliveryCount()
    interrupted = False
    try:
        flush(root, everything, here, tally, lambda message: typer.echo(message, err=True))
    except KeyboardInterrupt:
        interrupted = True
    rejections = rejected.read(root)
    rejected.unreported_rejections(root)  # reported here, so the next stage does not repeat them
    waiting, outcomes = pending(root), unwritten(root)
    counts = f"{count_text(tally.delivered, 'entry', 'entries')} delivered"
    if waiting or outcomes or interrupted:
        text = _pending_text(waiting, outcomes, interrupted, tally.busy)
        raise AtelierError(f"{counts}, {text}{_rejected_text(rejections)}.")
    try:
        existing_store(root)  # also updates the paths of a project that was moved
    except SchemaError:
        raise
    except Exception as error:  # any error of MLflow
        raise AtelierError(f"MLflow does not respond: {short_message(error)}") from None
    if outcome_problem(root).exists():
        reason = outcome_problem(root).read_text("utf-8").strip()
        typer.echo(f"The outcome of a pipeline could not be read: {reason}")
        outcome_problem(root).unlink()
        typer.echo(f"{counts}, 0 waiting{_rejected_text(rejections)}.")
    elif rejections:
        typer.echo(f"{counts}, 0 waiting{_rejected_text(rejections)}.")
    else:
        typer.echo(f"{counts}, 0 waiting, 0 rejected.\nEverything is delivered to MLflow.")


def _pending_text(
    waiting: "list[Pending]", outcomes: "list[Unwritten]", interrupted: bool, busy: bool
) -> str:
    """Return how many entries of which stages wait, where and why."""
    stages = dict.fromkeys(each.stage for each in waiting)
    of = f" (of {', '.join(stages)})" if stages else ""
    ends = ""
    if outcomes:
        plural = "s" * (len(outcomes) > 1)
        ends = f" and the outcome{plural} of {count_text(len(outcomes), 'pipeline')}"
    all_reasons = [*(each.reason for each in waiting), *(each.reason for each in outcomes)]
    reasons = [reason for reason in all_reasons if reason]
    if interrupted:
        cause = "interrupted"
    elif reasons:
        cause = reasons[0].rstrip(".")
    elif busy:
        cause = "another process is delivering them; run `atelier sync` again to wait for it"
    elif outcomes and not waiting:
        cause = (
            "the outcome of a pipeline is not recorded yet; it is still running, or it ran on"
            " another host, for which `atelier sync --all` records it at once"
        )
    else:
        cause = (
            "the stages are still running, here or on another host; `atelier sync --all` ends"
            " those of other hosts that have stopped"
        )
    number = sum(each.entries for each in waiting)
    return f"{number} waiting in .atelier/journal{of}{ends}: {cause}"


def _rejected_text(rejections: list[dict[str, Any]]) -> str:
    """Return how many entries were rejected, and where they are listed."""
    if not rejections:
        return "; 0 rejected"
    reason = str(rejections[-1].get("reason", "")).split("\n", 1)[0][:160].rstrip(".")
    return (
        f"; {len(rejections)} rejected in .atelier/refused.jsonl with their reasons (the last:"
        f" {reason}); delete that file once you have read it"
    )


def gc(
    *,
    best: Annotated[
        int, typer.Option(min=0, help="number of runs with the lowest KID to keep")
    ] = 1,
    days: Annotated[float, typer.Option(min=0, help="days to keep checkpoints")] = 30,
    min_age: Annotated[
        float | None,
        typer.Option(
            min=0, help="days to keep every run", show_default="7 on a server, otherwise 0"
        ),
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="on a server, include runs of other users and clones")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="remove them instead of listing them")] = False,
) -> None:
    """List old runs and files that can be removed; with --yes remove them.

    Example: atelier gc --best 3 --min-age 7
    """
    from atelier.core import settings
    from atelier.core.progress import status_line
    from atelier.tracking.environment import repository_root
    from atelier.tracking.gc import apply, is_elsewhere, plan, size
    from atelier.tracking.run_state import FINISHED
    from atelier.tracking.store import quiet_environment

    quiet_environment()
    root, experiment = repository_root(), settings.load(PARAMS).tracking.experiment
    with status_line() as show:
        show("Opening the store")
        found = plan(root, experiment, best, days, min_age, everyone, show=show)
    for execution, reasons in found.keep.items():
        typer.echo(f"stays: {execution}: {', '.join(reasons)}")
    for execution in found.remove:
        typer.echo(f"goes:  {execution}")
    if found.cached:
        typer.echo(f"goes:  {len(found.cached)} files of DVC's cache, {size(found.cached)}")
    for folder in found.stale:
        stage = folder.name.lstrip(".").partition("-")[0]
        kind = "finished" if folder.parent.name == FINISHED else "unfinished"
        typer.echo(f"goes:  {kind} work of {stage}, untouched for {days:g} days, {size([folder])}")
    if not found:
        typer.echo("There is nothing to remove.")
    elif not yes:
        typer.echo("Nothing is removed yet; to remove it, type: atelier gc --yes")
    else:
        with status_line() as show:
            apply(root, experiment, found, show=show)
        trash = " The server keeps the runs in its trash, which its owner empties with `mlflow gc`."
        typer.echo("Removed." + (trash if found.remove and is_elsewhere() else ""))


def lineage(
    target: Annotated[
        str, typer.Argument(help="a stage's output or a file in it, or a hash", metavar="PATH|HASH")
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="all settings and hashes")] = False,
) -> None:
    """Show which run made a file, with its settings, its commit and the runs of its inputs.

    Example: atelier lineage models/generator.safetensors
    """
    from atelier.tracking import lineage
    from atelier.tracking.delivery_worker import flush
    from atelier.tracking.environment import private_folder, repository_root
    from atelier.tracking.outbox import executions, problem
    from atelier.tracking.store import existing_store, quiet_environment, short_message

    quiet_environment()
    root = repository_root()
    try:
        undelivered = executions(private_folder(root))
        # Just after a pipeline's end, flush waits for its worker.
        if undelivered and (any(map(problem, undelivered)) or flush(root)):
            typer.echo("Some runs are not delivered to MLflow yet: `atelier sync`.", err=True)
        origin = lineage.find_lineage(target, existing_store(root))
    except AtelierError:
        raise
    except Exception as error:  # any error of MLflow
        reason = short_message(error)
        typer.echo(f"MLflow does not respond ({reason}); only git is searched.", err=True)
        origin = lineage.find_lineage(target, None)
    typer.echo(origin.as_json() if as_json else "\n".join(origin.as_text()))
