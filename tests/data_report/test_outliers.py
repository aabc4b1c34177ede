"""Outliers among images."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.core.progress import Progress
from atelier.data.rows import resize
from atelier.data_report.features import vgg19_features
from atelier.data_report.outliers import FAR, outlier_scores


def test_score_is_the_relative_distance_from_the_nearest() -> None:
    features = np.abs(np.random.default_rng(1).normal(size=(60, 12))).astype(np.float32)
    features[7] = 0
    features[7, 3] = 5
    points = np.sqrt(features.astype(np.float64))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    nearest = np.sort(distances, axis=1)[:, 1:11].mean(axis=1)
    scores = outlier_scores(features)
    assert scores == pytest.approx(nearest / np.median(nearest))
    assert scores.argmax() == 7


def test_scores_do_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.abs(np.random.default_rng(2).normal(size=(50, 8))).astype(np.float32)
    expected = outlier_scores(features)
    monkeypatch.setattr("atelier.data_report.outliers._BATCH", 7)
    assert outlier_scores(features) == pytest.approx(expected)


@pytest.mark.parametrize(
    "features",
    [
        np.ones((19, 4), np.float32),
        np.ones((30, 4), np.float32),
        np.zeros((30, 4), np.float32),
        np.zeros((0, 4), np.float32),
    ],
)
def test_few_or_equal_images_have_no_outlier(features: np.ndarray) -> None:
    assert np.array_equal(outlier_scores(features), np.ones(len(features)))


@pytest.mark.slow
@pytest.mark.shared
def test_other_pictures_are_farther_than_faces(shared: Path) -> None:
    with zipfile.ZipFile(shared / "data/celeba/img_align_celeba.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:200]
        faces = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    others = [
        Image.open(file).convert("RGB") for file in sorted((shared / "data/styles").glob("*.jpg"))
    ]
    rows = np.stack([resize(image, 64, "crop") for image in (*faces, *others)])
    progress: list[Progress] = []
    scores = outlier_scores(vgg19_features("cpu", progress.append)(rows))
    assert len(others) == 5
    assert set(np.argsort(-scores)[:5].tolist()) == set(range(200, 205))
    assert (scores[:200] < FAR).all()
    assert progress[-1].done == progress[-1].total == 205
