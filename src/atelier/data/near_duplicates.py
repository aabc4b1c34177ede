"""Groups of near-duplicate images, which must be in the same set of a split.

Near-duplicates are copies that were encoded again (JPEG quality 75 and better), resized, made
brighter or darker, cropped by some percent, or mirrored (training may mirror its images). Rotated
copies are not recognized.

The descriptor of an image is the color and the low frequencies of its thumbnail, as in a perceptual
hash ("pHash") without rounding to bits. SciPy's k-d tree finds close descriptors in about linear
time, and a comparison of the images confirms them, see :mod:`atelier.data.image_difference` and
:mod:`atelier.data.cropped_copies`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from atelier.data.cropped_copies import (
    WHOLE_IMAGES,
    CropLimits,
    alignment_errors,
    blurred_thumbnails,
    is_cropped_copy,
)
from atelier.data.image_difference import (
    SAME,
    THUMBNAIL_SIDE,
    Floats,
    Floats32,
    Pixels,
    are_similar,
    normalize,
    thumbnail,
)

_FREQUENCIES = 5
# Limits of the differences of images of which only one is compared with the others.
_EQUAL = 0.01
_EQUAL_WINDOW = 0.05
_CELL = 0.02  # side of a grid cell for descriptors
_MAX_DISTANCE = 0.35  # of descriptors of images that are aligned
_MAX_ALIGNED = 1  # neighbors; aligning takes a millisecond
# Neighbors compared with each image: limits time and memory if thousands are near-duplicates.
_NEIGHBORS = 16
_BATCH = 1000

ReadRow = Callable[[int], NDArray[np.uint8]]
"""Function that returns the image of an index, uint8 [H, W, C]."""


def group_near_duplicates(
    read: ReadRow,
    hashes: Sequence[bytes],
    workers: int = -1,
    limits: CropLimits = WHOLE_IMAGES,
) -> NDArray[np.int64]:
    """Return groups of near-duplicates and copies.

    Two images are near-duplicates if their image difference is at most 0.12 and their window
    difference is at most 0.5, for the second image or its mirror image, or if they are cropped
    copies. Two images are in one group if a chain of such pairs connects them. Groups
    depend on contents only, not on the order. Each image is compared with at most 15
    neighbors. Of images that differ by at most 0.01 and 0.05, only one is compared with the
    others. Memory holds about 2 kB per image.

    Args:
        read: returns the image of an index.
        hashes: hash of each image's bytes.
        workers: number of threads; -1 for one per core.
        limits: of cropped copies.

    Returns:
        The group of each image, int64 [N], counted from 0.
    """
    distinct, contents = _distinct(hashes)
    sets = _DisjointSets(len(distinct))
    _join_near_duplicates(sets, lambda number: read(int(distinct[number])), workers, limits)
    roots = np.array([sets.root(number) for number in range(len(distinct))])
    numbers = np.unique(roots, return_inverse=True)[1]
    return np.asarray(numbers[contents], np.int64)


def join_groups(groups: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the groups of images that a chain of equal groups or equal others connects, int64 [N].

    Args:
        groups: group of each image, int64 [N], counted from 0.
        others: group of each image by another criterion, int64 [N], counted from 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # A graph of all groups, with an edge for each image.
    first_other = int(groups.max()) + 1
    count = first_other + int(others.max()) + 1
    edges = coo_array((np.ones(len(groups)), (groups, others + first_other)), shape=(count, count))
    return np.asarray(connected_components(edges, directed=False)[1][groups], np.int64)


def join_pairs(groups: NDArray[np.int64], pairs: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the groups of images after the groups of each pair of images are joined, int64 [N].

    Args:
        groups: group of each image, int64 [N], counted from 0.
        pairs: indices of images.
    """
    sets = _DisjointSets(int(groups.max()) + 1)
    for first, second in pairs:
        sets.join(int(groups[first]), int(groups[second]))
    roots = np.array([sets.root(group) for group in groups.tolist()])
    return np.asarray(np.unique(roots, return_inverse=True)[1], np.int64)


def describe_images(images: Iterable[NDArray[np.uint8]]) -> Floats:
    """Return descriptors of images, uint8 [H, W, C] each, as float64 [N, 24 + C].

    A descriptor has 24 low frequencies and the color. These are orthonormal coordinates of
    normalized thumbnails: the distance of two descriptors is at most :func:`image_difference`.
    """
    return _descriptors(np.stack([thumbnail(image) for image in images]))


