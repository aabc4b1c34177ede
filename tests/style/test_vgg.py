"""VGG19: layers, sources of weights, and preprocessing."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from atelier.core.errors import AtelierError
from atelier.style.vgg import build_vgg19, feature_maps, preprocess

DISTILLED = Path(__file__).parents[3] / "shared/weights/vgg19_distilled16x_conv1_1-conv5_1.pth"


def _random_image(size: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def state() -> dict[str, Tensor]:
    """State dict of the first block of VGG19 with the names of torchvision and an unused layer."""
    vgg = build_vgg19("random", "max", seed=7, deepest=3)
    named = {f"features.{name}": tensor for name, tensor in vgg.state_dict().items()}
    return {**named, "classifier.0.weight": torch.zeros(2, 2)}


def test_layout_equals_torchvision() -> None:
    from torchvision.models import vgg19

    with torch.device("meta"):
        reference = vgg19(weights=None).features
    ours = build_vgg19("random", "max", seed=1, deepest=36)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in reference.state_dict().items()
    }
    for position, (layer, reference_layer) in enumerate(zip(ours, reference, strict=True)):
        assert type(layer) is type(reference_layer), position
        if isinstance(reference_layer, nn.Conv2d):
            assert (layer.stride, layer.padding) == (
                reference_layer.stride,
                reference_layer.padding,
            )
        if isinstance(reference_layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.stride) == (
                reference_layer.kernel_size,
                reference_layer.stride,
            )


def test_network_ends_at_the_deepest_layer_and_is_frozen() -> None:
    vgg = build_vgg19("random", "average", seed=1, deepest=11)
    assert len(vgg) == 12
    assert not vgg.training
    assert not any(parameter.requires_grad for parameter in vgg.parameters())


def test_average_pooling_is_average() -> None:
    vgg = build_vgg19("random", "average", seed=1, deepest=4)
    assert vgg[4](torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])).item() == 3


def test_random_weights_are_orthogonal_and_follow_the_seed() -> None:
    first, same_seed, other = (build_vgg19("random", "max", seed, deepest=0) for seed in (1, 1, 2))
    assert torch.equal(first[0].weight, same_seed[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    flat = first[0].weight.flatten(1)
    torch.testing.assert_close(flat.T @ flat, torch.eye(27), atol=1e-5, rtol=0)


def test_random_weights_do_not_use_the_global_generator() -> None:
    before = torch.get_rng_state()
    build_vgg19("random", "max", seed=1, deepest=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_feature_maps_are_the_outputs_of_layers() -> None:
    vgg = build_vgg19("random", "max", seed=1, deepest=6)
    maps = feature_maps(vgg, _random_image(), [0, 1, 6])
    assert sorted(maps) == [0, 1, 6]
    for layer, features in maps.items():
        assert torch.equal(features, vgg[: layer + 1](_random_image()))
    assert maps[0].min() < 0, "the ReLU after a convolution must not write over its output"


def test_no_layers_give_no_maps() -> None:
    assert feature_maps(build_vgg19("random", "max", seed=1, deepest=1), _random_image(), []) == {}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["features.", ""])
def test_weights_are_loaded_from_a_file(
    tmp_path: Path, state: dict[str, Tensor], suffix: str, prefix: str
) -> None:
    renamed = {name.replace("features.", prefix): tensor for name, tensor in state.items()}
    path = tmp_path / f"vgg{suffix}"
    if suffix == ".pth":
        torch.save(renamed, path)
    else:
        save_file(renamed, path)
    vgg = build_vgg19(str(path), "max", seed=1, deepest=3)
    for name, tensor in vgg.state_dict().items():
        assert torch.equal(tensor, state[f"features.{name}"])


def test_weights_with_caffe_names_are_loaded(tmp_path: Path) -> None:
    """Gatys' file and others that were converted from Caffe use these names."""
    convolutions = [
        f"conv{block}_{number}"
        for block, count in enumerate((2, 2, 4, 4, 4), start=1)
        for number in range(1, count + 1)
    ]
    original = build_vgg19("random", "max", seed=1, deepest=34).state_dict()
    layers = sorted({int(name.partition(".")[0]) for name in original})
    renamed = {
        f"{convolution}.{kind}": original[f"{layer}.{kind}"]
        for layer, convolution in zip(layers, convolutions, strict=True)
        for kind in ("weight", "bias")
    }
    assert {"conv1_1.weight", "conv3_4.bias", "conv5_4.weight"} < set(renamed)
    save_file(renamed, tmp_path / "caffe.safetensors")
    vgg = build_vgg19(str(tmp_path / "caffe.safetensors"), "max", seed=2, deepest=34)
    for name, tensor in vgg.state_dict().items():
        assert torch.equal(tensor, original[name])


def test_half_precision_weights_are_converted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: tensor.half() for name, tensor in state.items()}, path)
    vgg = build_vgg19(str(path), "max", seed=1, deepest=3)
    assert vgg[0].weight.dtype == torch.float32
    assert torch.equal(vgg[0].weight, state["features.0.weight"].half().float())


