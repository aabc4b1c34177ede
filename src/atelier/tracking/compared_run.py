"""Results of one pipeline, as the compare page needs them, from any place that has them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atelier.core.download_settings import PUBLIC_SOURCES
from atelier.tracking.redact import flat, redact_urls

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

SEED = "train.seed"
# Data that a training and its evaluation read, by path.
DATA = ("data/images.npz", "data/validation.npz", "data/test.npz")
REFERENCES = {"test": "data/test.npz", "training": "data/images.npz"}
"""File of the real images of a measurement, by its ``reference`` in ``measured_with``."""
_GENERATED = "generated"  # in stylize.contents


@dataclass(frozen=True)
class StylizedFile:
    """Stylized image that is read later; ``load`` returns uint8 [H, W, 3]."""

    content: str
    style: str
    load: Callable[[], Pixels]


@dataclass(frozen=True)
class ComparedRun:
    """Results of one pipeline. Parts that are missing are empty, and named in the notes.

    Attributes:
        name: title for readers; any text.
        source: where the results are from, e.g. ``MLflow run 1a2b3c4d``.
        status: of the pipeline, as in MLflow; empty if it is not known.
        date: of its start or of its commit, as text that sorts by time.
        commit: that it started from; empty if it is not known.
        is_dirty: True if it started with uncommitted changes.
        code: digest of the code that trains and evaluates; empty if it is not known.
        experiment: name of the DVC experiment; or empty.
        settings: as text, by dotted key.
        sharing: present value of ``convert.share_images`` in the project.
        metrics: numbers of the evaluate stage by key of its file of details, ``validation_kid`` and
            ``style_loss``.
        measured_with: conditions of these numbers.
        kid_by_epoch: (epoch, KID, standard error or NaN), by epoch.
        validation_by_epoch: the same of the validation images, which the training measured.
        losses: for each of ``step``, ``loss_d`` and ``loss_g`` float64 [steps]; or empty.
        samples: functions that return the samples of an epoch, uint8 [N, H, W, C], by epoch.
        stylized: stylized images by file name.
        hashes: content hashes of inputs and outputs, by path.
        address: of its page in MLflow; or empty.
        notes: sentences on parts that are missing.
    """

    name: str
    source: str
    status: str = ""
    date: str = ""
    commit: str = ""
    is_dirty: bool = False
    code: str = ""
    experiment: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    sharing: str = "none"
    metrics: Mapping[str, float] = field(default_factory=dict)
    measured_with: Mapping[str, str] = field(default_factory=dict)
    kid_by_epoch: Sequence[tuple[int, float, float]] = ()
    validation_by_epoch: Sequence[tuple[int, float, float]] = ()
    losses: Mapping[str, Floats] = field(default_factory=dict)
    samples: Mapping[int, Callable[[], Pixels]] = field(default_factory=dict)
    stylized: Mapping[str, StylizedFile] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    notes: tuple[str, ...] = ()

    @property
    def seed(self) -> str:
        """Seed of the training; empty if it is not known."""
        return self.settings.get(SEED, "")

    @property
    def shares_images(self) -> bool:
        """True if images of the data may be shown, as in ``Settings.shares_images``.

        Both the run's own setting and the present one must allow it, so that a permission that was
        withdrawn also holds for earlier runs.
        """
        allowing = ("all", "public") if self._is_public else ("all",)
        own = self.settings.get("convert.share_images", "none")
        return own in allowing and self.sharing in allowing

    @property
    def _is_public(self) -> bool:
        return self.settings.get("download.source") in PUBLIC_SOURCES

    @property
    def stylizes_files(self) -> bool:
        """True unless all contents of the style transfer are generated images."""
        contents = self.settings.get("stylize.contents", "").strip("[]").split(",")
        return any(content.strip(" '\"") != _GENERATED for content in contents)

    @property
    def shown_stylized(self) -> Mapping[str, StylizedFile]:
        """Stylized images that may be shown: of generated images, or if images are shared."""
        return self.stylized if self.shares_images or not self.stylizes_files else {}


def settings_as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Return settings as MLflow has them: text without secrets, by dotted key."""
    return {key: redact_urls(value) for key, value in flat(values).items()}


def stylized_names(entries: Any) -> list[tuple[str, str, str]]:
    """Return (image, content, style) of ``styled/sources/list.json``.

    Names that are not plain file names are left out, because files are read by them.

    Raises:
        KeyError, TypeError: an entry is damaged.
    """
    names = [(str(e["image"]), str(e["content"]), str(e["style"])) for e in entries]
    return [each for each in names if "/" not in each[0] and "\\" not in each[0] and each[0]]