def _descriptors(thumbnails: Floats) -> Floats:
    thumbnails = normalize(thumbnails)
    count, channels = len(thumbnails), thumbnails.shape[3]
    gray = thumbnails.sum(axis=3) / np.sqrt(channels)
    frequencies = (_COSINES @ gray @ _COSINES.T).reshape(count, -1)[:, 1:]
    return np.hstack([frequencies, thumbnails.sum(axis=(1, 2)) / THUMBNAIL_SIDE])


def _cosines() -> Floats:
    """Return the rows of lowest frequency of the orthonormal discrete cosine transform (DCT-II)."""
    angles = (
        np.pi
        * (np.arange(THUMBNAIL_SIDE) + 0.5)
        * np.arange(_FREQUENCIES)[:, None]
        / THUMBNAIL_SIDE
    )
    rows = np.cos(angles) * np.sqrt(2 / THUMBNAIL_SIDE)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows, np.float64)


_COSINES = _cosines()
# Mirroring an image changes the sign of its odd horizontal frequencies.
_MIRROR = np.tile((-1.0) ** np.arange(_FREQUENCIES), _FREQUENCIES)[1:]


def _mirrored(descriptors: Floats) -> Floats:
    signs = np.ones(descriptors.shape[1])
    signs[: len(_MIRROR)] = _MIRROR
    return descriptors * signs


