"""What a batch of pictures is painted from at one size: contents, goal, bounds and first canvas."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atelier.core.random_streams import torch_generator
from atelier.core.settings import StylizeSettings
from atelier.style.objective import FeatureObjective, Style, Targets, build_targets
from atelier.style.pyramid import downscale, resize

# A sine is flat where it is highest: colours begin this far inside, so that they can move.
_INSIDE = 0.002


class Bounds(NamedTuple):
    """What values may be: between two numbers, or between two pictures ``[B, 3, H, W]``."""

    low: Tensor
    high: Tensor

    @property
    def is_unbounded(self) -> bool:
        """Whether nothing is out of bounds."""
        return bool(torch.isinf(self.low).all() and torch.isinf(self.high).all())

    def clamp(self, pictures: Tensor) -> Tensor:
        """The nearest pictures within."""
        return torch.maximum(torch.minimum(pictures, self.high), self.low)

    def free_mask(self, pictures: Tensor, gradient: Tensor) -> Tensor:
        """False where a step downhill would lead out."""
        above = (pictures >= self.high) & (gradient < 0)
        return ~(above | (pictures <= self.low) & (gradient > 0))

    def to_unbounded(self, pictures: Tensor) -> Tensor:
        """Numbers without bounds whose :meth:`at_angles` are these pictures, nearly."""
        place = (pictures - self.low) / (self.high - self.low).clamp(min=1e-6)
        return torch.asin(2 * place.clamp(_INSIDE, 1 - _INSIDE) - 1)

    def from_unbounded(self, angles: Tensor) -> Tensor:
        """Pictures within, whatever the numbers."""
        return self.clamp(self.low + (self.high - self.low) * (0.5 + 0.5 * torch.sin(angles)))

    def d_from_unbounded(self, angles: Tensor) -> Tensor:
        """How far a picture moves for a change of its angles."""
        return (self.high - self.low) * 0.5 * torch.cos(angles)


def bounds_for(low: float, high: float, like: Tensor) -> Bounds:
    """Bounds that are the same everywhere, on the device of ``like``."""
    return Bounds(like.new_tensor(low), like.new_tensor(high))


def unbounded(like: Tensor) -> Bounds:
    """Bounds that hold nothing back."""
    return bounds_for(-math.inf, math.inf, like)


# Of red, green and blue in lightness: Rec. 601, as the paper's YIQ has it.
_LUMINANCE_WEIGHTS = (0.299, 0.587, 0.114)
_MIN_VARIANCE = 1e-5


def luminance(pictures: Tensor) -> Tensor:
    """Return grey pictures ``[B, 3, H, W]`` as light as ``pictures``, RGB, 0 to 1."""
    shares = pictures.new_tensor(_LUMINANCE_WEIGHTS).view(1, 3, 1, 1)
    return (pictures * shares).sum(1, keepdim=True).expand_as(pictures).contiguous()


def match_luminance(style: Tensor, content: Tensor) -> Tensor:
    """Give grey ``style`` the mean and the spread of ``content``'s lightness."""
    spread = content.std() / style.std().clamp(min=_MIN_VARIANCE)
    return ((style - style.mean()) * spread + content.mean()).clamp(0, 1)


def luminance_bounds(contents: Tensor) -> Bounds:
    """How dark and how light each place may be and keep its hue and saturation on a screen."""
    hues = contents - luminance(contents)
    low, high = -hues.amin(1, keepdim=True), 1 - hues.amax(1, keepdim=True)
    return Bounds(low.expand_as(contents), high.expand_as(contents))


def match_color_statistics(grey: Tensor, contents: Tensor) -> Tensor:
    """Return pictures as light as ``grey`` ``[B, 3, H, W]``, in the colours of ``contents``."""
    return (grey + contents - luminance(contents)).clamp(0, 1)


def recombine_luminance(style: Tensor, content: Tensor) -> Tensor:
    """Give ``style`` the mean and the covariance of ``content``'s colours.

    The linear map of the paper's section 4 that has no rotation of its own: the square root of
    the content's covariance times the inverse square root of the style's.

    Args:
        style: float32 ``[1, 3, h, w]``, RGB, 0 to 1.
        content: float32 ``[1, 3, H, W]``, likewise.
    """
    theirs, ours = style.flatten(2)[0].double(), content.flatten(2)[0].double()
    change = _matrix_power(torch.cov(ours), 0.5) @ _matrix_power(torch.cov(theirs), -0.5)
    colors = change @ (theirs - theirs.mean(1, keepdim=True)) + ours.mean(1, keepdim=True)
    return colors.to(style.dtype).view_as(style[0])[None].clamp(0, 1)


def _matrix_power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    power: Tensor = vectors @ torch.diag(values.clamp(min=_MIN_VARIANCE) ** exponent) @ vectors.mT
    return power


@dataclass(frozen=True)
class StyleJob:
    """Contents of one size, and how each is to look; all that a painting is made from.

    Attributes:
        contents: float32 ``[B, 3, H, W]``, RGB, 0 to 1.
        styles: one for all, or one for each.
    """

    contents: Tensor
    styles: tuple[Style, ...]

    def resize(self, height: int, width: int, least: int) -> "StyleJob":
        """The same subject smaller, its styles in proportion, but no side of theirs below least."""
        if self.contents.shape[2:] == (height, width):
            return self
        factor = height / self.contents.shape[2]
        looks = [
            replace(
                look,
                images=tuple(downscale(style, factor, least) for style in look.images),
                masks=tuple(resize(mask, height, width).clamp(0, 1) for mask in look.masks),
            )
            for look in self.styles
        ]
        return StyleJob(resize(self.contents, height, width).clamp(0, 1), tuple(looks))


