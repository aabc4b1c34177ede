from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.settings import RenderSettings
from atelier.figures.captions import BACKGROUND, CAPTION_HEIGHT, IMAGES_NOT_SHARED, caption
from atelier.figures.curves import COLUMNS
from atelier.figures.montage import montage
from atelier.figures.render import PROGRESS_TILE, Rendered, Training, render

from ..support.arrays import random_images


class Outputs:
    """Outputs of a training run in a folder."""

    def __init__(self, folder: Path, epochs: list[int], channels: int = 3) -> None:
        self.samples = folder / "samples"
        self.losses = folder / "losses.csv"
        self.target = folder / "renders"
        self.real = random_images(30, 16, channels, seed=99)
        self.samples.mkdir()
        for epoch in epochs:
            np.save(
                self.samples / f"epoch_{epoch:04d}.npy", random_images(6, 16, channels, seed=epoch)
            )
        rows = [f"{step},{step},{step * 64},1.5,0.7,0.5,0.4,0.3" for step in epochs]
        self.losses.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")

    def render(self, every: int = 1, report: ProgressCallback = silent, **changed: Any) -> Rendered:
        settings = RenderSettings(columns=3, tile_pixels=32, montage_every_epochs=every, fps=4.0)
        training = Training(
            samples=self.samples,
            losses=self.losses,
            real=self.real,
        )
        return render(settings, replace(training, **changed), self.target, report)


@pytest.mark.parametrize("channels", [1, 3])
def test_render_writes_the_files_that_it_returns(tmp_path: Path, channels: int) -> None:
    training = Outputs(tmp_path, [1, 2, 3], channels)
    rendered = training.render()
    returned = {
        *rendered.montages,
        rendered.progress,
        rendered.gif,
        rendered.curves,
        rendered.comparison,
    }
    written = {path.relative_to(training.target) for path in training.target.rglob("*.*")}
    assert returned == written
    assert {path.as_posix() for path in written} == {
        "montages/epoch_0001.png",
        "montages/epoch_0002.png",
        "montages/epoch_0003.png",
        "progress.png",
        "training.gif",
        "losses.png",
        "real_and_generated.png",
    }
    with Image.open(training.target / "montages" / "epoch_0002.png") as image:
        expected = montage(random_images(6, 16, channels, seed=2), 3, 32)
        assert np.array_equal(np.asarray(image), expected)
    with Image.open(training.target / "training.gif") as image:
        assert image.n_frames == 3
        assert image.size == (3 * 32, 2 * 32 + CAPTION_HEIGHT)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (range(1, 42), (1, 9, 17, 25, 33, 41)),
        ([2, 4, 6, 8], (2, 4, 6, 8)),
        ([7], (7,)),
    ],
)
def test_progress_has_the_same_latents_of_first_to_last_epoch_in_labeled_rows(
    tmp_path: Path, epochs: Iterable[int], expected: tuple[int, ...]
) -> None:
    training = Outputs(tmp_path, list(epochs))
    training.render(every=100)
    with Image.open(training.target / "progress.png") as image:
        pixels = np.asarray(image)
    tiles = pixels[CAPTION_HEIGHT:, -6 * PROGRESS_TILE :]
    assert len(tiles) == len(expected) * PROGRESS_TILE
    for row, epoch in zip(np.split(tiles, len(expected)), expected, strict=True):
        assert np.array_equal(row, montage(random_images(6, 16, 3, seed=epoch), 6, PROGRESS_TILE))
    labels = pixels[CAPTION_HEIGHT:, : -6 * PROGRESS_TILE]
    assert all((label != BACKGROUND).any() for label in np.split(labels, len(expected)))


