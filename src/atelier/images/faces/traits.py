"""What makes one drawn face differ from another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from atelier.images.faces.canvas import Colour

Choice = TypeVar("Choice")

SKINS: tuple[Colour, ...] = (
    (255, 224, 202), (249, 208, 180), (240, 190, 156), (229, 172, 132), (214, 152, 110),
    (193, 128, 88), (167, 105, 70), (138, 84, 56), (110, 66, 46), (86, 52, 40),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (34, 26, 28), (58, 38, 30), (86, 54, 36), (120, 74, 42), (158, 100, 52), (206, 158, 88),
    (232, 200, 132), (168, 66, 36), (204, 96, 48), (150, 148, 152), (226, 224, 226),
)  # fmt: skip
DYED: tuple[Colour, ...] = ((232, 96, 140), (88, 120, 206), (70, 170, 150), (142, 92, 186))
EYES: tuple[Colour, ...] = (
    (70, 42, 28), (104, 66, 36), (128, 104, 50), (74, 122, 82), (72, 118, 168), (112, 134, 150),
)  # fmt: skip
CLOTHES: tuple[Colour, ...] = (
    (196, 64, 60), (236, 140, 58), (242, 194, 72), (96, 156, 92), (54, 124, 130), (66, 96, 168),
    (118, 80, 150), (206, 110, 142), (58, 62, 84), (232, 226, 214), (120, 88, 70),
)  # fmt: skip
BACKDROPS: tuple[Colour, ...] = (
    (246, 214, 190), (250, 230, 170), (200, 226, 196), (176, 216, 222), (186, 200, 236),
    (220, 196, 230), (242, 190, 196), (104, 142, 160), (132, 120, 160), (88, 128, 112),
    (190, 120, 96), (226, 226, 220),
)  # fmt: skip

HAIR_STYLES = (
    "bald", "buzz", "short", "parted", "fringe", "curly", "afro", "long", "bob", "bun",
    "spiky", "mohawk", "pigtails",
)  # fmt: skip
# What still looks like itself when most of it is under a hat.
_UNDER_A_HAT = ("bald", "buzz", "short", "fringe", "long", "bob", "pigtails")
_HATLESS = 0.76
_HATS = ("beanie", "cap", "straw", "party", "bow", "band")
_NOSES = ("button", "straight", "wide", "pointed")
_BEARDS = ("full", "goatee", "moustache", "stubble")
_COLLARS = ("round", "vee", "shirt", "turtleneck", "striped")
_LIPS: tuple[Colour, ...] = ((196, 84, 84), (178, 60, 72), (206, 104, 100), (150, 62, 66))
# How often each is drawn, of the sum.
_EYE_STYLES = {"round": 34, "almond": 38, "sleepy": 12, "happy": 10, "wink": 6}
_MOUTHS = {
    "smile": 26, "grin": 20, "laugh": 14, "flat": 7, "smirk": 10, "sad": 5, "oh": 6, "lips": 12,
}  # fmt: skip
_GLASSES = {"none": 72, "round": 10, "square": 9, "cat": 4, "sun": 5}
_BACKDROP_STYLES = {"gradient": 5, "dots": 1, "rays": 1, "sun": 2, "hills": 1, "stripes": 1}


@dataclass(frozen=True)
class Face:
    """All that is drawn of a face; lengths in units of the canvas, shares in 0..1.

    Styles are words, ``""`` or ``none`` where there is nothing to draw.
    """

    skin: Colour
    hair: Colour
    hair_style: str
    hair_side: int
    width: float
    height: float
    jaw: float
    eye: Colour
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
    lips: Colour
    beard: str
    glasses: str
    hat: str
    accent: Colour
    earrings: bool
    freckles: bool
    blush: float
    clothes: Colour
    collar: str
    backdrop: str
    backdrop_colours: tuple[Colour, Colour, Colour]
    light: float


class _Lots:
    """Draws single traits from a generator."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random

    def one_of(self, choices: Sequence[Choice]) -> Choice:
        return choices[int(self._random.choice(len(choices)))]

    def weighted(self, weights: Mapping[str, float]) -> str:
        share = np.array(list(weights.values())) / sum(weights.values())
        return list(weights)[int(self._random.choice(len(weights), p=share))]

    def between(self, low: float, high: float) -> float:
        return float(self._random.uniform(low, high))

    def chance(self, share: float) -> bool:
        return bool(self._random.random() < share)

    def three_of(self, choices: Sequence[Choice]) -> tuple[Choice, Choice, Choice]:
        first, second, third = self._random.permutation(len(choices))[:3]
        return choices[first], choices[second], choices[third]


def random_face(random: np.random.Generator) -> Face:
    """Draw all traits of a face from ``random``."""
    lots = _Lots(random)
    skin = lots.one_of(SKINS)
    hatless = lots.chance(_HATLESS)
    backdrop_colours = lots.three_of(BACKDROPS)
    bearded = lots.chance(0.28)
    return Face(
        skin=skin,
        hair=lots.one_of(DYED) if lots.chance(0.07) else lots.one_of(HAIRS),
        hair_style=lots.one_of(HAIR_STYLES if hatless else _UNDER_A_HAT),
        hair_side=lots.one_of((-1, 1)),
        width=lots.between(0.47, 0.55),
        height=lots.between(0.60, 0.68),
        jaw=lots.between(0.08, 0.30),
        eye=lots.one_of(EYES),
        eye_style=lots.weighted(_EYE_STYLES),
        eye_size=lots.between(0.105, 0.14),
        eye_gap=lots.between(0.205, 0.245),
        gaze=lots.between(-0.3, 0.3),
        brow_tilt=lots.between(-0.35, 0.35),
        brow_width=lots.between(0.028, 0.06),
        nose=lots.one_of(_NOSES),
        nose_size=lots.between(0.8, 1.2),
        mouth=lots.weighted(_MOUTHS),
        mouth_width=lots.between(0.15, 0.23),
        lips=lots.one_of(_LIPS),
        beard=lots.one_of(_BEARDS) if bearded else "none",
        glasses=lots.weighted(_GLASSES),
        hat="none" if hatless else lots.one_of(_HATS),
        accent=lots.one_of(CLOTHES),
        earrings=lots.chance(0.22),
        freckles=lots.chance(0.14),
        blush=lots.between(0.1, 0.5),
        clothes=lots.one_of(CLOTHES),
        collar=lots.one_of(_COLLARS),
        backdrop=lots.weighted(_BACKDROP_STYLES),
        backdrop_colours=backdrop_colours,
        light=lots.one_of((-1, 1)) * lots.between(0.3, 1.0),
    )
