"""Loss of style transfer and its gradient, for a batch of images of one size.

The loss and its gradient take one pass of VGG19. If memory is short, the pass is split into tiles.
"""

import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.core.device import native_bf16
from atelier.core.settings import StylizeSettings
from atelier.style.graphed_evaluation import uses_graphs
from atelier.style.losses import content_loss, style_loss, style_statistics, total_variation
from atelier.style.padding import with_channels_last_padding
from atelier.style.vgg import feature_maps, preprocess, receptive_radius, stride

Maps = dict[int, Tensor]  # by layer of VGG19


@dataclass(frozen=True)
class Style:
    """One or more style images: mixed over the whole result, or each under its mask.

    Attributes:
        images: each float32 ``[1, 3, h, w]``, RGB, 0 to 1, of any size.
        weights: the share of each image in the mix, or the weight of its region in the loss;
            equal if empty.
        masks: the region of each image, float32 ``[1, 1, H, W]``, 0 to 1, of the content's size;
            the whole image if empty. The content stays unchanged where no mask is above 0.
    """

    images: tuple[Tensor, ...]
    weights: tuple[float, ...] = ()
    masks: tuple[Tensor, ...] = ()

    def normalized_weights(self) -> list[float]:
        """Return the weights divided by their sum."""
        weights = self.weights or (1.0,) * len(self.images)
        return [weight / sum(weights) for weight in weights]


class Tile(NamedTuple):
    """Rectangle of an image, with the surrounding pixels that its features depend on.

    Attributes:
        core: top, bottom, left and right edge of the tile; the cores partition the image.
        padded: edges of the core with its surroundings.
    """

    core: tuple[int, int, int, int]
    padded: tuple[int, int, int, int]

    def crop(self, images: Tensor) -> Tensor:
        """Return the padded tile of images ``[B, C, H, W]``, as a view."""
        return _crop(images, self.padded)

    def crop_core(self, maps: Tensor, stride: int) -> Tensor:
        """Return the core of feature maps ``[B, C, h, w]`` of whole images, as a view."""
        return _crop(maps, self.core, stride)

    def core_in_tile(self, maps: Tensor, stride: int) -> Tensor:
        """Return the core of feature maps of padded tiles, as a view."""
        (top, bottom, left, right), (first_row, _, first_column, _) = self.core, self.padded
        edges = (top - first_row, bottom - first_row, left - first_column, right - first_column)
        return _crop(maps, edges, stride)


