"""Groups of near-duplicate images, which must lie on the same side of a split.

Near-duplicates are copies that were encoded again (JPEG quality 75 and better), resized, made
slightly brighter or darker, or mirrored: training may mirror its images, so that a mirrored copy
is no new image either. Cropped and rotated copies are not recognised.

Each image is described by its colour and the low frequencies of its thumbnail, as in a perceptual
hash ("pHash"), but not rounded to bits: SciPy's k-d tree then finds close descriptors in a time
that grows about linearly, and a comparison of the thumbnails confirms them. A border, a frame or
pad bars that many images share can make their thumbnails nearly equal: therefore the images must
also agree in every small window.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 16  # of a thumbnail in pixels
_FREQUENCIES = 5
_LEAST_CONTRAST = 1.0  # standard deviation below which a thumbnail counts as flat
# Measured on CelebA, drawn faces, CIFAR-10, MNIST and Fashion-MNIST: docs/quality.md.
_SAME = 0.12  # distance of thumbnails, and thereby of descriptors
_SAME_WINDOW = 0.5  # difference of the windows that differ most
_EQUAL = 0.01  # distance of thumbnails of images that are searched for as one
_EQUAL_WINDOW = 0.05
_WINDOWS_SIDE = 64  # most pixels of an image's side when windows are compared: bounds the time
_NOISE = 25.0  # variance in a window that compression may cause
_CELL = 0.02  # side of a grid's cell, for descriptors
# Neighbours compared with each image: bounds time and memory if thousands are near-duplicates.
_NEIGHBOURS = 16
_BATCH = 1000

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
ReadRow = Callable[[int], NDArray[np.uint8]]
"""Returns the image at a place, uint8 [H, W, C]."""


def group_near_duplicates(
    read: ReadRow,
    hashes: Sequence[bytes],
    keys: Sequence[Hashable] | None = None,
    workers: int = -1,
) -> NDArray[np.int64]:
    """Put near-duplicates, copies and images with one key into one group.

    Two images are in one group if a chain of such pairs connects them. Two images are
    near-duplicates if :func:`image_difference` is at most 0.12 and :func:`window_difference` at most
    0.5, one of them mirrored or not. Groups depend on the contents and keys alone, not on the
    order. Of more than 16 images with close descriptors, each is compared with the 15 nearest;
    of images that hardly differ (0.01 and 0.05), only one is compared with the others. Memory
    holds about 1.2 kB per image.

    Args:
        read: returns the image at a place.
        hashes: of each image's bytes; copies have the same.
        keys: of each image, for example the photograph that a face was cut from; ``None`` for an
            image without one.
        workers: threads; -1 for one per core.

    Returns:
        The group of each image, int64 [N], from 0.
    """
    distinct, contents = _distinct(hashes)  # sorted by hash: independent of the order
    sets = _DisjointSets(len(distinct))
    _join_keys(sets, keys or (), contents.tolist())
    _join_near_duplicates(sets, lambda number: read(int(distinct[number])), workers)
    roots = np.array([sets.root(number) for number in range(len(distinct))])
    numbers = np.unique(roots, return_inverse=True)[1]
    return np.asarray(numbers[contents], np.int64)


def describe_images(images: Iterable[NDArray[np.uint8]]) -> Floats:
    """Return the low frequencies and the colour of images, uint8 [H, W, C] each, as [N, 24 + C].

    They are orthonormal coordinates of normalised thumbnails, so that two descriptors are never
    further apart than :func:`image_difference` says of the images.
    """
    thumbnails = _normalised(np.stack([_thumbnail(image) for image in images]))
    count, channels = len(thumbnails), thumbnails.shape[3]
    grey = thumbnails.sum(axis=3) / np.sqrt(channels)
    frequencies = (_COSINES @ grey @ _COSINES.T).reshape(count, -1)[:, 1:]
    return np.hstack([frequencies, thumbnails.sum(axis=(1, 2)) / _SIDE])


def _cosines() -> Floats:
    """Return the lowest rows of the orthonormal discrete cosine transform (DCT-II)."""
    angles = np.pi * (np.arange(_SIDE) + 0.5) * np.arange(_FREQUENCIES)[:, None] / _SIDE
    rows = np.cos(angles) * np.sqrt(2 / _SIDE)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows, np.float64)


_COSINES = _cosines()
# Mirroring an image negates its odd horizontal frequencies.
_MIRROR = np.tile((-1.0) ** np.arange(_FREQUENCIES), _FREQUENCIES)[1:]


def _mirrored(descriptors: Floats) -> Floats:
    signs = np.ones(descriptors.shape[1])
    signs[: len(_MIRROR)] = _MIRROR
    return descriptors * signs


def _distinct(hashes: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a place of each distinct hash, sorted by hash, and the hash's number at each place."""
    first = {content: place for place, content in reversed(list(enumerate(hashes)))}
    numbers = {content: number for number, content in enumerate(sorted(first))}
    distinct = np.array([first[content] for content in numbers], np.int64)
    return distinct, np.array([numbers[content] for content in hashes], np.int64)