class ScaledProblem:
    """A subject at one size, ready to be painted; VGG19 looks at it where it is first painted."""

    def __init__(
        self,
        subject: StyleJob,
        settings: StylizeSettings,
        vgg: nn.Sequential,
        side: int | None,
        whole: "ScaledProblem | None" = None,
    ) -> None:
        """Choose colours, and set the bounds.

        Args:
            subject: at the size to paint.
            settings: what to match, and which colours to keep.
            vgg: as for :class:`atelier.style.objective.FeatureObjective`.
            side: likewise.
            whole: the scene of the painting's own size; ``None`` where this is it.
        """
        self._whole = whole
        self._original, self._settings = subject.contents, settings
        self._vgg, self._side = vgg, side
        self._free = _masked_area(subject)
        seen = _styles_in_content_colors(subject, settings)
        self.contents, self._looks = seen.contents, seen.styles
        self.bounds = self._bounds()

    @cached_property
    def targets(self) -> Targets:
        """What the canvas is to come near to."""
        return build_targets(self.contents, self._looks, self._settings, self._vgg, self._side)

    @cached_property
    def objective(self) -> FeatureObjective:
        """How VGG19 sees the canvas."""
        height, width = self.contents.shape[2:]
        return FeatureObjective(self._vgg, self._settings, height, width, self._side)

    def initial_image(self) -> Tensor:
        """Where painting begins, ``[B, 3, H, W]``."""
        if self._settings.init == "content":
            return self.contents.clone()
        height, width = self.contents.shape[2:]
        if self._settings.init == "style":
            covers = [_cover(look.images[0], height, width) for look in self._looks]
            start = torch.cat(covers).expand_as(self.contents)
        else:
            # Drawn on the CPU, so that a seed means the same noise on every device, and anew for
            # every picture, so that a picture does not depend on those before it.
            generator = torch_generator(self._settings.seed, "stylize.noise")
            noise = torch.rand(self.contents[:1].shape, generator=generator)
            start = self._to_grey(noise.to(self.contents)).expand_as(self.contents)
        return self.bounds.clamp(start.contiguous())

    def upscale_from(self, canvas: Tensor, contents: Tensor) -> Tensor:
        """Bring a canvas of a smaller scene here, whose contents were ``contents``.

        A painting that began at its content brings what was painted, not the content under it,
        which is finer here.
        """
        height, width = self.contents.shape[2:]
        if self._settings.init == "content":
            return self.bounds.clamp(self.contents + resize(canvas - contents, height, width))
        return self.bounds.clamp(resize(canvas, height, width))

    def preview(self, canvas: Tensor) -> Tensor:
        """Return what would be saved now of a canvas, as large as the painting."""
        if self._whole is None:
            return self.postprocess(canvas)
        return self._whole.postprocess(self._whole.upscale_from(canvas, self.contents))

    def postprocess(self, canvas: Tensor) -> Tensor:
        """Return what is saved of a canvas: in the colours to keep, and only where masks are."""
        if self._settings.preserve_color == "luminance":
            canvas = match_color_statistics(canvas, self._original)
        painted = canvas.clamp(0, 1)
        return painted if self._free is None else torch.where(self._free, painted, self._original)

    def project_gradient(self, gradient: Tensor) -> Tensor:
        """Leave of a gradient what the canvas may follow: grey canvases stay grey."""
        return self._to_grey(gradient, mean=True)

    def _to_grey(self, pictures: Tensor, mean: bool = False) -> Tensor:
        if self._settings.preserve_color != "luminance":
            return pictures
        if mean:
            return pictures.mean(1, keepdim=True).expand_as(pictures).contiguous()
        return luminance(pictures)

    def _bounds(self) -> Bounds:
        if not self._settings.clamp_to_range:
            return unbounded(self.contents)
        limits = bounds_for(0, 1, self.contents)
        if self._settings.preserve_color == "luminance":
            limits = luminance_bounds(self._original)
        if self._free is None:
            return limits
        low, high = (torch.where(self._free, limit, self.contents) for limit in limits)
        return Bounds(low, high)


def _masked_area(subject: StyleJob) -> Tensor | None:
    """Where a mask is above 0, bool ``[1 or B, 1, H, W]``."""
    if not subject.styles[0].masks:
        return None
    return torch.cat([torch.stack(look.masks).amax(0) > 0 for look in subject.styles])


def _styles_in_content_colors(subject: StyleJob, settings: StylizeSettings) -> StyleJob:
    """Change colours beforehand, so that the content's can be kept."""
    if settings.preserve_color == "none":
        return subject
    contents = subject.contents.split(1)
    looks = subject.styles * (len(contents) if len(subject.styles) == 1 else 1)
    if settings.preserve_color == "luminance":
        contents = tuple(luminance(content) for content in contents)
    changed = [
        replace(look, images=tuple(_recolored(style, content, settings) for style in look.images))
        for look, content in zip(looks, contents, strict=True)
    ]
    return StyleJob(torch.cat(contents), tuple(changed))


def _recolored(style: Tensor, content: Tensor, settings: StylizeSettings) -> Tensor:
    if settings.preserve_color == "luminance":
        return match_luminance(luminance(style), content)
    return recombine_luminance(style, content)


def _cover(style: Tensor, height: int, width: int) -> Tensor:
    """The middle of a style, scaled so that it covers a canvas."""
    factor = max(height / style.shape[2], width / style.shape[3])
    large = [
        max(goal, round(side * factor))
        for goal, side in zip((height, width), style.shape[2:], strict=True)
    ]
    whole = resize(style, *large).clamp(0, 1)
    top, left = (large[0] - height) // 2, (large[1] - width) // 2
    return whole[:, :, top : top + height, left : left + width]
