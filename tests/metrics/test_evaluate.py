"""Evaluation, validation KID, sampling of real images, and cached features."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.core.settings import EvaluateSettings, Settings
from atelier.metrics.cache import FeatureCache
from atelier.metrics.distances import compute_kid, frechet_distance
from atelier.metrics.evaluate import evaluate, spread
from atelier.metrics.extractors import build_extractor
from atelier.metrics.features import Extractor
from atelier.metrics.neighbors import precision_recall_density_coverage
from atelier.metrics.reference import RealImages
from atelier.metrics.validation import ValidationKID, build_validation, validation_settings

CPU = torch.device("cpu")
Images = NDArray[np.uint8]


SCALED = {"kid", "fid", "precision", "memorised"}  # absent without a scale of the features


def evaluation(**values: Any) -> EvaluateSettings:
    defaults: dict[str, Any] = {
        "samples": 50, "reference": "test", "features": "random", "epochs": 12,
        "nearest_neighbor_pool": 80, "seed": 1,
    }  # fmt: skip
    return EvaluateSettings(**defaults | values)


@pytest.fixture(scope="module")
def images(shapes: tuple[Images, NDArray[np.int64]]) -> Images:
    return shapes[0]


@pytest.fixture
def small(images: Images, monkeypatch: pytest.MonkeyPatch) -> Images:
    """Return images of 16x16 pixels and use a fast extractor of colors in 16 positions."""
    for module in ("evaluate", "validation"):
        monkeypatch.setattr(
            f"atelier.metrics.{module}.build_extractor", lambda *_: color_extractor()
        )
    return np.ascontiguousarray(images[:, ::2, ::2])


def color_extractor(calibrated: bool = False) -> Extractor:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    return Extractor(network, "colours", calibrated=calibrated)


def test_validation_kid_equals_kid_of_evaluation(images: Images) -> None:
    held_out, training, generated = images[:50], images[50:250], images[250:300] // 2
    validation_kid = ValidationKID(evaluation(), training, held_out)
    result = evaluate(evaluation(), training, held_out, generated).details()
    assert (
        validation_kid(generated)
        == validation_kid(generated)
        == pytest.approx(result["kid"], rel=1e-5)
    )
    assert (
        validation_kid(images[300:420])
        < validation_kid(generated)
        < validation_kid(np.zeros_like(generated))
    )


def test_epochs_are_measured_with_enough_validation_images(
    images: Images, make_settings: Callable[..., Settings]
) -> None:
    warnings: list[str] = []

    def build(count: int, **train: Any) -> ValidationKID | None:
        settings = make_settings(train={"kid_every_epochs": 1, **train}).train
        return build_validation(settings, images[220:], images[:count], CPU, warnings.append)

    assert build(200) is not None
    assert build(16, kid_every_epochs=0) is None
    assert not warnings
    assert build(15) is None
    assert build(1) is None
    assert warnings == [
        f"epochs are not measured: the validation set has {count_text}, and 16 are needed; raise"
        " convert.validation_fraction or add images"
        for count_text in ("15 images", "1 image")
    ]
    with pytest.raises(
        AtelierError, match=r"has 15 images, .* add images, or set train.select_model to last"
    ):
        build(15, select_model="best")


@pytest.mark.parametrize(("count", "is_measured"), [(9, False), (45, False), (46, True)])
def test_epochs_are_not_measured_if_scale_has_fewer_than_30_training_images(
    small: Images, make_settings: Callable[..., Settings], count: int, is_measured: bool
) -> None:
    warnings: list[str] = []
    settings = make_settings(train={"kid_every_epochs": 1}).train
    validation_kid = build_validation(settings, small[:count], small[200:216], CPU, warnings.append)
    assert (validation_kid is not None) == is_measured
    if not is_measured:
        scaling = count - min(16, count // 2)
        (warning,) = warnings
        assert warning == (
            f"epochs are not measured: the scale of the features comes from {scaling} training"
            " images, and 30 are needed; add images"
        )
        best = make_settings(train={"kid_every_epochs": 1, "select_model": "best"}).train
        with pytest.raises(AtelierError, match=r"30 are needed; .* set train.select_model to last"):
            build_validation(best, small[:count], small[200:216], CPU, warnings.append)


def test_calibrated_features_need_no_scale(
    small: Images, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("evaluate", "validation"):
        name = f"atelier.metrics.{module}.build_extractor"
        monkeypatch.setattr(name, lambda *_: color_extractor(calibrated=True))
    metrics = evaluate(evaluation(), small[:9], small[:0], small[300:350]).details()
    assert {"kid", "fid", "memorised"} <= set(metrics)
    warnings: list[str] = []
    settings = make_settings(train={"kid_every_epochs": 1}).train
    assert build_validation(settings, small[:2], small[200:216], CPU, warnings.append) is not None
    assert warnings == [
        "the KID of epochs is measured against 16 real images; below 200 its standard error is"
        " large; raise convert.validation_fraction or add images"
    ], "no error without other real images"


def test_few_validation_images_give_warning_with_error_of_kid(
    small: Images, make_settings: Callable[..., Settings]
) -> None:
    warnings: list[str] = []
    settings = make_settings(train={"kid_every_epochs": 1}).train
    kid = build_validation(settings, small[200:], small[:199], CPU, warnings.append)
    assert kid is not None
    (warning,) = warnings
    assert warning == (
        "the KID of epochs is measured against 199 real images; below 200 its standard error is"
        f" large: {kid.error:.2g} for other real images; raise convert.validation_fraction or"
        " add images"
    )
    deviation = np.std([kid(small[i : i + 199]) for i in range(200, 1001, 50)])
    assert deviation / 3 < kid.error < 4 * deviation


@pytest.mark.parametrize(
    ("samples", "count", "action"),
    [
        (199, 200, "raise train.kid_samples to 200"),
        (
            199,
            199,
            "raise train.kid_samples to 200 and raise convert.validation_fraction or add images",
        ),
        (200, 199, "raise convert.validation_fraction or add images"),
    ],
)
def test_warning_about_large_error_of_epochs_names_setting_to_raise(
    small: Images, make_settings: Callable[..., Settings], samples: int, count: int, action: str
) -> None:
    warnings: list[str] = []
    settings = make_settings(train={"kid_every_epochs": 1, "kid_samples": samples}).train
    build_validation(settings, small[200:500], small[:count], CPU, warnings.append)
    (warning,) = warnings
    assert warning.endswith(f" real images; {action}")


def rows(images: Images) -> list[bytes]:
    return [row.tobytes() for row in images]


@pytest.mark.parametrize(("count", "reference"), [(40, 40), (16, 16), (15, 50), (0, 50)])
def test_enough_test_images_are_the_reference(small: Images, count: int, reference: int) -> None:
    training, test = small[:200], small[200 : 200 + count]
    real = RealImages.sample(evaluation(), training, test)
    assert real.held_out == (count >= 16)
    assert len(real.reference) == len(real.other) == reference
    assert set(rows(real.reference)) <= set(rows(test if real.held_out else training))
    scaling = training[real.searched[real.scaling]]
    sets = [rows(real.reference), rows(real.other), rows(scaling)]
    assert len(set().union(*sets)) == sum(map(len, sets)), "no image is in two of the sets"
    assert len(scaling) > 16
    result = evaluate(evaluation(), training, test, small[300:350])
    assert result.details()["measured_with"] == {
        "features": "random",
        "samples": reference,
        "seed": 1,
        "reference": "test" if real.held_out else "training",
        "reference_images": reference,
        "other_images": reference,
        "searched": max(80, 3 * reference),
        "neighbours": 5,
    }


def test_kid_of_few_real_images_is_0_on_average(small: Images) -> None:
    """With the scale of the reference instead of the training images, the mean was 0.5."""
    rng = np.random.default_rng(0)
    kids = []
    for _ in range(100):
        shuffled = small[rng.permutation(len(small))]
        validation_kid = ValidationKID(evaluation(), shuffled[:100], shuffled[100:116])
        kids.append(validation_kid(shuffled[200:216]))
    assert abs(np.mean(kids)) < 3 * np.std(kids) / np.sqrt(len(kids))


def test_training_images_replace_missing_test_images(small: Images) -> None:
    training, generated = small[:240], small[300:380]
    result = evaluate(evaluation(samples=80), training, small[:0], generated)
    metrics = result.details()
    for name in ("kid", "real_kid"):
        assert abs(metrics[name]) < 5 * metrics["kid_error"]
    assert metrics["memorised"] < 0.15, "a reference image does not count as its own copy"
    assert metrics["real_memorised"] == pytest.approx(1 / 81)
    copies = evaluate(evaluation(samples=80), training, small[:0], mirrored(training[:80]))
    assert copies.memorised == 1
    indices, found, distances = copies.closest(3)
    assert distances == pytest.approx(0, abs=1e-3)
    assert np.array_equal(found, mirrored(training[:80])[indices]), (
        "the neighbor is mirrored like the copy"
    )


def mirrored(images: Images) -> Images:
    return np.ascontiguousarray(images[:, :, ::-1])


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_plain_and_mirrored_copies_are_memorized(images: Images, is_mirrored: bool) -> None:
    training, test = images[:200], images[200:250]
    copies = mirrored(training[:50]) if is_mirrored else training[:50]
    found = evaluate(evaluation(nearest_neighbor_pool=200), training, test, copies)
    assert found.memorised == 1


@pytest.mark.parametrize(
    ("training", "test", "absent"),
    [
        (1, 0, SCALED | {"swd"}),
        (2, 0, SCALED | {"swd"}),
        (3, 0, SCALED),
        (5, 15, SCALED),
        (9, 0, SCALED),
        (87, 0, SCALED),
        (1, 16, SCALED),
        (45, 16, SCALED),
        (46, 16, set()),
        (90, 7, set()),
    ],
)
def test_few_images_omit_metrics_with_note(
    small: Images, training: int, test: int, absent: set[str]
) -> None:
    result = evaluate(
        evaluation(), small[:training], small[100 : 100 + test], small[300:350],
        epochs={1: small[:5]},
    )  # fmt: skip
    metrics = result.details()
    names = {"kid", "fid", "precision", "swd", "diversity", "memorised"}
    assert names - set(metrics) == absent
    assert all(np.isfinite(value) for value in metrics.values() if isinstance(value, float))
    omissions = [note for note in result.notes if "left out" in note]
    assert len(omissions) == (0 if not absent else 2 if "swd" in absent else 1)
    for name in absent:
        assert name in " ".join(omissions)
    assert all("add images" in note for note in result.notes)
    assert bool(result.by_epoch) == ("kid" not in absent)
    assert not {name for name in metrics if name.startswith("real_kid")} & absent
    if "kid" not in absent:
        assert f"± {metrics['kid_error']:.2g}" in result.notes[0]
    assert len(result.closest(24)[0]) > 0


def test_compared_metrics_are_few_and_begin_with_kid(images: Images) -> None:
    result = evaluate(evaluation(), images[50:250], images[:50], images[250:300])
    metrics, details = result.metrics(), result.details()
    assert list(metrics) == ["kid", "kid_error", "fid", "precision", "recall", "memorised"]
    assert metrics == {name: details[name] for name in metrics}
    few = evaluate(evaluation(), images[:9], images[:0], images[250:300])
    assert few.metrics() == {}


def test_note_explains_missing_metrics_without_scale(
    small: Images,
) -> None:
    result = evaluate(evaluation(), small[:9], small[:0], small[300:350])
    assert set(result.details()) == {
        "swd", "diversity", "real_swd", "real_diversity", "measured_with", "notes"
    }  # fmt: skip
    assert result.notes == (
        "generated images are compared with 3 training images: the test set has 0 images, and 16"
        " are needed; raise convert.test_fraction or add images",
        "kid, fid, precision, recall, density, coverage, memorised and the KID of epochs: left"
        " out, because the scale of the features comes from 3 training images, and 30 are needed;"
        " add images",
    )


def test_training_reference_needs_30_images_for_scale(small: Images) -> None:
    settings = evaluation(reference="training", nearest_neighbor_pool=1)
    few, enough = (
        evaluate(settings, small[:count], small[:0], small[300:350]) for count in (29, 30)
    )
    assert few.generated.kid is None
    (note,) = few.notes
    assert "the scale of the features comes from 29 training images" in note
    assert enough.generated.kid is not None
    (note,) = enough.notes
    assert note.endswith("it is compared with 30 real images, and below 200 its standard error is"
                         " large; add images")  # fmt: skip


def test_small_neighbor_pool_has_enough_images_for_scale(small: Images) -> None:
    settings = evaluation(samples=16, nearest_neighbor_pool=1)
    result = evaluate(settings, small[:200], small[:0], small[300:350])
    assert result.generated.kid is not None


@pytest.mark.parametrize(
    ("count", "count_text"), [(0, "0 images"), (1, "1 image"), (15, "15 images"), (16, None)]
)
def test_note_reports_training_images_as_reference(
    small: Images, count: int, count_text: str | None
) -> None:
    test = small[200 : 200 + count]
    result = evaluate(evaluation(), small[:200], test, small[300:350])
    found = [note for note in result.details()["notes"] if "test set" in note]
    assert found == [
        f"generated images are compared with 50 training images: the test set has {count_text}, and"
        " 16 are needed; raise convert.test_fraction or add images"
    ] * (count_text is not None)
    by_setting = evaluate(evaluation(reference="training"), small[:200], test, small[300:350])
    assert not [note for note in by_setting.notes if "test set" in note]


@pytest.mark.parametrize(
    ("samples", "test", "action"),
    [
        (199, 200, "raise evaluate.samples to 200"),
        (199, 199, "raise evaluate.samples to 200 and raise convert.test_fraction or add images"),
        (200, 199, "raise convert.test_fraction or add images"),
        (199, 0, "raise evaluate.samples to 200"),
    ],
)
def test_note_about_large_error_names_setting_to_raise(
    small: Images, monkeypatch: pytest.MonkeyPatch, samples: int, test: int, action: str
) -> None:
    monkeypatch.setattr("atelier.metrics.distances._PATCHES_PER_IMAGE", 1)  # for speed
    training, generated = small[:600], small[900:1100]
    notes = evaluate(
        evaluation(samples=samples), training, small[600 : 600 + test], generated
    ).notes
    (found,) = [note for note in notes if "standard error" in note]
    assert found.endswith(f"its standard error is large; {action}")


@pytest.mark.parametrize("reference", ["test", "training"])
@pytest.mark.parametrize("count", [0, 40])
def test_features_of_each_real_image_are_extracted_once(
    small: Images, monkeypatch: pytest.MonkeyPatch, reference: str, count: int
) -> None:
    extractor, extracted = color_extractor(), list[bytes]()

    def record(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        extracted.extend(image.numpy().tobytes() for image in inputs[0].contiguous())

    extractor.network.register_forward_pre_hook(record)
    monkeypatch.setattr("atelier.metrics.evaluate.build_extractor", lambda *_: extractor)
    evaluate(evaluation(reference=reference), small[:200], small[200 : 200 + count], small[300:350])
    assert len(extracted) == len(set(extracted)) > 180


def test_kid_with_scale_of_30_images_is_0_on_average(small: Images) -> None:
    rng = np.random.default_rng(0)
    kids = []
    for _ in range(60):
        shuffled = small[rng.permutation(len(small))]
        validation_kid = ValidationKID(evaluation(), shuffled[:46], shuffled[100:116])
        kids.append(validation_kid(shuffled[200:216]))
    assert abs(np.mean(kids)) < 3 * np.std(kids) / np.sqrt(len(kids))
    assert np.std(kids) < 3


def test_enough_images_need_no_note(small: Images) -> None:
    settings = evaluation(samples=200)
    result = evaluate(settings, small[:600], small[600:800], small[800:1000])
    assert result.notes == ()


def test_training_reference_uses_all_training_images_and_samples(
    small: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use a small calibrated network instead of Inception."""
    extract = color_extractor(calibrated=True)
    monkeypatch.setattr("atelier.metrics.evaluate.build_extractor", lambda *_: extract)
    training, test, generated = small[:80], small[300:340], small[400:520]
    settings = evaluation(samples=120, reference="training", features="inception")
    result = evaluate(settings, training, test, generated)
    real, generated_features, others = (
        extract(images, CPU) for images in (training, generated, test)
    )
    metrics = result.details()
    assert metrics["fid"] == pytest.approx(frechet_distance(real, generated_features), rel=1e-4)
    assert metrics["real_fid"] == pytest.approx(frechet_distance(real, others), rel=1e-4)
    assert metrics["kid"] == pytest.approx(compute_kid(real, generated_features).value, rel=1e-3)
    found = precision_recall_density_coverage(real, generated_features)
    assert (metrics["precision"], metrics["recall"]) == (found.precision, found.recall)
    assert metrics["real_memorised"] == pytest.approx(1 / 41), "of the test images"
    measured = {"samples": 120, "reference": "training", "reference_images": 80}
    assert metrics["measured_with"].items() >= (measured | {"other_images": 40}).items()
    without_test = evaluate(settings, training, test[:0], generated).details()
    assert without_test["fid"] == metrics["fid"]
    assert "real_fid" not in without_test


