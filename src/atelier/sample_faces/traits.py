"""Random traits of a face: names of styles, colors and measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from atelier.sample_faces.accessories import COLLARS, HATS
from atelier.sample_faces.canvas import Color
from atelier.sample_faces.facial_features import NOSES
from atelier.sample_faces.hair import BEARDS, HAIR_STYLES

Option = TypeVar("Option")

_SKINS: tuple[Color, ...] = (
    (255, 224, 202), (249, 208, 180), (240, 190, 156), (229, 172, 132), (214, 152, 110),
    (193, 128, 88), (167, 105, 70), (138, 84, 56), (110, 66, 46), (86, 52, 40),
)  # fmt: skip
_HAIRS: tuple[Color, ...] = (
    (34, 26, 28), (58, 38, 30), (86, 54, 36), (120, 74, 42), (158, 100, 52), (206, 158, 88),
    (232, 200, 132), (168, 66, 36), (204, 96, 48), (150, 148, 152), (226, 224, 226),
)  # fmt: skip
_DYED_HAIRS: tuple[Color, ...] = ((232, 96, 140), (88, 120, 206), (70, 170, 150), (142, 92, 186))
_EYES: tuple[Color, ...] = (
    (70, 42, 28), (104, 66, 36), (128, 104, 50), (74, 122, 82), (72, 118, 168), (112, 134, 150),
)  # fmt: skip
_CLOTHES: tuple[Color, ...] = (
    (196, 64, 60), (236, 140, 58), (242, 194, 72), (96, 156, 92), (54, 124, 130), (66, 96, 168),
    (118, 80, 150), (206, 110, 142), (58, 62, 84), (232, 226, 214), (120, 88, 70),
)  # fmt: skip
_BACKGROUNDS: tuple[Color, ...] = (
    (246, 214, 190), (250, 230, 170), (200, 226, 196), (176, 216, 222), (186, 200, 236),
    (220, 196, 230), (242, 190, 196), (104, 142, 160), (132, 120, 160), (88, 128, 112),
    (190, 120, 96), (226, 226, 220),
)  # fmt: skip
_LIPS: tuple[Color, ...] = ((196, 84, 84), (178, 60, 72), (206, 104, 100), (150, 62, 66))
_HATLESS_SHARE = 0.76
# Relative frequencies of the keys of EYES, MOUTHS, GLASSES and BACKGROUNDS.
_EYE_STYLES = {"round": 34, "almond": 38, "sleepy": 12, "happy": 10, "wink": 6}
_MOUTHS = {
    "smile": 26, "grin": 20, "laugh": 14, "flat": 7, "smirk": 10, "sad": 5, "oh": 6, "lips": 12,
}  # fmt: skip
_GLASSES = {"none": 72, "round": 10, "square": 9, "cat": 4, "sun": 5}
_BACKGROUND_STYLES = {"gradient": 5, "dots": 1, "rays": 1, "sun": 2, "hills": 1, "stripes": 1}


@dataclass(frozen=True)
class FaceTraits:
    """Traits of a face: lengths in head units, strengths in 0..1, styles by name.

    ``hat``, ``beard`` and ``glasses`` may be ``none``. ``light`` is negative if the light comes
    from the left.
    """

    skin: Color
    hair: Color
    hair_style: str
    hair_side: int
    width: float
    height: float
    jaw: float
    eye: Color
    eye_style: str
    eye_size: float
    eye_gap: float
    gaze: float
    brow_tilt: float
    brow_width: float
    nose: str
    nose_size: float
    mouth: str
    mouth_width: float
    lips: Color
    beard: str
    glasses: str
    hat: str
    accent: Color
    earrings: bool
    freckles: bool
    blush: float
    clothes: Color
    collar: str
    background: str
    background_colors: tuple[Color, Color, Color]
    light: float


class TraitSampler:
    """Samples single traits from a random generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def choice(self, options: Sequence[Option]) -> Option:
        """Return one option; all are equally likely."""
        return options[int(self._rng.choice(len(options)))]

    def weighted_choice(self, frequencies: Mapping[str, float]) -> str:
        """Return one key, as often as its value says."""
        shares = np.array(list(frequencies.values())) / sum(frequencies.values())
        return list(frequencies)[int(self._rng.choice(len(frequencies), p=shares))]

    def uniform(self, low: float, high: float) -> float:
        """Return a number between two bounds."""
        return float(self._rng.uniform(low, high))

    def bernoulli(self, probability: float) -> bool:
        """Return true with a probability."""
        return bool(self._rng.random() < probability)

    def three_distinct(self, options: Sequence[Option]) -> tuple[Option, Option, Option]:
        """Return three different options."""
        first, second, third = self._rng.permutation(len(options))[:3]
        return options[first], options[second], options[third]


def random_traits(rng: np.random.Generator) -> FaceTraits:
    """Sample all traits of a face; the order of the calls fixes the faces of a seed."""
    sampler = TraitSampler(rng)
    skin = sampler.choice(_SKINS)
    hatless = sampler.bernoulli(_HATLESS_SHARE)
    background_colors = sampler.three_distinct(_BACKGROUNDS)
    bearded = sampler.bernoulli(0.28)
    return FaceTraits(
        skin=skin,
        hair=sampler.choice(_DYED_HAIRS if sampler.bernoulli(0.07) else _HAIRS),
        hair_style=sampler.choice([n for n, s in HAIR_STYLES.items() if hatless or s.fits_hat]),
        hair_side=sampler.choice((-1, 1)),
        width=sampler.uniform(0.47, 0.55),
        height=sampler.uniform(0.60, 0.68),
        jaw=sampler.uniform(0.08, 0.30),
        eye=sampler.choice(_EYES),
        eye_style=sampler.weighted_choice(_EYE_STYLES),
        eye_size=sampler.uniform(0.105, 0.14),
        eye_gap=sampler.uniform(0.205, 0.245),
        gaze=sampler.uniform(-0.3, 0.3),
        brow_tilt=sampler.uniform(-0.35, 0.35),
        brow_width=sampler.uniform(0.028, 0.06),
        nose=sampler.choice(list(NOSES)),
        nose_size=sampler.uniform(0.8, 1.2),
        mouth=sampler.weighted_choice(_MOUTHS),
        mouth_width=sampler.uniform(0.15, 0.23),
        lips=sampler.choice(_LIPS),
        beard=sampler.choice(list(BEARDS)) if bearded else "none",
        glasses=sampler.weighted_choice(_GLASSES),
        hat="none" if hatless else sampler.choice(list(HATS)),
        accent=sampler.choice(_CLOTHES),
        earrings=sampler.bernoulli(0.22),
        freckles=sampler.bernoulli(0.14),
        blush=sampler.uniform(0.1, 0.5),
        clothes=sampler.choice(_CLOTHES),
        collar=sampler.choice(list(COLLARS)),
        background=sampler.weighted_choice(_BACKGROUND_STYLES),
        background_colors=background_colors,
        light=sampler.choice((-1, 1)) * sampler.uniform(0.3, 1.0),
    )
