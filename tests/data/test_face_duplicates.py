"""Copies of faces: by their pixels, and by their places in copies of a photograph."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from atelier.data.face_duplicates import group_faces, pair_faces
from atelier.data.near_duplicates import group_near_duplicates, join_pairs
from atelier.data.rows import OVERVIEW_SIDE, ConvertedFile, Row, resize

from ..support.drawn_group import SEEDS, drawn_group, portrait

Edit = Callable[[Image.Image], Image.Image]

SIZE = (500, 320)
PLACES = [(10, 20, 150), (180, 10, 90), (290, 60, 190)]


def face(seed: int, edit: Edit = lambda image: image) -> np.ndarray:
    return resize(edit(portrait(seed)), 64, "crop")


def groups_of(rows: list[np.ndarray]) -> list[int]:
    hashes = [hashlib.sha256(row.tobytes()).digest() for row in rows]
    return group_faces(rows.__getitem__, hashes, 1).tolist()


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.rotate(3, Image.Resampling.BICUBIC, fillcolor="white"),
        lambda image: image.crop((8, 4, 188, 184)),
        lambda image: ImageOps.mirror(image.rotate(-3, Image.Resampling.BICUBIC)),
        lambda image: ImageOps.expand(image.crop((20, 20, 172, 172)), 20, "green"),
    ],
    ids=["turned", "nearer", "mirrored and turned", "other border"],
)
def test_a_face_cut_at_another_place_is_a_copy(edit: Edit) -> None:
    groups = groups_of([face(seed) for seed in SEEDS] + [face(seed, edit) for seed in SEEDS])
    assert groups[:6] == groups[6:]
    assert len(set(groups)) == 6, "different faces are in different groups"


def photograph(
    places: list[tuple[int, int, int]] = PLACES,
    seeds: tuple[int, ...] = SEEDS,
    frame: tuple[int, int, int, int] = (0, 0, *SIZE),
    mirror: bool = False,
) -> tuple[ConvertedFile, np.ndarray]:
    """Return a photograph of drawn faces, as after the conversion, and its overview."""
    left, top = frame[:2]
    image = drawn_group(SIZE, places, seeds=seeds).crop(frame)
    rows = []
    for seed, (x, y, side) in zip(seeds, places, strict=False):
        center = (x + side / 2 - left) / image.width, (y + side / 2 - top) / image.height
        if mirror:
            center = 1 - center[0], center[1]
        # Enough light from one side that pixels alone do not recognize the copy.
        shade = np.linspace(0.7, 1, 64)[:, None] if frame[0] or mirror else 1
        pixels = face(seed, ImageOps.mirror if mirror else lambda each: each) * shade
        rows.append(Row(str(seed), pixels.astype(np.uint8), side, center))
    image = ImageOps.mirror(image) if mirror else image
    sha256 = hashlib.sha256(image.tobytes()).hexdigest()
    overview = resize(image, OVERVIEW_SIDE, "stretch")
    return ConvertedFile("", tuple(rows), sha256, *image.size), overview


def pairs_of(*photographs: tuple[ConvertedFile, np.ndarray]) -> set[tuple[int, int]]:
    files, overviews = zip(*photographs, strict=True)
    rows = [row.pixels for file in files for row in file.rows]
    hashes = [overview.tobytes() for overview in overviews]
    groups = group_near_duplicates(overviews.__getitem__, hashes, 1)
    found = pair_faces(files, groups, overviews.__getitem__, rows.__getitem__)
    return {(min(pair), max(pair)) for pair in found}


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("frame", [(0, 0, *SIZE), (20, 10, 490, 310)], ids=["whole", "cropped"])
def test_faces_of_a_copy_are_paired_by_place(
    frame: tuple[int, int, int, int], mirror: bool
) -> None:
    original, copy = photograph(), photograph(frame=frame, mirror=mirror)
    assert pairs_of(original, copy) == {(0, 3), (1, 4), (2, 5)}
    largest_only = replace(copy[0], rows=copy[0].rows[2:]), copy[1]
    assert pairs_of(largest_only, original) == {(0, 3)}


def test_small_face_of_a_cropped_copy_is_paired() -> None:
    """The crop moves it by more than a quarter of its size."""
    places = [(30, 20, 150), (290, 60, 190), (40, 230, 30)]
    copy = photograph(places, frame=(20, 10, 490, 310))
    assert pairs_of(photograph(places), copy) == {(0, 3), (1, 4), (2, 5)}


def test_a_face_that_one_of_two_copies_lacks_has_no_pair() -> None:
    one, other = (photograph(seeds=(SEEDS[0],) * 3) for _ in range(2))
    first = replace(one[0], rows=one[0].rows[:1]), one[1]
    last = replace(other[0], rows=other[0].rows[2:]), other[1]
    assert pairs_of(first, last) == set()


def test_places_of_one_face_have_about_one_size() -> None:
    one, (file, overview) = photograph(), photograph()
    rows = tuple(replace(row, side=round(1.6 * row.side)) for row in file.rows)
    assert pairs_of(one, (replace(file, rows=rows), overview)) == set()


def test_two_persons_at_one_place_of_equal_scenes_are_no_pair() -> None:
    """Small faces hardly differ in overviews."""
    small = [(10, 20, 30), (180, 10, 30)]
    one, other = photograph(small), photograph(small, SEEDS[3:5])
    assert pairs_of(one, photograph(small, mirror=True)) == {(0, 2), (1, 3)}
    assert pairs_of(one, (other[0], one[1])) == set()


def test_photographs_that_share_a_face_are_not_paired() -> None:
    elsewhere = photograph([(300, 100, 150), (20, 20, 200)], (SEEDS[0], SEEDS[4]))
    assert pairs_of(photograph(), elsewhere) == set()


def test_all_copies_of_a_large_group_are_connected() -> None:
    copies = [photograph() for _ in range(8)]
    pairs = pairs_of(*copies)
    assert len(pairs) < 3 * len(list(combinations(copies, 2))), "each is compared with some"
    assert join_pairs(np.arange(24), sorted(pairs)).tolist() == [0, 1, 2] * 8


def test_largest_copies_are_compared_with_all_others() -> None:
    (large, overview), half = photograph(), (250, 160)
    face = replace(large.rows[0], side=large.rows[0].side // 2)
    small = replace(large, rows=(face,), width=half[0], height=half[1]), overview
    pairs = pairs_of(*[small] * 5, (large, overview), (large, overview))
    assert {(5, 8), (6, 9), (7, 10)} <= pairs


def test_a_face_that_was_found_twice_has_one_pair() -> None:
    one, other = photograph(PLACES[:1]), photograph(PLACES[:1])
    row = one[0].rows[0]
    moved = replace(row, center=(row.center[0] + 0.02, row.center[1]))
    assert pairs_of((replace(one[0], rows=(moved, row)), one[1]), other) == {(1, 2)}


def test_joined_pairs_connect_their_groups() -> None:
    groups = np.array([0, 1, 2, 1, 3])
    assert join_pairs(groups, []).tolist() == groups.tolist()
    assert join_pairs(groups, [(3, 4), (4, 4)]).tolist() == [0, 1, 2, 1, 1]


def test_dark_copy_of_a_face_is_a_copy() -> None:
    dark = [face(seed, lambda image: ImageEnhance.Brightness(image).enhance(0.4)) for seed in SEEDS]
    groups = groups_of([*map(face, SEEDS), *dark])
    assert groups[:6] == groups[6:]
