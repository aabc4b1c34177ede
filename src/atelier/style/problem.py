"""Style transfer at one image size: contents, targets, bounds and initial images."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from atelier.core.random_streams import torch_generator
from atelier.core.settings import StylizeSettings
from atelier.style.bounds import Bounds, bounds_for, unbounded
from atelier.style.color_preservation import (
    luminance,
    luminance_bounds,
    match_color_statistics,
    match_luminance,
    recombine_luminance,
)
from atelier.style.objective import FeatureObjective, Style, Targets, build_targets
from atelier.style.pyramid import downscale, resize


@dataclass(frozen=True)
class StyleJob:
    """Contents of one size with their styles: the images of a style transfer.

    Attributes:
        contents: float32 ``[B, 3, H, W]``, RGB, 0 to 1.
        styles: one for all contents, or one for each.
        images: name of each result, for messages, by its index.
    """

    contents: Tensor
    styles: tuple[Style, ...]
    images: Mapping[int, str] = field(default_factory=dict)

    def resize(self, height: int, width: int, min_style_size: int) -> "StyleJob":
        """Return the job with contents of this size, and styles scaled by the same factor.

        No side of a style becomes shorter than ``min_style_size``.
        """
        if self.contents.shape[2:] == (height, width):
            return self
        factor = height / self.contents.shape[2]
        styles = [
            replace(
                style,
                images=tuple(downscale(image, factor, min_style_size) for image in style.images),
                masks=tuple(resize(mask, height, width).clamp(0, 1) for mask in style.masks),
            )
            for style in self.styles
        ]
        contents = resize(self.contents, height, width).clamp(0, 1)
        return replace(self, contents=contents, styles=tuple(styles))


class ScaledProblem:
    """Optimization problem of a style transfer at one image size.

    Attributes:
        contents: the contents, float32 ``[B, 3, H, W]``; grayscale if the content's colors are
            preserved by optimizing the luminance.
        bounds: limits of the optimized images.
    """

    def __init__(
        self,
        job: StyleJob,
        settings: StylizeSettings,
        vgg: nn.Sequential,
        tile_size: int | None,
        full_size: "ScaledProblem | None" = None,
    ) -> None:
        """Adapt the colors of the styles, and set the bounds.

        Args:
            job: contents and styles at this size.
            settings: layers, weights, and which colors to preserve.
            vgg: as for :class:`atelier.style.objective.FeatureObjective`.
            tile_size: likewise.
            full_size: the problem at the size of the result; ``None`` if this is the one.
        """
        self._full_size = full_size
        self._original, self._settings = job.contents, settings
        self._vgg, self._tile_size = vgg, tile_size
        self._masked_area = _masked_area(job)
        recolored = _preserve_colors(job, settings)
        self.contents, self._styles = recolored.contents, recolored.styles
        self.bounds = self._bounds()
        height, width = self.contents.shape[2:]
        self._objective = FeatureObjective(vgg, settings, height, width, tile_size)
        self._targets: Targets | None = None

    def loss_and_gradient(
        self, image: Tensor, settings: StylizeSettings
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the loss of images ``[B, 3, H, W]``, its terms, and its projected gradient.

        The first call computes the targets.

        Args:
            image: the images.
            settings: the weights of the terms.

        Returns:
            As :meth:`atelier.style.objective.FeatureObjective.loss_and_gradient`.
        """
        if self._targets is None:
            self._targets = build_targets(
                self.contents, self._styles, self._settings, self._vgg, self._tile_size
            )
        totals, losses, gradient = self._objective.loss_and_gradient(image, self._targets, settings)
        return totals, losses, self.project_gradient(gradient)

    def initial_image(self) -> Tensor:
        """Return the initial images ``[B, 3, H, W]``: contents, styles or noise."""
        if self._settings.init == "content":
            return self.contents.clone()
        height, width = self.contents.shape[2:]
        if self._settings.init == "style":
            covers = [_cover(style.images[0], height, width) for style in self._styles]
            initial = torch.cat(covers).expand_as(self.contents)
        else:
            # Drawn on the CPU, so that a seed gives the same noise on every device. All images
            # have the same noise, so that a result does not depend on other contents.
            generator = torch_generator(self._settings.seed, "stylize.noise")
            noise = torch.rand(self.contents[:1].shape, generator=generator)
            initial = self._to_gray(noise.to(self.contents)).expand_as(self.contents)
        return self.bounds.clamp(initial.contiguous())

    def upscale_from(self, image: Tensor, contents: Tensor) -> Tensor:
        """Return the initial images at this size from the result of a smaller size.

        If the style transfer started from the contents, only the difference from the contents is
        resized, because the contents have more detail at this size.

        Args:
            image: the result of the smaller size.
            contents: the contents at the smaller size.
        """
        height, width = self.contents.shape[2:]
        if self._settings.init == "content":
            return self.bounds.clamp(self.contents + resize(image - contents, height, width))
        return self.bounds.clamp(resize(image, height, width))

    def preview(self, image: Tensor) -> Tensor:
        """Return optimized images of this size, postprocessed at the size of the result."""
        if self._full_size is None:
            return self.postprocess(image)
        full_size = self._full_size
        return full_size.postprocess(full_size.upscale_from(image, self.contents))

    def postprocess(self, image: Tensor) -> Tensor:
        """Return stylized images: with preserved colors, and changed only inside the masks."""
        if self._settings.preserve_color == "luminance":
            image = recombine_luminance(image, self._original)
        stylized = image.clamp(0, 1)
        if self._masked_area is None:
            return stylized
        return torch.where(self._masked_area, stylized, self._original)

    def project_gradient(self, gradient: Tensor) -> Tensor:
        """Project a gradient onto the allowed directions: grayscale images stay grayscale."""
        return self._to_gray(gradient, mean=True)

    def _to_gray(self, images: Tensor, mean: bool = False) -> Tensor:
        """Convert to grayscale if only the luminance is optimized."""
        if self._settings.preserve_color != "luminance":
            return images
        if mean:
            return images.mean(1, keepdim=True).expand_as(images).contiguous()
        return luminance(images)

    def _bounds(self) -> Bounds:
        if not self._settings.clamp_to_range:
            return unbounded(self.contents)
        bounds = bounds_for(0, 1, self.contents)
        if self._settings.preserve_color == "luminance":
            bounds = luminance_bounds(self._original)
        if self._masked_area is None:
            return bounds
        low, high = (torch.where(self._masked_area, bound, self.contents) for bound in bounds)
        return Bounds(low, high)


