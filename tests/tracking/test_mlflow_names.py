"""Conversion of names and values to legal MLflow names, without collisions."""

import posixpath
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atelier.tracking import mlflow_names as names

pytestmark = pytest.mark.filterwarnings("ignore")
# All characters, including NUL, surrogates and controls, and those special in paths and URLs.
HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=300),
    st.text(st.sampled_from("a.%/\\#?: @'\"`\0\n\ud800é+~"), max_size=40),
    st.text(max_size=600),
)
CONVERSIONS = [
    names.key,
    names.image_key,
    names.artifact_path,
    names.run_name,
    names.experiment_name,
    names.model_name,
]
Conversion = Callable[[str], str]


@pytest.mark.parametrize("convert", CONVERSIONS)
@given(first=HOSTILE, second=HOSTILE)
@example(first="a b", second="a?b")
@example(first="a (1)", second="a {1}")
@example(first="..", second=".")
@example(first="", second="/")
@example(first="x" * 300, second="x" * 301)
def test_names_are_unique_and_legal_names_unchanged(
    convert: Conversion, first: str, second: str
) -> None:
    if first != second and convert(first) != first and convert(second) != second:
        assert convert(first) != convert(second)
    assert convert(convert(first)) == convert(first)
    assert convert(first).encode()


@given(name=HOSTILE)
@example(name="watch@mine")
@example(name="loss/IMG_2041 (1).png")
@example(name="a\n")
def test_keys_pass_validation_of_mlflow(name: str) -> None:
    from mlflow.utils import validation

    key = names.key(name)
    validation._validate_metric(key, 0.5, 1, 1)
    validation._validate_param(key, "value")
    validation._validate_tag(key, "value")
    assert len(key) <= validation.MAX_ENTITY_KEY_LENGTH
    assert not set("\n`'\"") & set(key)


@given(path=HOSTILE)
@example(path="../../etc/passwd")
@example(path="/etc/passwd")
@example(path="a%2e%2e/b#c?d")
@example(path="x" * 300 + ".png")
@example(path="C:\\a")
def test_artifact_paths_stay_in_run_and_are_url_safe(path: str) -> None:
    from mlflow.store.artifact.artifact_repo import verify_artifact_path
    from mlflow.store.artifact.local_artifact_repo import _verify_artifact_file_name
    from mlflow.utils.uri import validate_path_is_safe
    from requests import Request

    legal = names.artifact_path(path)
    verify_artifact_path(legal)
    _verify_artifact_file_name(legal)
    assert validate_path_is_safe(legal) == legal
    assert all(len(part.encode()) <= 255 for part in legal.split("/"))
    url = Request("PUT", f"http://host/{legal}").prepare().url or ""
    assert "?" not in url
    assert "#" not in url
    assert posixpath.normpath(legal) == legal


@given(value=HOSTILE)
def test_values_are_text_of_legal_length(value: str) -> None:
    from mlflow.utils import validation

    for text in (names.parameter(value * 50), names.tag(value * 50), names.text(value)):
        assert "\0" not in text
        text.encode()
    assert len(names.parameter(value * 50)) <= validation.MAX_PARAM_VAL_LENGTH
    assert len(names.tag(value * 50)) <= validation.MAX_TAG_VAL_LENGTH


@given(name=HOSTILE)
def test_names_of_experiments_models_and_images_pass_validation_of_mlflow(name: str) -> None:
    import re

    from mlflow.utils import validation

    validation._validate_experiment_name(names.experiment_name(name))
    validation._validate_model_name(names.model_name(name))
    assert re.fullmatch(r"[a-zA-Z0-9_\-./ ]+", names.image_key(name))
    assert names.run_name(name).strip()
    assert Path(names.experiment_name(name)).name == names.experiment_name(name)


def test_legal_names_are_unchanged_and_illegal_ones_readable() -> None:
    assert names.key("loss/a-b c.png") == "loss/a-b c.png"
    assert names.key("loss/IMG_2041 (1).png").startswith("loss/IMG_2041 _1_.png-")
    assert names.artifact_path("renders/a (1).png") == "renders/a (1).png"
    assert names.artifact_path("renders/100%.png").startswith("renders/100_-")
    assert names.artifact_path("renders/100%.png").endswith(".png")
