"""Names of settings in error messages are replaced by options; names of files are not."""

import pytest

from atelier.cli.checkout import name_options
from atelier.core.errors import AtelierError

OPTIONS = {
    "preserve_color": "--preserve-color",
    "style_weights": "--style-weights",
    "weights": "--weights",
}


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("stylize.weights is a.pth, but", "--weights is a.pth, but"),
        ("atelier stylize: stylize.style_weights.0 is -1.0, but", "--style-weights.0 is -1.0, but"),
        (
            "atelier stylize: stylize: style_weights joins styles; set pairing, or style_weights",
            "--style-weights joins styles; set pairing, or --style-weights",
        ),
        ("than stylize.memory_gb (4); lower", "than stylize.memory_gb of p.yaml (4); lower"),
        ("raise stylize.memory_gb.", "raise stylize.memory_gb of p.yaml."),
        ("set 'stylize.weights'", "set '--weights'"),
    ],
)  # fmt: skip
def test_setting_is_replaced_by_its_option(sentence: str, message: str) -> None:
    with pytest.raises(AtelierError) as error, name_options("stylize", OPTIONS, "p.yaml"):
        raise AtelierError(sentence)
    assert str(error.value) == message


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
        raise AtelierError(sentence)
    assert str(error.value) == sentence
