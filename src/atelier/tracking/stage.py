"""Execution of a stage script: settings, logging, resuming, errors and exit codes."""

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from atelier.core import settings as settings_module
from atelier.core.errors import (
    AtelierError,
    PeerLostError,
    count_text,
    is_out_of_memory,
    os_error_message,
)
from atelier.core.paths import check_named, link_named, reject_lost_experiment
from atelier.core.progress import observed_progress
from atelier.core.settings import Settings
from atelier.core.torchrun import rank, runs_under_torchrun, torchrun
from atelier.tracking import preflight, rejected, run_state
from atelier.tracking.environment import (
    Process,
    dvc_process,
    experiment_tags,
    git_tags,
    machine_tags,
    owner_tags,
    private_folder,
    repository_root,
    sampling,
    uncommitted,
)
from atelier.tracking.finished import RepetitionInterrupt, clear_recorded, is_recorded
from atelier.tracking.live_page import PageWriter
from atelier.tracking.live_state import LiveState, StageState
from atelier.tracking.outbox import Outbox, pending, problem, record_start
from atelier.tracking.redact import flat, redact, redact_urls
from atelier.tracking.results import LAST_STAGE, print_results
from atelier.tracking.run import Run
from atelier.tracking.run_state import (
    STOP_SIGNALS,
    Fingerprint,
    ResumeDir,
    handled_signals,
)
from atelier.tracking.timings import Stopwatch
from atelier.tracking.titles import Title


def restore_outputs(stage: str) -> None:
    """Restore a stage's outputs from DVC's cache, as ``dvc.lock`` records them.

    DVC deletes a stage's outputs before it runs the stage, and a stage that fails may have replaced
    some of them. Outputs that the cache does not contain are not changed.
    """
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # missing outputs are expected here
    with Repo(str(Path.cwd())) as repo:
        for output in repo.stage.load_one(name=stage).outs:
            if output.hash_info and not output.changed_cache():
                output.checkout(force=True)


_INTERRUPTED = 130
_ERROR = "ERROR: "
_GENERATED = "generated"  # in stylize.contents
_LONG_STAGES = ("train", "stylize")
# The settings of each stage that use most of the memory.
_MEMORY_SETTINGS = {
    "convert": "convert.max_megapixels or runtime.workers",
    "train": "train.batch_size, or the networks' train.generator_channels",
    "evaluate": "evaluate.samples",
    "render": "render.tile_pixels",
    "stylize": "stylize.image_size or stylize.generated_count",
}


def run_stage(
    name: str,
    main: Callable[[Settings, Run], None],
    logged: bool = True,
    parallel: bool = False,
    prepare: Callable[[Settings], None] | None = None,
) -> NoReturn:
    """Run a stage's ``main`` with checked settings and a run to log to; then exit.

    A user's mistake, a full disk and an interruption print one sentence and exit with a code other
    than 0. A bug keeps its traceback. In each case the previous outputs are restored.

    Args:
        name: name of the stage.
        main: computes the outputs.
        logged: log the stage to MLflow.
        parallel: allow ``runtime.launcher`` to start several processes.
        prepare: changes the stage's dependencies before their fingerprint is captured.
    """
    if rank() > 0:
        sys.exit(_run_other_rank(name, main))
    for stop in handled_signals():
        signal.signal(stop, signal.default_int_handler)
    stopwatch = Stopwatch()
    try:
        preflight.check()
        _prepare(name, prepare)
        before = run_state.capture(name)
        settings = settings_module.load()
        code = 0
        if parallel and not runs_under_torchrun() and settings.runtime.launcher != "python":
            code = _launch(name, settings.runtime.launcher)
        else:
            with _run(name, settings, before, logged and settings.tracking.enabled) as run:
                resumed = run.is_resumed()
                main(settings, run)
                run_state.verify_unchanged(before, name)
                resumed |= run.is_extended
                stopwatch.record(name, before, settings.runtime.device, resumed)
    except BaseException as error:  # any failure restores the outputs
        for stop in STOP_SIGNALS:  # restoring takes a second and must not be interrupted
            signal.signal(stop, signal.SIG_IGN)
        code = _report(error, name)
        _restore(_stage_in_dvc(name))
    if name == LAST_STAGE and not code:
        with suppress(OSError):  # the stage is done and must not fail
            print_results()
    sys.exit(code)


