"""Search for the nearest training images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.core.errors import AtelierError
from atelier.core.presets import preset_values
from atelier.core.settings import EvaluateSettings
from atelier.data.dataset import save_images
from atelier.metrics.cache import FeatureCache
from atelier.metrics.evaluate import evaluate
from atelier.metrics.extractors import build_extractor
from atelier.metrics.reference import RealImages
from atelier.web.explorer.training_search import TrainingSearch

from ..support.architectures import PRESETS
from ..support.arrays import random_images

CPU = torch.device("cpu")
IMAGES = random_images(60, 16, 3)


def search(
    folder: Path, limit: int = 1000, cache: Path | None = None, samples: int = 20
) -> TrainingSearch:
    """Return the search among 40 training images, with 20 for the test."""
    for name, pixels in (("images", IMAGES[:40]), ("test", IMAGES[40:])):
        names = [f"{name}-{number}" for number in range(len(pixels))]
        save_images(folder / f"{name}.npz", [pixels.tobytes()], pixels.shape, names)
    files = (folder / "images.npz", folder / "test.npz")
    builder = lambda: build_extractor("random", settings().seed)  # noqa: E731
    return TrainingSearch(files, settings(samples), builder, cache=FeatureCache(cache), limit=limit)


def settings(samples: int = 20) -> EvaluateSettings:
    values = preset_values("sample", PRESETS)["evaluate"]
    found = EvaluateSettings.model_validate(values | {"features": "random"})
    return found.model_copy(update={"samples": samples})  # fewer than the least of a user


@pytest.mark.parametrize("number", [0, 17, 39])
def test_training_image_is_its_own_nearest(tmp_path: Path, number: int) -> None:
    found = search(tmp_path).nearest(IMAGES[number], 3)
    assert (found[0].name, found[0].mirrored) == (f"images-{number}", False)
    assert found[0].distance == pytest.approx(0, abs=1e-4)
    np.testing.assert_array_equal(found[0].image, IMAGES[number])
    assert 0 < found[1].distance <= found[2].distance


def test_number_of_searched_images_is_bounded(tmp_path: Path) -> None:
    bounded = search(tmp_path, limit=15)
    assert len(bounded.nearest(IMAGES[0], 12)) == 12
    assert bounded.describe() == "15 of 40 images searched, drawn at random."


def test_features_of_the_evaluate_stage_are_used(tmp_path: Path) -> None:
    cache = tmp_path / "features"
    evaluate(settings(), IMAGES[:40], IMAGES[40:], IMAGES[:20], FeatureCache(cache))
    before = {file.name for file in cache.iterdir()}
    assert search(tmp_path, cache=cache).nearest(IMAGES[3], 1)[0].name == "images-3"
    assert {file.name for file in cache.iterdir()} == before, "nothing is computed again"


def test_distances_are_scaled_as_by_the_evaluate_stage(tmp_path: Path) -> None:
    real = RealImages.sample(settings(4), IMAGES[:40], IMAGES[40:])
    assert len(real.searched[real.scaling]) == 36, "in neither of the compared sets"
    extractor = build_extractor("random", settings().seed)
    scale = extractor.scale(extractor(IMAGES[:40][real.searched[real.scaling]], CPU))
    target = scale(extractor(IMAGES[50][None], CPU))
    for limit in (1000, 15):
        found = search(tmp_path, limit=limit, samples=4)
        distances = {match.name: match.distance for match in found.nearest(IMAGES[50], 40)}
        rows = [int(name.partition("-")[2]) for name in distances]
        features = scale(extractor(IMAGES[rows], CPU))
        mirrored = scale(extractor(np.ascontiguousarray(IMAGES[50][None, :, ::-1]), CPU))
        expected = torch.minimum((features - target).norm(dim=1), (features - mirrored).norm(dim=1))
        torch.testing.assert_close(torch.tensor([*distances.values()]), expected)


@pytest.mark.parametrize(
    ("are_training", "title"), [(True, "Training images"), (False, "Images of data/images.npz")]
)
def test_images_of_another_training_are_not_called_training_images(
    are_training: bool, title: str
) -> None:
    files = (Path("data/images.npz"), Path("data/test.npz"))
    builder = lambda: build_extractor("random", 1)  # noqa: E731
    cache = FeatureCache()
    found = TrainingSearch(files, settings(), builder, cache=cache, are_training=are_training)
    assert found.title == title


def test_closed_search_computes_nothing(tmp_path: Path) -> None:
    closed = search(tmp_path)
    closed.close()
    with pytest.raises(AtelierError, match="the server ends"):
        closed.nearest(IMAGES[0], 1)
