"""Files of latents."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from atelier.core.errors import AtelierError
from atelier.gan.generation import TrainedGenerator, draw_latents
from atelier.gan.sampling import slerp
from atelier.latents.latent_file import load_latent, save_latent, vary_latent

from ..support.architectures import SMALL, vivid, with_changes

CPU = torch.device("cpu")


def small_generator(seed: int = 1, classes: int = 0) -> TrainedGenerator:
    network = vivid(with_changes(SMALL, classes=classes), seed)
    return TrainedGenerator(network, SMALL.latent_size, "normal", classes, CPU)


def test_saved_latent_is_loaded(tmp_path: Path) -> None:
    generator = small_generator(classes=2)
    (latent,) = draw_latents(1, generator, 3)
    save_latent(latent, generator, tmp_path / "me.latent.safetensors")
    assert torch.equal(load_latent(tmp_path / "me.latent.safetensors", generator), latent)


def test_latent_of_another_generator_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "me.latent.safetensors"
    (latent,) = draw_latents(1, SMALL, 3)
    save_latent(latent, small_generator(seed=2), file)
    with pytest.raises(AtelierError, match=r"me\.latent\.safetensors is a latent of another gen"):
        load_latent(file, small_generator())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"not a latent, but text", "its header is damaged"),
        (b"\x00" * (2**20 + 1), "the file is too large"),
    ],
)
def test_other_file_is_rejected(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(AtelierError, match=rf"file holds no latent of this generator \({reason}"):
        load_latent(file, small_generator())


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.zeros(9), r"it has F32 \[9\] instead of F32 \[8\]"),
        (torch.zeros(1, 8), r"it has F32 \[1, 8\]"),
        (torch.zeros(8, dtype=torch.float64), "it has F64"),
        (torch.full((8,), torch.nan), "latent holds values that are not finite"),
    ],
)
def test_damaged_latent_is_rejected(tmp_path: Path, tensor: torch.Tensor, reason: str) -> None:
    generator = small_generator()
    metadata = {"generator": json.dumps({"sha256": generator.weights_digest()})}
    save_file({"latent": tensor}, tmp_path / "file", metadata=metadata)
    with pytest.raises(AtelierError, match=reason):
        load_latent(tmp_path / "file", generator)


@pytest.mark.parametrize("header", [None, "no JSON", "{}", "[]"])
def test_file_without_a_generator_is_rejected(tmp_path: Path, header: str | None) -> None:
    metadata = None if header is None else {"generator": header}
    save_file({"latent": torch.zeros(8)}, tmp_path / "file", metadata=metadata)
    with pytest.raises(AtelierError, match="holds no latent of this generator"):
        load_latent(tmp_path / "file", small_generator())


def test_missing_file_and_folder_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match=r"there is no latent .*none; `atelier invert`"):
        load_latent(tmp_path / "none", small_generator())
    with pytest.raises(AtelierError, match="it is a folder"):
        load_latent(tmp_path, small_generator())


def test_variation_moves_the_latent_but_not_its_label() -> None:
    generator = small_generator(classes=2)
    first, second = draw_latents(2, generator, 3)
    size = SMALL.latent_size
    assert torch.equal(vary_latent(first, second, 0, generator), first)
    moved = vary_latent(first, second, 1, generator)
    torch.testing.assert_close(moved[:size], second[:size])
    assert torch.equal(moved[size:], first[size:])
    half = vary_latent(first, second, 0.5, generator)
    torch.testing.assert_close(half[:size], slerp(first[:size], second[:size], 0.5))


def test_variation_of_uniform_latents_stays_within_the_training() -> None:
    uniform = replace(small_generator(), latent_distribution="uniform")
    size = SMALL.latent_size
    corner, near = torch.tensor([1.0, -1] * (size // 2)), torch.linspace(0.1, 1, size)
    assert slerp(corner, near, 0.25).abs().max() > 1
    assert vary_latent(corner, near, 0.25, uniform).abs().max() == 1
