"""Copies of faces, found by their pixels and by their places in copies of a photograph.

The detector finds a face at slightly other places in a copy of a photograph. Therefore the limits
of face rows are wider than those of whole images, and still wider for faces at one place of two
near-duplicate photographs.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atelier.data.cropped_copies import FACES, copy_transform
from atelier.data.image_difference import Floats, Floats32
from atelier.data.near_duplicates import ReadRow, describe_images, group_near_duplicates
from atelier.data.rows import OVERVIEW_SIDE, ConvertedFile

Image8 = NDArray[np.uint8]

# A row of a face at the border of its photograph is filled by reflection: only its center is
# compared, without this part of the row at each side.
_BORDER = 1 / 8
# Photographs that each one of a group is compared with; limits the time if many are alike.
_COMPARED = 4
# Limits for places of one face, measured in docs/measurements/near-duplicates.md.
_MAX_OFFSET = 0.25  # of the square's side
_MAX_RATIO = 1.4  # of the squares' sides
_MAX_DISTANCE = 0.4  # of the descriptors of two faces at one place, which may be two persons


def group_faces(read: ReadRow, hashes: Sequence[bytes], workers: int) -> NDArray[np.int64]:
    """Return groups of faces that are near-duplicates, int64 [N], counted from 0.

    Args:
        read: returns the row of an index, uint8 [H, H, C].
        hashes: hash of each row's bytes.
        workers: number of threads; -1 for one per core.
    """
    return group_near_duplicates(lambda index: _center(read(index)), hashes, workers, FACES)


def _center(row: Image8) -> Image8:
    border = int(_BORDER * len(row))
    return row[border : len(row) - border, border : len(row) - border]


@dataclass(frozen=True, eq=False)
class _Places:
    """Squares of a photograph's faces, in pixels of its overview.

    Attributes:
        centers: x and y, [N, 2].
        sides: width and height, which differ because the overview is stretched, [N, 2].
    """

    centers: Floats
    sides: Floats

    def mirrored(self, mirror: bool) -> "_Places":
        """Return the places in the mirrored photograph, if ``mirror`` is true."""
        if not mirror:
            return self
        x, y = self.centers.T
        return _Places(np.stack([OVERVIEW_SIDE - 1 - x, y], axis=1), self.sides)

    def transformed(self, transform: Floats32) -> "_Places":
        """Return the places after an affine transform [2, 3] without rotation."""
        centers = self.centers @ transform[:, :2].T + transform[:, 2]
        return _Places(centers, self.sides * np.abs(np.diag(transform)))


def pair_faces(
    photographs: Sequence[ConvertedFile],
    groups: NDArray[np.int64],
    read_overview: ReadRow,
    read: ReadRow,
) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows that show one face in two near-duplicate photographs.

    Both are at one place of their photographs, one of them mirrored or not, have about one size,
    and their descriptors differ by at most 0.4.

    Args:
        photographs: files with at least one row each.
        groups: group of near-duplicates of each photograph, int64 [N].
        read_overview: returns the overview of a photograph.
        read: returns the row of an index.
    """
    first_rows = np.cumsum([0, *(len(file.rows) for file in photographs)]).tolist()
    for one, other in _photographs_to_compare(photographs, groups):
        relation = _relation(read_overview(one), read_overview(other))
        if relation is None:
            continue
        transform, mirror = relation
        places, others = _places(photographs[one]), _places(photographs[other])
        for place, match in _matches(places.transformed(transform), others.mirrored(mirror)):
            first, second = first_rows[one] + place, first_rows[other] + match
            if _are_alike(read(first), _mirrored(read(second), mirror)):
                yield first, second


def _relation(one: Image8, other: Image8) -> tuple[Floats32, bool] | None:
    """Return the transform from one overview to another, and whether the other is mirrored."""
    for mirror in (False, True):
        transform = copy_transform(one, _mirrored(other, mirror))
        if transform is not None:
            return transform, mirror
    return None


def _photographs_to_compare(
    photographs: Sequence[ConvertedFile], groups: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield pairs of indices in one group: each photograph with the largest ones of its group."""
    keys = [(-file.width * file.height, file.sha256) for file in photographs]
    larger: defaultdict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        group = larger[int(groups[index])]
        yield from ((other, index) for other in group[:_COMPARED])
        group.append(index)


def _mirrored(image: Image8, mirror: bool) -> Image8:
    return image[:, ::-1] if mirror else image


def _are_alike(one: Image8, other: Image8) -> bool:
    first, second = describe_images([_center(one), _center(other)])
    return bool(np.linalg.norm(first - second) <= _MAX_DISTANCE)


def _places(file: ConvertedFile) -> _Places:
    centers = np.array([row.center for row in file.rows])
    sides = np.array([[row.side / file.width, row.side / file.height] for row in file.rows])
    # The centers of pixels have whole coordinates.
    return _Places(OVERVIEW_SIDE * centers - 0.5, OVERVIEW_SIDE * sides)


def _matches(places: _Places, others: _Places) -> Iterator[tuple[int, int]]:
    """Yield the indices of places that are the nearest to each other and within the limits."""
    offsets = (places.centers[:, None] - others.centers) / others.sides
    distances = np.hypot(offsets[..., 0], offsets[..., 1])
    ratios = places.sides[:, None].prod(axis=2) / others.sides.prod(axis=1)
    is_near = (distances <= _MAX_OFFSET) & (np.abs(np.log(ratios)) <= 2 * np.log(_MAX_RATIO))
    for one, nearest in enumerate(distances.argmin(axis=1).tolist()):
        if is_near[one, nearest] and distances[:, nearest].argmin() == one:
            yield one, nearest
