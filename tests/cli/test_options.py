"""Names of settings in error messages are replaced by options; names of files are not."""

import pytest

from atelier.cli.checkout import name_options
from atelier.core.errors import AtelierError, SettingError, SettingName
from atelier.core.settings import check, load
from atelier.core.settings_errors import RuleError

OPTIONS = {
    "preserve_color": "--preserve-color",
    "style_weights": "--style-weights",
    "weights": "--weights",
}


WEIGHTS, WEIGHT_OF_STYLE = SettingName("stylize.weights"), SettingName("stylize.style_weights")
MEMORY = SettingName("stylize.memory_gb")


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        (SettingError("{weights} is a.pth, but", weights=WEIGHTS), "--weights is a.pth, but"),
        (
            SettingError("{weight}{item} is -1.0, but", weight=WEIGHT_OF_STYLE, item=".0"),
            "--style-weights.0 is -1.0, but",
        ),
        (
            RuleError("{style_weights} joins styles; set {pairing}, or {style_weights}"),
            "--style-weights joins styles; set pairing, or --style-weights",
        ),
        (
            SettingError("than {memory_gb} ({limit}); lower", memory_gb=MEMORY, limit=4),
            "than stylize.memory_gb of p.yaml (4); lower",
        ),
        (SettingError("raise {memory}.", memory=MEMORY), "raise stylize.memory_gb of p.yaml."),
        (SettingError("set '{weights}'", weights=WEIGHTS), "set '--weights'"),
        (SettingError("{device} is", device=SettingName("runtime.device")), "runtime.device is"),
    ],
)  # fmt: skip
def test_setting_is_replaced_by_its_option(sentence: SettingError, message: str) -> None:
    with pytest.raises(AtelierError) as error, name_options("stylize", OPTIONS, "p.yaml"):
        raise sentence
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"style_weights": [1.0, -1.0]}, "--style-weights.1 is -1.0, but it should be greater"),
        ({"style_weights": [1.0]}, "--style-weights is a list of 1, but the number of styles is"),
        ({"weights": "../a.pth"}, "--weights: it must be a name inside its folder"),
        ({"iterations": 0}, "stylize.iterations of p.yaml is 0, but it should be greater than"),
        (
            {"lr": 0.0, "seed": -1},
            "stylize.lr of p.yaml is 0.0, but it should be greater than 0 (and 1 more to fix).",
        ),
    ],
)
def test_invalid_value_names_its_option(invalid: dict[str, object], message: str) -> None:
    values = load().model_dump()
    values["stylize"] |= invalid
    with pytest.raises(AtelierError) as error, name_options("stylize", OPTIONS, "p.yaml"):
        check(values, "")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "sentence",
    [
        "there is no image /home/me/preserve_color/ann.jpg; check the path.",
        "there is no image preserve_color.jpg; check the path.",
        "there is no image stylize.png; check the path.",
        "there is no image stylize.weights.png; check the path.",
        "stylize.weights/ann.jpg cannot be read.",
        "/home/stylize.weights cannot be read.",
        "my-stylize.weights cannot be read.",
        "stylize: style_weights cannot be read.",
    ],
)
def test_names_of_files_are_not_replaced(sentence: str) -> None:
    with pytest.raises(AtelierError) as error, name_options("stylize", OPTIONS, "p.yaml"):
        raise SettingError("{reason}", reason=sentence)
    assert str(error.value) == sentence
