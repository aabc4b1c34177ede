"""Convolutional layers of VGG19, their weights, and the preprocessing of images.

Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image
recognition" (https://arxiv.org/abs/1409.1556), configuration E. Layers are positions in
``torchvision.models.vgg19().features``: 0 is conv1_1, 1 its ReLU, 4 the first pooling.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.core.arrays import per_channel
from atelier.core.errors import SettingError, SettingName
from atelier.core.pretrained import VGG19_CAFFE, fetch_weights, read_weights, vgg19_caffe

SETTING = SettingName("stylize.weights")
Pooling = Literal["max", "average", "l2"]
Padding = Literal["zeros", "replicate"]
Preprocessing = Literal["torchvision", "caffe"]

_CHANNELS_OF_BLOCKS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (0.40760392, 0.45795686, 0.48501961)
_EPSILON = 1e-8


def build_vgg19(
    weights: str, pooling: Pooling, seed: int, deepest: int, padding: Padding = "zeros"
) -> nn.Sequential:
    """Build VGG19's features up to layer ``deepest``, frozen and in evaluation mode.

    Args:
        weights: ``"vgg19_caffe"``: the original network's weights, from an installed package.
            ``"random"``: seeded random filters, to be scaled by :func:`calibrate`.
            ``"imagenet"``: torchvision's weights, downloaded on first use into torch hub's
            folder (set ``TORCH_HOME`` to change it). Otherwise the path of a ``.safetensors``
            file or a PyTorch state_dict, with torchvision's or Caffe's names (``conv1_1``).
        pooling: ``"max"``, as in VGG19's training; ``"average"``, which Gatys et al. found to
            give smoother images; or ``"l2"``, the root mean square, between the two.
        seed: of random weights.
        deepest: position of the last layer, 0 to 36.
        padding: ``"zeros"``, as in VGG19's training, or ``"replicate"``, which repeats border
            pixels, so that the border does not look like an edge to black.

    Returns:
        A sequence of ``deepest + 1`` layers with torchvision's positions. Its input is float32
        ``[B, 3, H, W]``, preprocessed by :func:`preprocess`.

    Raises:
        AtelierError: the weights cannot be downloaded or read, or belong to another network.
    """
    # Built without storage: torch would otherwise draw unused weights from the global generator.
    vgg = vgg19_on_meta(pooling, deepest, padding).to_empty(device="cpu")
    if weights == "random":
        _randomize(vgg, torch.Generator().manual_seed(seed))
    elif weights == "imagenet":
        from torchvision.models import VGG19_Weights  # importing takes 3 s

        path = fetch_weights(VGG19_Weights.IMAGENET1K_V1.url, SETTING)
        _load_weights(vgg, read_weights(path, SETTING), str(path))
    elif weights == VGG19_CAFFE:
        _load_weights(vgg, vgg19_caffe(SETTING), weights)
    else:
        _load_weights(vgg, read_weights(Path(weights), SETTING), weights)
    return vgg.requires_grad_(False).eval()


def vgg19_on_meta(pooling: Pooling, deepest: int, padding: Padding = "zeros") -> nn.Sequential:
    """Build VGG19's features up to layer ``deepest``, without storage for weights."""
    with torch.device("meta"):
        return nn.Sequential(*_layers(pooling, padding)[: deepest + 1])


def device_of(vgg: nn.Sequential) -> torch.device:
    """Return the device of the network's weights."""
    return next(vgg.parameters()).device


def calibrate(vgg: nn.Sequential, *images: Tensor) -> nn.Sequential:
    """Return a copy of ``vgg`` whose convolutions have outputs of unit scale for ``images``.

    From the first layer to the last, each convolution is divided by the root mean square of its
    output, so that all layers of random filters have the same weight in the losses (after Mishkin
    and Matas 2016, "All you need is a good init", https://arxiv.org/abs/1511.06422). There is one
    factor per layer, not per channel: amplified high-frequency filters cause visible grain.

    Args:
        vgg: from :func:`build_vgg19`.
        images: each float ``[B, 3, H, W]``, preprocessed.
    """
    vgg = copy.deepcopy(vgg)
    responses = list(images)
    with torch.no_grad():
        for layer in vgg:
            if isinstance(layer, nn.Conv2d):
                squares = [layer(response).square().mean() for response in responses]
                scale = torch.stack(squares).mean().sqrt()
                # An output of 0 everywhere cannot be scaled to 1.
                scale = torch.where(scale > 0, scale, 1.0)
                for parameter in layer.parameters():
                    parameter.div_(scale)
            responses = [layer(response) for response in responses]
    return vgg