def _distinct(hashes: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first index of each distinct hash, and the distinct hash of each index.

    Distinct hashes are sorted, so that groups do not depend on the order of images.
    """
    first = {content: index for index, content in reversed(list(enumerate(hashes)))}
    numbers = {content: number for number, content in enumerate(sorted(first))}
    distinct = np.array([first[content] for content in numbers], np.int64)
    return distinct, np.array([numbers[content] for content in hashes], np.int64)


class _DisjointSets:
    """Disjoint sets of the numbers from 0 to ``count - 1`` (union-find with path halving)."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def __len__(self) -> int:
        return len(self._parents)

    def root(self, number: int) -> int:
        """Return the representative of a number's set."""
        parents = self._parents
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    def join(self, one: int, other: int) -> None:
        """Replace the sets of two numbers by their union."""
        first, second = sorted((self.root(one), self.root(other)))
        self._parents[second] = first


def _describe_all(read: ReadRow, count: int) -> tuple[Floats32, NDArray[np.float16]]:
    """Return the descriptors and the blurred thumbnails of all images; short floats save memory."""
    descriptors, blurred = [], []
    for start in range(0, count, _BATCH):
        batch = range(start, min(start + _BATCH, count))
        thumbnails = np.stack([thumbnail(read(index)) for index in batch])
        descriptors.append(_descriptors(thumbnails).astype(np.float32))
        blurred.append(blurred_thumbnails(thumbnails))
    return np.concatenate(descriptors), np.concatenate(blurred)


def _join_near_duplicates(
    sets: _DisjointSets, read: ReadRow, workers: int, limits: CropLimits
) -> None:
    """Join the sets of near-duplicates among distinct images."""
    descriptors, thumbnails = _describe_all(read, len(sets))
    indices = _indices_to_search(sets, read, descriptors)
    found = [_find_neighbors(descriptors[indices], flip, workers) for flip in (False, True)]
    for neighbors in found:
        for one, two in neighbors.pairs[neighbors.distances <= SAME].tolist():
            _join_if(are_similar, sets, read, (indices[one], indices[two]), neighbors.mirrored)
    # Aligning is slow, and needless for images that are connected already.
    is_copy = partial(is_cropped_copy, limits=limits)
    for neighbors in found:
        pairs, mirrored = np.array(indices)[neighbors.pairs], neighbors.mirrored
        pairs, errors = _alignment_errors_of_pairs(sets, thumbnails, pairs, mirrored)
        for pair in _pairs_to_align(pairs, errors, limits.error):
            _join_if(is_copy, sets, read, pair, mirrored)


def _join_if(
    compare: Callable[[Pixels, Pixels], bool],
    sets: _DisjointSets,
    read: ReadRow,
    pair: tuple[int, int],
    mirrored: bool,
) -> None:
    """Join the sets of two images, if they are not joined and a comparison returns true."""
    first, second = pair
    # In a large group, most pairs are connected already and need no comparison.
    if sets.root(first) != sets.root(second):
        other = read(second)
        if compare(read(first), other[:, ::-1] if mirrored else other):
            sets.join(first, second)


def _indices_to_search(sets: _DisjointSets, read: ReadRow, descriptors: Floats32) -> list[int]:
    """Return the indices of images to search for, and join the other images to one of them.

    Thousands of nearly equal descriptors would take quadratic time in a tree. Therefore only the
    first of nearly equal images in one cell of a grid is searched for. Images that differ more can
    have near-duplicates that the first does not have.
    """
    cells = np.round(descriptors / _CELL).astype(np.int16)
    _, firsts, numbers = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    indices = []
    for index, first in enumerate(firsts[numbers.ravel()].tolist()):
        if index != first and are_similar(read(first), read(index), _EQUAL, _EQUAL_WINDOW):
            sets.join(first, index)
        else:
            indices.append(index)
    return indices


@dataclass(frozen=True)
class _Neighbors:
    """Pairs of images with close descriptors.

    Attributes:
        mirrored: the second image of each pair is compared as its mirror image.
        pairs: indices of points, sorted, int32 [P, 2].
        distances: distance of the descriptors of each pair, [P].
    """

    mirrored: bool
    pairs: NDArray[np.int32]
    distances: Floats


def _find_neighbors(points: Floats32, mirrored: bool, workers: int) -> _Neighbors:
    """Find the nearest neighbors of each point, or of its mirror image.

    Args:
        points: descriptors, [N, D].
        mirrored: compare the mirror image of each image with the other images.
        workers: number of threads; -1 for one per core.
    """
    from scipy.spatial import KDTree

    # A tree along the principal axes separates points earlier: half the time for digits.
    axes = np.linalg.eigh((points.T @ points).astype(np.float64))[1][:, ::-1]
    tree = KDTree(points @ axes)
    found, lengths = [], []
    for start in range(0, len(points), _BATCH):
        batch = points[start : start + _BATCH].astype(np.float64)
        queries = (_mirrored(batch) if mirrored else batch) @ axes
        distances, near = tree.query(
            queries, _NEIGHBORS, distance_upper_bound=_MAX_DISTANCE, workers=workers
        )
        rows, columns = np.nonzero(near < len(points))  # len(points) marks a missing neighbor
        pairs = np.stack([rows + start, near[rows, columns]], axis=1).astype(np.int32)
        different = pairs[:, 0] != pairs[:, 1]
        found.append(np.sort(pairs[different], axis=1))
        lengths.append(distances[rows, columns][different])
    pairs, firsts = np.unique(np.concatenate(found), axis=0, return_index=True)
    return _Neighbors(mirrored, pairs, np.concatenate(lengths)[firsts])


def _alignment_errors_of_pairs(
    sets: _DisjointSets,
    thumbnails: NDArray[np.float16],
    pairs: NDArray[np.int64],
    mirrored: bool,
) -> tuple[NDArray[np.int64], Floats32]:
    """Return the pairs of images that are not joined, [P, 2], and their alignment errors, [P].

    Args:
        sets: sets of images.
        thumbnails: blurred thumbnails of all images.
        pairs: indices of images, [N, 2].
        mirrored: the second image of each pair is compared as its mirror image.
    """
    roots = np.array([sets.root(number) for number in range(len(sets))])
    pairs = pairs[roots[pairs[:, 0]] != roots[pairs[:, 1]]]
    errors = [np.zeros(0, np.float32)]
    for start in range(0, len(pairs), _BATCH):
        one, other = thumbnails[pairs[start : start + _BATCH].T]
        errors.append(alignment_errors(one, other[:, :, ::-1] if mirrored else other))
    return pairs, np.concatenate(errors)


def _pairs_to_align(
    pairs: NDArray[np.int64], errors: Floats32, limit: float
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of images, [P, 2], that a crop may explain, the least errors first."""
    counts: Counter[int] = Counter()
    for index in errors.argsort(kind="stable")[: (errors <= limit).sum()]:
        first, second = pairs[index].tolist()
        if min(counts[first], counts[second]) < _MAX_ALIGNED:
            counts.update((first, second))
            yield first, second
