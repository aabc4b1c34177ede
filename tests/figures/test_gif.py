import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from atelier.core.progress import Progress
from atelier.figures.gif import write_gif


def noise(count: int, side: int = 24) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def played(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Read back every frame as RGB, and its duration in milliseconds."""
    frames, durations = [], []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB")))
            durations.append(frame.info["duration"])
    return frames, durations


def test_frames_that_fit_a_palette_come_back_as_they_were(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 96, 255], [255, 255, 255]], dtype=np.uint8)
    choice = np.random.default_rng(0)
    given = [colors[choice.integers(0, 4, (20, 30))] for _ in range(5)]
    write_gif(given, tmp_path / "animation.gif", fps=4)
    frames, _ = played(tmp_path / "animation.gif")
    assert len(frames) == 5
    for frame, expected in zip(frames, given, strict=True):
        assert np.array_equal(frame, expected)


def test_other_frames_come_back_nearly_as_they_were(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    smooth = np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 128, dtype=np.uint8)], axis=2)
    write_gif([smooth, smooth[::-1]], tmp_path / "animation.gif", fps=4)
    for frame, expected in zip(
        played(tmp_path / "animation.gif")[0], (smooth, smooth[::-1]), strict=True
    ):
        assert np.abs(frame.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("fps", [0.5, 4.0, 7.0, 30.0, 50.0])
def test_time_is_right_however_many_frames_there_are(tmp_path: Path, fps: float) -> None:
    write_gif(noise(31), tmp_path / "animation.gif", fps=fps, hold_last=2.0)
    _, durations = played(tmp_path / "animation.gif")
    assert len(durations) == 31
    assert sum(durations) == pytest.approx(1000 * 31 / fps + 2000, abs=10)
    assert durations[-1] >= 2000
    assert max(durations[:-1]) - min(durations[:-1]) <= 10


def test_identical_frames_stay_frames(tmp_path: Path) -> None:
    frame = noise(1)[0]
    write_gif([frame, frame, frame], tmp_path / "animation.gif", fps=10)
    frames, durations = played(tmp_path / "animation.gif")
    assert len(frames) == 3
    assert durations == [100, 100, 100]


def test_one_frame_of_one_color_is_a_film(tmp_path: Path) -> None:
    write_gif([np.full((20, 20, 3), 7, dtype=np.uint8)], tmp_path / "animation.gif", fps=4)
    frames, _ = played(tmp_path / "animation.gif")
    assert len(frames) == 1
    assert (frames[0] == 7).all()


def test_film_plays_for_ever_and_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    write_gif(noise(6), tmp_path / "first.gif", fps=4)
    write_gif(noise(6), tmp_path / "second.gif", fps=4)
    assert (tmp_path / "first.gif").read_bytes() == (tmp_path / "second.gif").read_bytes()
    with Image.open(tmp_path / "first.gif") as image:
        assert image.info["loop"] == 0


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    side = 192

    def peak(count: int) -> int:
        generator = np.random.default_rng(0)
        frames = (generator.integers(0, 256, (side, side, 3), np.uint8) for _ in range(count))
        tracemalloc.start()
        write_gif(frames, tmp_path / "animation.gif", fps=4)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    few, many = peak(4), peak(44)
    # Forty more frames, were they kept, would take forty times a byte for each pixel.
    assert many - few < 40 * side**2 / 4


def test_progress_is_told_frame_by_frame(tmp_path: Path) -> None:
    told: list[Progress] = []
    write_gif(noise(3), tmp_path / "animation.gif", fps=4, report=told.append)
    assert [progress.done for progress in told] == [1, 2, 3]


@pytest.mark.parametrize(
    "frames", [[], [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)]]
)
def test_a_film_that_fails_leaves_the_old_one(tmp_path: Path, frames: list[np.ndarray]) -> None:
    (tmp_path / "animation.gif").write_bytes(b"old")
    with pytest.raises(ValueError, match="frame"):
        write_gif(frames, tmp_path / "animation.gif", fps=4)
    assert (tmp_path / "animation.gif").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
