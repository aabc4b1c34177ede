"""Samples of trials in the report of a study, from a real DVC experiment."""

import base64
import hashlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.pages.images import sample_montage
from atelier.search.report import StudyReport, build_report
from atelier.search.report_samples import experiment_commit

from ..support.arrays import random_images
from ..support.project import Project
from ..support.studies import a_study, a_trial

NAME = "sizes-trial-001"


@pytest.fixture(scope="module")
def project(_ready: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Finished project whose last commit is a DVC experiment that started from the one before."""
    project = _ready.copy(tmp_path_factory.mktemp("search") / "project")
    project.commit()
    commit, baseline = revisions(project)
    reference = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{NAME}"
    project.run("git", "update-ref", reference, commit)
    for epoch in (1, 2):
        # The tiny generator's own samples are nearly gray after both epochs.
        content = (project.folder / f"samples/epoch_{epoch:04d}.npy").read_bytes()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        cached = project.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        cached.unlink()
        with cached.open("wb") as file:
            np.save(file, samples(epoch), allow_pickle=False)
    return project


def samples(epoch: int) -> np.ndarray:
    """Return nine images of one gray level each, which depends on the epoch."""
    levels = np.arange(9) * 20 + 40 * (epoch - 1)
    return np.broadcast_to(levels[:, None, None, None], (9, 16, 16, 3)).astype(np.uint8)


def revisions(project: Project) -> tuple[str, str]:
    commit, baseline = project.run("git", "rev-parse", "HEAD", "HEAD~1").split()
    return commit, baseline


def report_of(project: Project, experiments: Sequence[str]) -> StudyReport:
    trials = [a_trial(3.0, experiments=["sizes-trial-000"]), a_trial(2.0, experiments=experiments)]
    return build_report(a_study(trials, commit=revisions(project)[1]), project.folder)


def test_sheet_has_the_samples_of_the_last_epoch(project: Project, tmp_path: Path) -> None:
    kept = tmp_path / "samples"
    shutil.move(project.folder / "samples", kept)  # they are read from DVC's cache
    try:
        report = report_of(project, [NAME, "sizes-trial-001-seed-2"])
    finally:
        shutil.move(kept, project.folder / "samples")
    best, other = report.best
    assert best.sheet is not None
    assert best.sheet.alt == "Generated images of trial 1 after epoch 2, in rows"
    content = base64.b64decode(best.sheet.uri.removeprefix("data:image/webp;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.float64)
    assert pixels.shape == (48, 48, 3)
    assert np.abs(pixels - sample_montage(samples(2), 36)).mean() < 4
    assert other.sheet is None, "there is no such experiment"
    assert report.has_sheets


def test_missing_samples_leave_a_report_without_them(project: Project) -> None:
    cache = project.folder / ".dvc/cache"
    cache.rename(cache.with_name("moved"))
    try:
        report = report_of(project, [NAME])
    finally:
        cache.with_name("moved").rename(cache)
    assert [best.trial.number for best in report.best] == [1, 0]
    assert not report.has_sheets
    assert report_of(project, []).best[0].sheet is None


def test_experiments_are_found_by_the_commit_they_started_from(project: Project) -> None:
    commit, baseline = revisions(project)
    assert experiment_commit(project.folder, baseline, NAME) == commit
    assert experiment_commit(project.folder, commit, NAME) is None
    assert experiment_commit(project.folder, baseline, "sizes-trial-002") is None
    for damaged in ("", baseline[:8], f"--{baseline[2:]}"):
        assert experiment_commit(project.folder, damaged, NAME) is None


def test_montage_has_evenly_spread_images() -> None:
    images = random_images(10, 4, 3)
    sheet = sample_montage(images, 4)
    assert sheet.shape == (8, 8, 3)
    for place, number in enumerate((0, 3, 6, 9)):
        row, column = 4 * (place // 2), 4 * (place % 2)
        assert (sheet[row : row + 4, column : column + 4] == images[number]).all()
