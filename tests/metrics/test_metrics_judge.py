"""The judge that training asks, what is drawn of the real pictures, and features that are kept."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atelier.errors import AtelierError
from atelier.metrics.cache import FeatureCache
from atelier.metrics.evaluate import RealPictures, evaluate, spread
from atelier.metrics.extractors import build_extractor
from atelier.metrics.features import Extractor
from atelier.metrics.judge import Judge, judge_of
from atelier.settings import EvaluateSettings, Settings

CPU = torch.device("cpu")
Pictures = NDArray[np.uint8]


def wanted(**values: Any) -> EvaluateSettings:
    usual: dict[str, Any] = {
        "samples": 50, "features": "random", "epochs": 12, "nearest_among": 80, "seed": 1
    }  # fmt: skip
    return EvaluateSettings(**usual | values)


@pytest.fixture(scope="module")
def pictures(shapes: tuple[Pictures, NDArray[np.int64]]) -> Pictures:
    return shapes[0]


def test_a_judge_gives_the_kid_of_the_evaluation_time_after_time(pictures: Pictures) -> None:
    held_out, training, made = pictures[:50], pictures[50:250], pictures[250:300] // 2
    judge = Judge(wanted(), held_out, CPU)
    result = evaluate(wanted(), training, held_out, made, CPU).metrics()
    assert judge(made) == judge(made) == pytest.approx(result["kid"], rel=1e-5)
    assert judge(pictures[300:420]) < judge(made) < judge(np.zeros_like(made))


def test_epochs_are_measured_where_enough_pictures_are_held_out(
    pictures: Pictures, make_settings: Callable[..., Settings]
) -> None:
    told: list[str] = []

    def asked(count: int, **train: Any) -> Judge | None:
        settings = make_settings(train={"measure_every": 1, **train})
        return judge_of(settings, pictures[:count], CPU, told.append)

    assert asked(16) is not None
    assert asked(16, measure_every=0) is None
    assert not told
    assert asked(15) is None
    assert told == ["epochs are not measured: 15 pictures are held out, and 16 needed"]
    with pytest.raises(AtelierError, match="15 pictures are held out, too few to measure"):
        asked(15, keep="best")


def test_held_out_pictures_are_the_reference_where_there_are_enough(pictures: Pictures) -> None:
    training, held_out = pictures[:200], pictures[200:240]
    for few, measured in (
        (held_out, {"samples": 40, "reference": "held_out", "searched": 80}),
        (held_out[:15], {"samples": 50, "reference": "training", "searched": 100}),
        (held_out[:0], {"samples": 50, "reference": "training", "searched": 100}),
    ):
        drawn = RealPictures.draw(wanted(), training, few)
        assert len(drawn.reference) == len(drawn.other) == measured["samples"]
        inside = {row.tobytes() for row in (few if drawn.held_out else training)}
        assert {row.tobytes() for row in drawn.reference} <= inside
        assert not {row.tobytes() for row in drawn.reference} & {r.tobytes() for r in drawn.other}
        told = evaluate(wanted(), training, few, pictures[300:350], CPU).metrics()["measured_with"]
        assert told == {"features": "random", "seed": 1, "neighbours": 5} | measured
    with pytest.raises(AtelierError, match="there are 31 pictures, but numbers need at least 32"):
        RealPictures.draw(wanted(), training[:31], held_out[:0])


def test_numbers_repeat_whatever_the_global_stream_does(pictures: Pictures) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        result = evaluate(
            wanted(), pictures[:100], pictures[100:150], pictures[150:200], CPU,
            epochs={2: pictures[150:152], 3: pictures[150:153], 4: pictures[150:160]},
        )  # fmt: skip
        found.append((result.metrics(), result.epoch_rows(), result.swd_rows()))
    assert found[0] == found[1]
    assert [row[0] for row in found[0][1]] == [3, 4], "two pictures have no KID"
    assert np.isfinite(found[0][1]).all()
    assert [row[0] for row in found[0][2]] == [16, 32]


def test_epochs_that_are_measured_are_spread_evenly_and_end_with_the_last(
    pictures: Pictures,
) -> None:
    epochs = dict.fromkeys(range(1, 37), pictures[:3])
    assert list(spread(epochs, 12)) == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36]
    assert list(spread(epochs, 5)) == [7, 14, 21, 28, 36]
    assert list(spread(epochs, 36)) == list(spread(epochs, 99)) == list(epochs)
    assert list(spread(epochs, 1)) == [36]
    assert spread(epochs, 0) == {}
    three = dict.fromkeys((1, 4, 9), pictures[150:160])
    real, made = (pictures[:100], pictures[100:150]), pictures[150:200]
    rows = evaluate(wanted(epochs=2), *real, made, CPU, epochs=three).epoch_rows()
    assert [row[0] for row in rows] == [1, 9]


class Counting:
    """An extractor that counts how often it looks."""

    def __init__(self, identity: str = "") -> None:
        real = build_extractor("random", 1)
        self.looks = 0
        network = torch.nn.Sequential(real.network)
        network.register_forward_hook(self._look)
        self.extractor = Extractor(network, identity or real.identity)

    def _look(self, *_: object) -> None:
        self.looks += 1


def test_features_are_kept_by_content(tmp_path: Path, pictures: Pictures) -> None:
    counting, cache = Counting(), FeatureCache(tmp_path / "features")
    first = cache.features(counting.extractor, pictures[:9], CPU)
    again = cache.features(counting.extractor, pictures[:9].copy(), CPU)
    assert counting.looks == 1
    assert torch.equal(first, again)
    for other in (pictures[1:10], pictures[:9].reshape(9, 16, 64, 3)):
        cache.features(counting.extractor, other, CPU)
    assert counting.looks == 3
    another = Counting("another network")
    cache.features(another.extractor, pictures[:9], CPU)
    assert another.looks == 1


@pytest.mark.parametrize("content", [b"", b"no features", None])
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, pictures: Pictures, content: bytes | None
) -> None:
    counting, cache = Counting(), FeatureCache(tmp_path)
    whole = cache.features(counting.extractor, pictures[:9], CPU)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:-100] if content is None else content)
    assert torch.equal(cache.features(counting.extractor, pictures[:9], CPU), whole)
    assert counting.looks == 2
    assert file.read_bytes() == good


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path: Path, pictures: Pictures) -> None:
    (tmp_path / "a_file").write_text("in the way")
    features = FeatureCache(tmp_path / "a_file").features(Counting().extractor, pictures[:9], CPU)
    assert len(features) == 9


def test_the_last_twenty_sets_that_were_asked_for_are_kept(
    tmp_path: Path, pictures: Pictures
) -> None:
    counting, cache = Counting(), FeatureCache(tmp_path)
    for i in range(20):
        cache.features(counting.extractor, pictures[i : i + 1], CPU)
        for file in tmp_path.iterdir():  # whatever the clock's grain, these are older
            os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))
    cache.features(counting.extractor, pictures[:1], CPU)  # the oldest is wanted again
    cache.features(counting.extractor, pictures[30:31], CPU)
    assert (counting.looks, len(list(tmp_path.iterdir()))) == (21, 20)
    cache.features(counting.extractor, pictures[:1], CPU)
    assert counting.looks == 21
    cache.features(counting.extractor, pictures[1:2], CPU)
    assert counting.looks == 22
