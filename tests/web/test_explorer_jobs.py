"""Queue of the explorer's long work."""

import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from atelier.core.errors import AtelierError
from atelier.web.explorer.jobs import Job, Jobs, JobStopped, QueueFullError, UnknownJobError

TIMEOUT = 60


class Clock:
    """Time that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> Iterator[Jobs]:
    queue = Jobs(waiting=2, stored=3, abandoned_seconds=30, clock=clock)
    yield queue
    queue.close()


class Work:
    """Work that reports its progress each time a test releases it."""

    def __init__(self) -> None:
        self.started, self.release, self.ended = (threading.Event() for _ in range(3))

    def __call__(self, job: Job) -> dict[str, object]:
        self.started.set()
        try:
            while not self.release.wait(0.01):
                job.report(0.25)
            return {"answer": 42}
        finally:
            self.ended.set()


def finished(condition: Callable[[], bool]) -> bool:
    """Return whether a condition becomes true."""
    waiting = threading.Event()
    return any(condition() or waiting.wait(0.01) for _ in range(100 * TIMEOUT))


def test_job_reports_progress_images_and_result(jobs: Jobs, clock: Clock) -> None:
    work = Work()
    job = jobs.submit(work)
    assert work.started.wait(TIMEOUT)
    assert finished(lambda: job.fraction == 0.25)
    clock.seconds = 10
    assert job.describe() == {
        "id": job.id,
        "status": "running",
        "fraction": 0.25,
        "remaining": pytest.approx(30),
        "version": 0,
        "result": {},
        "error": "",
    }
    job.show(b"first")
    job.show(b"second")
    assert (job.image, job.describe()["version"]) == (b"second", 2)
    work.release.set()
    assert finished(lambda: job.status == "done")
    assert job.describe()["result"] == {"answer": 42}
    assert job.describe()["remaining"] is None
    assert jobs.find(job.id) is job


def test_jobs_run_in_turn_and_the_queue_is_bounded(jobs: Jobs) -> None:
    works = [Work() for _ in range(3)]
    first = jobs.submit(works[0])
    assert works[0].started.wait(TIMEOUT)
    second, third = jobs.submit(works[1]), jobs.submit(works[2])
    assert [jobs.position(job) for job in (first, second, third)] == [0, 1, 2]
    with pytest.raises(QueueFullError, match="2 paintings or photographs are waiting already"):
        jobs.submit(Work())
    second.stop()
    assert [jobs.position(job) for job in (first, second, third)] == [0, 0, 1]
    fourth = jobs.submit(Work())
    assert fourth.status == "waiting"
    assert not works[1].started.is_set()
    works[0].release.set()
    assert works[2].started.wait(TIMEOUT)
    assert second.status == "stopped"
    assert not works[1].started.is_set(), "a stopped job does not start"


def test_stopped_job_ends_and_the_next_one_starts(jobs: Jobs) -> None:
    work, other = Work(), Work()
    job = jobs.submit(work)
    assert work.started.wait(TIMEOUT)
    jobs.submit(other)
    job.stop()
    assert other.started.wait(TIMEOUT)
    assert work.ended.is_set()
    assert job.status == "stopped"


def test_job_of_a_closed_page_is_stopped(jobs: Jobs, clock: Clock) -> None:
    work = Work()
    job = jobs.submit(work)
    assert work.started.wait(TIMEOUT)
    clock.seconds = 25
    assert jobs.find(job.id).status == "running"
    clock.seconds = 50
    assert not job.stop_requested()
    clock.seconds = 56
    assert work.ended.wait(TIMEOUT)
    assert finished(lambda: job.status == "stopped")


def test_finished_job_releases_its_work(jobs: Jobs) -> None:
    image = np.zeros(1)
    released = weakref.ref(image)
    job = jobs.submit(lambda job, image=image: {"size": image.size})  # type: ignore[misc]
    del image
    assert finished(lambda: job.status == "done")
    assert finished(lambda: released() is None)
    assert job.result == {"size": 1}


def test_failure_is_a_sentence_and_does_not_end_the_thread(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(job: Job) -> dict[str, object]:
        raise AtelierError("the mask is empty.")

    def no_memory(job: Job) -> dict[str, object]:
        raise MemoryError

    def bug(job: Job) -> dict[str, object]:
        raise KeyError("x")

    failed = [jobs.submit(work) for work in (wrong, no_memory)]
    assert finished(lambda: all(job.status == "failed" for job in failed))
    assert failed[0].error == "the mask is empty."
    assert failed[1].error.startswith("the memory is too small")
    last = jobs.submit(bug)
    assert finished(lambda: last.status == "failed")
    assert last.error == "the work failed (KeyError); the terminal of the server shows why."
    assert "Traceback" in capsys.readouterr().err


def test_only_the_latest_results_are_kept(jobs: Jobs) -> None:
    found = []
    for number in range(50):
        job = jobs.submit(lambda job: {})
        found.append(job)
        assert finished(lambda job=job: job.status == "done"), number  # type: ignore[misc]
    with pytest.raises(UnknownJobError, match="there is no such painting"):
        jobs.find(found[0].id)
    assert jobs.find(found[-1].id) is found[-1]
    stored = [job for job in found if job.id in jobs._jobs]
    assert len(stored) <= 4
    assert len({job.id for job in found}) == 50
    assert min(len(job.id) for job in found) == 32, "not to be guessed"


def test_report_of_a_stopped_job_raises() -> None:
    job = Job(lambda job: {}, Clock())
    job.report(2.0)
    assert job.fraction == 1
    job.stop()
    with pytest.raises(JobStopped):
        job.report(0.5)