def _masked_area(job: StyleJob) -> Tensor | None:
    """Return where any mask is above 0, bool ``[1 or B, 1, H, W]``; ``None`` without masks."""
    if not job.styles[0].masks:
        return None
    return torch.cat([torch.stack(style.masks).amax(0) > 0 for style in job.styles])


def _preserve_colors(job: StyleJob, settings: StylizeSettings) -> StyleJob:
    """Return the job with styles in the contents' colors, or all images in grayscale."""
    if settings.preserve_color == "none":
        return job
    contents = job.contents.split(1)
    styles = job.styles * (len(contents) if len(job.styles) == 1 else 1)
    if settings.preserve_color == "luminance":
        contents = tuple(luminance(content) for content in contents)
    recolored = [
        replace(style, images=tuple(_recolor(image, content, settings) for image in style.images))
        for style, content in zip(styles, contents, strict=True)
    ]
    return replace(job, contents=torch.cat(contents), styles=tuple(recolored))


def _recolor(style: Tensor, content: Tensor, settings: StylizeSettings) -> Tensor:
    if settings.preserve_color == "luminance":
        return match_luminance(luminance(style), content)
    return match_color_statistics(style, content)


def _cover(style: Tensor, height: int, width: int) -> Tensor:
    """Resize a style so that it covers this size, and crop the center."""
    factor = max(height / style.shape[2], width / style.shape[3])
    covering = [
        max(minimum, round(side * factor))
        for minimum, side in zip((height, width), style.shape[2:], strict=True)
    ]
    resized = resize(style, *covering).clamp(0, 1)
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return resized[:, :, top : top + height, left : left + width]