def _prepare(name: str, prepare: Callable[[Settings], None] | None) -> None:
    """Link and check the stage's dependencies, before their fingerprint is captured."""
    settings = settings_module.load()
    reject_lost_experiment()
    link_named(settings, name)
    check_named(settings, name)
    if prepare:
        prepare(settings)


def _launch(name: str, launcher: str) -> int:
    """Run this script in several processes; rank 0 runs the stage as a single process would."""
    _, *options = launcher.split()
    code = torchrun(options, Path(sys.argv[0]))
    if code:
        _restore(_stage_in_dvc(name))  # the process may have been killed before it restored them
    return code


def _run_other_rank(name: str, main: Callable[[Settings, Run], None]) -> int:
    """Run ``main`` in a process other than rank 0, without logging; return the exit code."""
    for stop in STOP_SIGNALS:
        # Rank 0 saves a checkpoint before it exits, and needs this process until then.
        signal.signal(stop, signal.SIG_IGN)
    try:
        main(settings_module.load(), Run(None))
    except PeerLostError:
        return 1
    except Exception as error:
        return _report(error, name)
    return 0


def _report(error: BaseException, stage: str) -> int:
    """Print the message for an error, and return the exit code."""
    code, message = _exit_code_and_message(error, stage)
    print(message, file=sys.stderr, flush=True)
    return code


def _exit_code_and_message(error: BaseException, stage: str) -> tuple[int, str]:
    """Return the exit code and the message for an error."""
    if isinstance(error, AtelierError):
        return 1, f"{_ERROR}{error}"
    if isinstance(error, KeyboardInterrupt):
        what = "resumes it" if str(error) else "restarts it"
        is_experiment = "DVC_EXP_NAME" in os.environ
        repeated = f"`dvc repro -f -s {stage}`"
        repro = repeated if isinstance(error, RepetitionInterrupt) else "`dvc repro`"
        command = "the same `dvc exp run` command" if is_experiment else repro
        return _INTERRUPTED, f"{_ERROR}interrupted before the stage was done; {command} {what}."
    if isinstance(error, OSError) and (message := os_error_message(error)):
        return 1, f"{_ERROR}{message}"
    if "No space left" in str(error):  # libraries raise their own errors with these words
        return 1, f"{_ERROR}the disk is full; free some space (`dvc gc --workspace`) and run again."
    if is_out_of_memory(error):
        smaller = _MEMORY_SETTINGS.get(stage, "runtime.workers")
        return 1, f"{_ERROR}the memory is too small for {stage}; make {smaller} smaller."
    return 1, "".join(traceback.format_exception(error))


def _stage_in_dvc(name: str) -> str:
    """Return the stage's name, without the path that DVC may put before it."""
    return os.environ.get("DVC_STAGE", name).rpartition(":")[2]


def _restore(name: str) -> None:
    try:
        restore_outputs(name)
    except Exception as error:  # the first error was reported; this one must not replace it
        print(
            f"The previous outputs could not be restored ({type(error).__name__}); try"
            " `dvc checkout`.",
            file=sys.stderr,
        )


