"""Intermediate images: their number and order, also after an interruption."""

from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.core.checkpoints import Checkpoints
from atelier.core.settings import StylizeSettings
from atelier.style.checkpoint import Intermediates, TransferCheckpoints
from atelier.style.loss_log import Checkpointer, IterationLosses, Preview
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.painting import CPU, options, smooth


def _paint(
    settings: StylizeSettings,
    seen: Intermediates | None,
    attempts: TransferCheckpoints | None = None,
) -> list[torch.Tensor]:
    vgg = build_vgg19("random", "average", 1, 6)
    contents, watch = [smooth(1), smooth(3)], seen.add if seen else None
    told = lambda step: None  # noqa: E731
    return list(
        transfer_style(contents, smooth(2), settings, vgg, CPU, told, attempts, on_preview=watch)
    )


def _equal(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[at], other[at]) for at in one)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"iterations": 12, "save_intermediates": 4}, [3, 6, 9, 12]),
        ({"iterations": 12, "save_intermediates": 100}, list(range(1, 13))),
        ({"iterations": 30, "save_intermediates": 3}, [10, 20, 25, 30]),
        ({"iterations": 30, "save_intermediates": 0}, [25, 30]),
        (
            {"iterations": 12, "save_intermediates": 4, "optimizer": "adam", "lr": 0.02},
            [3, 6, 9, 12],
        ),
    ],
)
def test_intermediates_do_not_change_the_result(
    changes: dict[str, object], expected: list[int]
) -> None:
    settings = options(**{"optimizer": "spectral_lbfgs", **changes})
    seen = Intermediates()
    paintings = _paint(settings, seen)
    assert list(seen.of_image(0)) == list(seen.of_image(1)) == expected
    unseen = _paint(settings.model_copy(update={"save_intermediates": 0}), None)
    assert all(torch.equal(one, other) for one, other in zip(paintings, unseen, strict=True))


def test_lbfgs_of_torch_has_previews_of_chunks_only() -> None:
    settings = options(optimizer="lbfgs", iterations=30, save_intermediates=10)
    seen = Intermediates()
    paintings = _paint(settings, seen)
    unseen = _paint(settings.model_copy(update={"save_intermediates": 0}), None)
    assert len(seen.of_image(0)) == 2
    assert all(torch.equal(one, other) for one, other in zip(paintings, unseen, strict=True))


@pytest.mark.parametrize("optimizer", ["lbfgs", "spectral_lbfgs", "adam"])
def test_interruption_gives_a_preview_of_the_current_image(optimizer: str) -> None:
    """Torch's L-BFGS is amid one of its steps then; what is seen is the best that it has tried."""
    settings = options(optimizer=optimizer, lr=1.0 if optimizer != "adam" else 0.02)
    told: list[IterationLosses] = []
    seen: list[Preview] = []

    def interrupt(step: IterationLosses) -> None:
        told.append(step)
        if step.iteration == 10:
            raise KeyboardInterrupt

    vgg, content, style = (
        build_vgg19("random", "average", 1, 6),
        smooth(1),
        smooth(2),
    )
    with pytest.raises(KeyboardInterrupt):
        list(
            transfer_style([content], style, settings, vgg, CPU, interrupt, on_preview=seen.append)
        )
    (glimpse,) = seen
    assert (glimpse.iteration, glimpse.interrupted) == (10, True)
    judged: list[IterationLosses] = []
    start = settings.model_copy(update={"iterations": 1})
    list(transfer_style([glimpse.pixels], style, start, vgg, CPU, judged.append))
    style_of = [one[-1].per_layer["style_6"] for one in ([told[0]], judged)]
    assert style_of[1] < 0.9 * style_of[0]


def test_interruption_before_the_first_step_gives_no_preview() -> None:
    class Stop(Checkpointer):
        def load(self, picture: int) -> dict[str, torch.Tensor] | None:
            raise KeyboardInterrupt

    seen: list[Preview] = []
    vgg = build_vgg19("random", "average", 1, 6)
    told = lambda step: None  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        list(
            transfer_style(
                [smooth(1)],
                smooth(2),
                options(),
                vgg,
                CPU,
                told,
                Stop(),
                None,
                seen.append,
            )
        )
    assert seen == []


def test_preview_of_an_interruption_is_not_stored_on_disk(
    tmp_path: Path,
) -> None:
    seen = Intermediates(Checkpoints(tmp_path))
    seen.add(Preview(0, 7, torch.zeros(1, 3, 2, 2), interrupted=True))
    assert seen.of_image(0) == {}


def test_resumed_style_transfer_has_all_intermediates(
    tmp_path: Path,
) -> None:
    settings = options(optimizer="spectral_lbfgs", iterations=60, save_intermediates=12)
    whole = Intermediates()
    _paint(settings, whole)
    interruptions = 0
    while True:
        checkpoints = Checkpoints(tmp_path)
        seen = Intermediates(checkpoints)
        try:
            _paint(settings, seen, TransferCheckpoints(checkpoints, lambda: True, 60.0))
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 4
    assert [len(whole.of_image(number)) for number in (0, 1)] == [12, 12]
    assert all(_equal(seen.of_image(number), whole.of_image(number)) for number in (0, 1))


def test_intermediates_are_grouped_by_iteration_in_order() -> None:
    seen = Intermediates()
    for picture, iteration in ((1, 5), (0, 10), (0, 5)):
        level = torch.full((1, 3, 2, 2), (10 * picture + iteration) / 255)
        seen.add(Preview(picture, iteration, level))
    found = {at: [int(p[0, 0, 0]) for p in made] for at, made in seen.by_iteration().items()}
    assert found == {5: [5, 15], 10: [10]}


def test_damaged_intermediate_is_skipped(tmp_path: Path) -> None:
    seen = Intermediates(Checkpoints(tmp_path))
    for iteration in (5, 10, 15):
        seen.add(Preview(0, iteration, torch.full((1, 3, 2, 2), iteration / 255)))
    file = tmp_path / "glimpse-000000-000010.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert list(seen.of_image(0)) == [5, 15]
    assert list(seen.by_iteration()) == [5, 15]
