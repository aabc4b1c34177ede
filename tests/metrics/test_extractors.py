"""Extractors: random filters, and networks with weights from files."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray

from atelier.core.arrays import to_tensor
from atelier.core.errors import AtelierError
from atelier.core.pretrained import vgg19_caffe
from atelier.core.setting_types import NETWORKS
from atelier.metrics.extractors import (
    build_extractor,
    imagenet,
    inception,
    vgg19_extractor,
    without_classifier,
)
from atelier.metrics.features import Extractor, RandomFeatures

from ..support.fake_cuda import CUDA, count_operations, fake_cuda

CPU = torch.device("cpu")
DISTILLED = "vgg19_distilled16x_conv1_1-conv5_1.pth"


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def save_weights(folder: Path, stem: str, state: dict[str, torch.Tensor]) -> str:
    """Save weights in a file named by their hash and return the name."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "new.pth")
    content = (folder / "new.pth").read_bytes()
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    return name


def random_weights(shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return {
        name: (torch.rand(tensor.shape, generator=stream) * 0.1).to(tensor.dtype)
        for name, tensor in shapes.items()
    }


def test_features_of_gray_images_do_not_depend_on_batches(
    images: NDArray[np.uint8],
) -> None:
    extractor = Extractor(RandomFeatures(0), "random 0")
    gray = np.repeat(images[..., :1], 100, axis=0)
    features = extractor(gray, CPU)
    assert features.shape == (300, 1024)
    torch.testing.assert_close(features[:1], extractor(gray[:1], CPU), rtol=1e-4, atol=1e-5)
    repeated = extractor(gray.repeat(3, axis=-1), CPU)
    torch.testing.assert_close(features, repeated, rtol=1e-4, atol=1e-5)


def test_gpu_gets_larger_batches() -> None:
    cuda = torch.device("cuda")
    inception_like = Extractor(RandomFeatures(0), "random 0", input_size=299)
    assert inception_like.batch_size(64, CPU) == 2
    assert inception_like.batch_size(64, cuda) == 46
    extractor = Extractor(RandomFeatures(0), "random 0")
    assert (extractor.batch_size(64, CPU), extractor.batch_size(64, cuda)) == (64, 1024)
    assert extractor.batch_size(4096, CPU) == extractor.batch_size(4096, cuda) == 1


def test_images_are_uploaded_to_a_gpu_as_bytes() -> None:
    images = np.zeros((2000, 64, 64, 3), np.uint8)
    with fake_cuda():
        extractor = Extractor(RandomFeatures(0).to(CUDA), "random 0")
        with count_operations() as counts:
            assert extractor(images, CUDA).shape == (2000, 1024)
    # An upload and a fetch for each of two batches, which are scaled on the GPU.
    assert len(counts.syncs) == 4, counts.syncs
    assert counts.launches["div.Tensor"] == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_scaled_batches(channels: int) -> None:
    network = RandomFeatures(0)
    images = np.random.default_rng(1).integers(0, 256, (70, 64, 64, channels), np.uint8)
    scaled = [to_tensor(torch.tensor(part), signed=True) for part in (images[:64], images[64:])]
    expected = torch.cat([network(part.expand(-1, 3, -1, -1)) for part in scaled])
    assert torch.equal(Extractor(network, "random 0")(images, CPU), expected)


def test_random_filters_depend_on_seed_and_not_on_global_generator() -> None:
    before = torch.get_rng_state()
    first_extractor, same, other = (build_extractor("random", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    first = first_extractor.network.layers[0].weight
    assert torch.equal(first, same.network.layers[0].weight)
    assert not torch.equal(first, other.network.layers[0].weight)
    assert first_extractor.identity == same.identity != other.identity


@pytest.fixture(scope="module")
def relu3_1() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return torchvision's VGG19 up to relu3_1, with the original weights and Caffe's input."""
    with torch.device("meta"):
        layers = torchvision.models.vgg19(weights=None).features[:12]
    weights = vgg19_caffe("evaluate.features")
    state = {name: weights[f"features.{name}"] for name in layers.state_dict()}
    layers.load_state_dict(state, assign=True)
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    return lambda images: layers(images[:, [2, 1, 0]] - mean)  # RGB, 0 to 255


def test_original_vgg19_averages_relu3_1_over_image(
    relu3_1: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    extractor = build_extractor("vgg19_caffe", 1)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    images[0] //= 4
    features = extractor(images, CPU)
    assert features.shape == (3, 256)
    with torch.no_grad():
        expected = relu3_1(torch.tensor(images).permute(0, 3, 1, 2).float()).mean((2, 3))
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-2)
    gray = images[..., :1]
    torch.testing.assert_close(extractor(gray, CPU), extractor(gray.repeat(3, axis=-1), CPU))


@pytest.mark.parametrize("side", [16, 28, 100])
def test_original_vgg19_resizes_images_to_64_pixels(
    relu3_1: Callable[[torch.Tensor], torch.Tensor], side: int
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    resized = torch.nn.functional.interpolate(
        torch.tensor(images).permute(0, 3, 1, 2).float(), 64, mode="bilinear", antialias=True
    )
    with torch.no_grad():
        expected = relu3_1(resized).mean((2, 3))
    found = build_extractor("vgg19_caffe", 1)(images, CPU)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_returns_features(name: str) -> None:
    network = without_classifier(name).eval()
    features = network(torch.empty(2, 3, 224, 224, device="meta"))
    # One number per channel of the last layer, for any image size.
    assert features.ndim == 2
    assert 256 <= features.shape[1] <= 2048


@pytest.mark.slow
def test_inception_is_downloaded_verified_and_equals_torch_fidelity(
    served: tuple[Path, str], hub: Path, images: NDArray[np.uint8]
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    folder, address = served
    with torch.random.fork_rng():
        torch.manual_seed(0)
        name = save_weights(folder, "weights-inception", _untrained_inception())
    before = torch.get_rng_state()
    extractor = inception(f"{address}/{name}")
    assert torch.equal(torch.get_rng_state(), before)
    assert extractor.calibrated
    features = extractor(images, CPU)
    assert features.shape == (3, 2048)
    reference = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(hub / name)
    )
    expected = reference(torch.tensor(images).permute(0, 3, 1, 2))[0]
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    wrong = save_weights(folder, "weights-inception", {"a": torch.ones(1)})
    with pytest.raises(AtelierError, match="does not contain Inception's weights"):
        inception(f"{address}/{wrong}")


def _untrained_inception() -> dict[str, torch.Tensor]:
    """Return untrained weights with the names of torch-fidelity."""
    import torch_fidelity.feature_extractor_inceptionv3 as module

    class Untrained(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:  # type: ignore[override]
            pass

    empty_file = io.BytesIO()
    torch.save({}, empty_file)
    empty_file.seek(0)
    network = Untrained("inception", ["2048"], feature_extractor_weights_path=empty_file)
    return dict(network.state_dict())


def test_torchvision_network_loads_weights_from_torch_hub_folder(
    hub: Path, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    state = random_weights(torchvision.models.get_model("resnet18", weights=None).state_dict())
    name = save_weights(hub, "resnet18", state)
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    monkeypatch.setattr(weights.value, "url", f"https://download.invalid/{name}", raising=False)
    extractor = imagenet("resnet18")
    features = extractor(images, CPU)
    reference = torchvision.models.get_model("resnet18", weights=None).eval()
    reference.load_state_dict(state)
    reference.fc = torch.nn.Identity()
    floats = torch.tensor(images).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        expected = reference(weights.transforms(crop_size=224, resize_size=224)(floats))
    torch.testing.assert_close(features, expected, rtol=1e-2, atol=1e-3)


def test_vgg19_file_is_used_up_to_its_deepest_layer(
    tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    import torchvision

    with torch.device("meta"):
        vgg = torchvision.models.vgg19(weights=None, init_weights=False)
    state = {
        k: v for k, v in vgg.state_dict().items() if k.startswith(("features.0", "features.2."))
    }
    torch.save(random_weights(state), tmp_path / "shallow.pth")
    extractor = build_extractor("shallow.pth", 1, tmp_path)
    assert extractor(images, CPU).shape == (3, 64)
    torch.save({"features.0.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(AtelierError, match=r"no 0\.weight of shape \[64, 3, 3, 3\]"):
        vgg19_extractor(tmp_path / "other.pth")
    torch.save({"conv.weight": torch.ones(3)}, tmp_path / "none.pth")
    with pytest.raises(AtelierError, match=r"has no features\.0\.weight"):
        vgg19_extractor(tmp_path / "none.pth")


@pytest.mark.shared
def test_trained_weights_from_shared_data_return_features(
    shared: Path, images: NDArray[np.uint8]
) -> None:
    features = build_extractor(DISTILLED, 1, shared / "weights")(images, CPU)
    assert features.shape == (3, 512)
    assert features.isfinite().all()
    assert features.std() > 0
