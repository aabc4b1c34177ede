"""Any YAML gives valid settings or one error sentence that names the file."""

import io
import re
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from ruamel.yaml import YAML

from atelier.core import settings
from atelier.core.errors import AtelierError
from atelier.core.yaml_files import read_yaml

PARAMS = (Path(__file__).parents[2] / "params.yaml").read_text("utf-8")
VALUES = read_yaml(Path(__file__).parents[2] / "params.yaml")
KEYS = [(section, key) for section, keys in VALUES.items() for key in keys]

derandomized = bounds(derandomize=True)

# Scalars of every YAML type, and words that have a meaning in settings or in YAML.
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.binary(max_size=8),
    st.datetimes(),
    st.dates(),
    st.sampled_from(["rgb", "folder", "archive", "auto", "adam", "on", "1_000", "0x1f", "~", "<<"]),
)
nested = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers() | st.booleans(), inner, max_size=4)
        | st.sets(st.text(max_size=4) | st.integers(), max_size=3)
    ),
    max_leaves=12,
)


def dump(values: Any) -> bytes:
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, text)
    return text.getvalue().encode()


def load(content: bytes) -> settings.Settings | str:
    """Return the settings in a file of this content, or the error sentence."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_bytes(content)
        try:
            return settings.load(file)
        except AtelierError as error:
            return str(error)


def assert_valid_or_one_sentence(content: bytes) -> None:
    result = load(content)
    if isinstance(result, settings.Settings):
        assert load(dump(result.model_dump())) == result
        return
    assert result.isprintable(), f"line breaks or control characters: {result!r}"
    assert result.endswith((".", "?"))
    assert not result.endswith(("..", " ."))
    assert "params.yaml" in result
    assert len(result) < 1000


@derandomized
@given(st.binary(max_size=200))
def test_any_bytes_are_valid_or_one_error_sentence(content: bytes) -> None:
    assert_valid_or_one_sentence(content)


@derandomized
@given(st.text(alphabet="ab01 \n\t-:,?&*!|>'\"%@`#[]{}<.~\\\0\x07\x85\u2028é", max_size=60))
@example("\ufeff")
@example('"\\ud800": 1')
@example('"a\\nb": 1\n"a\\nb": 2')
@example("a: *b\\e[2J")
@example("!!int '': 1")
@example("!!bool x")
@example("!!timestamp x")
@example("!!binary é")
@example("!!float x")
@example("a: !!set {b, c}\n? [d]\n: e")
@example("train: {epochs: 1" + "0" * 5000 + "}")
@example("&a [*a]")
@example("&a {*a : *a}")
@example("<<: 1")
@example("%YAML 9.9\n---\n1")
@example("---\n1\n---\n2")
@example("[" * 1500)
def test_any_yaml_text_is_valid_or_one_error_sentence(text: str) -> None:
    assert_valid_or_one_sentence(text.encode())


@derandomized
@given(nested)
def test_any_values_are_valid_or_one_error_sentence(values: Any) -> None:
    assert_valid_or_one_sentence(dump(values))


@derandomized
@given(st.lists(st.tuples(st.sampled_from(KEYS), nested), min_size=1, max_size=3))
def test_any_value_of_a_setting_is_valid_or_one_error_sentence(
    changes: list[tuple[tuple[str, str], Any]],
) -> None:
    values = deepcopy(VALUES)
    for (section, key), value in changes:
        values[section][key] = value
    assert_valid_or_one_sentence(dump(values))


@derandomized
@given(st.sampled_from(KEYS), st.text(max_size=20), st.booleans())
def test_any_key_of_a_setting_is_valid_or_one_error_sentence(
    key: tuple[str, str], name: str, remove: bool
) -> None:
    values = deepcopy(VALUES)
    section, old = key
    values[section][name] = values[section].pop(old) if remove else 1
    values[name + old] = values[section]
    assert_valid_or_one_sentence(dump(values))


@derandomized
@given(
    st.integers(0, len(PARAMS)),
    st.integers(0, 30),
    st.text(alphabet="a1 \n\t-:,&*!|>'\"#[]{}", max_size=8),
)
def test_any_edit_of_params_yaml_is_valid_or_one_error_sentence(
    start: int, removed: int, inserted: str
) -> None:
    assert_valid_or_one_sentence((PARAMS[:start] + inserted + PARAMS[start + removed :]).encode())


@derandomized
@given(
    folders=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]*", fullmatch=True),
        st.text(min_size=1),
        min_size=1,
        max_size=4,
    ),
    root=st.text(),
    lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    layers=st.dictionaries(st.integers(0, 35), st.floats(0.1, 1e9), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
)
def test_valid_values_are_loaded_unchanged(
    folders: dict[str, str], root: str, lr: float, layers: dict[int, float], seed: int
) -> None:
    values = deepcopy(VALUES)
    values["download"] |= {"source": "folder", "folders": folders}
    values["download"]["torchvision"]["root"] = root
    values["train"] |= {"lr": lr, "seed": seed}
    values["stylize"]["style_layers"] = layers
    result = load(dump(values))
    assert isinstance(result, settings.Settings), result
    assert result.download.folders == folders
    assert result.train.lr == lr
    assert result.stylize.style_layers == layers
    assert load(dump(result.model_dump())) == result


# YAML aliases that expand to 10^20 values.
ALIASES = "a0: &a0 [1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 21)
)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "epochs: 41",
            "epochs: *a20",
            r"train\.epochs is \[\[.*\.\.\., but it should be a valid integer",
        ),
        (
            "folders: {}",
            "folders: *a20",
            r"download\.folders is \[\[.*\.\.\., but it should be a valid",
        ),
        ("epochs: 41", "3: 30", r"train\.3 is not a setting; known here are network,"),
        ("epochs: 41", "'': 30", r"train\.'' is not a setting"),
        ("contents: [generated]", "contents: []", r"is \[\], but it should have at least 1 item"),
        (
            "experiment: atelier",
            "experiment: ''",
            r"is '', but it should have at least 1 character",
        ),
    ],
)
def test_error_sentence_names_setting_value_and_rule(old: str, new: str, sentence: str) -> None:
    assert old in PARAMS
    aliases = ALIASES if "*a20" in new else ""
    result = load((aliases + PARAMS.replace(old, new)).encode())
    assert re.search(sentence, str(result)), result
    assert_valid_or_one_sentence((aliases + PARAMS.replace(old, new)).encode())
