"""Color preservation: luminance, its bounds, and changes of mean and covariance."""

import pytest
import torch
from torch import Tensor

from atelier.style.color_preservation import (
    luminance,
    luminance_bounds,
    match_color_statistics,
    match_luminance,
    recombine_luminance,
)


def _colors(*colors: tuple[float, float, float]) -> Tensor:
    """Return an image of one row, float32 [1, 3, 1, N]."""
    return torch.tensor(colors).T[None, :, None, :].contiguous()


RED, GREEN, BLUE, GREY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.4, 0.4, 0.4)
SHARES = [0.299, 0.587, 0.114]  # Rec. 601


def test_luminance_is_that_of_rec_601() -> None:
    found = luminance(_colors(RED, GREEN, BLUE, GREY, (0.2, 0.4, 0.6)))
    mixed = 0.2 * SHARES[0] + 0.4 * SHARES[1] + 0.6 * SHARES[2]
    for channel in found[0, :, 0]:
        assert channel.tolist() == pytest.approx([*SHARES, 0.4, mixed])


def test_luminance_bounds_are_where_a_channel_leaves_the_gamut() -> None:
    """Blue of lightness 0.114 may go down to its own, where red is 0, and up until blue is 1."""
    colors = _colors(RED, GREEN, BLUE, GREY, (0.2, 0.4, 0.6))
    room = luminance_bounds(colors)
    mixed = 0.2 * SHARES[0] + 0.4 * SHARES[1] + 0.6 * SHARES[2]
    assert room.low.shape == room.high.shape == colors.shape
    for low, high in zip(room.low[0, :, 0], room.high[0, :, 0], strict=True):
        assert low.tolist() == pytest.approx([*SHARES, 0, mixed - 0.2], abs=1e-6)
        assert high.tolist() == pytest.approx([*SHARES, 1, mixed + 0.4], abs=1e-6)


def test_recombined_luminance_shifts_all_channels_equally() -> None:
    colors = _colors((0.2, 0.4, 0.6), (0.1, 0.9, 0.5))
    brighter = recombine_luminance(luminance(colors) + 0.1, colors)
    torch.testing.assert_close(brighter, colors + 0.1)
    torch.testing.assert_close(recombine_luminance(luminance(colors), colors), colors)
    assert recombine_luminance(luminance(colors) + 2, colors).max() == 1
    assert recombine_luminance(luminance(colors) - 2, colors).min() == 0


def test_matched_luminance_has_the_contents_mean_and_deviation() -> None:
    style = torch.tensor([0.1, 0.2, 0.6]).expand(1, 3, 1, 3)
    content = torch.tensor([0.4, 0.5, 0.6]).expand(1, 3, 1, 3)
    found = match_luminance(style, content)
    spread = content.double().std() / style.double().std()
    expected = (style.double() - style.double().mean()) * spread + 0.5
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
    flat = match_luminance(torch.full((1, 3, 1, 3), 0.9), content)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5), atol=2e-3, rtol=0)
    dark, light = (torch.tensor(levels).expand(1, 3, 1, 3) for levels in ([0.0, 0, 1], [0, 1.0, 1]))
    assert match_luminance(style, dark).min() == 0
    assert match_luminance(style, light).max() == 1


def test_color_map_is_symmetric_and_matches_covariances() -> None:
    """Square roots of covariances: of variances along the axes these are known."""
    axes = torch.tensor([[1.0, -1, 0, 0, 0, 0], [0, 0, 1, -1, 0, 0], [0, 0, 0, 0, 1, -1]])
    style = 0.5 + 0.1 * axes[None, :, None]
    content = 0.4 + torch.tensor([0.2, 0.05, 0.1]).view(1, 3, 1, 1) * axes[None, :, None]
    torch.testing.assert_close(match_color_statistics(style, content), content, atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(1)
    first, second = (0.35 + 0.3 * torch.rand(1, 3, 9, 9, generator=generator) for _ in range(2))
    found = match_color_statistics(first, second).double().flatten(2)[0]
    ours, theirs = first.double().flatten(2)[0], second.double().flatten(2)[0]
    # The least-squares map of the centered colors is the one that was applied.
    centered = ours - ours.mean(1, keepdim=True)
    change = torch.linalg.lstsq(centered.T, (found - found.mean(1, keepdim=True)).T).solution.T
    torch.testing.assert_close(
        change @ torch.cov(ours) @ change.T, torch.cov(theirs), atol=1e-6, rtol=0
    )
    roots = [torch.linalg.eigh(torch.cov(one)) for one in (ours, theirs)]
    (values, vectors), (wide, axes_of) = roots
    inverse = vectors @ torch.diag(values**-0.5) @ vectors.T
    root = axes_of @ torch.diag(wide**0.5) @ axes_of.T
    torch.testing.assert_close(change, root @ inverse, atol=1e-4, rtol=1e-4)


def test_constant_color_becomes_the_contents_mean() -> None:
    flat, content = _colors(*[(0.9, 0.1, 0.3)] * 4), _colors((0.2, 0.4, 0.6), (0.4, 0.2, 0.8))
    found = match_color_statistics(flat, content)
    torch.testing.assert_close(found, _colors(*[(0.3, 0.3, 0.7)] * 4))
    # Black and white only: of the missing colors no noise is made.
    grey = _colors(*[(level, level, level) for level in (0.0, 0.3, 1.0)])
    grey_content = _colors(*[(level, level, level) for level in (0.2, 0.4, 0.6)])
    found = match_color_statistics(grey, grey_content)
    assert (found - found.mean(1, keepdim=True)).abs().max() < 1e-4
