"""What a batch of pictures is painted from at one size: contents, goal, bounds and first canvas."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from atelier.settings import StylizeSettings
from atelier.streams import torch_stream
from atelier.style import colors
from atelier.style.bounds import Bounds, bounds, no_bounds
from atelier.style.look import Look
from atelier.style.objective import Eye, Goal, goal_of
from atelier.style.scales import resized, shrunk


@dataclass(frozen=True)
class Subject:
    """Contents of one size, and how each is to look; all that a painting is made from.

    Attributes:
        contents: float32 ``[B, 3, H, W]``, RGB, 0 to 1.
        looks: one for all, or one for each.
    """

    contents: Tensor
    looks: tuple[Look, ...]

    def at(self, height: int, width: int, least: int) -> "Subject":
        """The same subject smaller, its styles in proportion, but no side of theirs below least."""
        if self.contents.shape[2:] == (height, width):
            return self
        factor = height / self.contents.shape[2]
        looks = [
            replace(
                look,
                styles=tuple(shrunk(style, factor, least) for style in look.styles),
                masks=tuple(resized(mask, height, width).clamp(0, 1) for mask in look.masks),
            )
            for look in self.looks
        ]
        return Subject(resized(self.contents, height, width).clamp(0, 1), tuple(looks))


class Scene:
    """A subject at one size, ready to be painted; VGG19 looks at it where it is first painted."""

    def __init__(
        self,
        subject: Subject,
        settings: StylizeSettings,
        vgg: nn.Sequential,
        side: int | None,
        whole: "Scene | None" = None,
    ) -> None:
        """Choose colours, and set the bounds.

        Args:
            subject: at the size to paint.
            settings: what to match, and which colours to keep.
            vgg: as for :class:`atelier.style.objective.Eye`.
            side: likewise.
            whole: the scene of the painting's own size; ``None`` where this is it.
        """
        self._whole = whole
        self._original, self._settings = subject.contents, settings
        self._vgg, self._side = vgg, side
        self._free = _where_painted(subject)
        seen = _in_colors_to_paint(subject, settings)
        self.contents, self._looks = seen.contents, seen.looks
        self.bounds = self._bounds()

    @cached_property
    def goal(self) -> Goal:
        """What the canvas is to come near to."""
        return goal_of(self.contents, self._looks, self._settings, self._vgg, self._side)

    @cached_property
    def eye(self) -> Eye:
        """How VGG19 sees the canvas."""
        height, width = self.contents.shape[2:]
        return Eye(self._vgg, self._settings, height, width, self._side)

    def first_canvas(self) -> Tensor:
        """Where painting begins, ``[B, 3, H, W]``."""
        if self._settings.start == "content":
            return self.contents.clone()
        height, width = self.contents.shape[2:]
        if self._settings.start == "style":
            covers = [_covering(look.styles[0], height, width) for look in self._looks]
            start = torch.cat(covers).expand_as(self.contents)
        else:
            # Drawn on the CPU, so that a seed means the same noise on every device, and anew for
            # every picture, so that a picture does not depend on those before it.
            generator = torch_stream(self._settings.seed, "stylize.noise")
            noise = torch.rand(self.contents[:1].shape, generator=generator)
            start = self._grey(noise.to(self.contents)).expand_as(self.contents)
        return self.bounds.nearest(start.contiguous())

    def carried(self, canvas: Tensor, contents: Tensor) -> Tensor:
        """Bring a canvas of a smaller scene here, whose contents were ``contents``.

        A painting that began at its content brings what was painted, not the content under it,
        which is finer here.
        """
        height, width = self.contents.shape[2:]
        if self._settings.start == "content":
            return self.bounds.nearest(self.contents + resized(canvas - contents, height, width))
        return self.bounds.nearest(resized(canvas, height, width))

    def glimpse(self, canvas: Tensor) -> Tensor:
        """Return what would be saved now of a canvas, as large as the painting."""
        if self._whole is None:
            return self.finished(canvas)
        return self._whole.finished(self._whole.carried(canvas, self.contents))

    def finished(self, canvas: Tensor) -> Tensor:
        """Return what is saved of a canvas: in the colours to keep, and only where masks are."""
        if self._settings.keep_colors == "luminance":
            canvas = colors.in_colors_of(canvas, self._original)
        painted = canvas.clamp(0, 1)
        return painted if self._free is None else torch.where(self._free, painted, self._original)

    def tangent(self, gradient: Tensor) -> Tensor:
        """Leave of a gradient what the canvas may follow: grey canvases stay grey."""
        return self._grey(gradient, mean=True)

    def _grey(self, pictures: Tensor, mean: bool = False) -> Tensor:
        if self._settings.keep_colors != "luminance":
            return pictures
        if mean:
            return pictures.mean(1, keepdim=True).expand_as(pictures).contiguous()
        return colors.lightness(pictures)

    def _bounds(self) -> Bounds:
        if not self._settings.bounded:
            return no_bounds(self.contents)
        limits = bounds(0, 1, self.contents)
        if self._settings.keep_colors == "luminance":
            limits = colors.room_for_lightness(self._original)
        if self._free is None:
            return limits
        low, high = (torch.where(self._free, limit, self.contents) for limit in limits)
        return Bounds(low, high)


def _where_painted(subject: Subject) -> Tensor | None:
    """Where a mask is above 0, bool ``[1 or B, 1, H, W]``."""
    if not subject.looks[0].masks:
        return None
    return torch.cat([torch.stack(look.masks).amax(0) > 0 for look in subject.looks])


def _in_colors_to_paint(subject: Subject, settings: StylizeSettings) -> Subject:
    """Change colours beforehand, so that the content's can be kept."""
    if settings.keep_colors == "none":
        return subject
    contents = subject.contents.split(1)
    looks = subject.looks * (len(contents) if len(subject.looks) == 1 else 1)
    if settings.keep_colors == "luminance":
        contents = tuple(colors.lightness(content) for content in contents)
    changed = [
        replace(look, styles=tuple(_recolored(style, content, settings) for style in look.styles))
        for look, content in zip(looks, contents, strict=True)
    ]
    return Subject(torch.cat(contents), tuple(changed))


def _recolored(style: Tensor, content: Tensor, settings: StylizeSettings) -> Tensor:
    if settings.keep_colors == "luminance":
        return colors.as_light_as(colors.lightness(style), content)
    return colors.with_colors_of(style, content)


def _covering(style: Tensor, height: int, width: int) -> Tensor:
    """The middle of a style, scaled so that it covers a canvas."""
    factor = max(height / style.shape[2], width / style.shape[3])
    large = [
        max(goal, round(side * factor))
        for goal, side in zip((height, width), style.shape[2:], strict=True)
    ]
    whole = resized(style, *large).clamp(0, 1)
    top, left = (large[0] - height) // 2, (large[1] - width) // 2
    return whole[:, :, top : top + height, left : left + width]