def test_epochs_are_measured_on_validation_images_for_every_protocol(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(evaluate={"reference": "training"})
    assert validation_settings(settings.train).reference == "test"


def test_metrics_do_not_depend_on_the_global_generator(images: Images) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        result = evaluate(
            evaluation(), images[:100], images[100:150], images[150:200],
            epochs={2: images[150:152], 3: images[150:153], 4: images[150:160]},
        )  # fmt: skip
        found.append((result.details(), result.epoch_rows(), result.swd_rows()))
    assert found[0] == found[1]
    assert [row[0] for row in found[0][1]] == [3, 4], "two images have no KID"
    assert np.isfinite(found[0][1]).all()
    assert [row[0] for row in found[0][2]] == [16, 32]


def test_measured_epochs_are_evenly_spaced_and_include_the_last(
    images: Images,
) -> None:
    epochs = dict.fromkeys(range(1, 37), images[:3])
    assert list(spread(epochs, 12)) == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36]
    assert list(spread(epochs, 5)) == [7, 14, 21, 28, 36]
    assert list(spread(epochs, 36)) == list(spread(epochs, 99)) == list(epochs)
    assert list(spread(epochs, 1)) == [36]
    assert spread(epochs, 0) == {}
    three = dict.fromkeys((1, 4, 9), images[150:160])
    real, generated = (images[:100], images[100:150]), images[150:200]
    rows = evaluate(evaluation(epochs=2), *real, generated, epochs=three).epoch_rows()
    assert [row[0] for row in rows] == [1, 9]


