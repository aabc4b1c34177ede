"""Script that compares the outputs of two versions: digests, differences and settings."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file

from atelier.core import settings
from atelier.core.presets import list_presets, preset_values
from atelier.core.yaml_files import read_yaml

from .support.modules import load_module

ROOT = Path(__file__).parents[1]
FIRST = {"sample": {"models/a.safetensors": {"w": "F32 [1] aa", "b": "F32 [1] bb"}}}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_module(ROOT / "scripts/compare_outputs.py", "compare")


@pytest.fixture
def entries(script: ModuleType, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Return the entries of an output file that a function writes."""

    def read(name: str, write: Callable[[Path], Any]) -> dict[str, str]:
        write(tmp_path / name)
        lock = {"stages": {"any": {"outs": [{"path": name}]}, "none": {}}}
        YAML().dump(lock, tmp_path / "dvc.lock")
        found = script.output_entries(tmp_path)
        assert list(found) == [name]
        return found[name]

    return read


def test_array_digests_differ_by_value_type_and_shape(
    entries: Callable[..., dict[str, str]],
) -> None:
    arrays = [
        np.zeros(4, np.uint8),
        np.array([0, 0, 0, 1], np.uint8),
        np.zeros(4, np.int8),
        np.zeros((2, 2), np.uint8),
    ]
    found = [entries("a.npz", lambda f, a=a: np.savez(f, x=a, rest=np.ones(1))) for a in arrays]
    assert len({entry["x"] for entry in found}) == 4
    assert len({entry["rest"] for entry in found}) == 1
    assert entries("a.npz", lambda f: np.savez_compressed(f, x=arrays[0]))["x"] == found[0]["x"]
    assert entries("a.npy", lambda f: np.save(f, arrays[0])) == {"array": found[0]["x"]}
    digest = "file [3] 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    assert entries("a.zip", lambda f: f.write_bytes(b"foo")) == {"bytes": digest}


def test_tensor_digests_differ_by_value_and_type(entries: Callable[..., dict[str, str]]) -> None:
    zeros = torch.zeros(2, 3)
    tensors = [zeros, zeros + 1e-7, zeros.bfloat16(), zeros.T.contiguous()]
    found = [entries("a.safetensors", lambda f, t=t: save_file({"w": t}, f)) for t in tensors]
    assert len({entry["w"] for entry in found}) == 4
    with_metadata = entries("a.safetensors", lambda f: save_file({"w": zeros}, f, {"arch": "old"}))
    assert with_metadata == found[0]


def test_pixel_digests_ignore_the_encoding_and_cover_every_frame(
    entries: Callable[..., dict[str, str]],
) -> None:
    image = Image.linear_gradient("L").convert("RGB")
    other = image.copy()
    other.putpixel((3, 3), (255, 0, 0))
    plain = entries("a.png", image.save)
    assert entries("a.png", lambda f: image.save(f, compress_level=0)) == plain
    assert entries("a.png", other.save) != plain
    gifs = [[image, other], [image, image.rotate(90)], [image]]
    found = [
        entries("a.gif", lambda f, s=s: s[0].save(f, save_all=True, append_images=s[1:]))["pixels"]
        for s in gifs
    ]
    assert len(set(found)) == 3


def test_metrics_are_compared_without_durations(entries: Callable[..., dict[str, str]]) -> None:
    metrics = {"kid": 0.1, "last": {"loss": [1.0, float("nan")]}, "train_seconds": 3.0, "none": {}}
    found = entries("a.json", lambda f: f.write_text(json.dumps(metrics)))
    assert found == {"kid": "0.1", "last.loss.0": "1.0", "last.loss.1": "NaN", "none": "{}"}
    first = entries("a.csv", lambda f: f.write_text("step,loss,seconds\n1,0.5,7\n2,0.25,8\n"))
    other = entries("a.csv", lambda f: f.write_text("step,loss,seconds\n1,0.5,9\n2,0.26,9\n"))
    assert first.keys() == {"step", "loss"}
    assert (first["step"], first["loss"]) == (other["step"], first["loss"])
    assert first["loss"] != other["loss"]


