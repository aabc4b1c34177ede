from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.figures.curves import (
    COLUMNS,
    curve,
    downsample,
    limits,
    loss_curves,
    read_losses,
    smooth,
)

HEADER = ",".join(COLUMNS)
values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60).map(np.array)


def table(steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    step = np.arange(1.0, steps + 1)
    losses = {name: generator.random(steps) for name in COLUMNS[3:]}
    return {"step": step, "epoch": np.ceil(step / 10), "images": step * 64, **losses}


def image(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        assert file.format == "PNG"
        return np.asarray(file.convert("RGB")).astype(int)


def count_pixels(path: Path, color: tuple[int, int, int]) -> int:
    """Count the pixels that have the color of a line."""
    return int((np.abs(image(path) - color).max(axis=2) < 8).sum())


BLUE, RED = (0, 114, 178), (213, 94, 0)


def test_losses_are_read_unchanged(tmp_path: Path) -> None:
    rows = np.stack(list(table(5).values()), axis=1)
    rows[3, 3], rows[4, 4] = np.nan, np.inf
    lines = [HEADER, *(",".join(repr(float(value)) for value in row) for row in rows)]
    (tmp_path / "losses.csv").write_text("\n".join(lines) + "\n")
    losses = read_losses(tmp_path / "losses.csv")
    assert tuple(losses) == COLUMNS
    for column, name in enumerate(COLUMNS):
        assert losses[name].dtype == np.float64
        np.testing.assert_array_equal(losses[name], rows[:, column])


ROW = "1,1,64,1.5,0.7,0.5,0.4,0.3\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with ''"),
        (b"step,loss\n1,2\n", "begins with 'step,loss'"),
        (f"{HEADER}\n".encode(), "holds no step"),
        (f"{HEADER}\n{ROW}2,1,128,1.".encode(), "is damaged"),
        (f"{HEADER}\n{ROW}2,1,128,1.5,0.7,oops,0.4,0.3\n".encode(), "oops"),
        (f"{HEADER}\n1,2,3\n".encode(), "each row needs 8 numbers"),
        (f"{HEADER}\n{ROW.replace('64', 'nan')}".encode(), "finite"),
        (f"{HEADER}\n{ROW}".encode() + b"\xff\xfe", "is damaged"),
    ],
)
def test_damaged_table_is_one_error_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "losses.csv").write_bytes(content)
    with pytest.raises(AtelierError) as error:
        read_losses(tmp_path / "losses.csv")
    sentence = str(error.value)
    assert reason in sentence
    assert sentence.startswith("losses.csv ")
    assert sentence.endswith("run the train stage again.")
    assert "\n" not in sentence


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match=r"cannot read losses\.csv: .*run the train stage"):
        read_losses(tmp_path / "losses.csv")


@given(values, st.integers(1, 70))
def test_downsample_is_the_mean_of_each_block(y: np.ndarray, points: int) -> None:
    block = -(-len(y) // points)
    expected = [y[start : start + block].mean() for start in range(0, len(y), block)]
    assert len(expected) <= points
    np.testing.assert_allclose(downsample(y, points), expected, rtol=1e-9, atol=1e-6)


def test_downsample_and_smooth_skip_non_finite_values() -> None:
    y = np.array([1.0, np.nan, 3.0, np.inf, np.nan, np.nan])
    np.testing.assert_array_equal(downsample(y, 3), [1.0, 3.0, np.nan])
    np.testing.assert_allclose(smooth(np.array([2.0, np.nan, 2.0, 2.0])), 2.0)


@given(values)
def test_smooth_preserves_length_and_range(y: np.ndarray) -> None:
    smoothed = smooth(y)
    assert smoothed.shape == y.shape
    slack = 1e-9 * np.abs(y).max() + 1e-12
    assert smoothed.min() >= y.min() - slack
    assert smoothed.max() <= y.max() + slack


def test_smooth_preserves_constants_and_reduces_noise() -> None:
    np.testing.assert_allclose(smooth(np.full(500, 3.0)), 3.0)
    noise = np.random.default_rng(0).standard_normal(1000)
    assert smooth(noise).std() < noise.std() / 3


@given(values)
def test_limits_are_distinct_and_include_most_values(y: np.ndarray) -> None:
    low, high = limits(y)
    assert low < high
    assert np.mean((low <= y) & (y <= high)) >= 0.9 or len(y) < 50


def test_limits_exclude_only_spikes() -> None:
    y = np.random.default_rng(0).uniform(1, 2, 1000)
    low, high = limits(y)
    assert low < y.min()
    assert high > y.max()
    y[500] = 1e6
    assert limits(y)[1] < 4
    assert limits(np.array([np.nan])) == (0.0, 1.0)


@pytest.mark.parametrize("steps", [1, 2, 50, 1_000_000])
def test_loss_curves_accept_any_number_of_steps(tmp_path: Path, steps: int) -> None:
    loss_curves(table(steps), tmp_path / "losses.png")
    assert count_pixels(tmp_path / "losses.png", BLUE) > 50
    assert count_pixels(tmp_path / "losses.png", RED) > 50


def test_diverged_training_is_drawn_up_to_the_last_finite_loss(tmp_path: Path) -> None:
    losses = table(200)
    blank = {name: y if name in COLUMNS[:3] else y * np.nan for name, y in losses.items()}
    for name in COLUMNS[3:]:
        losses[name][100:] = np.nan
    loss_curves(losses, tmp_path / "half.png")
    loss_curves(blank, tmp_path / "blank.png")
    assert count_pixels(tmp_path / "half.png", BLUE) > 2 * count_pixels(
        tmp_path / "blank.png", BLUE
    )


def test_spike_does_not_compress_the_other_values(tmp_path: Path) -> None:
    losses = table(1000)
    loss_curves(losses, tmp_path / "calm.png")
    losses["loss_g"][300] = 1e9
    loss_curves(losses, tmp_path / "spiked.png")

    def height(path: Path) -> int:
        rows = (np.abs(image(path)[:500] - BLUE).max(axis=2) < 8).sum(axis=1)
        return len(np.flatnonzero(rows[60:]))

    assert height(tmp_path / "spiked.png") > 0.4 * height(tmp_path / "calm.png")


def test_curves_do_not_depend_on_the_matplotlib_style_of_the_user(tmp_path: Path) -> None:
    import matplotlib

    loss_curves(table(30), tmp_path / "first.png")
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30}):
        loss_curves(table(30), tmp_path / "second.png")
        assert matplotlib.rcParams["font.size"] == 30
    content = (tmp_path / "first.png").read_bytes()
    assert content == (tmp_path / "second.png").read_bytes()
    assert b"matplotlib" not in content.lower()


@pytest.mark.parametrize("logy", [False, True])
def test_curve_draws_every_line_and_accepts_any_name(tmp_path: Path, logy: bool) -> None:
    x = np.arange(1.0, 21)
    lines = {"$one_{": 1 / x, "_two$ $": x}
    curve(x, lines, "50% $", "epoch_1", "KID^$", tmp_path / "curve.png", logy=logy)
    assert count_pixels(tmp_path / "curve.png", BLUE) > 100
    assert count_pixels(tmp_path / "curve.png", RED) > 100


def test_curve_of_zeros_is_drawn_with_logy(tmp_path: Path) -> None:
    x = np.arange(5.0)
    curve(x, {"zero": x * 0}, "", "", "", tmp_path / "curve.png", logy=True)
    assert count_pixels(tmp_path / "curve.png", BLUE) > 100
