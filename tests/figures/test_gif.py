import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from atelier.core.progress import Progress
from atelier.figures.gif import write_gif


def random_frames(count: int, side: int = 24) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def read_gif(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Return every frame as RGB, and its duration in milliseconds."""
    frames, durations = [], []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.asarray(frame.convert("RGB")))
            durations.append(frame.info["duration"])
    return frames, durations


def test_frames_with_few_colors_are_lossless(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 96, 255], [255, 255, 255]], dtype=np.uint8)
    generator = np.random.default_rng(0)
    original = [colors[generator.integers(0, 4, (20, 30))] for _ in range(5)]
    write_gif(original, tmp_path / "animation.gif", fps=4)
    frames, _ = read_gif(tmp_path / "animation.gif")
    assert len(frames) == 5
    for frame, expected in zip(frames, original, strict=True):
        assert np.array_equal(frame, expected)


def test_frames_with_many_colors_are_nearly_lossless(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    gradient = np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 128, dtype=np.uint8)], axis=2)
    write_gif([gradient, gradient[::-1]], tmp_path / "animation.gif", fps=4)
    for frame, expected in zip(
        read_gif(tmp_path / "animation.gif")[0], (gradient, gradient[::-1]), strict=True
    ):
        assert np.abs(frame.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("fps", [0.5, 4.0, 7.0, 30.0, 50.0])
def test_duration_follows_fps_and_number_of_frames(tmp_path: Path, fps: float) -> None:
    write_gif(random_frames(31), tmp_path / "animation.gif", fps=fps, hold_last=2.0)
    _, durations = read_gif(tmp_path / "animation.gif")
    assert len(durations) == 31
    assert sum(durations) == pytest.approx(1000 * 31 / fps + 2000, abs=10)
    assert durations[-1] >= 2000
    assert max(durations[:-1]) - min(durations[:-1]) <= 10


def test_identical_frames_are_not_merged(tmp_path: Path) -> None:
    frame = random_frames(1)[0]
    write_gif([frame, frame, frame], tmp_path / "animation.gif", fps=10)
    frames, durations = read_gif(tmp_path / "animation.gif")
    assert len(frames) == 3
    assert durations == [100, 100, 100]


def test_one_frame_of_one_color_is_a_gif(tmp_path: Path) -> None:
    write_gif([np.full((20, 20, 3), 7, dtype=np.uint8)], tmp_path / "animation.gif", fps=4)
    frames, _ = read_gif(tmp_path / "animation.gif")
    assert len(frames) == 1
    assert (frames[0] == 7).all()


def test_gif_loops_forever_and_is_byte_reproducible(tmp_path: Path) -> None:
    write_gif(random_frames(6), tmp_path / "first.gif", fps=4)
    write_gif(random_frames(6), tmp_path / "second.gif", fps=4)
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
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak_bytes

    few, many = peak(4), peak(44)
    # 40 more frames in memory would take at least 40 bytes for each pixel.
    assert many - few < 40 * side**2 / 4


def test_progress_is_reported_for_every_frame(tmp_path: Path) -> None:
    reported: list[Progress] = []
    write_gif(random_frames(3), tmp_path / "animation.gif", fps=4, report=reported.append)
    assert [progress.done for progress in reported] == [1, 2, 3]


@pytest.mark.parametrize(
    "frames", [[], [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)]]
)
def test_failed_gif_does_not_replace_the_existing_file(
    tmp_path: Path, frames: list[np.ndarray]
) -> None:
    (tmp_path / "animation.gif").write_bytes(b"old")
    with pytest.raises(ValueError, match="frame"):
        write_gif(frames, tmp_path / "animation.gif", fps=4)
    assert (tmp_path / "animation.gif").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