@contextmanager
def _run(name: str, settings: Settings, before: Fingerprint | None, logged: bool) -> Iterator[Run]:
    """Open a run, log its final status, and wait for its delivery up to the timeout."""
    pipeline, private = dvc_process(), private_folder(repository_root())
    clear_recorded(private)
    resume_dir = ResumeDir(private, name, before, settings.runtime.device, pipeline)
    outbox = _open_outbox(name, settings, pipeline, resume_dir.first_outbox()) if logged else None
    live = _open_live_state(name, settings, pipeline, private)
    on_progress = live.on_progress if live else lambda *_: None
    run = Run(outbox, resume_dir, live)
    try:
        with (
            sampling(run.log_system) if outbox else nullcontext(),
            observed_progress(on_progress),
        ):
            yield run
    except BaseException as raised:
        error = _with_saved_work(raised, run, is_recorded(name, before))
        with suppress(Exception):  # must not replace the first error
            _end_live_state(live, error, name)
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        if outbox:
            with suppress(Exception):  # must not replace the first error
                _warn_about_pending(repository_root(), outbox.folder, waited=False)
        if error is raised:
            raise
        raise error from raised
    # The stage is finished: a stop must not undo it. Only the wait for the delivery can be stopped.
    stops = handled_signals()
    _ignore(stops)
    resume_dir.mark_finished()
    if live:
        live.end("finished")
    run.end("FINISHED")
    if outbox and pipeline:
        seconds = settings.tracking.delivery_timeout_seconds
        with _interruptible(stops):
            _wait_for_delivery(repository_root(), outbox.folder, seconds)
    elif outbox:
        # A stage that was started without dvc does not wait; its worker continues alone.
        with suppress(OSError):
            _warn_about_pending(repository_root(), outbox.folder, waited=False)


def _with_saved_work(error: BaseException, run: Run, is_repetition: bool) -> BaseException:
    """Return an interruption that reports the checkpoint of an earlier attempt, if there is one.

    A stage that is interrupted before its first step saves none of its own.
    """
    if not isinstance(error, KeyboardInterrupt):
        return error
    is_saved = bool(str(error)) or run.is_resumed()
    return (RepetitionInterrupt if is_repetition else KeyboardInterrupt)(
        "saved" if is_saved else ""
    )


def _ignore(stops: Iterable[signal.Signals]) -> None:
    for stop in stops:
        signal.signal(stop, signal.SIG_IGN)


@contextmanager
def _interruptible(stops: Iterable[signal.Signals]) -> Iterator[None]:
    """Let signals end the body, which ignores them before and after it."""
    with suppress(KeyboardInterrupt):
        try:
            for stop in stops:
                signal.signal(stop, signal.default_int_handler)
            yield
        finally:
            _ignore(stops)


def _open_live_state(
    name: str, settings: Settings, pipeline: Process | None, private: Path
) -> LiveState | None:
    """Start the files that the live page shows; ``None`` after an error."""

    def title() -> str:
        described = Title.of(settings, Path("presets"))
        return described.run_name(experiment=os.environ.get("DVC_EXP_NAME", ""))

    try:
        is_long = pipeline is not None and name in _LONG_STAGES
        handled = handled_signals()
        start = StageState(
            stage=name,
            process=Process.of(os.getpid()).key,
            pipeline=pipeline.key if pipeline else "",
            signal=handled[0] if handled else signal.SIGTERM,
            experiment=os.environ.get("DVC_EXP_NAME", ""),
            title=title() if is_long else "",
            started=time.time(),
            updated=time.time(),
            images_per_unit=settings.train.batch_size if name == "train" else 0,
        )
        is_generated = set(settings.stylize.contents) == {_GENERATED}
        shown = settings.shares_images or is_generated
        page = PageWriter(is_early=is_long)
        return LiveState(private, start, title, page, shows_stylized=shown)
    except Exception as error:  # the page must not fail the stage
        print(f"WARNING: the live page does not show this stage ({error}).", file=sys.stderr)
        return None


def _end_live_state(live: LiveState | None, error: BaseException, stage: str) -> None:
    """Write how a stage ended that did not finish."""
    if live is None:
        return
    if isinstance(error, KeyboardInterrupt):
        live.end("interrupted", is_saved=bool(str(error)))
        return
    _, message = _exit_code_and_message(error, stage)
    is_sentence = message.startswith(_ERROR)
    bug = "This is an error of the program; the terminal shows its traceback."
    live.end("failed", message.removeprefix(_ERROR) if is_sentence else bug)