class _DisjointSets:
    """Sets of numbers that grow by joining (union-find with path halving)."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def __len__(self) -> int:
        return len(self._parents)

    def root(self, number: int) -> int:
        """Return the number that stands for the set of a number."""
        parents = self._parents
        while parents[number] != number:
            parents[number] = number = parents[parents[number]]
        return number

    def join(self, one: int, other: int) -> None:
        """Make one set of the sets of two numbers."""
        first, second = sorted((self.root(one), self.root(other)))
        self._parents[second] = first


def _join_keys(sets: _DisjointSets, keys: Sequence[Hashable], contents: list[int]) -> None:
    first: dict[Hashable, int] = {}
    for key, content in zip(keys, contents, strict=bool(keys)):
        if key is not None:
            sets.join(first.setdefault(key, content), content)


def _descriptors(read: ReadRow, count: int) -> NDArray[np.float32]:
    """Describe all images; in half the memory that float64 takes."""
    batches = [range(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]
    return np.concatenate(
        [describe_images(map(read, batch)).astype(np.float32) for batch in batches]
    )


def _join_near_duplicates(sets: _DisjointSets, read: ReadRow, workers: int) -> None:
    """Join the sets of near-duplicates among distinct images."""
    descriptors = _descriptors(read, len(sets))

    def join_near(first: int, second: int, mirrored: bool) -> None:
        # Most pairs of many near-duplicates are connected already.
        if sets.root(first) != sets.root(second):
            other = read(second)
            if _agree(read(first), other[:, ::-1] if mirrored else other, _SAME, _SAME_WINDOW):
                sets.join(first, second)

    places = _search_places(sets, read, descriptors)
    points = descriptors[places]
    for mirrored in (False, True):
        for first, second in _close_pairs(points, mirrored, workers):
            join_near(int(places[first]), int(places[second]), mirrored)


def _search_places(
    sets: _DisjointSets, read: ReadRow, descriptors: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return which images are searched for near-duplicates, and join the others to one of them.

    Thousands of nearly equal descriptors would take quadratic time in a tree: of images in one
    cell of a grid that hardly differ, only the first is searched for. What differs more has
    near-duplicates of its own that the first does not have.
    """
    cells = np.round(descriptors / _CELL).astype(np.int16)
    _, firsts, numbers = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    places = []
    for place, first in enumerate(firsts[numbers.ravel()].tolist()):
        if place != first and _agree(read(first), read(place), _EQUAL, _EQUAL_WINDOW):
            sets.join(first, place)
        else:
            places.append(place)
    return np.array(places, np.int64)


