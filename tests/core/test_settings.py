from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.core import settings
from atelier.core.errors import AtelierError
from atelier.core.paths import check_files
from atelier.core.renamed_settings import RENAMED_KEYS, RENAMED_VALUES
from atelier.core.setting_types import Section
from atelier.core.yaml_files import read_yaml

VALUES = read_yaml(Path(__file__).parents[2] / "params.yaml")


def changed(key: str, value: Any) -> dict[str, Any]:
    values = deepcopy(VALUES)
    *path, last = key.split(".")
    inner = values
    for part in path:
        inner = inner[part]
    inner[last] = value
    return values


def test_params_yaml_is_valid_and_frozen() -> None:
    loaded = settings.check(VALUES, "params.yaml")
    assert loaded.train.lr == VALUES["train"]["lr"]
    with pytest.raises(ValueError, match="frozen"):
        loaded.train.lr = 1.0


@pytest.mark.parametrize("limit", ["auto", 0, 4, 0.5])
def test_memory_is_limited_automatically_or_by_a_number(limit: str | float) -> None:
    loaded = settings.check(changed("stylize.memory_gb", limit), "params.yaml")
    assert loaded.stylize.memory_gb == limit


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("train.epoch", 3, "train.epoch is not a setting; did you mean train.epochs."),
        ("train.fps", 3, "did you mean render.fps."),
        ("trian", {}, "did you mean train."),
        ("download.sample.cuont", 3, "did you mean download.sample.count."),
        ("train.epochs", "ten", "train.epochs is 'ten', but"),
        ("train.epochs", 2.5, "train.epochs is 2.5, but"),
        ("train.epochs", True, "train.epochs is True, but"),
        ("train.epochs", 0, "greater than or equal to 1"),
        ("train.lr", float("nan"), "train.lr is nan, but"),
        ("train.lr", float("inf"), "train.lr is inf, but"),
        ("convert.resize_mode", "squeeze", "'crop', 'stretch' or 'pad'"),
        ("download.source", "folder", "needs at least one entry under folders"),
        ("download.folders", {"mine": "/x"}, "folders is for source: folder"),
        ("download.folders", {"mine": ""}, "download.folders.mine is ''"),
        ("download.folders", {"a;b": "/x"}, "download.folders"),
        ("convert.image_size", 100, "16, 28, 32, 64, 128 or 256"),
        ("tracking.experiment", "..", "tracking.experiment is '..'"),
        ("stylize.optimizer", "adam", "set it to about 0.02"),
        (
            "stylize.memory_gb",
            "all",
            "stylize.memory_gb is 'all', but it should be auto or a number of at least 0.",
        ),
        ("stylize.memory_gb", -1, "should be auto or a number of at least 0."),
        ("stylize.memory_gb", True, "should be auto or a number of at least 0."),
        ("stylize.memory_gb", float("nan"), "should be auto or a number of at least 0."),
        ("stylize.gif", True, "save_intermediates is 0; set it to about 24"),
        ("download.source", "archive", "archive.location"),
        ("download.archive.sha256", "abc", "download.archive.sha256 is 'abc'"),
        ("download.kaggle.handle", "../../etc", "download.kaggle.handle"),
        ("evaluate.features", "resnet51", "no extractor resnet51; did you mean resnet50; use"),
        ("evaluate.features", "../../vgg.pth", "inside its folder"),
        (
            "convert.validation_fraction",
            0.6,
            "convert.validation_fraction is 0.6, but it should be less",
        ),
        ("convert.test_fraction", -0.1, "convert.test_fraction is -0.1, but it should be greater"),
        ("stylize.styles", ["../secret.png"], "inside its folder"),
        ("stylize.style_masks", ["../secret.png"], "inside its folder"),
        ("stylize.style_weights", [1.0, 2.0], "is a list of 2, but the number of styles is 3;"),
        ("stylize.style_weights", [0.0, 0.0, 0.0], "needs to be above 0"),
        ("stylize.iterate_averaging", 0.9, "but only adam averages"),
        ("stylize.style_strength", 1.5, "stylize.style_strength is 1.5"),
        ("stylize.styles", ["/etc/passwd"], "inside its folder"),
        ("stylize.style_layers", {}, "needs at least one layer"),
        ("stylize.style_layers", {40: 1.0}, "stylize.style_layers.40 is 40"),
        ("tracking.registered_model", "anna's", "a name without / and : and quotes"),
        ("train.latent_size", 0, "train.latent_size is 0"),
        ("train.latent_size", 10**12, "less than or equal to 65536"),
        ("runtime.device", "gpu", "runtime.device is 'gpu'"),
    ],
)
def test_invalid_value_is_named_in_one_sentence(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(AtelierError) as caught:
        settings.check(changed(key, value), "params.yaml")
    message = str(caught.value)
    assert sentence in message
    assert message.startswith("params.yaml: ")
    assert "\n" not in message
    assert message.endswith(".")


def test_misspelled_key_is_reported_before_missing_one() -> None:
    values = changed("train.epoch", 3)
    del values["train"]["epochs"]
    with pytest.raises(AtelierError, match=r"did you mean train\.epochs\.$"):
        settings.check(values, "params.yaml")
    del values["train"]["lr"]
    with pytest.raises(AtelierError, match=r"did you mean train\.epochs \(and 1 more to fix\)"):
        settings.check(values, "params.yaml")


def test_missing_setting_names_commands_that_add_it() -> None:
    values = deepcopy(VALUES)
    del values["train"]["lr"]
    with pytest.raises(AtelierError, match=r"train\.lr is missing; `atelier migrate` adds it"):
        settings.check(values, "params.yaml")
    values = deepcopy(VALUES)
    del values["runtime"]["workers"]
    with pytest.raises(AtelierError, match=r"runtime\.workers is missing; no preset sets it"):
        settings.check(values, "params.yaml")


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [(section, old, new) for section, keys in RENAMED_KEYS.items() for old, new in keys.items()],
)
def test_old_key_is_named_with_its_new_name(section: str, old: str, new: tuple[str, ...]) -> None:
    values = deepcopy(VALUES)
    names = " and ".join(f"{section}.{key}" for key in new)
    values[section][old] = values[section].pop(new[0])
    with pytest.raises(AtelierError) as caught:
        settings.check(values, "params.yaml")
    assert str(caught.value) == (
        f"params.yaml: {section}.{old} was renamed to {names}; rename it, or run `atelier migrate`"
        " to update params.yaml."
    )
    with pytest.raises(AtelierError) as caught:
        settings.check(values, "presets/mine.yaml")
    assert str(caught.value) == (
        f"presets/mine.yaml: {section}.{old} was renamed to {names}; rename it."
    )