def test_progress_shows_evenly_spaced_samples(tmp_path: Path) -> None:
    training = Outputs(tmp_path, [1])
    samples = random_images(15, 16, 3, seed=1)
    np.save(training.samples / "epoch_0001.npy", samples)
    training.render()
    with Image.open(training.target / "progress.png") as image:
        tiles = np.asarray(image)[CAPTION_HEIGHT:, -8 * PROGRESS_TILE :]
    assert np.array_equal(tiles, montage(samples[::2], 8, PROGRESS_TILE))


@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [
        (range(1, 8), 1, (1, 2, 3, 4, 5, 6, 7)),
        (range(1, 8), 3, (3, 6, 7)),
        (range(1, 8), 100, (7,)),
        ([999, 1000, 9999, 10000], 1, (999, 1000, 9999, 10000)),
    ],
)
def test_montages_are_of_every_nth_and_the_last_epoch(
    tmp_path: Path, epochs: Iterable[int], every: int, expected: tuple[int, ...]
) -> None:
    rendered = Outputs(tmp_path, list(epochs)).render(every=every)
    assert rendered.epochs == expected
    assert [int(path.stem.removeprefix("epoch_")) for path in rendered.montages] == list(expected)


def test_render_is_byte_reproducible_and_deletes_old_files(tmp_path: Path) -> None:
    training = Outputs(tmp_path, [1, 2])

    def contents() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in training.target.rglob("*") if p.is_file()}

    training.render()
    first = contents()
    (training.target / "stale.png").write_bytes(b"stale")
    training.render()
    assert contents() == first
    assert str(tmp_path).encode() not in b"".join(first.values())


def test_progress_counts_montages_and_frames(tmp_path: Path) -> None:
    reported: list[Progress] = []
    Outputs(tmp_path, [1, 2, 3]).render(report=reported.append)
    assert [progress.done for progress in reported] == [1, 2, 3, 4, 5, 6]
    assert {progress.total for progress in reported} == {6}


def test_comparison_accepts_a_single_real_image(tmp_path: Path) -> None:
    training = Outputs(tmp_path, [1])
    training.render(real=training.real[:1])
    with Image.open(training.target / "real_and_generated.png") as image:
        assert image.size == (2 * 3 * 32 + 16, CAPTION_HEIGHT + 32)


def test_comparison_without_shared_images_shows_generated_ones_and_the_setting(
    tmp_path: Path,
) -> None:
    training = Outputs(tmp_path, [1])
    np.save(training.samples / "augmented.npy", random_images(6, 16, 3).reshape(2, 3, 16, 16, 3))
    rendered = training.render(shares_images=False)
    assert rendered.augmented is None
    assert not (training.target / "augmented.png").exists()
    with Image.open(training.target / "real_and_generated.png") as image:
        pixels = np.asarray(image)
    width = 3 * 32
    assert np.array_equal(pixels[:CAPTION_HEIGHT], caption("Generated", width))
    expected = montage(random_images(6, 16, 3, seed=1), 3, 32)
    assert np.array_equal(pixels[CAPTION_HEIGHT:-CAPTION_HEIGHT], expected)
    assert np.array_equal(pixels[-CAPTION_HEIGHT:], caption(IMAGES_NOT_SHARED, width))


def damage_shape(training: Outputs) -> None:
    np.save(training.samples / "epoch_0002.npy", random_images(5, 16, 3, seed=2))


def damage_kind(training: Outputs) -> None:
    np.save(training.samples / "epoch_0001.npy", np.zeros((6, 16, 16, 3), dtype=np.float32))


def damage_channels(training: Outputs) -> None:
    np.save(training.samples / "epoch_0001.npy", np.zeros((6, 16, 16, 4), dtype=np.uint8))


def damage_end(training: Outputs) -> None:
    path = training.samples / "epoch_0002.npy"
    path.write_bytes(path.read_bytes()[:-100])


def damage_all(training: Outputs) -> None:
    (training.samples / "epoch_0002.npy").write_bytes(b"")


def damage_pickle(training: Outputs) -> None:
    np.save(training.samples / "epoch_0002.npy", np.array([{}], dtype=object), allow_pickle=True)


