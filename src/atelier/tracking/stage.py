"""Running a stage script: settings in, work done, run logged, faults told in a sentence."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from atelier.core import settings as settings_module
from atelier.core.errors import AtelierError, PeerLostError, is_out_of_memory
from atelier.core.paths import check_named, link_named, reject_lost_experiment
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
from atelier.tracking.outbox import Outbox, pending, problem, record_start
from atelier.tracking.redact import count_text, flat, redact_urls
from atelier.tracking.run import Run
from atelier.tracking.run_state import (
    STOP_SIGNALS,
    Fingerprint,
    ResumeDir,
    handled_signals,
    remove_committed,
)


def restore_outputs(stage: str) -> None:
    """Link a stage's outputs back from DVC's cache, as ``dvc.lock`` records them.

    DVC deletes a stage's outputs before it runs the stage, and a stage may have replaced some
    of them when it fails. Outputs that were never made, or are no more in the cache, are left
    as they are.
    """
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # what is not there is no news here
    with Repo(str(Path.cwd())) as repo:
        for output in repo.stage.load_one(name=stage).outs:
            if output.hash_info and not output.changed_cache():
                output.checkout(force=True)


_INTERRUPTED = 130
_NOT_WRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
)
# What takes most of the memory.
_SMALLER = {
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

    A user's mistake, a full disk and an interruption end in one sentence and an exit code
    other than 0; a fault of the program keeps its traceback. In each case the outputs that
    were there before are put back.

    Args:
        name: of the stage.
        main: does the work.
        logged: whether MLflow is to know of it.
        parallel: whether ``runtime.launcher`` may run it in several processes.
        prepare: changes the stage's own dependencies before their fingerprint is taken.
    """
    if rank() > 0:
        sys.exit(_follow_rank0(name, main))
    for ending in handled_signals():
        signal.signal(ending, signal.default_int_handler)
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
                main(settings, run)
                run_state.verify_unchanged(before, name)
    except BaseException as error:  # every way to fail puts the outputs back
        for ending in STOP_SIGNALS:  # which takes a second, and should not be cut short
            signal.signal(ending, signal.SIG_IGN)
        code, sentence = _exit_code_and_message(error, name)
        print(sentence, file=sys.stderr, flush=True)
        _restore(_stage_in_dvc(name))
    sys.exit(code)


def _prepare(name: str, prepare: Callable[[Settings], None] | None) -> None:
    """Bring the stage's dependencies to where it reads them, before their fingerprint is taken."""
    settings = settings_module.load()
    reject_lost_experiment()
    link_named(settings, name)
    check_named(settings, name)
    if prepare:
        prepare(settings)


def _launch(name: str, launcher: str) -> int:
    """Run this very script in several processes; the first of them is the stage, as if alone."""
    _, *options = launcher.split()
    code = torchrun(options, Path(sys.argv[0]))
    if code:
        _restore(_stage_in_dvc(name))  # it may have died before it could
    return code


def _follow_rank0(name: str, main: Callable[[Settings, Run], None]) -> int:
    """Be one of a training's processes but not its first, which alone writes, logs and is told."""
    for ending in STOP_SIGNALS:
        # The first process saves before it ends, and needs this one until then.
        signal.signal(ending, signal.SIG_IGN)
    try:
        main(settings_module.load(), Run(None))
    except PeerLostError:
        return 1
    except Exception as error:
        code, sentence = _exit_code_and_message(error, name)
        print(sentence, file=sys.stderr, flush=True)
        return code
    return 0


def _exit_code_and_message(error: BaseException, stage: str) -> tuple[int, str]:
    """The exit code for a failure, and what to tell the user."""
    if isinstance(error, AtelierError):
        return 1, f"ERROR: {error}"
    if isinstance(error, KeyboardInterrupt):
        what = "goes on from there" if str(error) else "starts it anew"
        return _INTERRUPTED, f"ERROR: interrupted before the stage was done; `dvc repro` {what}."
    number = error.errno if isinstance(error, OSError) else None
    # Libraries raise errors of their own, with the system's words.
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error):
        return 1, "ERROR: the disk is full; free some space (`dvc gc --workspace`) and run again."
    if isinstance(error, OSError) and number in _NOT_WRITABLE and error.filename:
        place = Path(os.fsdecode(error.filename))
        place = place.parent if place.name.startswith(".atelier-") else place
        return 1, (
            f"ERROR: {place} cannot be read or written ({error.strerror}); change its permissions,"
            " or move what stands in its way, and run again."
        )
    if is_out_of_memory(error):
        smaller = _SMALLER.get(stage, "runtime.workers")
        return 1, f"ERROR: the memory is too small for {stage}; make {smaller} smaller."
    return 1, "".join(traceback.format_exception(error))


def _stage_in_dvc(name: str) -> str:
    """Return the stage's name, without the path that DVC may put before it."""
    return os.environ.get("DVC_STAGE", name).rpartition(":")[2]


def _restore(name: str) -> None:
    try:
        restore_outputs(name)
    except Exception as error:  # the first fault is the one to tell, whatever DVC says now
        print(
            f"The old outputs could not be put back ({type(error).__name__}); `dvc checkout` may.",
            file=sys.stderr,
        )


