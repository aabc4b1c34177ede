"""Tests of the description of a study, search.yaml."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from atelier.core.errors import AtelierError
from atelier.data.dataset import save_images
from atelier.search.loop import require_validation_images
from atelier.search.settings import SearchSettings, Space, load_search, with_changes

STUDY: dict[str, Any] = {
    "study": "first",
    "settings": {
        "train.lr": {"low": 0.0001, "high": 0.01, "log": True},
        "train.batch_size": {"choices": [16, 32]},
    },
    "fixed": {"train.epochs": 4, "train.kid_every_epochs": 1},
}


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "search.yaml"
    with file.open("w", encoding="utf-8") as out:
        YAML(typ="safe").dump(STUDY | changes, out)
    return file


def load(root: Path, folder: Path, **changes: Any) -> tuple[SearchSettings, dict[str, Any]]:
    return load_search(write(folder, **changes), root / "params.yaml")


def test_study_has_the_documented_defaults(root: Path, tmp_path: Path) -> None:
    search, present = load(root, tmp_path)
    assert (search.trials, search.hours, search.seeds) == (30, 0, 1)
    assert (search.sampler, search.pruner, search.stages) == ("tpe", "median", "train")
    assert search.objectives == ["quality/validation_kid"]
    assert present["train.lr"] == 0.001
    assert present["stylize.style_layers"][1] == 0.244140625
    assert present["tracking.experiment"] == "atelier"


def _of(key: str, **space: Any) -> dict[str, Any]:
    return {"settings": {key: space}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            _of("train.learning_rate", low=0.1, high=1.0),
            "no setting train.learning_rate; did you mean train.lr?",
        ),
        (_of("train.ema_decai", low=0.1, high=0.9), "did you mean train.ema_decay?"),
        (_of("lr", low=0.1, high=0.9), "did you mean train.lr?"),
        (_of("learning_rate", low=0.1, high=0.9), "did you mean train.lr?"),
        (_of("train.loss_rate", low=0.1, high=0.9), "did you mean train.loss?"),
        (_of("stylize.style_layers.1", low=0.1, high=1.0), "has no setting stylize.style_layers.1"),
        ({"fixed": {"train.epoch": 3}}, "did you mean train.epochs?"),
        ({"trails": 3}, "trails is not a setting; did you mean trials"),
        (_of("train.lr", low=0.1), "it needs either low and high, or choices"),
        (_of("train.lr", low=0.1, high=0.01), "low is 0.1 and high is 0.01; low must be less"),
        (
            _of("train.lr", low=0, high=0.01, log=True),
            "low is 0; with log, low must be greater than 0",
        ),
        ({"study": None}, "study is missing; add it, e.g. `study: first`; docs/find-good"),
        ({"settings": None}, "settings is missing; add it"),
        ({"fixed": {"train": {"epochs": 4}}}, "fixed.train is a section; write its keys with"),
        ({"settings": {"train": {"lr": {"low": 1}}}}, "with a period, e.g. `train.lr: ...`"),
        (
            {"settings": {"train.loss": ["bce", "hinge"]}},
            "settings.train.loss is ['bce', 'hinge'], but a setting to search needs {low: ...,",
        ),
        (_of("train.lr", choices=[0.1]), "at least two different choices"),
        (_of("train.lr", choices=[0.1, 0.2], low=0.1), "choices have no low, high and log"),
        (_of("train.ema_decay", low=0.5, high=1.5), "(settings.train.ema_decay)"),
        (_of("train.loss", choices=["bce", "hing"]), "(settings.train.loss)"),
        (_of("train.sample_every_epochs", low=0.5, high=3.5), "(settings.train.sample_every"),
        (_of("train.seed", low=1, high=5), "train.seed is not searched; `seeds` repeats each"),
        ({"fixed": {"train.lr": 0.1}}, "settings and fixed both name train.lr"),
        ({"fixed": {"train.epochs": 0}}, "search.yaml (fixed)"),
        ({"objectives": ["quality/kid"]}, "is measured on the test split"),
        (
            {"objectives": ["quality/validation_kit"], "pruner": "none"},
            "no stage logs quality/validation_kit; did you mean quality/validation_kid?",
        ),
        ({"objectives": ["style/loss"], "pruner": "none"}, "set stages to stylize"),
        ({"objectives": ["quality/validation_kid", "seconds"]}, "set pruner to none"),
        ({"fixed": {"train.kid_every_epochs": 0}}, "train.kid_every_epochs is 0"),
        ({"fixed": {"convert.validation_fraction": 0.0}}, "convert.validation_fraction is 0"),
        ({"study": "a/b"}, "up to 60 letters, digits, - and _"),
        ({"git_remote": "--upload-pack=x"}, "git_remote"),
    ],
)
def test_mistake_is_one_sentence(
    root: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(AtelierError) as raised:
        load(root, tmp_path, **changes)
    text = str(raised.value)
    assert message in text
    assert "\n" not in text
    assert text.startswith("search.yaml")


def test_missing_description_names_the_page_with_one_to_copy(root: Path, tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match=r"no .*search.yaml.*docs/find-good-settings.md"):
        load_search(tmp_path / "search.yaml", root / "params.yaml")


def test_objective_of_two_metrics_needs_no_kid_for_seconds(root: Path, tmp_path: Path) -> None:
    fixed = {"train.kid_every_epochs": 0}
    search, _ = load(root, tmp_path, fixed=fixed, objectives=["seconds"], pruner="none")
    assert search.objectives == ["seconds"]


def test_range_of_integers_and_range_of_numbers_may_be_written_without_a_point() -> None:
    assert Space(low=1, high=5).is_integer
    assert not Space(low=0, high=0.5).is_integer


def test_space_contains_its_ends_and_no_other_type() -> None:
    space = Space(low=1, high=3)
    assert [space.contains(v) for v in (1, 3, 0, 4, True, "2")] == [True] * 2 + [False] * 4
    assert Space(choices=[[], ["color"]]).contains(["color"])


def test_changes_leave_the_original_values() -> None:
    values = {"a": {"b": 1, "c": {"d": [2]}}}
    assert with_changes(values, {"a.c.d": 3, "a.b": 4}) == {"a": {"b": 4, "c": {"d": 3}}}
    assert values == {"a": {"b": 1, "c": {"d": [2]}}}


def write_validation(folder: Path, number: int) -> None:
    path = folder / "data/validation.npz"
    path.parent.mkdir(exist_ok=True)
    pixels = bytes(number * 4 * 4 * 3)
    save_images(path, [pixels], (number, 4, 4, 3), [f"{i}" for i in range(number)])


def test_too_few_validation_images_are_refused_before_a_trial(root: Path, tmp_path: Path) -> None:
    search, _ = load(root, tmp_path)
    write_validation(tmp_path, 15)
    with pytest.raises(
        AtelierError, match=r"validation\.npz has 15 images, and the KID of epochs needs 16; add"
    ):
        require_validation_images(tmp_path, search)
    converted, _ = load(root, tmp_path, fixed={"convert.validation_fraction": 0.5})
    require_validation_images(tmp_path, converted)
    fast, _ = load(root, tmp_path, objectives=["seconds"], pruner="none")
    require_validation_images(tmp_path, fast)
    write_validation(tmp_path, 16)
    require_validation_images(tmp_path, search)


@pytest.mark.parametrize("content", ["", "- a\n", "text\n"])
def test_file_without_keys_is_one_sentence(root: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(content, "utf-8")
    with pytest.raises(AtelierError, match=r"^search\.yaml: "):
        load_search(file, root / "params.yaml")
