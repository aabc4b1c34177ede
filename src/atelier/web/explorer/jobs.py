"""Queue of long work, which one thread of low priority does in turn."""

import math
import os
import secrets
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Literal

from atelier.core.errors import AtelierError, is_out_of_memory

Status = Literal["waiting", "running", "done", "failed", "stopped"]
Clock = Callable[[], float]

_FINISHED = ("done", "failed", "stopped")
_NICENESS = 10  # Images of sliders are computed in threads of normal priority.
_POLL_SECONDS = 0.2


class QueueFullError(AtelierError):
    """Raised if too much work is waiting."""


class UnknownJobError(AtelierError):
    """Raised if there is no job of an id."""


class JobStopped(Exception):  # noqa: N818 - not an error
    """Raised within the work of a job that was stopped."""


class Job:
    """Work in the queue, and its progress.

    Args:
        work: calls :meth:`report` often, and returns the result.
        clock: returns seconds.
        abandoned_seconds: the job is stopped if it is not polled for so long.

    Attributes:
        id: random, so that other programs cannot guess it.
        status: ``waiting``, ``running``, ``done``, ``failed`` or ``stopped``.
        fraction: share of the work that is done, 0 to 1.
        image: latest image of the work, an encoded file.
        version: number of images so far.
        result: values for the page, when the job is done.
        error: a sentence, if the job failed.
        last_poll: time of the last request for the job.
    """

    def __init__(
        self,
        work: Callable[["Job"], dict[str, Any]],
        clock: Clock,
        abandoned_seconds: float = math.inf,
    ) -> None:
        self.id = secrets.token_hex(16)
        self.status: Status = "waiting"
        self.fraction = 0.0
        self.image: bytes | None = None
        self.version = 0
        self.result: dict[str, Any] = {}
        self.error = ""
        self._work: Callable[[Job], dict[str, Any]] | None = work
        self._clock, self._stop = clock, threading.Event()
        self._abandoned_seconds = abandoned_seconds
        self._started = self.last_poll = clock()

    def report(self, fraction: float) -> None:
        """Set the share of the work that is done.

        Raises:
            JobStopped: the job was stopped or abandoned.
        """
        self.fraction = min(max(fraction, 0.0), 1.0)
        if self.stop_requested():
            raise JobStopped

    def show(self, image: bytes) -> None:
        """Replace the image by a newer one."""
        self.image, self.version = image, self.version + 1

    def stop(self) -> None:
        """Request the end of the job."""
        self._stop.set()

    def stop_requested(self) -> bool:
        """Return True if the job was stopped, or its page does not ask for it any more."""
        return self._stop.is_set() or self._clock() - self.last_poll > self._abandoned_seconds

    def run(self) -> None:
        """Do the work in this thread; errors end the job, not the thread."""
        work, self._work = self._work, None  # The work contains images.
        if work is None or self.stop_requested():
            self.status = "stopped"
            return
        self.status, self._started = "running", self._clock()
        try:
            self.result = work(self)
            self.fraction, self.status = 1.0, "done"
        except JobStopped:
            self.status = "stopped"
        except Exception as error:
            self.error, self.status = _sentence(error), "failed"

    def remaining_seconds(self) -> float | None:
        """Return the estimated time until the end; ``None`` at the start."""
        if self.status != "running" or self.fraction < 0.03:
            return None
        return (self._clock() - self._started) * (1 - self.fraction) / self.fraction

    def describe(self) -> dict[str, Any]:
        """Return the state for the page."""
        return {
            "id": self.id,
            "status": self.status,
            "fraction": round(self.fraction, 4),
            "remaining": self.remaining_seconds(),
            "version": self.version,
            "result": self.result if self.status == "done" else {},
            "error": self.error,
        }


class Jobs:
    """Queue of jobs, and the thread that runs one after the other.

    Args:
        waiting: largest number of waiting jobs.
        stored: number of finished jobs whose results are kept.
        abandoned_seconds: a job is stopped if its page does not ask for it for so long.
        clock: returns seconds.
    """

    def __init__(
        self,
        waiting: int = 4,
        stored: int = 8,
        abandoned_seconds: float = 120.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._waiting, self._stored = waiting, stored
        self._abandoned_seconds, self._clock = abandoned_seconds, clock
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: SimpleQueue[Job] = SimpleQueue()
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[Job], dict[str, Any]]) -> Job:
        """Append work to the queue.

        Args:
            work: calls :meth:`Job.report` often, and returns the result.

        Raises:
            QueueFullError: too many jobs are waiting.
        """
        with self._lock:
            active = [job for job in self._jobs.values() if job.status == "waiting"]
            active = [job for job in active if not job.stop_requested()]
            if len(active) >= self._waiting:
                raise QueueFullError(
                    f"{len(active)} paintings or photographs are waiting already; try again when"
                    " one is finished."
                )
            job = Job(work, self._clock, self._abandoned_seconds)
            self._jobs[job.id] = job
            self._remove_old()
            self._queue.put(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="explorer-jobs", daemon=True)
                self._thread.start()
        return job

    def find(self, job_id: str) -> Job:
        """Return a job, which is not abandoned by that.

        Raises:
            UnknownJobError: there is no such job, or its result is not kept any more.
        """
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None:
                raise UnknownJobError("there is no such painting or photograph; start it again.")
            job.last_poll = self._clock()
        return job

    def position(self, job: Job) -> int:
        """Return the number of jobs that will run before a waiting one."""
        with self._lock:
            before = [
                other
                for other in self._jobs.values()
                if other.status == "running"
                or (other.status == "waiting" and not other.stop_requested())
            ]
        return before.index(job) if job in before else 0

    def close(self) -> None:
        """Stop all jobs and the thread."""
        self._closed.set()
        with self._lock:
            for job in self._jobs.values():
                job.stop()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _remove_old(self) -> None:
        finished = [job for job in self._jobs.values() if job.status in _FINISHED]
        for job in finished[: max(0, len(finished) - self._stored)]:
            del self._jobs[job.id]

    def _run(self) -> None:
        lower_priority()
        while not self._closed.is_set():
            with suppress(Empty):
                self._queue.get(timeout=_POLL_SECONDS).run()


def lower_priority() -> None:
    """Lower the priority of this thread, and of those that it starts."""
    if sys.platform == "linux":  # where the id of a thread is that of a process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _sentence(error: Exception) -> str:
    """Return a sentence for the page; the terminal shows an error of the program itself."""
    if isinstance(error, AtelierError):
        return str(error)
    if is_out_of_memory(error):
        return "the memory is too small for this; close other programs and try again."
    traceback.print_exception(error)
    return f"the work failed ({type(error).__name__}); the terminal of the server shows why."
