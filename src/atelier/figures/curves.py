"""Line plots as PNG files."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.core.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

COLUMNS = ("step", "epoch", "images", "loss_d", "loss_g", "d_x", "d_g_z1", "d_g_z2")
POINTS = 1000
# Okabe and Ito's colors, which color-blind readers can distinguish.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Dashes of lines beyond the number of colors.
_DASHES = ("-", "--", ":")
STYLE: dict[str, Any] = {
    "axes.edgecolor": "#8a8580",
    "axes.labelcolor": "#34302c",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": "large",
    "grid.color": "#e9e6e1",
    "legend.frameon": False,
    "text.color": "#34302c",
    "xtick.color": "#6b6661",
    "ytick.color": "#6b6661",
}


def read_losses(path: Path) -> dict[str, Floats]:
    """Read the CSV file of losses, one row per step.

    Args:
        path: a CSV file with the header :data:`COLUMNS`.

    Returns:
        For each of :data:`COLUMNS`, float64 [steps]. Losses and scores may be NaN or infinite
        if the training diverged; step, epoch and images are finite.

    Raises:
        AtelierError: the file is missing, empty or damaged, or has another header.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            header = lines.readline().strip()
            if header != ",".join(COLUMNS):
                raise AtelierError(
                    f"{path.name} begins with {header[:60]!r}, but a table of losses begins with"
                    f" {','.join(COLUMNS)!r}; run the train stage again."
                )
            first = lines.readline()
            if not first.strip():
                raise AtelierError(f"{path.name} holds no step; run the train stage again.")
            table = np.loadtxt(itertools.chain([first], lines), delimiter=",", ndmin=2)
    except OSError as error:
        raise AtelierError(
            f"cannot read {path.name}: {error.strerror}; run the train stage first."
        ) from None
    except ValueError as error:
        problem = str(error).partition(";")[0].rstrip(".")
        raise AtelierError(
            f"{path.name} is damaged ({problem}); run the train stage again."
        ) from None
    if table.shape[1] != len(COLUMNS) or not np.isfinite(table[:, :3]).all():
        raise AtelierError(
            f"{path.name} is damaged (each row needs {len(COLUMNS)} numbers, the first three"
            " finite); run the train stage again."
        )
    return dict(zip(COLUMNS, table.T, strict=True))


def loss_curves(table: Mapping[str, Floats], target: Path) -> None:
    """Plot the losses and the discriminator's scores as a PNG file.

    The names are those of PyTorch's DCGAN tutorial: D(x) is the discriminator's mean score
    of real images, D(G(z)) that of generated ones, before and after its own update.

    Args:
        table: the result of :func:`read_losses`.
        target: the PNG file.
    """
    panels = [
        ("Losses", {"Loss_D": "loss_d", "Loss_G": "loss_g"}),
        (
            "Discriminator's scores",
            {"D(x)": "d_x", "D(G(z)) before": "d_g_z1", "D(G(z)) after": "d_g_z2"},
        ),
    ]
    unit, word = (1e6, "million") if table["images"][-1] >= 5e6 else (1e3, "thousand")
    epochs = int(table["epoch"][-1])

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(2, 1, sharex=True)
        for panel, (title, names) in zip(axes, panels, strict=True):
            lines = {label: table[name] for label, name in names.items()}
            _draw(panel, table["images"] / unit, lines, smoothed=True)
            panel.set_title(title)
        axes[1].set_ylim(-0.03, 1.03)
        axes[1].set_xlabel(
            f"{word} real pictures seen ({epochs} {'epoch' if epochs == 1 else 'epochs'})"
        )

    _save(draw, (9, 7), target)


def curve(
    x: Floats,
    lines: Mapping[str, Floats],
    title: str,
    xlabel: str,
    ylabel: str,
    target: Path,
    logy: bool = False,
) -> None:
    """Plot lines over ``x`` as a PNG file.

    Args:
        x: float64 [N], ascending.
        lines: for each label float64 [N]; NaN and infinities leave a gap.
        title: above the axes.
        xlabel: under the axes.
        ylabel: left of the axes.
        target: the PNG file.
        logy: True for a logarithmic vertical axis; values that are not positive leave a gap.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        # Without a positive value a logarithmic axis has no range.
        if logy and any((y > 0).any() for y in lines.values()):
            axes.set_yscale("log", nonpositive="mask")
        _draw(axes, x, lines, smoothed=False)
        axes.set_title(_plain(title))
        axes.set_xlabel(_plain(xlabel))
        axes.set_ylabel(_plain(ylabel))

    _save(draw, (9, 4.5), target)


def _save(draw: Callable[["Figure"], None], size: tuple[float, float], target: Path) -> None:
    """Write a figure without pyplot and without the user's matplotlibrc."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]), atomic_write(target) as temporary:
        figure = Figure(figsize=size, dpi=144, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        # The software's version would change the file's bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw(axes: "Axes", x: Floats, lines: Mapping[str, Floats], smoothed: bool) -> None:
    """Plot lines and a legend; with ``smoothed``, smoothed lines over pale raw ones."""
    x = downsample(x)
    series = [downsample(y) for y in lines.values()]
    marker = "o" if len(x) <= 40 else None
    handles = []
    for number, y in enumerate(series):
        color = COLORS[number % len(COLORS)]
        dashes = _DASHES[number // len(COLORS) % len(_DASHES)]
        if smoothed:
            axes.plot(x, y, color=color, alpha=0.22, linewidth=0.8)
            y = smooth(y)
        style: dict[str, Any] = {"color": color, "linestyle": dashes, "marker": marker}
        handles += axes.plot(x, y, linewidth=1.8, markersize=3.5, **style)
    if axes.get_yscale() == "linear":
        axes.set_ylim(*limits(np.concatenate(series)))
    axes.margins(x=0.01)
    labels = [_plain(label) for label in lines]
    axes.legend(
        handles, labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2
    )


def downsample(values: Floats, points: int = POINTS) -> Floats:
    """Average blocks of equal length, so that at most ``points`` values remain.

    Args:
        values: float64 [N], N >= 1. Values that are not finite are ignored.
        points: largest number of values that remain.

    Returns:
        float64 [at most points]; NaN for a block without a finite value.
    """
    block = -(-len(values) // points)
    starts = np.arange(0, len(values), block)
    finite = np.isfinite(values)
    total = np.add.reduceat(np.where(finite, values, 0.0), starts)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.add.reduceat(finite.astype(np.float64), starts))


def smooth(values: Floats) -> Floats:
    """Smooth with a Gaussian.

    Args:
        values: float64 [N], N >= 1. NaN is ignored.

    Returns:
        float64 [N]; NaN if all values within reach are NaN.
    """
    sigma = max(1.0, len(values) / 80)
    reach = min(int(3 * sigma), (len(values) - 1) // 2)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), weights, mode="same")
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.convolve(finite.astype(np.float64), weights, mode="same"))


def limits(values: Floats) -> tuple[float, float]:
    """Return limits of a vertical axis that a few spikes do not stretch.

    Args:
        values: float64 [N]; NaN and infinities are ignored.

    Returns:
        The lower and the upper limit, lower < upper: all values and a margin, but no farther from
        the middle 96% of the values than their spread.
    """
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0.0, 1.0
    low, high = np.quantile(values, [0.02, 0.98])
    spread = high - low
    bottom = max(values.min(), low - spread)
    top = min(values.max(), high + spread)
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 0.5
    return float(bottom - margin), float(top + margin)


def _plain(text: str) -> str:
    """Escape dollar signs, which matplotlib reads as mathematics."""
    return text.replace("$", r"\$")
