"""Extractors that learned to see: FID's Inception, ImageNet's networks, a VGG19 of a file."""

import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from atelier.core.errors import AtelierError
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

SETTING = "evaluate.features"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
_INCEPTION_SIDE = 299
# Of ImageNet's pictures.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)  # of ImageNet's images, 0 to 255
_VGG19_CAFFE_LAYERS = 12  # to relu3_1: docs/quality.md compares the layers
_VGG_SIDE = 64  # four times halved, the deepest maps of a smaller picture say next to nothing


def inception(url: str = INCEPTION_URL) -> Extractor:
    """Build the network of the original FID, by torch-fidelity, with its weights.

    Heusel et al. 2017, "GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium": the 2,048 averages of the last maps. The weights, 95 MB, are fetched once.

    Raises:
        AtelierError: the weights cannot be fetched, or are damaged.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = fetch_weights(url, SETTING)
    # It would unpickle whatever the file holds; it gets what was read safely instead.
    checked = io.BytesIO()
    torch.save(dict(read_weights(path, SETTING)), checked)
    checked.seek(0)
    try:
        with torch.random.fork_rng(devices=[]):
            network = FeatureExtractorInceptionV3(
                "inception", ["2048"], feature_extractor_weights_path=checked
            )
    except RuntimeError:
        raise AtelierError(
            f"{path} does not hold Inception's weights; delete it and start again."
        ) from None
    return Extractor(_Inception(network), f"inception {path.name}", _INCEPTION_SIDE, True)


def imagenet(name: str) -> Extractor:
    """Build one of torchvision's networks, with what it learned on ImageNet, fetched once.

    Its features are those that its classifier sees, averaged over the picture.

    Raises:
        AtelierError: the weights cannot be fetched, or are damaged.
    """
    weights = torchvision.models.get_model_weights(name).DEFAULT
    network = without_classifier(name)
    path = fetch_weights(weights.url, SETTING)
    _load(network, dict(read_weights(path, SETTING)), path)
    transform = weights.transforms()
    side = int(transform.crop_size[0])
    return Extractor(_Normalized(network, side), f"{name} {path.name}", side)


def without_classifier(name: str) -> nn.Module:
    """One of torchvision's networks that ends in features, [B, D], without weights."""
    with torch.device("meta"):
        network: nn.Module = torchvision.models.get_model(name, weights=None)
    for end in ("classifier", "fc"):
        if hasattr(network, end):
            setattr(network, end, nn.Flatten())
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    return network


def vgg19_extractor(path: Path) -> Extractor:
    """Build VGG19 up to the deepest layer that a file has, its maps averaged over the picture.

    Args:
        path: a ``.safetensors`` file or a PyTorch state_dict, with torchvision's names.

    Raises:
        AtelierError: the file is missing, damaged, or holds another network.
    """
    stored = read_weights(path, SETTING)
    layers = {name.removeprefix("features."): value for name, value in stored.items()}
    with torch.device("meta"):
        features = torchvision.models.vgg19(weights=None, init_weights=False).features
    there = [place for place in range(len(features)) if f"{place}.weight" in layers]
    if not there:
        raise AtelierError(
            f"{path} has no features.0.weight; {SETTING} needs a VGG19 with torchvision's names."
        )
    network = features[: max(there) + 2]  # with the ReLU behind it
    known = {name: layers[name] for name in network.state_dict() if name in layers}
    _load(network, known, path)
    pooled = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Extractor(_Normalized(pooled, _VGG_SIDE), f"vgg19 {weights_digest(path)}", _VGG_SIDE)


def vgg19_caffe_features(layers: int = _VGG19_CAFFE_LAYERS) -> Extractor:
    """Build the original VGG19 up to relu3_1, its maps averaged over the image.

    The weights are those that ``stylize.weights: vgg19_caffe`` takes, from an installed package.

    Args:
        layers: how many of torchvision's ``vgg19().features``.

    Raises:
        AtelierError: the package is missing, or its file is damaged.
    """
    with torch.device("meta"):
        features = torchvision.models.vgg19(weights=None, init_weights=False).features
    network = features[:layers]
    weights = vgg19_caffe(SETTING)
    known = {name: weights[f"features.{name}"] for name in network.state_dict()}
    network.load_state_dict(known, assign=True)
    pooled = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    name = f"vgg19_caffe {VGG19_CAFFE_SHA256} {layers}"
    return Extractor(_NormalizedForCaffe(pooled, _VGG_SIDE), name, _VGG_SIDE)


class _Inception(nn.Module):
    """Gives torch-fidelity's network the bytes that it takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.network(pictures.add(1).mul(127.5).round().to(torch.uint8))[0]
        return features


class _Normalized(nn.Module):
    """Gives a network images as large as it knows them, normalised as in its training."""

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network, self.side = network.requires_grad_(False).eval(), side

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != self.side:
            size = (self.side, self.side)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        features: Tensor = self.network(self.normalise(images))
        return features

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract ImageNet's mean and divide by its deviation; RGB from 0 to 1."""
        mean, std = (images.new_tensor(of).view(1, 3, 1, 1) for of in (_MEAN, _STD))
        return (images.add(1).div(2) - mean) / std


class _NormalizedForCaffe(_Normalized):
    """The same for a network of Caffe's convention."""

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract ImageNet's mean; BGR from 0 to 255."""
        mean = images.new_tensor(_CAFFE_MEAN_BGR).view(1, 3, 1, 1)
        return images.flip(1).add(1).mul(127.5) - mean


def _load(network: nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Give weights to a network that has no storage yet; what it has no place for is left."""
    wanted = network.state_dict()
    found = {name: weights.get(name) for name in wanted}
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.shape != wanted[name].shape:
            raise AtelierError(
                f"{path} holds no {name} of shape {list(wanted[name].shape)}; {SETTING} needs the"
                " weights of the network that it names."
            )
        found[name] = value.to(wanted[name].dtype)
    network.load_state_dict(found, assign=True)


WEIGHTS = Path("data/weights")


def build_extractor(features: str, seed: int, weights: Path = WEIGHTS) -> Extractor:
    """Build the extractor of a name.

    Args:
        features: as the setting takes it: ``vgg19_caffe``, ``random``, ``inception``, one of
            torchvision's networks, or a file of ``weights``.
        seed: of random filters.
        weights: the folder of files of weights.

    Raises:
        AtelierError: weights cannot be fetched or read, or belong to another network.
    """
    if features == "random":
        filters = derive_seed(seed, "features.random")
        return Extractor(RandomFeatures(filters), f"random {filters}")
    # torchvision takes 3 seconds to import, which random features need not wait for.

    if features == "vgg19_caffe":
        return vgg19_caffe_features()
    if features == "inception":
        return inception()
    if is_weights_file(features):
        return vgg19_extractor(weights / features)
    return imagenet(features)
