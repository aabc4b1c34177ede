"""Command that repeats the present settings with several seeds."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.cli.checkout import PARAMS, require_force, write_output
from atelier.core.errors import AtelierError, count_text
from atelier.search.seeds import MAX_SEEDS, SeedPlan, Target

if TYPE_CHECKING:
    from atelier.core.settings import Settings
    from atelier.tracking.compared_run import ComparedRun
    from atelier.tracking.experiment_run import Progress

_PAGE = Path("seeds.html")
_MAX_FILES = 5  # named in a message
_OF_TRAINING = {"validation_kid"}  # metrics that need no evaluate stage


def seeds(
    count: Annotated[
        int, typer.Argument(min=1, max=MAX_SEEDS, help="number of seeds", metavar="N")
    ],
    *,
    stages: Annotated[
        Target, typer.Option(help="last stage: train | evaluate | report", metavar="STAGE")
    ] = "evaluate",
    out: Annotated[
        Path, typer.Option(help="the page, which replaces an earlier seeds.html", metavar="FILE")
    ] = _PAGE,
    force: Annotated[bool, typer.Option("--force", help="replace another existing FILE")] = False,
) -> None:
    """Train the present settings with N seeds; report mean, deviation and the images of each.

    Each seed is a DVC experiment; the workspace does not change. A repeated command resumes an
    interrupted training, and trains only seeds that are missing.

    Example: atelier seeds 5
    """
    from atelier.core import settings
    from atelier.search.seeds import plan_seeds
    from atelier.tracking.environment import repository_root
    from atelier.tracking.store import quiet_environment

    _require_writable(out, force)
    quiet_environment()
    values, root = settings.load(PARAMS), repository_root()
    plan = plan_seeds(root, count, stages)
    typer.echo(_introduction(plan, values))
    failures = _train(root, plan)
    failures |= _report(root, plan, out, values.render.fps)
    if failures:
        raise AtelierError(_failures_text(failures))


def _require_writable(out: Path, force: bool) -> None:
    """Raise before the first training if the page could not be written after the last one."""
    if out != _PAGE:  # the page can be written again at any time, from the experiments
        require_force([out], force)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise AtelierError(f"{out} is a folder, or its folder does not exist; choose another FILE.")


def _introduction(plan: SeedPlan, values: "Settings") -> str:
    """Return what differs between the experiments, and what they have in common."""
    lines = [
        f"Experiments {plan.name}-seed-*, up to the stage {plan.target}:"
        f" train.seed {', '.join(map(str, plan.seeds))}."
    ]
    fixed = [f"evaluate.seed {values.evaluate.seed}"] if plan.target != "train" else []
    fixed += [f"stylize.seed {values.stylize.seed}"] if plan.target == "report" else []
    if fixed:
        lines.append(f"All have {' and '.join(fixed)}: the deviation is that of the training.")
    if plan.changed_files:
        named = list(plan.changed_files[:_MAX_FILES])
        if more := len(plan.changed_files) - len(named):
            named.append(f"{more} more")
        lines.append(f"They contain your uncommitted changes of {', '.join(named)}.")
    return "\n".join(lines)


def _train(root: Path, plan: SeedPlan) -> dict[int, str]:
    """Run the experiments that are missing; return the reasons of failed ones by seed.

    Raises:
        AtelierError: the user stopped a training, or changed settings or code.
    """
    from atelier.core.progress import duration_text
    from atelier.search.seeds import exclusive, finished_seeds
    from atelier.tracking.cached_folders import require_cached_folders

    failures: dict[int, str] = {}
    durations: list[float] = []
    with exclusive(root, plan) as lock:
        done = finished_seeds(root, plan)
        missing = [seed for seed in plan.seeds if seed not in done]
        if missing:
            require_cached_folders(root)
        if done:
            typer.echo(f"Finished earlier: {_seeds_text(done)}.")
        for number, seed in enumerate(missing, start=1):
            start = time.monotonic()
            trained, reason = _run(root, plan, seed, lock)
            seconds = time.monotonic() - start
            if reason:
                failures[seed] = reason
                typer.echo(f"Seed {seed} failed after {duration_text(seconds)}: {reason}", err=True)
                continue
            durations += [seconds] if trained else []
            how = f"trained in {duration_text(seconds)}" if trained else "restored by DVC"
            rest = len(missing) - number
            left = ""
            if durations and rest:
                left = duration_text(rest * sum(durations) / len(durations))
                left = f" About {left} left for {count_text(rest, 'more seed')}."
            typer.echo(f"Seed {seed} {how}.{left}")
    return failures


def _run(root: Path, plan: SeedPlan, seed: int, lock: int) -> tuple[bool, str]:
    """Run one experiment; return True if it was trained now, and the reason if it failed.

    Raises:
        AtelierError: the user stopped the training, or changed settings or code.
    """
    from atelier.core.progress import status_line
    from atelier.search.seeds import run_seed

    with status_line() as show:

        def observe(progress: "Progress") -> bool:
            show(f"Training seed {seed}: {progress}".removesuffix(": "))
            return True

        try:
            outcome = run_seed(root, plan, seed, lock, observe)
        except KeyboardInterrupt:
            outcome = None
    if outcome is None or outcome.status == "stopped":
        raise AtelierError(
            f"seed {seed} was stopped, and its training is saved; to resume it, repeat"
            f" `atelier seeds {len(plan.seeds)}` with the same options."
        )
    return outcome.seconds > 0, outcome.reason


def _report(root: Path, plan: SeedPlan, out: Path, fps: float) -> dict[int, str]:
    """Print the table of metrics, and write the page.

    Returns:
        Sentences on finished experiments whose results are missing, by seed.
    """
    from atelier.cli.compare import deliver_pending
    from atelier.cli.seeds_report import read_seeds, seeds_page, seeds_table
    from atelier.core.files import write_text
    from atelier.core.progress import status_line
    from atelier.search.seeds import finished_seeds
    from atelier.web.compare_page import render_compare_page

    commits = finished_seeds(root, plan)
    if not commits:
        return {}
    deliver_pending(root)
    with status_line() as show:
        show("Reading the experiments")
        runs = read_seeds(root, plan, commits)
        show("Encoding the images")
        text = render_compare_page(seeds_page(runs, plan, fps))
    with write_output(out):
        write_text(out, text)
    table = seeds_table(runs)
    typer.echo("\n".join(["", *table, ""]) if table else "No metric was measured.")
    if len(runs) == 1:
        typer.echo("One seed has no deviation; `atelier seeds 3` adds two more seeds.")
    typer.echo(f"{out} shows the images of {count_text(len(runs), 'seed')}.")
    return _missing_results(runs, plan)


def _missing_results(runs: "Sequence[ComparedRun]", plan: SeedPlan) -> dict[int, str]:
    """Return sentences on experiments that lack samples or, after evaluate, metrics, by seed."""
    return {
        int(run.seed): f"results of {run.experiment} are not in DVC's cache"
        f" ({', '.join(run.notes)}); type `dvc exp remove {run.experiment}`, and repeat the command"
        for run in runs
        if not run.samples or (plan.target != "train" and run.metrics.keys() <= _OF_TRAINING)
    }


def _failures_text(failures: dict[int, str]) -> str:
    """Return a sentence for each reason, with its seeds."""
    seeds: dict[str, list[int]] = {}
    for seed, reason in failures.items():
        seeds.setdefault(reason.rstrip("."), []).append(seed)
    return " ".join(f"{_seeds_text(each)} failed: {reason}." for reason, each in seeds.items())


def _seeds_text(seeds: Iterable[int]) -> str:
    numbers = [str(seed) for seed in seeds]
    return f"seed{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