def _crop(maps: Tensor, edges: tuple[int, int, int, int], stride: int = 1) -> Tensor:
    """Return the part of ``maps`` between edges in pixels: top, bottom, left and right."""
    top, bottom, left, right = (-(-edge // stride) for edge in edges)
    # A slice of everything would cost its backward pass a copy.
    is_whole = top == left == 0 and bottom >= maps.shape[2] and right >= maps.shape[3]
    return maps if is_whole else maps[:, :, top:bottom, left:right]


def tiles(height: int, width: int, tile_size: int | None, radius: int, step: int) -> list[Tile]:
    """Divide an image into tiles that overlap by the receptive field.

    Args:
        height: of the image.
        width: of the image.
        tile_size: largest side of a padded tile; ``None`` for a single tile.
        radius: pixels on each side that a feature depends on, at most.
        step: pixels between two positions of the coarsest feature map.
    """
    if tile_size is None or tile_size >= max(height, width):
        whole = (0, height, 0, width)
        return [Tile(whole, whole)]
    padding = -(-radius // step) * step
    core = max(step, (tile_size - 2 * padding) // step * step)
    return [
        Tile((top, bottom, left, right), (padded_top, padded_bottom, padded_left, padded_right))
        for top, bottom, padded_top, padded_bottom in _intervals(height, core, padding)
        for left, right, padded_left, padded_right in _intervals(width, core, padding)
    ]


def _intervals(length: int, core: int, padding: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield start and end of cores, and of cores with padding, along one axis."""
    for start in range(0, length, core):
        end = min(start + core, length)
        yield start, end, max(0, start - padding), min(length, end + padding)


@dataclass(frozen=True)
class StyleTarget:
    """Style statistics to match, and the region of the image in which to match them.

    Attributes:
        statistics: by layer, ``[1 or B, C, C]`` or ``[1 or B, C, C + 1]``, from
            :func:`atelier.style.losses.style_statistics`.
        masks: by layer, ``[1 or B, 1, h, w]``; ``None`` for the whole image.
        weight: of the region in the loss, ``[1 or B]``.
    """

    statistics: Maps
    masks: Maps | None
    weight: Tensor


@dataclass(frozen=True)
class Targets:
    """Targets of a batch of style transfers.

    Attributes:
        styles: one for the whole image, or one for each mask.
        contents: the contents' feature maps ``[B, C, h, w]`` by layer.
    """

    styles: tuple[StyleTarget, ...]
    contents: Maps


class FeatureObjective:
    """Loss over VGG19's features for images of one size, computed whole or in tiles."""

    def __init__(
        self,
        vgg: nn.Sequential,
        settings: StylizeSettings,
        height: int,
        width: int,
        tile_size: int | None = None,
    ) -> None:
        """Divide images of this size into tiles.

        Args:
            vgg: from :func:`atelier.style.vgg.build_vgg19`, or :func:`cast_vgg` of it.
            settings: the layers, their weights, and the preprocessing of pixels.
            height: of the images.
            width: of the images.
            tile_size: largest side of a tile in pixels; ``None`` for no tiling.
        """
        self._vgg, self._settings, self._size = vgg, settings, (height, width)
        self._strides = {layer: stride(vgg[: layer + 1]) for layer in self._layers()}
        used = vgg[: max(self._layers()) + 1]
        self.tiles = tiles(height, width, tile_size, receptive_radius(used), stride(used))

    def style_features(self, image: Tensor, masks: Maps | None = None) -> Maps:
        """Return the style statistics of images ``[B, 3, H, W]`` by layer, weighted by masks."""
        with torch.no_grad():
            return self._accumulate(image, [masks])[0][0]

    def content_features(self, image: Tensor) -> Maps:
        """Return the feature maps of images ``[B, 3, H, W]`` at the content layers, by layer."""
        layers = self._settings.content_layers
        maps: Maps = {}
        with torch.no_grad():
            for tile in self.tiles:
                for layer, features in self._features(tile.crop(image), layers).items():
                    core = tile.core_in_tile(features, self._strides[layer])
                    if len(self.tiles) == 1:
                        maps[layer] = core
                        continue
                    if layer not in maps:
                        maps[layer] = core.new_empty(*core.shape[:2], *self._map_size(layer))
                    tile.crop_core(maps[layer], self._strides[layer]).copy_(core)
        return maps

    def resize_mask(self, mask: Tensor) -> Maps:
        """Return a mask ``[B, 1, H, W]`` at the size of each style layer, by layer."""
        layers = self._settings.style_layers
        return {n: F.interpolate(mask, self._map_size(n), mode="area") for n in layers}

    def losses(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the terms of the loss before weighting, ``[B]`` each, without gradients.

        They have the order of :func:`loss_names`, and are summed in float32 at least.
        """
        with torch.no_grad():
            return self._terms(image, targets)

    def loss_and_gradient(
        self, image: Tensor, targets: Targets, settings: StylizeSettings
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the loss and its gradient at images ``[B, 3, H, W]``.

        Args:
            image: float32 ``[B, 3, H, W]``, RGB, 0 to 1.
            targets: from :func:`build_targets`.
            settings: the weights of the terms.

        Returns:
            The weighted sum ``[B]``, its terms before weighting, ``[B]`` each, and the gradient.
        """
        leaf = image.detach().requires_grad_()
        if len(self.tiles) > 1:
            return self._tiled_gradient(leaf, targets, settings)
        with torch.enable_grad():
            losses = self._terms(leaf, targets)
            totals = weighted_sum(losses, settings)
            (gradient,) = torch.autograd.grad(totals.sum(), leaf)
        return totals.detach(), losses, gradient.contiguous()

    def _terms(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        statistics, content_terms = self._accumulate(
            image, [style.masks for style in targets.styles], targets
        )
        return self._style_terms(statistics, targets) | content_terms | self._smoothness(image)

    def _tiled_gradient(
        self, leaf: Tensor, targets: Targets, settings: StylizeSettings
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Compute the loss and its gradient in two passes over the tiles.

        The first pass sums the style statistics of the whole image. The gradient with respect to
        them is the same for all tiles, and the second pass propagates it through each tile.
        """
        with torch.no_grad():
            sums, content_terms = self._accumulate(leaf, [s.masks for s in targets.styles], targets)
        with torch.enable_grad():
            roots = [{k: v.requires_grad_() for k, v in statistics.items()} for statistics in sums]
            losses = self._style_terms(roots, targets) | content_terms | self._smoothness(leaf)
            totals = weighted_sum(losses, settings)
            flat = [root for statistics in roots for root in statistics.values()]
            gradient, *flat_gradients = torch.autograd.grad(
                totals.sum(), [leaf, *flat], allow_unused=True, materialize_grads=True
            )
        remaining = iter(flat_gradients)
        root_gradients = [{layer: next(remaining) for layer in one} for one in roots]
        for tile in self.tiles:
            crop = tile.crop(leaf.detach()).contiguous().requires_grad_()
            with torch.enable_grad():
                total = self._tile_total(crop, tile, targets, root_gradients, settings)
            tile.crop(gradient).add_(torch.autograd.grad(total, crop)[0])
        return totals.detach(), losses, gradient

    def _tile_total(
        self,
        crop: Tensor,
        tile: Tile,
        targets: Targets,
        root_gradients: Sequence[Maps],
        settings: StylizeSettings,
    ) -> Tensor:
        """Return a sum whose gradient is the tile's part of that of style and content terms."""
        maps = self._features(crop, self._layers())
        total = crop.new_zeros(())
        for style, gradients in zip(targets.styles, root_gradients, strict=True):
            for layer, value in self._style_statistics(maps, style.masks, tile).items():
                total = total + (value * gradients[layer]).sum()
        terms = self._content_terms(maps, targets, tile)
        return total + weighted_sum(terms, settings).sum() if terms else total

    def _accumulate(
        self, image: Tensor, masks: Sequence[Maps | None], targets: Targets | None = None
    ) -> tuple[list[Maps], dict[str, Tensor]]:
        """Sum over all tiles the style statistics under each of ``masks``, and the content terms.

        Without ``targets`` there are no content terms.
        """
        layers = self._layers() if targets else set(self._settings.style_layers)
        sums: list[Maps] = [{} for _ in masks]
        contents = targets.contents if targets else {}
        content_terms = {f"content_{layer}": image.new_zeros(len(image)) for layer in contents}
        for tile in self.tiles:
            maps = self._features(tile.crop(image), layers)
            for total, mask in zip(sums, masks, strict=True):
                for layer, value in self._style_statistics(maps, mask, tile).items():
                    total[layer] = total[layer] + value if layer in total else value
            terms = self._content_terms(maps, targets, tile) if targets else {}
            for name, value in terms.items():
                content_terms[name] = content_terms[name] + value
        return sums, content_terms

    def _style_statistics(self, maps: Maps, masks: Maps | None, tile: Tile) -> Maps:
        """Return a tile's part of the style statistics of the whole images, by layer."""
        statistics: Maps = {}
        for layer in self._settings.style_layers:
            stride = self._strides[layer]
            features, denominator = maps[layer], None
            mask = masks[layer] if masks else None
            if len(self.tiles) > 1:
                features = tile.core_in_tile(features, stride)
                count = math.prod(self._map_size(layer))
                denominator = torch.full((1,), float(count), device=features.device)
                if mask is not None:
                    denominator, mask = mask.sum((1, 2, 3)), tile.crop_core(mask, stride)
                if features.numel() == 0:
                    continue
            kind = self._settings.style_loss
            statistics[layer] = style_statistics(features, kind, mask, denominator)
        return statistics

    def _style_terms(self, statistics: Sequence[Maps], targets: Targets) -> dict[str, Tensor]:
        def term(layer: int) -> Tensor:
            pairs = zip(statistics, targets.styles, strict=True)
            losses = [s.weight * style_loss(ours[layer], s.statistics[layer]) for ours, s in pairs]
            return torch.stack(losses).sum(0)

        return {f"style_{layer}": term(layer) for layer in sorted(self._settings.style_layers)}

    def _content_terms(self, maps: Maps, targets: Targets, tile: Tile) -> dict[str, Tensor]:
        """Return a tile's part of the content terms."""
        terms = {}
        for layer, target in targets.contents.items():
            core = tile.core_in_tile(maps[layer], self._strides[layer])
            share = core[0].numel() / target[0].numel()
            if share:
                loss = content_loss(core, tile.crop_core(target, self._strides[layer]))
                terms[f"content_{layer}"] = share * loss
        return terms

    def _smoothness(self, image: Tensor) -> dict[str, Tensor]:
        return {"smoothness": total_variation(image)} if self._settings.tv_weight else {}

    def _features(self, image: Tensor, layers: Collection[int]) -> Maps:
        """Return the feature maps of images, RGB, 0 to 1, at the precision of the network."""
        pixels = preprocess(image, self._settings.pixel_convention())
        return feature_maps(self._vgg, pixels.to(next(self._vgg.parameters()).dtype), layers)

    def _map_size(self, layer: int) -> tuple[int, int]:
        """Return height and width of a feature map of the whole image."""
        height, width = self._size
        return height // self._strides[layer], width // self._strides[layer]

    def _layers(self) -> set[int]:
        return {*self._settings.style_layers, *self._settings.content_layers}


def build_targets(
    contents: Tensor,
    styles: Sequence[Style],
    settings: StylizeSettings,
    vgg: nn.Sequential,
    tile_size: int | None = None,
) -> Targets:
    """Compute the targets of a batch of style transfers.

    If the style strength is below 1, the style statistics are interpolated between the content's
    own and the style's. Statistics are means over positions, so that the same strength has the
    same effect at every image size.

    Args:
        contents: float32 ``[B, 3, H, W]``, RGB, 0 to 1.
        styles: one for all contents, or one for each, all with the same number of masks.
        settings: the layers, the style strength, and the preprocessing of pixels.
        vgg: as for :class:`FeatureObjective`.
        tile_size: likewise.
    """
    height, width = contents.shape[2:]
    objective = FeatureObjective(vgg, settings, height, width, tile_size)

    def statistics_of(image: Tensor) -> Maps:
        height, width = image.shape[2:]
        return FeatureObjective(vgg, settings, height, width, tile_size).style_features(image)

    regions: list[int | None] = list(range(len(styles[0].images))) if styles[0].masks else [None]
    targets = []
    for region in regions:
        masks, weight = None, contents.new_ones(1)
        if region is not None:
            mask, weight = _mask_and_weight(styles, region)
            masks = objective.resize_mask(mask)
        mixed = [_mix_statistics(style, region, statistics_of) for style in styles]
        statistics = {layer: torch.cat([one[layer] for one in mixed]) for layer in mixed[0]}
        if settings.style_strength < 1:
            for layer, own in objective.style_features(contents, masks).items():
                statistics[layer] = own.lerp(statistics[layer], settings.style_strength)
        targets.append(StyleTarget(statistics, masks, weight))
    return Targets(tuple(targets), objective.content_features(contents))


def _mask_and_weight(styles: Sequence[Style], region: int) -> tuple[Tensor, Tensor]:
    """Return a region's mask ``[1 or B, 1, H, W]`` and its weight in the loss ``[1 or B]``.

    The weight of a region is proportional to its area.
    """
    mask = torch.cat([style.masks[region] for style in styles])
    weights = mask.new_tensor(
        [style.normalized_weights()[region] * len(style.images) for style in styles]
    )
    return mask, weights * mask.mean((1, 2, 3))


def _mix_statistics(
    style: Style, region: int | None, statistics_of: Callable[[Tensor], Maps]
) -> Maps:
    """Return the statistics of a region's style image, or the weighted mean over all of them."""
    weights = dict(enumerate(style.normalized_weights())) if region is None else {region: 1.0}
    mixed: Maps = {}
    for number, weight in weights.items():
        for layer, value in statistics_of(style.images[number]).items():
            mixed[layer] = weight * value + mixed[layer] if layer in mixed else weight * value
    return mixed


def weighted_sum(losses: dict[str, Tensor], settings: StylizeSettings) -> Tensor:
    """Return the weighted sum ``[B]`` of an objective's terms (equation 7 of Gatys et al. 2016)."""
    weights = {f"style_{layer}": weight for layer, weight in settings.style_layers.items()}
    weights |= {f"content_{layer}": weight for layer, weight in settings.content_layers.items()}
    # At strength 0 the content is the minimum, which a smoothness term would move.
    weights["smoothness"] = settings.tv_weight * settings.style_strength
    return torch.stack([weights[name] * losses[name] for name in losses], dim=1).sum(1)


def loss_names(settings: StylizeSettings) -> list[str]:
    """Return the names of the loss terms, in the order in which they are computed."""
    styles = [f"style_{layer}" for layer in sorted(settings.style_layers)]
    contents = [f"content_{layer}" for layer in sorted(settings.content_layers)]
    return styles + contents + ["smoothness"] * bool(settings.tv_weight)


def cast_vgg(vgg: nn.Sequential, settings: StylizeSettings, device: torch.device) -> nn.Sequential:
    """Return ``vgg``, or a copy in the precision and memory format that are fastest.

    bfloat16 has float32's range and 8 bits of precision; matrix products and losses are summed in
    float32. With ``precision: fp32`` and an optimizer of torch, as in Gatys et al., the network
    is returned unchanged. Otherwise its maps are channels-last, for faster convolutions
    (https://pytorch.org/tutorials/intermediate/memory_format_tutorial.html).
    """
    if settings.precision == "fp32" and settings.optimizer != "spectral_lbfgs":
        return vgg
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and native_bf16(device))
    cast = copy.deepcopy(vgg).to(torch.bfloat16 if bf16 else torch.float32)
    cast = cast.to(memory_format=torch.channels_last)
    return with_channels_last_padding(cast) if uses_graphs(device) else cast
