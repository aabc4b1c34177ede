"""Extractors with trained weights: FID's Inception, ImageNet networks, and VGG19."""

import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.core.arrays import per_channel
from atelier.core.errors import AtelierError, SettingName
from atelier.core.pretrained import (
    VGG19_CAFFE_SHA256,
    fetch_weights,
    read_weights,
    vgg19_caffe,
    weights_digest,
)
from atelier.core.random_streams import derive_seed
from atelier.core.setting_types import is_weights_file
from atelier.metrics.features import Extractor, RandomFeatures

SETTING = SettingName("evaluate.features")
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
WEIGHTS = Path("data/weights")
_INCEPTION_SIZE = 299
_MEAN = (0.485, 0.456, 0.406)  # of ImageNet's images, 0 to 1
_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)  # of ImageNet's images, 0 to 255
_VGG19_CAFFE_LAYERS = 12  # to relu3_1: docs/measurements/metric-sensitivity.md compares the layers
_VGG_SIZE = 64  # of smaller images, the deepest maps have too few positions


def build_extractor(features: str, seed: int, weights: Path = WEIGHTS) -> Extractor:
    """Build the extractor that a setting names.

    Args:
        features: ``vgg19_caffe``, ``random``, ``inception``, the name of a network of
            torchvision, or the name of a file in ``weights``.
        seed: of random filters.
        weights: the folder of weight files.

    Raises:
        AtelierError: the weights cannot be downloaded or read, or belong to another network.
    """
    if features == "random":
        filters = derive_seed(seed, "features.random")
        return Extractor(RandomFeatures(filters), f"random {filters}")
    if features == "vgg19_caffe":
        return vgg19_caffe_features()
    if features == "inception":
        return inception()
    if is_weights_file(features):
        return vgg19_extractor(weights / features)
    return imagenet(features)


def inception(url: str = INCEPTION_URL) -> Extractor:
    """Build the Inception network of the original FID, as implemented by torch-fidelity.

    Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium": the 2,048 averages of the last maps. The weights, 95 MB, are downloaded once.

    Raises:
        AtelierError: the weights cannot be downloaded, or are damaged.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = fetch_weights(url, SETTING)
    # torch-fidelity unpickles its file without checks. It gets a copy of weights read safely.
    safe_copy = io.BytesIO()
    torch.save(dict(read_weights(path, SETTING)), safe_copy)
    safe_copy.seek(0)
    try:
        with torch.random.fork_rng(devices=[]):
            network = FeatureExtractorInceptionV3(
                "inception", ["2048"], feature_extractor_weights_path=safe_copy
            )
    except RuntimeError:
        raise AtelierError(
            f"{path} does not contain Inception's weights; delete it and start again."
        ) from None
    return Extractor(_Inception(network), f"inception {path.name}", _INCEPTION_SIZE, True)


def imagenet(name: str) -> Extractor:
    """Build a network of torchvision with weights of ImageNet, which are downloaded once.

    The features are the input of its classifier, averaged over the image.

    Args:
        name: of the network in torchvision.

    Raises:
        AtelierError: the weights cannot be downloaded, or are damaged.
    """
    # Importing torchvision takes seconds, which random features need not wait for.
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    network = without_classifier(name)
    path = fetch_weights(weights.url, SETTING)
    _load(network, dict(read_weights(path, SETTING)), path)
    transform = weights.transforms()
    size = int(transform.crop_size[0])
    return Extractor(_Normalized(network, size), f"{name} {path.name}", size)


def without_classifier(name: str) -> nn.Module:
    """Build a network of torchvision that returns features, [B, D], without weights."""
    from torchvision import models

    with torch.device("meta"):
        network: nn.Module = models.get_model(name, weights=None)
    for classifier in ("classifier", "fc"):
        if hasattr(network, classifier):
            setattr(network, classifier, nn.Flatten())
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    return network


def vgg19_extractor(path: Path) -> Extractor:
    """Build VGG19 up to the deepest layer of a file; features are averages of the last maps.

    Args:
        path: of a ``.safetensors`` file or a PyTorch state_dict, with torchvision's names.

    Raises:
        AtelierError: the file is missing or damaged, or contains another network.
    """
    from torchvision import models

    stored = read_weights(path, SETTING)
    layers = {name.removeprefix("features."): value for name, value in stored.items()}
    with torch.device("meta"):
        features = models.vgg19(weights=None, init_weights=False).features
    stored_layers = [layer for layer in range(len(features)) if f"{layer}.weight" in layers]
    if not stored_layers:
        raise AtelierError(
            f"{path} has no features.0.weight; {SETTING} needs a VGG19 with torchvision's names."
        )
    network = features[: max(stored_layers) + 2]  # with the following ReLU
    weights = {name: layers[name] for name in network.state_dict() if name in layers}
    _load(network, weights, path)
    pooled = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Extractor(_Normalized(pooled, _VGG_SIZE), f"vgg19 {weights_digest(path)}", _VGG_SIZE)


def vgg19_caffe_features(layers: int = _VGG19_CAFFE_LAYERS) -> Extractor:
    """Build the original VGG19 up to relu3_1; features are averages of the last maps.

    The weights come from an installed package, as for ``stylize.weights: vgg19_caffe``.

    Args:
        layers: number of layers of torchvision's ``vgg19().features``.

    Raises:
        AtelierError: the package is missing, or its file is damaged.
    """
    from torchvision import models

    with torch.device("meta"):
        features = models.vgg19(weights=None, init_weights=False).features
    network = features[:layers]
    weights = vgg19_caffe(SETTING)
    state = {name: weights[f"features.{name}"] for name in network.state_dict()}
    network.load_state_dict(state, assign=True)
    pooled = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    name = f"vgg19_caffe {VGG19_CAFFE_SHA256} {layers}"
    return Extractor(_NormalizedForCaffe(pooled, _VGG_SIZE), name, _VGG_SIZE)


class _Inception(nn.Module):
    """Inception of torch-fidelity, with the conversion to its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images.add(1).mul(127.5).round().to(torch.uint8))[0]
        return features


class _Normalized(nn.Module):
    """Network with resizing and normalization of its input, as in its training."""

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network, self.size = network.requires_grad_(False).eval(), size

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.size:
            size = (self.size, self.size)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        features: Tensor = self.network(self.normalize(images))
        return features

    def normalize(self, images: Tensor) -> Tensor:
        """Convert [-1, 1] to RGB from 0 to 1, minus ImageNet's mean, over its deviation."""
        scaled = images.add(1).div(2) - per_channel(_MEAN, images)
        return scaled / per_channel(_STD, images)


class _NormalizedForCaffe(_Normalized):
    """Network with the input of Caffe's convention."""

    def normalize(self, images: Tensor) -> Tensor:
        """Convert RGB in [-1, 1] to BGR from 0 to 255, minus ImageNet's mean."""
        return images.flip(1).add(1).mul(127.5) - per_channel(_CAFFE_MEAN_BGR, images)


def _load(network: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Assign weights to a network without storage; other entries of ``weights`` are ignored."""
    expected = network.state_dict()
    state = {name: weights.get(name) for name in expected}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.shape != expected[name].shape:
            raise AtelierError(
                f"{path} has no {name} of shape {list(expected[name].shape)}; {SETTING} needs the"
                " weights of the network that it names."
            )
        state[name] = value.to(expected[name].dtype)
    network.load_state_dict(state, assign=True)
