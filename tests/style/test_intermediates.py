"""Intermediate images: their number and order, also after an interruption."""

from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.core.checkpoints import Checkpoints
from atelier.core.settings import StylizeSettings
from atelier.style.checkpoint import Intermediates, TransferCheckpoints
from atelier.style.loss_log import IterationLosses, Preview, StyleEvents
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.painting import RecordedEvents, options, smooth, tasks
from ..support.selection import slow_after


class _StoringEvents(StyleEvents):
    """Observer that stores intermediate images."""

    def __init__(self, intermediates: Intermediates) -> None:
        self._intermediates = intermediates

    def on_preview(self, preview: Preview) -> None:
        self._intermediates.add(preview)


def _stylize(
    settings: StylizeSettings,
    intermediates: Intermediates | None,
    checkpointer: TransferCheckpoints | None = None,
) -> list[torch.Tensor]:
    vgg = build_vgg19("random", "average", 1, 6)
    events = _StoringEvents(intermediates) if intermediates else None
    contents = [smooth(1), smooth(3)]
    return list(transfer_style(tasks(contents, smooth(2)), settings, vgg, events, checkpointer))


def _equal(first: dict[int, np.ndarray], second: dict[int, np.ndarray]) -> bool:
    return list(first) == list(second) and all(
        np.array_equal(first[iteration], second[iteration]) for iteration in first
    )


@pytest.mark.parametrize(
    ("changes", "iterations"),
    slow_after(
        3,
        [
            ({"iterations": 12, "save_intermediates": 100}, list(range(1, 13))),
            ({"iterations": 30, "save_intermediates": 3}, [10, 20, 25, 30]),
            (
                {"iterations": 12, "save_intermediates": 4, "optimizer": "adam", "lr": 0.02},
                [3, 6, 9, 12],
            ),
            ({"iterations": 12, "save_intermediates": 4}, [3, 6, 9, 12]),
            ({"iterations": 30, "save_intermediates": 0}, [25, 30]),
        ],
    ),
)
def test_intermediates_do_not_change_the_result(
    changes: dict[str, object], iterations: list[int]
) -> None:
    settings = options(**{"optimizer": "spectral_lbfgs", **changes})
    intermediates = Intermediates()
    results = _stylize(settings, intermediates)
    assert list(intermediates.of_image(0)) == list(intermediates.of_image(1)) == iterations
    expected_results = _stylize(settings.model_copy(update={"save_intermediates": 0}), None)
    assert all(
        torch.equal(result, expected)
        for result, expected in zip(results, expected_results, strict=True)
    )


def test_lbfgs_of_torch_has_previews_of_chunks_only() -> None:
    settings = options(optimizer="lbfgs", iterations=30, save_intermediates=10)
    intermediates = Intermediates()
    results = _stylize(settings, intermediates)
    expected_results = _stylize(settings.model_copy(update={"save_intermediates": 0}), None)
    assert len(intermediates.of_image(0)) == 2
    assert all(
        torch.equal(result, expected)
        for result, expected in zip(results, expected_results, strict=True)
    )


@pytest.mark.parametrize("optimizer", ["lbfgs", "spectral_lbfgs", "adam"])
def test_interruption_gives_a_preview_of_the_current_image(optimizer: str) -> None:
    """Within a step of `torch.optim.LBFGS`, the preview is the best image so far."""
    settings = options(optimizer=optimizer, lr=1.0 if optimizer != "adam" else 0.02)
    losses: list[IterationLosses] = []
    previews: list[Preview] = []

    class InterruptingEvents(RecordedEvents):
        def on_losses(self, losses: IterationLosses) -> None:
            super().on_losses(losses)
            if losses.iteration == 10:
                raise KeyboardInterrupt

    vgg, content, style = (
        build_vgg19("random", "average", 1, 6),
        smooth(1),
        smooth(2),
    )
    with pytest.raises(KeyboardInterrupt):
        list(
            transfer_style(
                tasks([content], style), settings, vgg, InterruptingEvents(losses, previews)
            )
        )
    (preview,) = previews
    assert (preview.iteration, preview.interrupted) == (10, True)
    preview_losses: list[IterationLosses] = []
    one_iteration = settings.model_copy(update={"iterations": 1})
    list(
        transfer_style(
            tasks([preview.pixels], style), one_iteration, vgg, RecordedEvents(preview_losses)
        )
    )
    style_of = [values[-1].per_layer["style_6"] for values in ([losses[0]], preview_losses)]
    assert style_of[1] < 0.9 * style_of[0]


def test_interruption_before_the_first_step_gives_no_preview() -> None:
    class InterruptingCheckpointer(TransferCheckpoints):
        def load(self, image: int) -> dict[str, torch.Tensor] | None:
            raise KeyboardInterrupt

    previews: list[Preview] = []
    vgg = build_vgg19("random", "average", 1, 6)
    with pytest.raises(KeyboardInterrupt):
        list(
            transfer_style(
                tasks([smooth(1)], smooth(2)),
                options(),
                vgg,
                RecordedEvents(previews=previews),
                InterruptingCheckpointer(),
            )
        )
    assert previews == []


def test_preview_of_an_interruption_is_not_stored_on_disk(
    tmp_path: Path,
) -> None:
    intermediates = Intermediates(Checkpoints(tmp_path))
    intermediates.add(Preview(0, 7, torch.zeros(1, 3, 2, 2), interrupted=True))
    assert intermediates.of_image(0) == {}


@pytest.mark.slow
def test_resumed_style_transfer_has_all_intermediates(
    tmp_path: Path,
) -> None:
    settings = options(optimizer="spectral_lbfgs", iterations=60, save_intermediates=12)
    expected = Intermediates()
    _stylize(settings, expected)
    interruptions = 0
    while True:
        checkpoints = Checkpoints(tmp_path)
        intermediates = Intermediates(checkpoints)
        try:
            _stylize(settings, intermediates, TransferCheckpoints(checkpoints, lambda: True, 60.0))
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 4
    assert [len(expected.of_image(number)) for number in (0, 1)] == [12, 12]
    assert all(
        _equal(intermediates.of_image(number), expected.of_image(number)) for number in (0, 1)
    )


def test_intermediates_are_grouped_by_iteration_in_order() -> None:
    intermediates = Intermediates()
    for image, iteration in ((1, 5), (0, 10), (0, 5)):
        level = torch.full((1, 3, 2, 2), (10 * image + iteration) / 255)
        intermediates.add(Preview(image, iteration, level))
    levels = {
        iteration: [int(pixels[0, 0, 0]) for pixels in images]
        for iteration, images in intermediates.by_iteration().items()
    }
    assert levels == {5: [5, 15], 10: [10]}


def test_damaged_intermediate_is_skipped(tmp_path: Path) -> None:
    intermediates = Intermediates(Checkpoints(tmp_path))
    for iteration in (5, 10, 15):
        intermediates.add(Preview(0, iteration, torch.full((1, 3, 2, 2), iteration / 255)))
    file = tmp_path / "glimpse-000000-000010.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert list(intermediates.of_image(0)) == [5, 15]
    assert list(intermediates.by_iteration()) == [5, 15]
