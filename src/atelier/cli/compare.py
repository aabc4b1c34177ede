"""Command that writes a page which compares runs."""

from pathlib import Path
from typing import Annotated

import typer

from atelier.cli.checkout import PARAMS, require_force, size_text, write_output

_MAX_RUNS = 30  # a page of more runs would have no room for their images


def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="ids or names of runs in MLflow, DVC experiments, git revisions, or workspace",
            metavar="[RUN]...",
            show_default="the last pipelines",
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="the page", metavar="FILE")] = Path("compare.html"),
    last: Annotated[
        int, typer.Option(min=1, max=_MAX_RUNS, help="number of pipelines without RUN")
    ] = 10,
    log: Annotated[bool, typer.Option("--log", help="also log the page to MLflow")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an existing page")] = False,
) -> None:
    """Write one page with samples, curves, metrics and differing settings of runs.

    Runs that differ only in the seed become one group with mean and deviation. The first RUN, or
    the oldest pipeline, is the baseline.

    Example: atelier compare HEAD lower-lr workspace
    """
    from atelier.core import settings
    from atelier.core.errors import AtelierError, count_text
    from atelier.core.files import write_text
    from atelier.core.progress import status_line
    from atelier.tracking.compared_selection import Selection
    from atelier.tracking.environment import repository_root
    from atelier.tracking.store import quiet_environment
    from atelier.web.compare_page import build_compare_page, render_compare_page

    require_force([out], force)
    if names and len(set(names)) > _MAX_RUNS:
        raise AtelierError(
            f"{len(set(names))} runs do not fit on a page; name at most {_MAX_RUNS}."
        )
    quiet_environment()
    values, root = settings.load(PARAMS), repository_root()
    deliver_pending(root)
    with status_line() as show:
        show("Reading the runs")
        selection = Selection(root, values.tracking.experiment, values.convert.share_images)
        runs = selection.named(names) if names else selection.latest(last)
        show("Encoding the images")
        page = build_compare_page(runs, fps=values.render.fps)
        text = render_compare_page(page)
    with write_output(out):
        write_text(out, text)
    typer.echo(f"{page.verdict.headline}.")
    typer.echo(f"{out} compares {count_text(len(runs), 'run')} ({size_text(text)}).")
    if log:
        from atelier.tracking.compared_log import log_compare_page

        location = log_compare_page(root, values.tracking.experiment, out, runs, page.title)
        typer.echo(f"MLflow has it: {location.page()}")


def deliver_pending(root: Path) -> None:
    """Deliver pending entries of pipelines that have ended, so that the page has all runs."""
    from atelier.tracking.delivery_worker import flush
    from atelier.tracking.environment import private_folder
    from atelier.tracking.outbox import executions, problem
    from atelier.tracking.store import has_store

    undelivered = executions(private_folder(root)) if has_store(root) else []
    # Just after a pipeline's end, flush waits for its worker.
    if undelivered and (any(map(problem, undelivered)) or flush(root)):
        typer.echo("Some runs are not delivered to MLflow yet: `atelier sync`.", err=True)