def test_missing_file_is_named() -> None:
    with pytest.raises(AtelierError, match=r"nowhere\.pth, but there is no such file"):
        build_vgg19("nowhere.pth", "max", seed=1, deepest=3)


def test_error_of_a_shallow_file_names_the_missing_layer(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    torch.save(state, tmp_path / "shallow.pth")
    with pytest.raises(AtelierError, match=r"shallow\.pth has no features\.5\.weight"):
        build_vgg19(str(tmp_path / "shallow.pth"), "max", seed=1, deepest=6)


def test_other_network_is_rejected(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["features.2.weight"] = torch.zeros(64, 64, 5, 5)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(AtelierError, match=r"\[64, 64, 5, 5\] instead of \[64, 64, 3, 3\]"):
        build_vgg19(str(tmp_path / "other.pth"), "max", seed=1, deepest=3)


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 cut off"])
def test_damaged_file_is_rejected(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AtelierError, match=r"holds no state_dict|it is empty"):
        build_vgg19(str(tmp_path / name), "max", seed=1, deepest=3)


def test_file_with_code_is_rejected(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 64, 3)), tmp_path / "whole_model.pth")
    with pytest.raises(AtelierError, match="holds no state_dict"):
        build_vgg19(str(tmp_path / "whole_model.pth"), "max", seed=1, deepest=3)


def test_cached_torchvision_file_is_loaded_and_its_hash_is_checked(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use a file of random weights, whose name contains its hash as at torchvision."""
    from torchvision.models import VGG19_Weights, vgg19

    generator = torch.Generator().manual_seed(3)
    with torch.device("meta"):
        names = vgg19(weights=None).state_dict()
    published = {
        # Tensors that the test does not need have their shapes but use no memory.
        name: torch.randn(tensor.shape, generator=generator)
        if name.startswith(("features.0.", "features.2.", "features.5."))
        else torch.zeros(1).expand(tensor.shape)
        for name, tensor in names.items()
    }
    hub.mkdir(parents=True)
    torch.save(published, hub / "published.pth")
    digits = hashlib.sha256((hub / "published.pth").read_bytes()).hexdigest()[:8]
    name = f"vgg19-{digits}.pth"
    (hub / "published.pth").rename(hub / name)
    address = VGG19_Weights.IMAGENET1K_V1.url.replace("vgg19-dcbb9e9d.pth", name)
    assert address.endswith(f"/{name}"), "torchvision publishes another file now"
    monkeypatch.setattr(VGG19_Weights.IMAGENET1K_V1.value, "url", address)

    vgg = build_vgg19("imagenet", "max", seed=1, deepest=6)
    reference = vgg19(weights=None).features[:7].eval()
    reference.load_state_dict(
        {k.removeprefix("features."): published[f"features.{k}"] for k in reference.state_dict()}
    )
    with torch.no_grad():
        assert torch.equal(vgg(_random_image()), reference(_random_image()))

    with (hub / name).open("r+b") as file:  # flip a bit in the weights
        file.seek(-9000, 2)
        byte = file.read(1)
        file.seek(-9000, 2)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(AtelierError, match=rf"{name} is damaged: its SHA-256 begins with"):
        build_vgg19("imagenet", "max", seed=1, deepest=6)


def test_damaged_cached_file_is_rejected(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / "vgg19-dcbb9e9d.pth").write_bytes(b"cut off")
    with pytest.raises(AtelierError, match=r"vgg19-dcbb9e9d\.pth is damaged"):
        build_vgg19("imagenet", "max", seed=1, deepest=1)


def test_offline_error_names_the_file_and_its_folder(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no server listens on this port
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(
        AtelierError, match=r"put vgg19-dcbb9e9d\.pth from https://.* into "
    ) as error:
        build_vgg19("imagenet", "max", seed=1, deepest=1)
    assert str(hub) in str(error.value)


def test_torchvision_preprocessing_equals_its_transform() -> None:
    from torchvision.models import VGG19_Weights

    reference = VGG19_Weights.IMAGENET1K_V1.transforms(crop_size=32, resize_size=32)(
        _random_image()
    )
    torch.testing.assert_close(preprocess(_random_image(), "torchvision"), reference)


def test_caffe_preprocessing_of_a_worked_example() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    values = preprocess(red, "caffe").flatten().tolist()
    assert values == pytest.approx([-103.939, -116.779, 255 - 123.68], abs=1e-3)


@pytest.mark.shared
@pytest.mark.skipif(not DISTILLED.exists(), reason="no folder of trained VGG19 weights")
def test_trained_weights_load_to_their_deepest_layer() -> None:
    vgg = build_vgg19(str(DISTILLED), "max", seed=1, deepest=29)
    features = feature_maps(vgg, preprocess(_random_image(64), "torchvision"), [29])[29]
    assert features.shape == (1, 512, 4, 4)
    assert features.isfinite().all()
    assert features.max() > 0
