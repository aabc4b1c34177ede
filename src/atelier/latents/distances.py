"""Distances of generated images from a target image: of pixels, and of VGG19's features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.core.pretrained import VGG19_CAFFE
from atelier.style.vgg import build_vgg19, feature_maps, preprocess

_LAYERS = (1, 6, 11, 20)  # relu1_1, relu2_1, relu3_1 and relu4_1
_SCALES = (1, 2, 4, 8)
_EPSILON = 1e-8


def load_vgg(device: torch.device) -> nn.Sequential:
    """Return VGG19 with the original weights, up to the deepest compared layer.

    Raises:
        AtelierError: the package with the weights is missing or damaged.
    """
    return build_vgg19(VGG19_CAFFE, "average", 0, max(_LAYERS)).to(device)


class PixelDistance:
    """Mean squared difference of pixels from 0 to 1, summed over several sizes.

    The gradient at the smallest size leads to the right layout from far away.
    """

    def __init__(self, target: Tensor) -> None:
        """Prepare for a target, float32 [1, C, H, W] from -1 to 1."""
        self.target = target
        self.scales = [scale for scale in _SCALES if scale < target.shape[2]]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the distance [B] of images [B, C, H, W] from -1 to 1."""
        difference = (images - self.target) / 2
        reduced = [F.avg_pool2d(difference, scale) for scale in self.scales]
        return torch.stack([each.square().flatten(1).mean(1) for each in reduced]).sum(0)


class FeatureDistance:
    """Mean squared distance of VGG19's features, normalized over channels at each position.

    It is LPIPS without learned weights (Zhang et al. 2018, "The unreasonable effectiveness of deep
    features as a perceptual metric", https://arxiv.org/abs/1801.03924).
    """

    def __init__(self, vgg: nn.Sequential, target: Tensor) -> None:
        """Compute the features of a target, float32 [1, C, H, W] from -1 to 1."""
        self.vgg = vgg
        with torch.no_grad():
            self.target = self._features(target)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the distance [B] of images [B, C, H, W] from -1 to 1."""
        distances = [
            (found - target).square().sum(1).flatten(1).mean(1)
            for found, target in zip(self._features(images), self.target, strict=True)
        ]
        return torch.stack(distances).mean(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        rgb = images.expand(-1, 3, -1, -1)  # VGG19 has no gray images
        maps = feature_maps(self.vgg, preprocess((rgb + 1) / 2, "caffe"), _LAYERS)
        return [F.normalize(maps[layer], dim=1, eps=_EPSILON) for layer in _LAYERS]
