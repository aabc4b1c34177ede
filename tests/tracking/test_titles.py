"""Titles and parameters of runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from atelier.core import settings as settings_module
from atelier.core.settings import Settings
from atelier.tracking.run_start import MAX_PARAMETERS, RunStart, settings_of
from atelier.tracking.titles import Title

ROOT = Path(__file__).parents[2]


def settings(**changes: Any) -> Settings:
    """Return the default settings with changes by dotted key."""
    values = settings_module.load(ROOT / "params.yaml").model_dump()
    for key, value in changes.items():
        *sections, name = key.split(".")
        part = values
        for section in sections:
            part = part[section]
        part[name] = value
    return Settings.model_validate(values)


def title(**changes: Any) -> Title:
    return Title.of(settings(**changes), ROOT / "presets")


def test_title_names_the_preset_the_images_and_what_differs() -> None:
    assert title() == Title("sample", "", {})
    assert title().run_name() == "sample"
    assert title().run_name(2000) == "sample, 2,000 pictures"
    changed = title(**{"train.lr": 0.0004, "stylize.image_size": 256})
    assert changed.changes == {"train.lr": "0.0004", "stylize.image_size": "256"}
    assert changed.run_name(400) == "sample, 400 pictures, lr 0.0004, stylize.image_size 256"
    assert changed.of_stage("stylize") == {"stylize.image_size": "256"}


@pytest.mark.parametrize(
    ("download", "name"),
    [
        ({"source": "folder", "folders": {"anna": "/a", "ben": "/b"}}, "anna and ben"),
        ({"source": "torchvision"}, "MNIST"),
        ({"source": "kaggle"}, "human-faces"),
    ],
)
def test_title_names_the_source_of_own_images(download: dict[str, Any], name: str) -> None:
    found = title(**{f"download.{key}": value for key, value in download.items()})
    assert found.data == name
    assert found.run_name(40) == f"sample, 40 pictures of {name}", "the path is no part of a name"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://anna:secret@example.org/faces.zip?token=1", "faces.zip"),
        ("https://anna:secret@example.org?token=1", "example.org"),
        ("https://anna:secret@[x/", "archive"),
        ("/data/faces.tar.gz", "faces.tar.gz"),
    ],
)
def test_address_of_an_archive_loses_its_password(address: str, name: str) -> None:
    changes = {"download.source": "archive", "download.archive.location": address}
    found = title(**changes)
    assert found.data == name
    assert "secret" not in found.run_name(400)
    assert "token" not in json.dumps(found.as_json())


def test_settings_that_changed_since_the_last_pipeline_come_first() -> None:
    changes = {"train.lr": "0.1", "train.seed": "2", "train.epochs": "3", "train.beta1": "0.5"}
    found = Title("best32", "", changes)
    assert found.run_name() == "best32, lr 0.1, seed 2, epochs 3, 1 more setting"
    previous = changes | {"train.beta1": "0.0"}
    name = found.run_name(previous=previous)
    assert name == "best32, beta1 0.5, lr 0.1, seed 2, 1 more setting"


def test_title_of_a_project_without_presets_is_empty(tmp_path: Path) -> None:
    found = Title.of(settings(), tmp_path)
    assert found == Title()
    assert found.run_name() == ""
    assert Title.from_json({"title": found.as_json()}) == found
    assert Title.from_json({}) is Title.from_json({"title": {"other": 1}}) is None


def start(changes: dict[str, str], parameters: dict[str, str]) -> RunStart:
    entry = {
        "stage": "train",
        "time": 1,
        "experiment": "e",
        "pipeline": "p",
        "parameters": parameters,
        "tags": {"git.dirty": "false"},
        "title": Title("best32", "", changes).as_json(),
    }
    return RunStart.from_entry(entry)


def test_run_of_a_stage_has_its_changed_settings_as_parameters_and_all_as_a_tag() -> None:
    parameters = {"train.lr": "0.1", "train.seed": "1", "render.fps": "4"}
    found = start({"train.lr": "0.1", "render.fps": "4"}, parameters)
    assert found.run_name() == "train (best32)"
    assert found.run_parameters() == {"train.lr": "0.1"}
    tags = found.run_tags()
    assert tags["preset"] == "best32"
    assert tags["git.dirty"] == "false"
    own = {"train.lr": "0.1", "train.seed": "1"}
    assert settings_of({"train.lr": "0.1"}, tags) == own
    assert settings_of(own, {}) == settings_of(own, {"settings": '{"train.lr": [cut]'}) == own


def test_run_of_a_stage_has_few_parameters() -> None:
    many = {f"train.{number}": "1" for number in range(30)}
    assert len(start(many, many).run_parameters()) == MAX_PARAMETERS
    long = {"train.a": "1", "train.b": "x" * 200, "train.c": "1"}
    assert start(long, long).run_parameters() == {"train.a": "1"}


def test_settings_that_are_too_long_for_a_tag_lack_the_longest_value() -> None:
    parameters = {"train.a": "1", "train.b": "x" * 9000}
    assert settings_of({}, start({}, parameters).run_tags()) == {"train.a": "1"}


def test_mapping_that_is_a_value_has_a_key_for_each_of_its_values() -> None:
    found = title(**{"stylize.content_layers": {21: 100.0}})
    assert found.changes == {"stylize.content_layers.21": "100.0"}
    assert found.run_name(previous={"stylize.content_layers.21": "100.0"}).endswith("21 100.0")


def test_name_of_an_experiment_ends_the_name_of_its_run() -> None:
    assert title().run_name(400, experiment="faster") == "sample, 400 pictures (faster)"
    assert Title().run_name(experiment="faster") == "", "the caller's name is used"


def test_long_names_of_folders_are_cut() -> None:
    folders = {f"folder_{number}": "/x" for number in range(25)}
    found = title(**{"download.source": "folder", "download.folders": folders, "train.lr": 0.5})
    assert len(found.data) == 60
    assert found.run_name().endswith(", lr 0.5")