@contextmanager
def _run(name: str, settings: Settings, before: Fingerprint | None, logged: bool) -> Iterator[Run]:
    """Open a run, end it with the outcome, and wait a while for its delivery."""
    pipeline, private = dvc_process(), private_folder(repository_root())
    remove_committed(private)
    unfinished = ResumeDir(private, name, before, settings.runtime.device, pipeline)
    journal = _open_outbox(name, settings, pipeline, unfinished.journal) if logged else None
    run = Run(journal, unfinished)
    try:
        with sampling(run.log_system) if journal else nullcontext():
            yield run
    except BaseException as error:
        run.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        if journal:
            with suppress(Exception):  # the first fault is the one to tell
                _warn_about_pending(repository_root(), journal.folder, waited=False)
        raise
    run.end("FINISHED")
    if journal and pipeline:
        _wait_for_delivery(
            repository_root(), journal.folder, settings.tracking.delivery_timeout_seconds
        )
    elif journal:
        # By hand, one does not wait for it: its deliverer goes on alone.
        with suppress(OSError):
            _warn_about_pending(repository_root(), journal.folder, waited=False)


def _open_outbox(
    name: str, settings: Settings, pipeline: Process | None, continues: str
) -> Outbox | None:
    """Open a journal and have it delivered; a run that cannot be logged runs all the same."""
    root = repository_root()
    process = pipeline or Process.of(os.getpid())
    parameters = {key: redact_urls(value) for key, value in flat(settings.model_dump()).items()}
    try:
        about: dict[str, Any] = {
            "experiment": settings.tracking.experiment,
            "pipeline": _pipeline_name() if pipeline else "",
            "workspace": str(Path.cwd().resolve()),
            "root": str(root.resolve()),
            "parameters": parameters,
            "tags": git_tags()
            | experiment_tags()
            | machine_tags()
            | owner_tags(root)
            | {"mlflow.source.name": f"stages/{name}.py"},
        }
        journal = Outbox(private_folder(root), process, name, continues=continues, **about)
        if pipeline:
            record_start(journal.folder.parent, about)
        patch = uncommitted()
        if patch:
            journal.write("text", name="uncommitted.patch", text=patch)
        _start_worker(root, process)
    except Exception as error:  # of the disk, of git, of another version: the work goes on
        print(
            f"WARNING: this run is not logged ({error}); its results are not touched by that.",
            file=sys.stderr,
        )
        return None
    return journal


def _pipeline_name() -> str:
    return os.environ.get("DVC_EXP_NAME") or f"{datetime.now():%m-%d %H:%M:%S} repro"


def _start_worker(root: Path, process: Process) -> None:
    """Start a deliverer beside the work; it leaves at once where one serves already."""
    here, source = Path(__file__).parents[2], root / "src"
    # A session of its own: Ctrl-C in the terminal must not keep it from its work.
    subprocess.Popen(  # noqa: S603 - this very program, no shell
        [
            sys.executable,
            "-m",
            "atelier.tracking.worker",
            *(str(root), str(process.pid), process.started),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        # At the main project, also from a temporary copy, which is removed before the end.
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(source if source.is_dir() else here)},
    )


def _wait_for_delivery(root: Path, journal: Path, seconds: float) -> None:
    """Wait until a journal is delivered, delivery fails, the time is up, or the user stops it.

    Then say what waits and what was rejected, also of earlier executions.
    """
    end = time.monotonic() + seconds
    with suppress(KeyboardInterrupt):
        while journal.exists() and not problem(journal.parent) and time.monotonic() < end:
            time.sleep(0.05)
    with suppress(OSError):  # the work is done; nothing that is only said may fail it
        _warn_about_pending(root, journal, waited=True)


def _warn_about_pending(root: Path, journal: Path, waited: bool) -> None:
    """Say what of this and of earlier stages waits, and what was rejected.

    Args:
        root: the main project.
        journal: the stage's own.
        waited: whether its delivery had time; without, its entries are told only if there was
            trouble.
    """
    left, trouble = pending(root), problem(journal.parent)
    mine = sum(each.entries for each in left if each.outbox == journal)
    siblings = [each for each in left if each.outbox.parent == journal.parent]
    earlier = sum(each.entries for each in siblings if each.outbox.name < journal.name)
    others = sum(each.entries for each in left if each.outbox.parent != journal.parent)
    if journal.exists() and (waited or trouble):
        reason = (trouble or "it is slow").rstrip(".")
        print(
            f"MLflow has not taken everything yet ({reason}); {_entries(mine)} of this stage,"
            f" {earlier} of earlier stages and {others} of earlier executions are kept in"
            " .atelier/journal and delivered by the next run or by `atelier sync`.",
            file=sys.stderr,
        )
    elif others + earlier:
        verb = "is" if others + earlier == 1 else "are"
        print(
            f"{_entries(others + earlier)} of earlier stages and executions {verb} not delivered"
            " to MLflow yet; `atelier sync` delivers them or says why not.",
            file=sys.stderr,
        )
    if lines := rejected.unreported_rejections(root):
        print(f"WARNING: {rejected.summary(lines)}.", file=sys.stderr)


def _entries(number: int) -> str:
    return count_text(number, "entry", "entries")
