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

CPU = torch.device("cpu")
DISTILLED = "vgg19_distilled16x_conv1_1-conv5_1.pth"


@pytest.fixture
def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def put(folder: Path, stem: str, state: dict[str, torch.Tensor]) -> str:
    """Save weights under a name that tells their hash; return the name."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "new.pth")
    content = (folder / "new.pth").read_bytes()
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    return name


def filled(shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return {
        name: (torch.rand(of.shape, generator=stream) * 0.1).to(of.dtype)
        for name, of in shapes.items()
    }


def test_features_take_grey_pictures_and_do_not_depend_on_batches(
    pictures: NDArray[np.uint8],
) -> None:
    extractor = Extractor(RandomFeatures(0), "random 0")
    grey = np.repeat(pictures[..., :1], 100, axis=0)
    together = extractor(grey, CPU)
    assert together.shape == (300, 1024)
    torch.testing.assert_close(together[:1], extractor(grey[:1], CPU), rtol=1e-4, atol=1e-5)
    repeated = extractor(grey.repeat(3, axis=-1), CPU)
    torch.testing.assert_close(together, repeated, rtol=1e-4, atol=1e-5)


def test_random_filters_follow_the_seed_and_leave_the_global_stream_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = (build_extractor("random", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    first = one.network.layers[0].weight
    assert torch.equal(first, again.network.layers[0].weight)
    assert not torch.equal(first, other.network.layers[0].weight)
    assert one.identity == again.identity != other.identity


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


def test_original_vgg19_averages_relu3_1_over_the_image(
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
    grey = images[..., :1]
    torch.testing.assert_close(extractor(grey, CPU), extractor(grey.repeat(3, axis=-1), CPU))


@pytest.mark.parametrize("side", [16, 28, 100])
def test_original_vgg19_gets_images_of_64_pixels(
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
def test_every_network_that_the_setting_names_ends_in_features(name: str) -> None:
    network = without_classifier(name).eval()
    features = network(torch.empty(2, 3, 224, 224, device="meta"))
    # One number for each of the last maps, whatever the picture's size.
    assert features.ndim == 2
    assert 256 <= features.shape[1] <= 2048


def test_inception_is_fetched_checked_and_gives_torch_fidelitys_features(
    served: tuple[Path, str], hub: Path, pictures: NDArray[np.uint8]
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    folder, address = served
    with torch.random.fork_rng():
        torch.manual_seed(0)
        name = put(folder, "weights-inception", _untrained_inception())
    before = torch.get_rng_state()
    extractor = inception(f"{address}/{name}")
    assert torch.equal(torch.get_rng_state(), before)
    assert extractor.calibrated
    features = extractor(pictures, CPU)
    assert features.shape == (3, 2048)
    theirs = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(hub / name)
    )
    expected = theirs(torch.tensor(pictures).permute(0, 3, 1, 2))[0]
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    wrong = put(folder, "weights-inception", {"a": torch.ones(1)})
    with pytest.raises(AtelierError, match="does not contain Inception's weights"):
        inception(f"{address}/{wrong}")


def _untrained_inception() -> dict[str, torch.Tensor]:
    """Weights as torch-fidelity names them, of no training."""
    import torch_fidelity.feature_extractor_inceptionv3 as theirs

    class Untrained(theirs.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:  # type: ignore[override]
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = Untrained("inception", ["2048"], feature_extractor_weights_path=nothing)
    return dict(network.state_dict())


def test_a_torchvision_network_takes_weights_from_torch_hubs_folder(
    hub: Path, pictures: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    state = filled(torchvision.models.get_model("resnet18", weights=None).state_dict())
    name = put(hub, "resnet18", state)
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    monkeypatch.setattr(weights.value, "url", f"https://download.invalid/{name}", raising=False)
    extractor = imagenet("resnet18")
    features = extractor(pictures, CPU)
    reference = torchvision.models.get_model("resnet18", weights=None).eval()
    reference.load_state_dict(state)
    reference.fc = torch.nn.Identity()
    floats = torch.tensor(pictures).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        expected = reference(weights.transforms(crop_size=224, resize_size=224)(floats))
    torch.testing.assert_close(features, expected, rtol=1e-2, atol=1e-3)


def test_vgg19_file_is_used_up_to_its_deepest_layer(
    tmp_path: Path, pictures: NDArray[np.uint8]
) -> None:
    import torchvision

    with torch.device("meta"):
        vgg = torchvision.models.vgg19(weights=None, init_weights=False)
    state = {
        k: v for k, v in vgg.state_dict().items() if k.startswith(("features.0", "features.2."))
    }
    torch.save(filled(state), tmp_path / "shallow.pth")
    extractor = build_extractor("shallow.pth", 1, tmp_path)
    assert extractor(pictures, CPU).shape == (3, 64)
    torch.save({"features.0.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(AtelierError, match=r"no 0\.weight of shape \[64, 3, 3, 3\]"):
        vgg19_extractor(tmp_path / "other.pth")
    torch.save({"conv.weight": torch.ones(3)}, tmp_path / "none.pth")
    with pytest.raises(AtelierError, match=r"has no features\.0\.weight"):
        vgg19_extractor(tmp_path / "none.pth")


@pytest.mark.shared
def test_trained_weights_in_shared_data_give_features(
    shared: Path, pictures: NDArray[np.uint8]
) -> None:
    features = build_extractor(DISTILLED, 1, shared / "weights")(pictures, CPU)
    assert features.shape == (3, 512)
    assert features.isfinite().all()
    assert features.std() > 0