def damage_none(training: Outputs) -> None:
    np.save(training.samples / "epoch_0002.npy", np.zeros((0, 16, 16, 3), dtype=np.uint8))


def damage_names(training: Outputs) -> None:
    for path in training.samples.iterdir():
        path.rename(path.with_suffix(".txt"))


def damage_folder(training: Outputs) -> None:
    for path in training.samples.iterdir():
        path.unlink()
    training.samples.rmdir()


def damage_losses(training: Outputs) -> None:
    training.losses.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_shape, r"epoch_0002\.npy has shape \(5, .* but epoch_0001\.npy has \(6,"),
        (damage_kind, r"epoch_0001\.npy holds float32"),
        (damage_channels, r"epoch_0001\.npy holds uint8 \(6, 16, 16, 4\)"),
        (damage_end, r"epoch_0002\.npy cannot be read"),
        (damage_all, r"epoch_0002\.npy cannot be read"),
        (damage_pickle, r"epoch_0002\.npy cannot be read"),
        (damage_none, r"epoch_0002\.npy"),
        (damage_names, r"no samples such as epoch_0001\.npy in samples/"),
        (damage_folder, r"no samples such as epoch_0001\.npy in samples/"),
        (damage_losses, r"cannot read losses\.csv"),
    ],
)
def test_damaged_input_raises_an_error_and_preserves_old_renders(
    tmp_path: Path, damage: Callable[[Outputs], None], reason: str
) -> None:
    training = Outputs(tmp_path, [1, 2])
    training.target.mkdir()
    (training.target / "old.txt").write_text("old")
    damage(training)
    with pytest.raises(AtelierError, match=reason) as error:
        training.render()
    assert "run the train stage" in str(error.value)
    assert str(tmp_path) not in str(error.value)
    assert [path.name for path in training.target.iterdir()] == ["old.txt"]
    assert not list(tmp_path.glob(".renders*"))


def test_samples_between_epochs_have_their_own_montages(tmp_path: Path) -> None:
    training = Outputs(tmp_path, [1, 2])
    np.save(training.samples / "step_00000010.npy", np.load(training.samples / "epoch_0001.npy"))
    assert training.render().steps == (Path("steps/step_00000010.png"),)
    between = (training.target / "steps/step_00000010.png").read_bytes()
    assert between == (training.target / "montages/epoch_0001.png").read_bytes()


def test_each_class_has_a_row_with_its_name(tmp_path: Path) -> None:
    training = Outputs(tmp_path, [1, 2])
    rendered = training.render(classes=("cat", "a dog", "7"))
    with Image.open(training.target / rendered.montages[1]) as image:
        pixels = np.asarray(image)
    expected = montage(random_images(6, 16, 3, seed=2), 2, 32)
    names = pixels[:, : -expected.shape[1]]
    assert np.array_equal(pixels[:, -expected.shape[1] :], expected)
    rows = names.reshape(3, 32, *names.shape[1:])
    assert len({row.tobytes() for row in rows}) == 3
    assert all((row != row[0, 0]).any() for row in rows), "each row has a name"


def test_augmented_images_are_rendered_if_they_exist(tmp_path: Path) -> None:
    training = Outputs(tmp_path, [1])
    assert training.render().augmented is None
    assert not (training.target / "augmented.png").exists()
    views = random_images(6, 16, 3, seed=5)
    np.save(training.samples / "augmented.npy", views.reshape(2, 3, 16, 16, 3))
    rendered = training.render()
    assert rendered.augmented == Path("augmented.png")
    with Image.open(training.target / "augmented.png") as image:
        assert np.array_equal(np.asarray(image)[CAPTION_HEIGHT:], montage(views, 3, 32))
    for damaged in (b"half", b""):
        (training.samples / "augmented.npy").write_bytes(damaged)
        with pytest.raises(AtelierError, match=r"augmented\.npy cannot be read as samples .*again"):
            training.render()