@pytest.mark.parametrize(
    ("after", "renamed", "exempt", "expected"),
    [
        ({"w": "F32 [1] aa", "b": "F32 [1] bb"}, {}, [], []),
        ({"w": "F32 [1] cc", "b": "F32 [1] bb"}, {}, [], ["w: F32 [1] aa -> F32 [1] cc"]),
        ({"w": "F32 [1] aa"}, {}, [], ["b: F32 [1] bb -> missing"]),
        ({"w": "F32 [1] aa", "b": "F32 [1] bb", "c": "x"}, {}, [], ["c: missing -> x"]),
        ({"weight": "F32 [1] aa", "b": "F32 [1] bb"}, {"w": "weight"}, [], []),
        ({"w": "x", "b": "F32 [1] bb"}, {}, ["w"], []),
        ({"w": "x", "b": "y"}, {}, ["w"], ["b: F32 [1] bb -> y"]),
        ({"w": "F32 [1] aa", "b": "F32 [1] bb"}, {}, ["b"], ["b: exempted, but equal or unknown"]),
    ],
)
def test_differences_are_exact(
    script: ModuleType,
    after: dict[str, str],
    renamed: dict[str, str],
    exempt: list[str],
    expected: list[str],
) -> None:
    file = "sample/models/a.safetensors:"
    runs = {"sample": {"models/a.safetensors": after}}
    lines = script.differences(FIRST, runs, renamed, [file + name for name in exempt])
    assert lines == [file + line for line in expected]


def test_file_is_exempted_by_its_exact_name(script: ModuleType) -> None:
    runs = {"sample": {"models/a.safetensors": {"w": "x", "b": "y"}}}
    assert script.differences(FIRST, runs, {}, ["sample/models/a.safetensors"]) == []
    assert len(script.differences(FIRST, runs, {}, ["sample/models"])) == 3
    renamed = {"sample": "faces", "models/a.safetensors": "models/b.safetensors"}
    moved = {"faces": {"models/b.safetensors": FIRST["sample"]["models/a.safetensors"]}}
    assert script.differences(FIRST, moved, renamed, []) == []
    with pytest.raises(SystemExit, match=r"two entries would be named .*:b; correct --renamed"):
        script.differences(FIRST, FIRST, {"w": "b"}, [])


def test_compare_exits_with_1_if_anything_differs(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.json").write_text(json.dumps(FIRST))
    Path("b.json").write_text(json.dumps(FIRST).replace("aa", "cc"))
    Path("exempt").write_text("sample/models/a.safetensors:w\n")
    for arguments, status, line in (
        ("a.json a.json", 0, "equal: 2 entries"),
        ("a.json b.json", 1, "sample/models/a.safetensors:w: F32 [1] aa -> F32 [1] cc"),
        ("a.json b.json --exempt exempt", 0, "equal: 2 entries"),
    ):
        monkeypatch.setattr("sys.argv", ["compare_outputs.py", "compare", *arguments.split()])
        with pytest.raises(SystemExit) as exited:
            script.main()
        assert int(exited.value.code or 0) == status
        assert capsys.readouterr().out.strip() == line


def test_every_preset_has_a_run_with_valid_settings(script: ModuleType) -> None:
    content = YAML(typ="safe").load(script.SETTINGS)
    presets = {values.get("preset", name) for name, values in content["runs"].items()}
    assert presets == set(list_presets(ROOT / "presets"))
    for name, values in content["runs"].items():
        document = read_yaml(ROOT / "params.yaml")
        document |= preset_values(values.pop("preset", name), ROOT / "presets")
        for changes in (content["all"], content["tiny"], values):
            script.change_settings(document, changes)
        checked = settings.check(document, name)
        assert not checked.tracking.enabled
        assert checked.train.epochs < 10
    with pytest.raises(SystemExit, match=r"^epoch is not in params\.yaml"):
        script.change_settings(document, {"train": {"epoch": 1}})


def test_generated_datasets_are_always_the_same(script: ModuleType, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        script.draw_datasets(tmp_path / name)
        files = sorted(file for file in (tmp_path / name).rglob("*") if file.is_file())
        contents.append({str(f.relative_to(tmp_path / name)): f.read_bytes() for f in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4 + 1 + 1 + 96 + 96 + 1
