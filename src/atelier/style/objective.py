"""What a painting minimises, for one picture or several of one size in one pass of VGG19."""

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.core.device import native_bf16
from atelier.core.settings import StylizeSettings
from atelier.style.losses import content_loss, style_loss, style_statistics, total_variation
from atelier.style.vgg import feature_maps, preprocess, receptive_radius, stride


@dataclass(frozen=True)
class Style:
    """A style, or several: mixed in one painting, or each under its mask.

    Attributes:
        images: each float32 ``[1, 3, h, w]``, RGB, 0 to 1, of any size.
        weights: how much of each is mixed in, or how much its part of the picture counts; equal
            if not given.
        masks: where each style goes, float32 ``[1, 1, H, W]``, 0 to 1, of the content's size;
            everywhere if not given. Where no mask is above 0 the content stays as it is.
    """

    images: tuple[Tensor, ...]
    weights: tuple[float, ...] = ()
    masks: tuple[Tensor, ...] = ()

    def shares(self) -> list[float]:
        """The weights, so scaled that they sum to 1."""
        weights = self.weights or (1.0,) * len(self.images)
        return [weight / sum(weights) for weight in weights]


class Tile(NamedTuple):
    """A rectangle of pixels: ``core`` and, around it, ``seen``; top, bottom, left, right."""

    core: tuple[int, int, int, int]
    padded: tuple[int, int, int, int]

    def crop(self, pictures: Tensor) -> Tensor:
        """What the part sees of whole pictures ``[B, C, H, W]``, as a view."""
        top, bottom, left, right = self.padded
        return pictures[:, :, top:bottom, left:right]

    def crop_core(self, maps: Tensor, stride: int) -> Tensor:
        """The core's part of maps ``[B, C, h, w]`` of whole pictures."""
        top, bottom, left, right = (-(-edge // stride) for edge in self.core)
        return maps[:, :, top:bottom, left:right]

    def core_in_tile(self, maps: Tensor, stride: int) -> Tensor:
        """The core's part of maps of what the part sees."""
        (top, bottom, left, right), (up, _, aside, _) = self.core, self.padded
        edges = (top - up, bottom - up, left - aside, right - aside)
        top, bottom, left, right = (-(-edge // stride) for edge in edges)
        return maps[:, :, top:bottom, left:right]


def tiles(height: int, width: int, side: int | None, reach: int, step: int) -> list[Tile]:
    """Divide a picture.

    Args:
        height: of the picture.
        width: of the picture.
        side: of the squares that are seen at once, at most; ``None`` for one part.
        reach: pixels that a place sees to either side, at most.
        step: pixels between two places of the coarsest feature map.
    """
    if side is None or side >= max(height, width):
        everything = (0, height, 0, width)
        return [Tile(everything, everything)]
    around = -(-reach // step) * step
    core = max(step, (side - 2 * around) // step * step)
    return [
        Tile((top, bottom, left, right), (up, down, before, behind))
        for top, bottom, up, down in _intervals(height, core, around)
        for left, right, before, behind in _intervals(width, core, around)
    ]


def _intervals(length: int, core: int, around: int) -> Iterator[tuple[int, int, int, int]]:
    """Begin and end of cores and of what they see, along one axis."""
    for begin in range(0, length, core):
        end = min(begin + core, length)
        yield begin, end, max(0, begin - around), min(length, end + around)


Maps = dict[int, Tensor]


@dataclass(frozen=True)
class StyleTarget:
    """A texture, and where in the picture it belongs.

    Attributes:
        statistics: by layer, ``[1 or B, C, C]`` or ``[1 or B, C, C + 1]``.
        masks: by layer, ``[1 or B, 1, h, w]``; ``None`` for the whole picture.
        weight: how much the region counts, ``[1 or B]``.
    """

    statistics: Maps
    masks: Maps | None
    weight: Tensor


@dataclass(frozen=True)
class Targets:
    """What a batch of paintings is to come near to.

    Attributes:
        styles: the textures.
        contents: the contents' feature maps ``[B, C, h, w]`` by layer.
    """

    styles: tuple[StyleTarget, ...]
    contents: Maps


class FeatureObjective:
    """How VGG19 sees pictures of one size: whole, or part by part where memory is short."""

    def __init__(
        self,
        vgg: nn.Sequential,
        settings: StylizeSettings,
        height: int,
        width: int,
        side: int | None = None,
    ) -> None:
        """See pictures of this size.

        Args:
            vgg: from :func:`atelier.style.vgg.build_vgg19`, or :func:`cast_vgg` of it.
            settings: the layers, their weights, and how pixels are preprocessed.
            height: of the pictures.
            width: of the pictures.
            side: pixels of the squares that are seen at once, at most; ``None`` for no limit.
        """
        self._vgg, self._settings = vgg, settings
        self._strides = {layer: stride(vgg[: layer + 1]) for layer in self._layers()}
        used = vgg[: max(self._layers()) + 1]
        self.tiles = tiles(height, width, side, receptive_radius(used), stride(used))

    def style_features(self, picture: Tensor, masks: Maps | None = None) -> Maps:
        """Return the textures of a picture ``[B, 3, H, W]`` by layer, under masks where given."""
        with torch.no_grad():
            return self._accumulate(picture, [masks])[0][0]

    def content_features(self, picture: Tensor) -> Maps:
        """Return the feature maps that hold a picture's content, by layer."""
        layers = self._settings.content_layers
        maps: Maps = {}
        with torch.no_grad():
            for part in self.tiles:
                for layer, found in self._features(part.crop(picture), layers).items():
                    core = part.core_in_tile(found, self._strides[layer])
                    if len(self.tiles) == 1:
                        maps[layer] = core
                        continue
                    whole = self._empty_map(layer, core, picture)
                    maps.setdefault(layer, whole)
                    part.crop_core(maps[layer], self._strides[layer]).copy_(core)
        return maps

    def resize_mask(self, mask: Tensor) -> Maps:
        """Return a mask ``[B, 1, H, W]`` as the style's layers see it."""
        height, width = mask.shape[2:]
        sizes = {
            layer: (height // self._strides[layer], width // self._strides[layer])
            for layer in self._settings.style_layers
        }
        return {layer: F.interpolate(mask, size, mode="area") for layer, size in sizes.items()}

    def losses(self, canvas: Tensor, goal: Targets) -> dict[str, Tensor]:
        """Return the terms of the loss before weighting, ``[B]`` each: sums of float32 at least.

        In the order of :func:`loss_names`: ``style_1``, ``content_11``, ``smoothness``.
        """
        with torch.no_grad():
            found, held = self._accumulate(canvas, [region.masks for region in goal.styles], goal)
            return self._style_terms(found, goal) | held | self._smoothness(canvas)

    def loss_and_gradient(
        self, canvas: Tensor, goal: Targets, settings: StylizeSettings
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the weighted sum that ``settings`` ask for ``[B]``, its terms and its gradient."""
        leaf = canvas.detach().requires_grad_()
        if len(self.tiles) == 1:
            with torch.enable_grad():
                losses = self._terms(leaf, goal, self.tiles[0])
                totals = weighted_sum(losses, settings)
                (gradient,) = torch.autograd.grad(totals.sum(), leaf)
            return totals.detach(), losses, gradient.contiguous()
        return self._tiled_gradient(leaf, goal, settings)

    def _terms(self, canvas: Tensor, goal: Targets, part: Tile) -> dict[str, Tensor]:
        maps = self._features(canvas, self._layers())
        found = [self._style_statistics(maps, region.masks, part) for region in goal.styles]
        losses = self._style_terms(found, goal)
        losses |= {
            f"content_{layer}": content_loss(maps[layer], target)
            for layer, target in goal.contents.items()
        }
        return losses | self._smoothness(canvas)

    def _tiled_gradient(
        self, leaf: Tensor, goal: Targets, settings: StylizeSettings
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """A first pass gathers the textures, which tell in a second what each part must change."""
        with torch.no_grad():
            found, held = self._accumulate(leaf, [region.masks for region in goal.styles], goal)
        with torch.enable_grad():
            roots = [{k: v.requires_grad_() for k, v in textures.items()} for textures in found]
            losses = self._style_terms(roots, goal) | held | self._smoothness(leaf)
            totals = weighted_sum(losses, settings)
            flat = [root for textures in roots for root in textures.values()]
            gradient, *pulls = torch.autograd.grad(
                totals.sum(), [leaf, *flat], allow_unused=True, materialize_grads=True
            )
        told = iter(pulls)
        wanted = [{layer: next(told) for layer in textures} for textures in roots]
        for part in self.tiles:
            piece = part.crop(leaf.detach()).contiguous().requires_grad_()
            with torch.enable_grad():
                maps = self._features(piece, self._layers())
                total = leaf.new_zeros(())
                for region, pull in zip(goal.styles, wanted, strict=True):
                    of_part = self._style_statistics(maps, region.masks, part, leaf.shape)
                    for layer, value in of_part.items():
                        total = total + (value * pull[layer]).sum()
                terms = self._content_terms(maps, goal, part)
                if terms:
                    total = total + weighted_sum(terms, settings).sum()
                part.crop(gradient).add_(torch.autograd.grad(total, piece)[0])
        return totals.detach(), losses, gradient

    def _accumulate(
        self, picture: Tensor, masks: Sequence[Maps | None], goal: Targets | None = None
    ) -> tuple[list[Maps], dict[str, Tensor]]:
        """Sum up textures under each of ``masks``, and how far the content of ``goal`` is."""
        layers = self._layers() if goal else set(self._settings.style_layers)
        sums: list[Maps] = [{} for _ in masks]
        contents = goal.contents if goal else {}
        held = {f"content_{layer}": picture.new_zeros(len(picture)) for layer in contents}
        for part in self.tiles:
            maps = self._features(part.crop(picture), layers)
            for total, mask in zip(sums, masks, strict=True):
                for layer, value in self._style_statistics(maps, mask, part, picture.shape).items():
                    total[layer] = total[layer] + value if layer in total else value
            for name, value in (self._content_terms(maps, goal, part) if goal else {}).items():
                held[name] = held[name] + value
        return sums, held

    def _style_statistics(
        self, maps: Maps, masks: Maps | None, part: Tile, shape: Sequence[int] | None = None
    ) -> Maps:
        """The part's share of the textures of a picture of this ``shape``."""
        textures: Maps = {}
        for layer in self._settings.style_layers:
            apart = self._strides[layer]
            features, places = maps[layer], None
            mask = masks[layer] if masks else None
            if len(self.tiles) > 1 and shape is not None:
                features = part.core_in_tile(features, apart)
                count = (shape[2] // apart) * (shape[3] // apart)
                places = torch.full((1,), float(count), device=features.device)
                if mask is not None:
                    places, mask = mask.sum((1, 2, 3)), part.crop_core(mask, apart)
                if features.numel() == 0:
                    continue
            textures[layer] = style_statistics(features, self._settings.style_loss, mask, places)
        return textures

    def _style_terms(self, found: Sequence[Maps], goal: Targets) -> dict[str, Tensor]:
        def term(layer: int) -> Tensor:
            pairs = zip(found, goal.styles, strict=True)
            losses = [r.weight * style_loss(ours[layer], r.statistics[layer]) for ours, r in pairs]
            return torch.stack(losses).sum(0)

        return {f"style_{layer}": term(layer) for layer in sorted(self._settings.style_layers)}

    def _content_terms(self, maps: Maps, goal: Targets, part: Tile) -> dict[str, Tensor]:
        """The part's share of how far the content is."""
        terms = {}
        for layer, target in goal.contents.items():
            core = part.core_in_tile(maps[layer], self._strides[layer])
            share = core[0].numel() / target[0].numel()
            if share:
                loss = content_loss(core, part.crop_core(target, self._strides[layer]))
                terms[f"content_{layer}"] = share * loss
        return terms

    def _smoothness(self, canvas: Tensor) -> dict[str, Tensor]:
        return {"smoothness": total_variation(canvas)} if self._settings.tv_weight else {}

    def _features(self, picture: Tensor, layers: Collection[int]) -> Maps:
        """What layers make of RGB in 0 to 1, at the precision of the network."""
        pixels = preprocess(picture, self._settings.pixel_convention())
        return feature_maps(self._vgg, pixels.to(next(self._vgg.parameters()).dtype), layers)

    def _empty_map(self, layer: int, part: Tensor, picture: Tensor) -> Tensor:
        apart = self._strides[layer]
        height, width = picture.shape[2] // apart, picture.shape[3] // apart
        return part.new_empty(len(part), part.shape[1], height, width)

    def _layers(self) -> set[int]:
        return {*self._settings.style_layers, *self._settings.content_layers}


def build_targets(
    contents: Tensor,
    looks: Sequence[Style],
    settings: StylizeSettings,
    vgg: nn.Sequential,
    side: int | None = None,
) -> Targets:
    """Return what paintings of ``contents`` are to come near to.

    With a strength below 1 the textures lie between the contents' own and the styles': at 0 each
    content is its own goal. Textures are means, so that this means the same at every size.

    Args:
        contents: float32 ``[B, 3, H, W]``, RGB, 0 to 1.
        looks: one for all, or one for each, with equally many masks.
        settings: the layers, the strength, and how pixels are preprocessed.
        vgg: as for :class:`FeatureObjective`.
        side: likewise.
    """
    height, width = contents.shape[2:]
    eye = FeatureObjective(vgg, settings, height, width, side)
    masked = bool(looks[0].masks)
    regions = []
    for number in range(len(looks[0].images) if masked else 1):
        masks, share = None, contents.new_ones(1)
        if masked:
            whole = torch.cat([look.masks[number] for look in looks])
            weights = whole.new_tensor([look.shares()[number] * len(look.images) for look in looks])
            masks, share = eye.resize_mask(whole), weights * whole.mean((1, 2, 3))
        textures = [
            _mix_styles(
                {number: 1.0} if masked else dict(enumerate(look.shares())),
                look, settings, vgg, side,
            )
            for look in looks
        ]  # fmt: skip
        aims = {layer: torch.cat([one[layer] for one in textures]) for layer in textures[0]}
        if settings.style_strength < 1:
            own = eye.style_features(contents, masks)
            aims = {layer: own[layer].lerp(aims[layer], settings.style_strength) for layer in aims}
        regions.append(StyleTarget(aims, masks, share))
    return Targets(tuple(regions), eye.content_features(contents))


def _mix_styles(
    shares: dict[int, float],
    look: Style,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    side: int | None,
) -> Maps:
    """The mean texture of styles, by layer."""
    mixed: Maps = {}
    for number, share in shares.items():
        style = look.images[number]
        height, width = style.shape[2:]
        found = FeatureObjective(vgg, settings, height, width, side).style_features(style)
        for layer, value in found.items():
            mixed[layer] = share * value + mixed[layer] if layer in mixed else share * value
    return mixed


def weighted_sum(losses: dict[str, Tensor], settings: StylizeSettings) -> Tensor:
    """Return the weighted sum ``[B]`` of an objective's terms (equation 7 of Gatys et al. 2016)."""
    weights = {f"style_{layer}": weight for layer, weight in settings.style_layers.items()}
    weights |= {f"content_{layer}": weight for layer, weight in settings.content_layers.items()}
    # What the style asks for fades with the strength, and the smoothness that goes with it.
    weights["smoothness"] = settings.tv_weight * settings.style_strength
    return torch.stack([weights[name] * losses[name] for name in losses], dim=1).sum(1)


def loss_names(settings: StylizeSettings) -> list[str]:
    """The terms of the loss, in the order in which :class:`FeatureObjective` gives them."""
    styles = [f"style_{layer}" for layer in sorted(settings.style_layers)]
    contents = [f"content_{layer}" for layer in sorted(settings.content_layers)]
    return styles + contents + ["smoothness"] * bool(settings.tv_weight)


def cast_vgg(vgg: nn.Sequential, settings: StylizeSettings, device: torch.device) -> nn.Sequential:
    """Return ``vgg``, or a copy that computes as the settings ask and the device does fastest.

    bfloat16 has float32's range and 8 bits of precision. Its matrix products sum in float32, and
    what the losses sum is float32 again. Where the settings ask for what Gatys et al. did, the
    network stays as it is; else its maps have their channels last in memory, as convolutions
    like them (https://pytorch.org/tutorials/intermediate/memory_format_tutorial.html).
    """
    if settings.precision == "fp32" and settings.optimizer != "spectral_lbfgs":
        return vgg
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and native_bf16(device))
    fast = copy.deepcopy(vgg).to(torch.bfloat16 if bf16 else torch.float32)
    return fast.to(memory_format=torch.channels_last)
