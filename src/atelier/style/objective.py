"""What a painting minimises, for one picture or several of one size in one pass of VGG19."""

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn

from atelier.hardware import native_bf16
from atelier.settings import StylizeSettings
from atelier.style.losses import content_loss, gram_matrix, style_loss
from atelier.style.vgg import feature_maps, preprocess

Maps = dict[int, Tensor]


def objective(
    canvas: Tensor, grams: Maps, contents: Maps, settings: StylizeSettings, vgg: nn.Sequential
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what painting minimises (equation 7 of Gatys et al. 2016), and its terms.

    Args:
        canvas: float ``[B, 3, H, W]``, RGB, 0 to 1.
        grams: the style's Gram matrices ``[1, C, C]`` by layer.
        contents: the contents' feature maps ``[B, C, h, w]`` by layer.
        settings: the layers' weights, and how pixels are preprocessed.
        vgg: from :func:`atelier.style.vgg.build_vgg19`, or :func:`at_precision` of it.

    Returns:
        The weighted sum of each picture, ``[B]``, and the terms before weighting by name, ``[B]``
        each: ``style_1``, ``content_11``. All are sums of float32 at least.
    """
    maps = seen(vgg, canvas, {*grams, *contents}, settings)
    losses = {f"style_{layer}": style_loss(maps[layer], gram) for layer, gram in grams.items()}
    losses |= {f"content_{layer}": content_loss(maps[layer], contents[layer]) for layer in contents}
    return weighted(losses, settings), losses


def weighted(losses: dict[str, Tensor], settings: StylizeSettings) -> Tensor:
    """Return the weighted sum ``[B]`` of an objective's terms."""
    weights = {f"style_{layer}": weight for layer, weight in settings.style_layers.items()}
    weights |= {f"content_{layer}": weight for layer, weight in settings.content_layers.items()}
    return torch.stack([weights[name] * losses[name] for name in losses], dim=1).sum(1)


def targets(
    content: Tensor, style: Tensor, settings: StylizeSettings, vgg: nn.Sequential
) -> tuple[Maps, Maps]:
    """Return the Gram matrices of ``style`` and the feature maps of ``content``, by layer.

    Args:
        content: float32 ``[B, 3, H, W]``, RGB, 0 to 1.
        style: float32 ``[1, 3, h, w]``, RGB, 0 to 1.
        settings: the layers, and how pixels are preprocessed.
        vgg: as for :func:`objective`.
    """
    with torch.no_grad():
        styles = seen(vgg, style, settings.style_layers, settings)
        contents = seen(vgg, content, settings.content_layers, settings)
        return {layer: gram_matrix(features) for layer, features in styles.items()}, contents


def seen(
    vgg: nn.Sequential, picture: Tensor, layers: Collection[int], settings: StylizeSettings
) -> Maps:
    """Return what ``layers`` of ``vgg`` make of RGB in 0 to 1, at the precision of ``vgg``."""
    pixels = preprocess(picture, settings.preprocessing)
    return feature_maps(vgg, pixels.to(next(vgg.parameters()).dtype), layers)


def names(settings: StylizeSettings) -> list[str]:
    """The terms of the loss, in the order in which :func:`objective` gives them."""
    styles = [f"style_{layer}" for layer in sorted(settings.style_layers)]
    return styles + [f"content_{layer}" for layer in sorted(settings.content_layers)]


def at_precision(
    vgg: nn.Sequential, settings: StylizeSettings, device: torch.device
) -> nn.Sequential:
    """Return ``vgg``, or a copy that computes as the settings ask and the device does fastest.

    bfloat16 has float32's range and 8 bits of precision. Its matrix products sum in float32, and
    what the losses sum is float32 again. Where the settings ask for what Gatys et al. did, the
    network stays as it is; else its maps have their channels last in memory, as convolutions
    like them (https://pytorch.org/tutorials/intermediate/memory_format_tutorial.html).
    """
    if settings.precision == "fp32" and settings.optimizer != "spectral":
        return vgg
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and native_bf16(device))
    fast = copy.deepcopy(vgg).to(torch.bfloat16 if bf16 else torch.float32)
    return fast.to(memory_format=torch.channels_last)
