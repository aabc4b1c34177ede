"""Commands about the runs that MLflow keeps."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from atelier.cli.checkout import PARAMS
from atelier.core.errors import AtelierError
from atelier.tracking.redact import count_text

if TYPE_CHECKING:
    from atelier.tracking.outbox import Pending, Unwritten


def sync(
    everything: Annotated[
        bool, typer.Option("--all", help="end executions of other hosts that stopped silently")
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", help="deliver to this store what another was meant for")
    ] = False,
) -> None:
    """Deliver to MLflow what earlier runs could not, and say what waits or was rejected."""
    from atelier.tracking import rejected
    from atelier.tracking.environment import repository_root
    from atelier.tracking.outbox import pending, unwritten
    from atelier.tracking.store import existing_store, quiet_environment, short_message
    from atelier.tracking.worker import DeliveryCount, flush, outcome_problem

    quiet_environment()
    root, tally = repository_root(), DeliveryCount()
    interrupted = False
    try:
        flush(root, everything, here, tally, lambda message: typer.echo(message, err=True))
    except KeyboardInterrupt:
        interrupted = True
    lines = rejected.read(root)
    rejected.unreported_rejections(root)  # said now, so the next stage need not
    left, unread = pending(root), unwritten(root)
    counts = f"{count_text(tally.delivered, 'entry', 'entries')} delivered"
    if left or unread or interrupted:
        raise AtelierError(
            f"{counts}, {_pending_text(left, unread, interrupted, tally.busy)}{_rejected(lines)}."
        )
    try:
        existing_store(root)  # which also follows a project that was moved
    except Exception as error:  # whatever MLflow raises where it cannot be asked
        raise AtelierError(f"MLflow cannot be asked: {short_message(error)}") from None
    if outcome_problem(root).exists():
        reason = outcome_problem(root).read_text("utf-8").strip()
        typer.echo(f"The end of a pipeline could not be read: {reason}")
        outcome_problem(root).unlink()
        typer.echo(f"{counts}, 0 waiting{_rejected(lines)}.")
    elif lines:
        typer.echo(f"{counts}, 0 waiting{_rejected(lines)}.")
    else:
        typer.echo(f"{counts}, 0 waiting, 0 rejected.\nEverything is delivered to MLflow.")


def _pending_text(
    left: "list[Pending]", unread: "list[Unwritten]", interrupted: bool, busy: bool
) -> str:
    """Return how many entries wait, of which stages, where and why."""
    stages = dict.fromkeys(each.stage for each in left)
    of = f" (of {', '.join(stages)})" if stages else ""
    ends = ""
    if unread:
        ends = f" and the end{'s' * (len(unread) > 1)} of {count_text(len(unread), 'pipeline')}"
    given = [*(each.reason for each in left), *(each.reason for each in unread)]
    reasons = [reason for reason in given if reason]
    if interrupted:
        because = "interrupted"
    elif reasons:
        because = reasons[0].rstrip(".")
    elif busy:
        because = "another process is delivering them; `atelier sync` waits for it once more"
    elif unread and not left:
        because = (
            "the end of a pipeline is not recorded yet; it still runs, or ran on another host,"
            " for which `atelier sync --all` does it at once"
        )
    else:
        because = (
            "the stages are still running, here or on another host; `atelier sync --all` ends"
            " those of other hosts that have stopped"
        )
    number = sum(each.entries for each in left)
    return f"{number} waiting in .atelier/journal{of}{ends}: {because}"


def _rejected(lines: list[dict[str, Any]]) -> str:
    """Return how many entries were rejected, and where they are."""
    if not lines:
        return "; 0 rejected"
    reason = str(lines[-1].get("reason", "")).split("\n", 1)[0][:160].rstrip(".")
    return (
        f"; {len(lines)} rejected in .atelier/refused.jsonl with their reasons (the last:"
        f" {reason}); delete that file once you have read it"
    )


def gc(
    best: Annotated[int, typer.Option(min=0, help="how many stay for their low evaluate.kid")] = 1,
    days: Annotated[float, typer.Option(min=0, help="how long unfinished work is kept")] = 30,
    min_age: Annotated[
        float | None,
        typer.Option(min=0, help="days for lineage every run stays; on a server 7, else 0"),
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="on a server, also the runs of other users and clones")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="remove, and not only say what")] = False,
) -> None:
    """Say which old runs and files would go, or with --yes remove them."""
    from atelier.core import settings
    from atelier.tracking.environment import repository_root
    from atelier.tracking.gc import apply, is_elsewhere, plan, size
    from atelier.tracking.store import quiet_environment

    quiet_environment()
    root, experiment = repository_root(), settings.load(PARAMS).tracking.experiment
    found = plan(root, experiment, best, days, min_age, everyone)
    for execution, reasons in found.keep.items():
        typer.echo(f"stays: {execution}: {', '.join(reasons)}")
    for execution in found.remove:
        typer.echo(f"goes:  {execution}")
    if found.cached:
        typer.echo(f"goes:  {len(found.cached)} files of DVC's cache, {size(found.cached)}")
    for folder in found.stale:
        work = folder.name.lstrip(".").partition("-")[0]
        typer.echo(
            f"goes:  unfinished work of {work}, untouched for {days:g} days, {size([folder])}"
        )
    if not found:
        typer.echo("There is nothing to remove.")
    elif not yes:
        typer.echo("Nothing is removed yet; to remove it, type: atelier prune --yes")
    else:
        apply(root, experiment, found)
        trash = " The runs lie in the server's trash, which its keeper empties with `mlflow gc`."
        typer.echo("Removed." + (trash if found.remove and is_elsewhere() else ""))


def lineage(
    wanted: Annotated[str, typer.Argument(help="a path that a stage makes, or a hash")],
    as_json: Annotated[bool, typer.Option("--json", help="all settings and hashes")] = False,
) -> None:
    """Say which run made a file: with which settings, from which commit and which other runs."""
    from atelier.tracking import lineage
    from atelier.tracking.environment import private_folder, repository_root
    from atelier.tracking.outbox import executions, problem
    from atelier.tracking.store import existing_store, quiet_environment, short_message
    from atelier.tracking.worker import flush

    quiet_environment()
    root = repository_root()
    try:
        left_over = executions(private_folder(root))
        # Just after a pipeline's end this waits for the end of its delivery.
        if left_over and (any(map(problem, left_over)) or flush(root)):
            typer.echo("Some runs are not delivered to MLflow yet: `atelier sync`.", err=True)
        origin = lineage.find_lineage(wanted, existing_store(root))
    except AtelierError:
        raise
    except Exception as error:  # whatever MLflow raises where it cannot be asked
        typer.echo(f"MLflow cannot be asked ({short_message(error)}); git alone answers.", err=True)
        origin = lineage.find_lineage(wanted, None)
    typer.echo(origin.as_json() if as_json else "\n".join(origin.as_text()))
