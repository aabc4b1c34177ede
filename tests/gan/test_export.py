import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.gan.export import export
from atelier.gan.generation import draw_latents, generate
from atelier.gan.sampling import TrainedGenerator

from ..support.architectures import SMALL, vivid, with_changes

CPU = torch.device("cpu")


def run_onnx(file: Path, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (images,) = session.run(["pictures"], {"latents": latents})
    return np.asarray(images)


def run_torchscript(file: Path, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        images: NDArray[np.uint8] = torch.jit.load(file)(torch.from_numpy(latents)).numpy()
    return images


@pytest.mark.parametrize(("name", "run"), [("g.onnx", run_onnx), ("g.pt", run_torchscript)])
@pytest.mark.parametrize(
    ("network", "channels", "latents", "classes"),
    [("dcgan", 3, "normal", 0), ("mlp", 1, "uniform", 0), ("dcgan", 1, "normal", 3)],
)
def test_export_matches_generator_for_any_batch_size(
    tmp_path: Path, name: str, run: object, network: str, channels: int, latents: str, classes: int
) -> None:
    if name.endswith("onnx"):
        pytest.importorskip("onnxscript")
    kind = {
        "network": network,
        "channels": channels,
        "latent_distribution": latents,
        "classes": classes,
    }
    arch = with_changes(SMALL, image_size=28, **kind)
    generator = vivid(arch)
    sampled = TrainedGenerator.from_module(
        generator, arch.latent_size + classes, arch.model_dump(), CPU
    )
    export(sampled, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name], "export must write a single file"
    for count in (1, 5):
        inputs = draw_latents(count, arch, seed=count)
        images = run(tmp_path / name, inputs.numpy())  # type: ignore[operator]
        expected = generate(generator, inputs)
        assert (images.dtype, images.shape) == (np.uint8, (count, 28, 28, channels))
        # Sums in another order may change the rounding of a few values by one level.
        assert np.abs(images.astype(int) - expected).max() <= 1
        assert (images != expected).mean() < 0.01
        assert expected.std() > 10, "the images must not be uniform"


@pytest.mark.slow
def test_onnx_export_is_deterministic_and_contains_no_local_paths(
    tmp_path: Path, root: Path
) -> None:
    pytest.importorskip("onnxscript")
    sampled = TrainedGenerator.from_module(vivid(SMALL), SMALL.latent_size, {}, CPU)
    for name in ("one.onnx", "two.onnx"):
        export(sampled, tmp_path / name)
    written = (tmp_path / "one.onnx").read_bytes()
    assert written == (tmp_path / "two.onnx").read_bytes()
    assert str(root).encode() not in written
    assert sys.prefix.encode() not in written


def test_export_error_names_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = TrainedGenerator.from_module(vivid(SMALL), SMALL.latent_size, {}, CPU)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(AtelierError, match="pip install onnx onnxscript"):
        export(sampled, tmp_path / "g.onnx")
    with pytest.raises(AtelierError, match=r"use \.onnx for ONNX or \.pt for TorchScript"):
        export(sampled, tmp_path / "g.bin")
    assert list(tmp_path.iterdir()) == []
