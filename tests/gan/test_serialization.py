"""Generator files: contents, and errors of damaged files without large allocations."""

import json
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from atelier.core.errors import AtelierError
from atelier.gan.generation import draw_latents, generate
from atelier.gan.networks import Architecture, build_networks
from atelier.gan.serialization import (
    generate_from,
    load_for_serving,
    load_generator,
    read_metadata,
    save_network,
)

from ..support.architectures import FASHION_MLP, SMALL, with_changes

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 3, 4, 8, 16, 28, 64, 256, 4096, 65_536, 10_000_000]),
    st.floats(),
    st.sampled_from(["", "dcgan", "mlp", "residual", "upsample", "normal", "16"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
FIELDS = st.sampled_from([*Architecture.model_fields, "marks", "unknown"])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
    save_network(build_networks(SMALL, seed=1)[0], SMALL, path)
    return path


def error_of(path: Path) -> str:
    """Return the error message for a file."""
    with pytest.raises(AtelierError, match="holds no generator that can be rebuilt") as caught:
        load_generator(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_header(file: Path, target: Path, metadata: Any, tensors: Any = None) -> Path:
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    save_file(tensors or load_file(file), target, metadata={"architecture": text})
    return target


def test_file_contains_architecture_and_metadata(tmp_path: Path) -> None:
    """Fields with default values are omitted, as in files saved before these fields existed."""
    arch = with_changes(SMALL, image_size=28, channels=1, latent_distribution="uniform", classes=2)
    generator = build_networks(arch, seed=1)[0]
    plain, with_metadata = tmp_path / "plain.safetensors", tmp_path / "marked.safetensors"
    save_network(generator, arch, plain)
    save_network(generator, arch, with_metadata, {"epoch": 7, "kid": 0.125})
    assert read_metadata(plain) == {}
    assert read_metadata(with_metadata) == {"epoch": 7, "kid": 0.125}
    with safe_open(with_metadata, framework="pt") as opened:
        metadata = opened.metadata()
    header = arch.model_dump()
    for name in ("generator_blocks", "discriminator_blocks", "spectral_norm"):
        del header[name]
    expected = json.dumps(header | {"marks": {"epoch": 7, "kid": 0.125}}, sort_keys=True)
    assert metadata == {"architecture": expected}
    for path in (plain, with_metadata):
        loaded = load_generator(path)
        loaded, loaded_arch = loaded.network, loaded.arch
        assert loaded_arch == arch
        assert not loaded.training
        state = loaded.state_dict()
        assert list(state) == list(generator.state_dict())
        for name, tensor in generator.state_dict().items():
            assert torch.equal(state[name], tensor)


def test_file_generates_images_and_example_input(
    file: Path,
) -> None:
    generator = build_networks(SMALL, seed=1)[0]
    images = generate_from(file, 3, 9, torch.device("cpu"))
    assert np.array_equal(images, generate(generator, draw_latents(3, SMALL, 9)))
    served, example, architecture = load_for_serving(file)
    assert architecture == SMALL.model_dump()
    assert np.array_equal(example, draw_latents(2, SMALL, 1).numpy())
    assert np.array_equal(generate(served, draw_latents(3, SMALL, 9)), images)


@pytest.mark.parametrize("width", [10_000_000, 4096, 5, 2**70])
def test_claimed_channels_allocate_no_memory(file: Path, tmp_path: Path, width: int) -> None:
    claimed = with_header(file, tmp_path / "g", SMALL.model_dump() | {"generator_channels": width})
    tracemalloc.start()
    sentence = error_of(claimed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        "should be less than or equal to 4096" in sentence
        or "but its architecture needs" in sentence
    )
    assert peak < 20 * 2**20


@pytest.mark.parametrize(
    "metadata", ["", "null", "[]", "{}", "{", "[" * 5000, '{"image_size": 16}', "1e999", '"a"']
)
def test_damaged_header_is_rejected(file: Path, tmp_path: Path, metadata: str) -> None:
    error_of(with_header(file, tmp_path / "g", metadata))


@settings(max_examples=150)
@given(st.dictionaries(FIELDS, VALUES, min_size=1, max_size=3))
def test_any_header_loads_or_is_one_error_sentence(
    tmp_path_factory: pytest.TempPathFactory, file: Path, changes: dict[str, Any]
) -> None:
    path = with_header(file, file.with_name("changed"), SMALL.model_dump() | changes)
    try:
        loaded = load_generator(path)
        generator, arch = loaded.network, loaded.arch
    except AtelierError as error:
        assert "holds no generator that can be rebuilt" in str(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 500 + len(str(path))
    else:
        assert generator(torch.zeros(2, arch.input_size)).shape[0] == 2


@settings(max_examples=150)
@given(st.integers(0, 3000), st.integers(0, 255), st.integers(0, 3))
def test_any_damaged_byte_loads_or_is_one_error_sentence(
    file: Path, position: int, value: int, cut: int
) -> None:
    data = bytearray(file.read_bytes())
    data[position if position < 3000 - 8 else position - 2992] = value
    damaged = file.with_name("damaged")
    damaged.write_bytes(data[: len(data) - cut])
    try:
        load_generator(damaged)
    except AtelierError as error:
        assert "holds no generator that can be rebuilt" in str(error)


@pytest.mark.parametrize("length", [0, 2**20, 2**40, 2**63, 2**64 - 1])
def test_wrong_header_length_is_rejected(file: Path, tmp_path: Path, length: int) -> None:
    path = tmp_path / "g"
    path.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    error_of(path)


@pytest.mark.parametrize("change", ["shape", "dtype", "missing", "more"])
def test_tensors_of_another_network_are_rejected(file: Path, tmp_path: Path, change: str) -> None:
    tensors = load_file(file)
    name = min(tensors)
    if change == "shape":
        tensors[name] = tensors[name][:1].clone()
    elif change == "dtype":
        tensors[name] = tensors[name].half()
    elif change == "missing":
        del tensors[name]
    else:
        tensors["more"] = torch.zeros(1)
    sentence = error_of(with_header(file, tmp_path / "g", SMALL.model_dump(), tensors))
    assert ("more" if change == "more" else name) in sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("arch", [SMALL, FASHION_MLP])
def test_nan_weights_are_rejected(tmp_path: Path, value: float, arch: Architecture) -> None:
    generator = build_networks(arch, seed=1)[0]
    with torch.no_grad():
        list(generator.parameters())[-1].view(-1)[-1] = value
    save_network(generator, arch, tmp_path / "g.safetensors")
    assert "values that are not finite numbers" in error_of(tmp_path / "g.safetensors")


def test_special_files_are_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    assert "it is a pipe, not a regular file" in error_of(tmp_path / "pipe")
    assert "it is a folder" in error_of(tmp_path)
    assert "it is empty" in error_of(tmp_path / "empty")
    assert "it is a device" in error_of(Path("/dev/zero"))


def test_file_with_former_field_names_loads(file: Path, tmp_path: Path) -> None:
    former = {
        "latent_distribution": "latents",
        "generator_channels": "generator_width",
        "discriminator_channels": "discriminator_width",
        "relu_before_norm": "activation_first",
    }
    header = {former.get(name, name): value for name, value in SMALL.model_dump().items()}
    assert header.keys() != SMALL.model_dump().keys()
    assert load_generator(with_header(file, tmp_path / "g", header)).arch == SMALL


@pytest.mark.parametrize(
    "changes",
    [
        {"spectral_norm": True, "discriminator_norm": True},
        {"discriminator_blocks": "residual", "discriminator_norm": True},
        {"dropout": 0.5},
    ],
    ids=str,
)
def test_file_with_settings_that_are_rejected_today_loads(
    file: Path, changes: dict[str, Any]
) -> None:
    """Rules of settings came later than some files; the generator does not depend on them."""
    header = SMALL.model_dump() | changes
    path = with_header(file, file.with_name("earlier"), header)
    assert load_generator(path).arch == with_changes(SMALL, **changes)