@pytest.mark.parametrize(
    ("section", "key", "old", "new"),
    [(*key, old, new) for key, values in RENAMED_VALUES.items() for old, new in values.items()],
)
def test_old_value_is_named_with_its_new_name(section: str, key: str, old: str, new: str) -> None:
    with pytest.raises(AtelierError) as caught:
        settings.check(changed(f"{section}.{key}", old), "params.yaml")
    assert str(caught.value) == (
        f"params.yaml: {section}.{key}: {old} was renamed to {new}; rename it, or run"
        " `atelier migrate` to update params.yaml."
    )
    settings.check(changed(f"{section}.{key}", new), "params.yaml")


def test_new_keys_exist_and_old_ones_do_not() -> None:
    for section, keys in RENAMED_KEYS.items():
        assert {new for names in keys.values() for new in names} <= set(VALUES[section])
        assert not set(keys) & set(VALUES[section])


@pytest.mark.parametrize(
    "content",
    [b"a: [1", b"a: 1\na: 2\n", b"\xff\xfe\x00", b"a: !!python/object/apply:os.system [ls]", b"\t"],
)
def test_invalid_yaml_is_one_error_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(AtelierError) as caught:
        settings.load(file)
    assert "\n" not in str(caught.value)


def test_missing_file_is_one_error_sentence(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match=r"cannot read .*params\.yaml: No such file"):
        settings.load(tmp_path / "params.yaml")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(section=st.sampled_from(sorted(VALUES)), value=plain)
def test_any_section_is_valid_or_one_error_sentence(section: str, value: Any) -> None:
    try:
        settings.check({**VALUES, section: value}, "params.yaml")
    except AtelierError as error:
        assert "\n" not in str(error)


@given(key=st.sampled_from([f"{s}.{k}" for s, keys in VALUES.items() for k in keys]), value=plain)
def test_any_value_is_valid_or_one_error_sentence(key: str, value: Any) -> None:
    try:
        settings.check(changed(key, value), "params.yaml")
    except AtelierError as error:
        assert key.split(".")[0] in str(error)
        assert "\n" not in str(error)


def test_no_setting_has_a_name_that_dvc_run_cache_ignores() -> None:
    """The run cache's key omits parameters named size and nfiles, so it restores old results."""

    def names(model: type[Section]) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            found.append(name)
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                found += names(field.annotation)
        return found

    assert not {"size", "nfiles"} & set(names(settings.Settings))


def test_missing_weights_of_evaluate_are_named(tmp_path: Path) -> None:
    loaded = settings.check(changed("evaluate.features", "vgg.pth"), "params.yaml")
    with pytest.raises(AtelierError, match=r"no data/weights/vgg\.pth, .* under evaluate; put it"):
        check_files(loaded, tmp_path)
    (tmp_path / "data/weights").mkdir(parents=True)
    (tmp_path / "data/weights/vgg.pth").write_bytes(b"")
    check_files(loaded, tmp_path)


@pytest.mark.parametrize(
    ("weights", "preprocessing", "convention"),
    [
        ("vgg19_caffe", "torchvision", "caffe"),
        ("vgg19_caffe", "caffe", "caffe"),
        ("imagenet", "torchvision", "torchvision"),
        ("imagenet", "caffe", "torchvision"),
        ("random", "torchvision", "torchvision"),
        ("random", "caffe", "caffe"),
        ("mine.pth", "torchvision", "torchvision"),
        ("mine.pth", "caffe", "caffe"),
    ],
)
def test_pretrained_weights_define_preprocessing(
    weights: str, preprocessing: str, convention: str
) -> None:
    values = changed("stylize.weights", weights)
    values["stylize"]["preprocessing"] = preprocessing
    assert settings.check(values, "params.yaml").stylize.pixel_convention() == convention


def test_validation_and_test_must_leave_images_for_training() -> None:
    values = deepcopy(VALUES)
    values["convert"] |= {"validation_fraction": 0.5, "test_fraction": 0.5}
    with pytest.raises(AtelierError, match=r"convert: validation_fraction is 0\.5 and test_f"):
        settings.check(values, "params.yaml")
    values["convert"]["test_fraction"] = 0.49
    settings.check(values, "params.yaml")


def test_best_model_needs_validation_set() -> None:
    values = deepcopy(VALUES)
    values["train"]["select_model"] = "best"
    settings.check(values, "params.yaml")
    values["convert"]["validation_fraction"] = 0.0
    with pytest.raises(AtelierError, match=r"set convert\.validation_fraction to a share"):
        settings.check(values, "params.yaml")