def _open_outbox(
    name: str, settings: Settings, pipeline: Process | None, continues: str
) -> Outbox | None:
    """Open an outbox and start its delivery; ``None`` if the run cannot be logged."""
    root = repository_root()
    process = pipeline or Process.of(os.getpid())
    parameters = {key: redact_urls(value) for key, value in flat(settings.model_dump()).items()}
    try:
        start: dict[str, Any] = {
            "experiment": settings.tracking.experiment,
            "pipeline": _pipeline_name() if pipeline else "",
            "workspace": str(Path.cwd().resolve()),
            "root": str(root.resolve()),
            "parameters": parameters,
            "title": Title.of(settings, Path("presets")).as_json(),
            "tags": git_tags()
            | experiment_tags()
            | machine_tags()
            | owner_tags(root)
            | {"mlflow.source.name": f"stages/{name}.py"},
        }
        outbox = Outbox(private_folder(root), process, name, continues=continues, **start)
        if pipeline:
            record_start(outbox.folder.parent, start)
        settings_text = redact(Path("params.yaml").read_text("utf-8"))
        outbox.write("text", name="settings.yaml", text=settings_text, own=True)
        patch = uncommitted()
        if patch:
            outbox.write("text", name="uncommitted.patch", text=patch)
        _start_worker(root, process)
    except Exception as error:  # logging must not fail the stage
        print(
            f"WARNING: this run is not logged ({error}); its results are not affected.",
            file=sys.stderr,
        )
        return None
    return outbox


def _pipeline_name() -> str:
    """Return the name of a pipeline's run until its title is known."""
    return os.environ.get("DVC_EXP_NAME") or f"{datetime.now():%m-%d %H:%M:%S} repro"


def _start_worker(root: Path, process: Process) -> None:
    """Start a worker process; it exits at once if the execution has a worker."""
    here, source = Path(__file__).parents[2], root / "src"
    # In a new session, so that Ctrl-C in the terminal does not stop it.
    subprocess.Popen(  # noqa: S603 - this program, no shell
        [
            sys.executable,
            "-m",
            "atelier.tracking.delivery_worker",
            *(str(root), str(process.pid), process.started),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # In the main project: a temporary copy of it is removed before the worker exits.
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(source if source.is_dir() else here)},
    )


def _wait_for_delivery(root: Path, outbox: Path, seconds: float) -> None:
    """Wait until the outbox is delivered, delivery fails, the timeout expires, or Ctrl-C.

    Then print how many entries wait or were rejected, also those of earlier executions.
    """
    end = time.monotonic() + seconds
    with suppress(KeyboardInterrupt):
        while outbox.exists() and not problem(outbox.parent) and time.monotonic() < end:
            time.sleep(0.05)
    with suppress(OSError):  # the stage is done and must not fail
        _warn_about_pending(root, outbox, waited=True)


def _warn_about_pending(root: Path, outbox: Path, waited: bool) -> None:
    """Print how many entries of this and of earlier stages wait, and which were rejected.

    Args:
        root: the main project.
        outbox: the stage's outbox.
        waited: True after the timeout; if False, the stage's own entries are reported only if
            their delivery failed.
    """
    waiting, failure = pending(root), problem(outbox.parent)
    own = sum(each.entries for each in waiting if each.outbox == outbox)
    siblings = [each for each in waiting if each.outbox.parent == outbox.parent]
    earlier = sum(each.entries for each in siblings if each.outbox.name < outbox.name)
    others = sum(each.entries for each in waiting if each.outbox.parent != outbox.parent)
    if outbox.exists() and (waited or failure):
        reason = (failure or "it is slow").rstrip(".")
        print(
            f"MLflow has not accepted everything yet ({reason}); {_entries(own)} of this stage,"
            f" {earlier} of earlier stages and {others} of earlier executions are kept in"
            " .atelier/journal and delivered by the next run or by `atelier sync`.",
            file=sys.stderr,
        )
    elif others + earlier:
        verb = "is" if others + earlier == 1 else "are"
        print(
            f"{_entries(others + earlier)} of earlier stages and executions {verb} not delivered"
            " to MLflow yet; `atelier sync` delivers them or reports why not.",
            file=sys.stderr,
        )
    if lines := rejected.unreported_rejections(root):
        print(f"WARNING: {rejected.summary(lines)}.", file=sys.stderr)


def _entries(number: int) -> str:
    return count_text(number, "entry", "entries")