class CountingExtractor:
    """Extractor that counts its calls."""

    def __init__(self, identity: str = "") -> None:
        real = build_extractor("random", 1)
        self.calls = 0
        network = torch.nn.Sequential(real.network)
        network.register_forward_hook(self._count)
        self.extractor = Extractor(network, identity or real.identity)

    def _count(self, *_: object) -> None:
        self.calls += 1


def test_features_are_cached_by_content(tmp_path: Path, images: Images) -> None:
    counting, cache = CountingExtractor(), FeatureCache(tmp_path / "features")
    first = cache.features(counting.extractor, images[:9])
    cached = cache.features(counting.extractor, images[:9].copy())
    assert counting.calls == 1
    assert torch.equal(first, cached)
    for other in (images[1:10], images[:9].reshape(9, 16, 64, 3)):
        cache.features(counting.extractor, other)
    assert counting.calls == 3
    other_extractor = CountingExtractor("another network")
    cache.features(other_extractor.extractor, images[:9])
    assert other_extractor.calls == 1


@pytest.mark.parametrize("content", [b"", b"no features", None])
def test_damaged_cache_file_is_computed_again(
    tmp_path: Path, images: Images, content: bytes | None
) -> None:
    counting, cache = CountingExtractor(), FeatureCache(tmp_path)
    features = cache.features(counting.extractor, images[:9])
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:-100] if content is None else content)
    assert torch.equal(cache.features(counting.extractor, images[:9]), features)
    assert counting.calls == 2
    assert file.read_bytes() == good


def test_unwritable_cache_folder_is_ignored(tmp_path: Path, images: Images) -> None:
    (tmp_path / "a_file").write_text("in the way")
    features = FeatureCache(tmp_path / "a_file").features(CountingExtractor().extractor, images[:9])
    assert len(features) == 9


def test_cache_keeps_20_most_recently_used_files(tmp_path: Path, images: Images) -> None:
    counting, cache = CountingExtractor(), FeatureCache(tmp_path)
    for i in range(20):
        cache.features(counting.extractor, images[i : i + 1])
        for file in tmp_path.iterdir():  # older for any clock resolution
            os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))
    cache.features(counting.extractor, images[:1])  # a hit makes the oldest file the newest
    cache.features(counting.extractor, images[30:31])
    assert (counting.calls, len(list(tmp_path.iterdir()))) == (21, 20)
    cache.features(counting.extractor, images[:1])
    assert counting.calls == 21
    cache.features(counting.extractor, images[1:2])
    assert counting.calls == 22
