import shutil
from pathlib import Path

import pytest

from atelier.core import settings
from atelier.core.errors import AtelierError
from atelier.core.presets import apply_preset, list_presets, nearest_preset, preset_values
from atelier.core.yaml_files import read_yaml


@pytest.fixture
def params(tmp_path: Path, root: Path) -> Path:
    shutil.copy(root / "params.yaml", tmp_path)
    return tmp_path / "params.yaml"


def test_params_yaml_equals_sample_preset(root: Path, params: Path) -> None:
    before = params.read_bytes()
    assert apply_preset("sample", root / "presets", params) == []
    assert params.read_bytes() == before


def test_every_preset_is_listed_valid_and_reversible(root: Path, params: Path) -> None:
    before = params.read_bytes()
    comments = before.count(b"#")
    names = list_presets(root / "presets")
    assert next(iter(names)) == "sample"
    assert len(names) == len(list((root / "presets").glob("*.yaml"))) - 1
    assert "base" not in names, "base only has the default values of presets"
    for name in names:
        apply_preset(name, root / "presets", params)
        settings.load(params)
        assert params.read_bytes().count(b"#") == comments
    apply_preset("sample", root / "presets", params)
    assert params.read_bytes() == before


def test_presets_do_not_inherit_sample_training(root: Path) -> None:
    folder = root / "presets"
    base = read_yaml(folder / "base.yaml")["values"]["train"]
    sample = preset_values("sample", folder)["train"]
    for name in list_presets(folder):
        train = preset_values(name, folder)["train"]
        if name in ("sample", "photo", "gatys"):
            assert train == sample, name
            continue
        own = read_yaml(folder / f"{name}.yaml")["values"]["train"]
        assert {key for key in train if train[key] != base[key]} <= set(own), name
        assert {key: train[key] for key in own} == own, name


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"odd": "absent"}, r"presets/odd\.yaml: based_on is absent, but there is no such preset;"),
        ({"odd": "../odd"}, r"presets/odd\.yaml: based_on is \.\./odd, but there is no such"),
        ({"odd": "[sample]"}, r"presets/odd\.yaml: based_on is \['sample'\], but there is no such"),
        ({"odd": "odd"}, r"presets/odd\.yaml: based_on is odd, which is based on odd itself;"),
        (
            {"odd": "even", "even": "odd"},
            r"presets/even\.yaml: based_on is odd, which is based on even itself;",
        ),
    ],
)
def test_invalid_based_on_is_rejected(
    root: Path, params: Path, tmp_path: Path, files: dict[str, str], sentence: str
) -> None:
    folder = tmp_path / "presets"
    shutil.copytree(root / "presets", folder)
    for name, base in files.items():
        text = f"about: odd\nbased_on: {base}\nvalues: {{train: {{epochs: 3}}}}\n"
        (folder / f"{name}.yaml").write_text(text)
    before = params.read_bytes()
    with pytest.raises(AtelierError, match=sentence):
        apply_preset("odd", folder, params)
    assert params.read_bytes() == before


def test_based_on_replaces_mappings_of_layers(root: Path, params: Path) -> None:
    """Mappings of layers are replaced, not merged."""
    apply_preset("gatys", root / "presets", params)
    stylize = settings.load(params).stylize
    assert stylize.content_layers == {21: 1.0}
    widths = {1: 64, 6: 128, 11: 256, 20: 512, 25: 512}
    assert stylize.style_layers == {layer: 1e3 / n**2 for layer, n in widths.items()}
    assert (stylize.preprocessing, stylize.init, stylize.optimizer) == ("caffe", "content", "lbfgs")
    assert (stylize.image_size, stylize.iterations, stylize.pooling) == (512, 500, "max")
    assert (
        stylize.pyramid_levels,
        stylize.style_strength,
        stylize.tv_weight,
        stylize.iterate_averaging,
    ) == (1, 1, 0, 0)
    assert (stylize.style_loss, stylize.preserve_color, stylize.padding) == (
        "gram",
        "none",
        "zeros",
    )
    assert not any(
        [stylize.clamp_to_range, stylize.memory_gb, stylize.style_weights, stylize.style_masks]
    )