def _close_pairs(
    points: NDArray[np.float32], mirrored: bool, workers: int
) -> Iterator[tuple[int, int]]:
    """Yield places, in increasing order, of two images with close descriptors, each pair once.

    Args:
        points: a descriptor of each image.
        mirrored: compare each image, mirrored, with the others.
        workers: threads.
    """
    from scipy.spatial import KDTree

    # Along the principal axes a tree separates points sooner: half the time for digits.
    axes = np.linalg.eigh((points.T @ points).astype(np.float64))[1][:, ::-1]
    tree = KDTree(points @ axes)
    found = []
    for start in range(0, len(points), _BATCH):
        batch = points[start : start + _BATCH].astype(np.float64)
        queries = (_mirrored(batch) if mirrored else batch) @ axes
        near = tree.query(queries, _NEIGHBOURS, distance_upper_bound=_SAME, workers=workers)[1]
        rows, columns = np.nonzero(near < len(points))  # a missing neighbour has that number
        pairs = np.stack([rows + start, near[rows, columns]], axis=1).astype(np.int32)
        found.append(pairs[pairs[:, 0] != pairs[:, 1]])
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    yield from zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), strict=True)


def image_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the distance of two thumbnails after their brightness and contrast are equalised."""
    first, second = (_normalised(_thumbnail(image)[None]) for image in (one, other))
    return float(np.linalg.norm(first - second))


def window_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return how much two images differ in the window in which they differ most, from 0 to 2.

    A window has an eighth of the side. Its difference is 1 minus the structural term of SSIM: 0
    if both images vary alike around their means in it, 1 if they are unrelated or only one varies.
    """
    first, second = _details(one), _details(other)
    scales = [max(float(image.std()), _LEAST_CONTRAST) for image in (first, second)]
    # Both get the geometric mean of their contrasts.
    first = first * np.float32(np.sqrt(scales[1] / scales[0]))
    second = second * np.float32(np.sqrt(scales[0] / scales[1]))
    side = max(len(first) // 8, 4)

    def means(image: Floats32) -> Floats32:
        return np.asarray(cv2.blur(image, (side, side)), np.float32).reshape(image.shape)

    means_first, means_second = means(first), means(second)
    products = means(_dot(first, second)) - _dot(means_first, means_second)
    squares = means(_dot(first, first) + _dot(second, second))
    squares -= _dot(means_first, means_first) + _dot(means_second, means_second)
    noise = _NOISE * first.shape[2]
    return float(1 - ((2 * products + noise) / (squares + noise)).min())


def _dot(one: Floats32, other: Floats32) -> Floats32:
    return np.asarray(np.einsum("ijk,ijk->ij", one, other), np.float32)


def _details(image: NDArray[np.uint8]) -> Floats32:
    """Return an image at up to 64 pixels a side, centred and slightly blurred, [H, W, C]."""
    side = min(_WINDOWS_SIDE, *image.shape[:2])
    pixels = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(pixels, (3, 3), 0).reshape(side, side, -1)
    return np.asarray(blurred - blurred.mean(), np.float32)


def _agree(
    one: NDArray[np.uint8], other: NDArray[np.uint8], most: float, most_window: float
) -> bool:
    return image_difference(one, other) <= most and window_difference(one, other) <= most_window


def _normalised(thumbnails: Floats) -> Floats:
    """Centre each thumbnail, and divide it by its norm."""
    axes = tuple(range(1, thumbnails.ndim))
    centred = thumbnails - thumbnails.mean(axes, keepdims=True)
    contrasts = np.maximum(centred.std(axes, keepdims=True), _LEAST_CONTRAST)
    return np.asarray(centred / (contrasts * np.sqrt(centred[0].size)), np.float64)


def _thumbnail(image: NDArray[np.uint8]) -> Floats:
    """Average an image down to [_SIDE, _SIDE, C], in floats: processors round bytes differently."""
    small = cv2.resize(image.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float64).reshape(_SIDE, _SIDE, -1)