def feature_maps(vgg: nn.Sequential, images: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
    """Return the outputs of ``layers`` from one pass, which ends at the deepest of them.

    Args:
        vgg: from :func:`build_vgg19`.
        images: float ``[B, 3, H, W]``, preprocessed.
        layers: positions in ``vgg``.

    Returns:
        Feature maps by position, float ``[B, C, H / s, W / s]``; ``s`` is the layer's stride.
    """
    maps = {}
    response = images
    for position in range(max(layers, default=-1) + 1):
        response = vgg[position](response)
        if position in layers:
            maps[position] = response
    return maps


def stride(layers: Iterable[nn.Module]) -> int:
    """Return the pixels between two adjacent positions of the last of ``layers``."""
    return int(2 ** sum(not isinstance(layer, nn.Conv2d | nn.ReLU) for layer in layers))


def receptive_radius(layers: Iterable[nn.Module]) -> int:
    """Return the pixels on each side that a position of the last of ``layers`` depends on.

    It is an upper bound.
    """
    radius, step = 0, 1
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            radius += step
        elif not isinstance(layer, nn.ReLU):
            radius, step = radius + step, 2 * step
    return radius


def preprocess(images: Tensor, convention: Preprocessing) -> Tensor:
    """Normalize images as in the training of VGG19's weights.

    Args:
        images: float ``[B, 3, H, W]``, RGB, 0 to 1.
        convention: ``"torchvision"``: RGB minus ImageNet's mean, divided by its standard
            deviation. ``"caffe"``: BGR minus its mean, times 255, as for the original weights
            (Gatys' own code).
    """
    if convention == "caffe":
        return (images.flip(1) - per_channel(_CAFFE_MEAN_BGR, images)) * 255
    mean, std = per_channel(_IMAGENET_MEAN, images), per_channel(_IMAGENET_STD, images)
    return (images - mean) / std


class L2Pool(nn.Module):
    """Root mean square of each 2 x 2 block."""

    def forward(self, features: Tensor) -> Tensor:
        """Halve height and width of ``[B, C, H, W]``."""
        # The gradient of the root is infinite at 0.
        return (F.avg_pool2d(features.square(), 2) + _EPSILON).sqrt()


def _layers(pooling: Pooling, padding: Padding) -> list[nn.Module]:
    pools: dict[Pooling, Callable[[], nn.Module]] = {
        "max": lambda: nn.MaxPool2d(2),
        "average": lambda: nn.AvgPool2d(2),
        "l2": L2Pool,
    }
    layers: list[nn.Module] = []
    incoming = 3
    for block in _CHANNELS_OF_BLOCKS:
        for channels in block:
            # ReLU is not in place, because the convolution's output may be a target too.
            layers += [nn.Conv2d(incoming, channels, 3, 1, 1, padding_mode=padding), nn.ReLU()]
            incoming = channels
        layers.append(pools[pooling]())
    return layers


def _randomize(vgg: nn.Sequential, generator: torch.Generator) -> None:
    for parameter in vgg.parameters():
        if parameter.ndim == 4:
            nn.init.orthogonal_(parameter, generator=generator)
        else:
            nn.init.zeros_(parameter)


def _load_weights(vgg: nn.Sequential, stored: Mapping[str, Any], source: str) -> None:
    """Copy the weights of every layer of ``vgg``; other entries of ``stored`` are ignored."""
    caffe_names = _caffe_names()
    for name, parameter in vgg.named_parameters():
        layer, _, kind = name.partition(".")
        aliases = (f"features.{name}", name, f"{caffe_names[int(layer)]}.{kind}")
        tensor = next((stored[alias] for alias in aliases if alias in stored), None)
        if not isinstance(tensor, Tensor):
            raise SettingError(
                f"{{source}} has no features.{name}, nor {aliases[-1]}; {{setting}} needs a VGG19"
                " with torchvision's or Caffe's names, deep enough for the layers of the settings.",
                source=source,
                setting=SETTING,
            )
        if tensor.shape != parameter.shape:
            raise SettingError(
                f"{{source}} is not VGG19: its features.{name} has shape {list(tensor.shape)}"
                f" instead of {list(parameter.shape)}; give {{setting}} a VGG19.",
                source=source,
                setting=SETTING,
            )
        parameter.data.copy_(tensor)


def _caffe_names() -> dict[int, str]:
    """Return the names of the convolutions in the original network, by position."""
    names, position = {}, 0
    for block, channels in enumerate(_CHANNELS_OF_BLOCKS, start=1):
        for number in range(1, len(channels) + 1):
            names[position] = f"conv{block}_{number}"
            position += 2  # the convolution and its ReLU
        position += 1  # the pooling
    return names