def test_photo_preset_differs_from_gatys_in_listed_keys_only(root: Path) -> None:
    gatys, photo = (preset_values(name, root / "presets") for name in ("gatys", "photo"))
    gatys_stylize, photo_stylize = gatys.pop("stylize"), photo.pop("stylize")
    assert photo == gatys
    changed = {
        key: photo_stylize[key] for key in photo_stylize if photo_stylize[key] != gatys_stylize[key]
    }
    assert (changed.pop("clamp_to_range"), changed.pop("optimizer")) == (True, "spectral_lbfgs")
    assert (changed.pop("padding"), changed.pop("precision")) == ("replicate", "auto")
    assert changed.pop("content_layers") == {21: 10.0}
    del changed["preprocessing"]  # the weights of both presets define it
    assert set(changed) == {"pyramid_levels", "tv_weight", "iterations", "memory_gb", "styles"}


def test_long_value_does_not_move_comments(root: Path, params: Path) -> None:
    before = params.read_bytes()
    for _ in range(3):
        text = params.read_text()
        params.write_text(text.replace("root: ''", "root: /a/long/path/to/a/folder/of/pictures"))
        apply_preset("mnist28", root / "presets", params)
    apply_preset("sample", root / "presets", params)
    assert params.read_bytes() == before


def test_changes_are_returned_and_runtime_is_kept(root: Path, params: Path) -> None:
    params.write_text(params.read_text().replace("device: auto", "device: cpu"))
    changes = apply_preset("celeba64", root / "presets", params)
    assert ("train.loss", "hinge", "bce") in [(c.key, c.old, c.new) for c in changes]
    assert settings.load(params).runtime.device == "cpu"
    assert settings.load(params).train.loss == "bce"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("{train: {epoch: 3}}", r"presets/odd\.yaml: train\.epoch is not a setting"),
        ("{runtime: {device: cpu}}", "runtime is no stage's section"),
        ("{train: {lr: fast}}", r"presets/odd\.yaml: train\.lr is 'fast'"),
    ],
)
def test_invalid_preset_changes_nothing(
    root: Path, params: Path, tmp_path: Path, values: str, sentence: str
) -> None:
    folder = tmp_path / "presets"
    shutil.copytree(root / "presets", folder)
    (folder / "odd.yaml").write_text(f"about: odd\nvalues: {values}\n")
    before = params.read_bytes()
    with pytest.raises(AtelierError, match=sentence):
        apply_preset("odd", folder, params)
    assert params.read_bytes() == before


def test_missing_values_are_added_and_unknown_keys_rejected(root: Path, params: Path) -> None:
    text = params.read_text()
    params.write_text(text.replace("  epochs: 41\n", "").replace("folders: {}", "folders:"))
    apply_preset("sample", root / "presets", params)
    assert settings.load(params).train.epochs == 41
    for broken, sentence in (
        (text.replace("  epochs:", "  epoch:"), r"^params\.yaml: train\.epoch is not a setting"),
        ("", r"params\.yaml holds no settings"),
        ("- a\n- b\n", r"params\.yaml holds no settings"),
    ):
        params.write_text(broken)
        with pytest.raises(AtelierError, match=sentence):
            apply_preset("sample", root / "presets", params)
        assert params.read_text() == broken


def test_unknown_preset_suggests_nearest(root: Path, params: Path) -> None:
    with pytest.raises(AtelierError, match=r"no preset celeba; did you mean celeba64\?"):
        apply_preset("celeba", root / "presets", params)


def test_every_preset_is_nearest_to_its_own_values(root: Path) -> None:
    folder = root / "presets"
    for name in list_presets(folder):
        assert nearest_preset(preset_values(name, folder), folder) == (name, {})


def test_nearest_preset_lists_settings_that_differ(root: Path, params: Path) -> None:
    values = settings.load(params).model_dump()
    values["train"] |= {"lr": 0.0004, "seed": 5}
    values["stylize"]["content_layers"] = {21: 9.0}
    values["runtime"]["device"] = "cpu"
    assert nearest_preset(values, root / "presets") == (
        "sample",
        {"train.lr": 0.0004, "train.seed": 5, "stylize.content_layers": {21: 9.0}},
    )


def test_own_images_do_not_change_the_nearest_preset(root: Path) -> None:
    values = preset_values("best32", root / "presets")
    values["download"] |= {"source": "folder", "folders": {"me": "~/faces", "you": "~/others"}}
    values["train"]["epochs"] = 60
    assert nearest_preset(values, root / "presets") == (
        "best32",
        {
            "download.source": "folder",
            "download.folders": {"me": "~/faces", "you": "~/others"},
            "train.epochs": 60,
        },
    )
