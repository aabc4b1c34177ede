import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.gan.export import export
from atelier.gan.generate import draw_latents, generate
from atelier.gan.sampling import SampledGenerator

from ..support.architectures import SMALL, vivid

CPU = torch.device("cpu")


def run_onnx(file: Path, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (made,) = session.run(["pictures"], {"latents": latents})
    return np.asarray(made)


def run_torchscript(file: Path, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        made: NDArray[np.uint8] = torch.jit.load(file)(torch.from_numpy(latents)).numpy()
    return made


@pytest.mark.parametrize(("name", "run"), [("g.onnx", run_onnx), ("g.pt", run_torchscript)])
@pytest.mark.parametrize(
    ("network", "channels", "latents", "classes"),
    [("dcgan", 3, "normal", 0), ("mlp", 1, "uniform", 0), ("dcgan", 1, "normal", 3)],
)
def test_an_exported_file_gives_the_generators_pictures_for_any_batch(
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
    arch = replace(SMALL, image_size=28, **kind)
    generator = vivid(arch)
    asked = SampledGenerator.from_module(generator, arch.latent_size + classes, asdict(arch), CPU)
    export(asked, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name], "one file, nothing beside it"
    for count in (1, 5):
        given = draw_latents(count, arch, seed=count)
        made = run(tmp_path / name, given.numpy())  # type: ignore[operator]
        expected = generate(generator, given)
        assert (made.dtype, made.shape) == (np.uint8, (count, 28, 28, channels))
        # Sums in another order may round to the other side: one level of 255, here and there.
        assert np.abs(made.astype(int) - expected).max() <= 1
        assert (made != expected).mean() < 0.01
        assert expected.std() > 10, "pictures that are all grey would prove nothing"


def test_an_onnx_file_is_the_same_bytes_every_time_and_names_no_folder_of_this_machine(
    tmp_path: Path, root: Path
) -> None:
    pytest.importorskip("onnxscript")
    asked = SampledGenerator.from_module(vivid(SMALL), SMALL.latent_size, {}, CPU)
    for name in ("one.onnx", "two.onnx"):
        export(asked, tmp_path / name)
    written = (tmp_path / "one.onnx").read_bytes()
    assert written == (tmp_path / "two.onnx").read_bytes()
    assert str(root).encode() not in written
    assert sys.prefix.encode() not in written


def test_without_the_packages_a_sentence_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SampledGenerator.from_module(vivid(SMALL), SMALL.latent_size, {}, CPU)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(AtelierError, match="pip install onnx onnxscript"):
        export(asked, tmp_path / "g.onnx")
    with pytest.raises(AtelierError, match=r"use \.onnx for ONNX or \.pt for TorchScript"):
        export(asked, tmp_path / "g.bin")
    assert list(tmp_path.iterdir()) == []
