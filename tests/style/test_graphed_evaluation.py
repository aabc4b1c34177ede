"""Captured evaluations, with a replay on the CPU that writes into the same memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from atelier.style import graphed_evaluation, objective
from atelier.style.graphed_evaluation import Compute, Evaluation
from atelier.style.loss_log import IterationLosses
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.painting import RecordedEvents, options, smooth, tasks

_captures: list[torch.Size] = []


def _capture_on_cpu(compute: Compute, image: Tensor) -> tuple[Callable[[], None], Evaluation]:
    """Return a replay that computes from ``image`` and overwrites the outputs, as a graph does."""
    _captures.append(image.shape)
    outputs = compute(image)

    def replay() -> None:
        totals, losses, gradient = compute(image)
        outputs[0].copy_(totals)
        outputs[2].copy_(gradient)
        for name, value in losses.items():
            outputs[1][name].detach().copy_(value.detach())

    return replay, outputs


@pytest.fixture
def _graphs_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed_evaluation, "USE_CUDA_GRAPHS", True)
    monkeypatch.setattr(graphed_evaluation, "_GRAPH_DEVICE", "cpu")
    # The own padding sums gradients in another order.
    monkeypatch.setattr(objective, "with_channels_last_padding", lambda vgg: vgg)
    _captures.clear()


def _transfer(**changes: Any) -> tuple[Tensor, list[IterationLosses], list[str]]:
    events = RecordedEvents()
    settings = options(**{"iterations": 16, "pyramid_levels": 2, **changes})
    vgg = build_vgg19("random", "average", 1, 6)
    content = F.interpolate(smooth(1), 48)
    (result,) = transfer_style(tasks([content], smooth(2)), settings, vgg, events)
    return result, events.losses, events.warnings


@pytest.mark.parametrize("optimizer", ["spectral_lbfgs", "lbfgs", "adam"])
def test_replayed_evaluations_equal_plain_ones(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, optimizer: str
) -> None:
    changes = {"optimizer": optimizer, "lr": 0.02 if optimizer == "adam" else 1.0, "tv_weight": 0.1}
    result, losses, _ = _transfer(**changes)
    request.getfixturevalue("_graphs_on_cpu")
    monkeypatch.setattr(graphed_evaluation, "capture", _capture_on_cpu)
    replayed, replayed_losses, warnings = _transfer(**changes)
    assert torch.equal(replayed, result)
    assert replayed_losses == losses
    assert (warnings, len(_captures)) == ([], 2)  # one graph for each pyramid level


@pytest.mark.usefixtures("_graphs_on_cpu")
def test_evaluation_that_cannot_be_captured_continues_plainly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_compute: Compute, _image: Tensor) -> tuple[Callable[[], None], Evaluation]:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graphed_evaluation, "capture", fail)
    result, losses, warnings = _transfer(pyramid_levels=1)
    (warning,) = warnings
    assert "as a CUDA graph on this GPU (operation not permitted); the style" in warning
    monkeypatch.undo()
    plain, plain_losses, _ = _transfer(pyramid_levels=1)
    assert torch.equal(result, plain)
    assert losses == plain_losses
