"""What makes one drawn face differ from another."""

from collections.abc import Sequence
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


def random_face(random: np.random.Generator) -> Face:
    """Draw all traits of a face from ``random``."""

    def one_of(choices: Sequence[Choice], weights: Sequence[float] | None = None) -> Choice:
        share = None if weights is None else np.array(weights) / sum(weights)
        return choices[int(random.choice(len(choices), p=share))]

    def between(low: float, high: float) -> float:
        return float(random.uniform(low, high))

    skin = one_of(SKINS)
    hatless = random.random() < _HATLESS
    backdrop_colours = random.permutation(len(BACKDROPS))[:3]
    bearded = random.random() < 0.28
    return Face(
        skin=skin,
        hair=one_of(DYED) if random.random() < 0.07 else one_of(HAIRS),
        hair_style=one_of(HAIR_STYLES if hatless else _UNDER_A_HAT),
        hair_side=one_of((-1, 1)),
        width=between(0.47, 0.55),
        height=between(0.60, 0.68),
        jaw=between(0.08, 0.30),
        eye=one_of(EYES),
        eye_style=one_of(("round", "almond", "sleepy", "happy", "wink"), (34, 38, 12, 10, 6)),
        eye_size=between(0.105, 0.14),
        eye_gap=between(0.205, 0.245),
        gaze=between(-0.3, 0.3),
        brow_tilt=between(-0.35, 0.35),
        brow_width=between(0.028, 0.06),
        nose=one_of(("button", "straight", "wide", "pointed")),
        nose_size=between(0.8, 1.2),
        mouth=one_of(
            ("smile", "grin", "laugh", "flat", "smirk", "sad", "oh", "lips"),
            (26, 20, 14, 7, 10, 5, 6, 12),
        ),
        mouth_width=between(0.15, 0.23),
        lips=one_of(((196, 84, 84), (178, 60, 72), (206, 104, 100), (150, 62, 66))),
        beard=one_of(("full", "goatee", "moustache", "stubble")) if bearded else "none",
        glasses=one_of(("none", "round", "square", "cat", "sun"), (72, 10, 9, 4, 5)),
        hat="none" if hatless else one_of(("beanie", "cap", "straw", "party", "bow", "band")),
        accent=one_of(CLOTHES),
        earrings=random.random() < 0.22,
        freckles=random.random() < 0.14,
        blush=between(0.1, 0.5),
        clothes=one_of(CLOTHES),
        collar=one_of(("round", "vee", "shirt", "turtleneck", "striped")),
        backdrop=one_of(
            ("gradient", "dots", "rays", "sun", "hills", "stripes"), (5, 1, 1, 2, 1, 1)
        ),
        backdrop_colours=(
            BACKDROPS[backdrop_colours[0]],
            BACKDROPS[backdrop_colours[1]],
            BACKDROPS[backdrop_colours[2]],
        ),
        light=one_of((-1, 1)) * between(0.3, 1.0),
    )
