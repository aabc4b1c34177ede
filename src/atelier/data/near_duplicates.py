"""Groups of near-duplicate images, which must be in the same set of a split.

Near-duplicates are copies that were encoded again (JPEG quality 75 and better), resized, made
slightly brighter or darker, or mirrored (training may mirror its images). Cropped and rotated
copies are not recognized.

The descriptor of an image is the color and the low frequencies of its thumbnail, as in a perceptual
hash ("pHash") without rounding to bits. SciPy's k-d tree finds close descriptors in about linear
time, and a comparison of the thumbnails confirms them. Borders, frames or pad bars that many images
share can make their thumbnails nearly equal. Therefore the images must also agree in every small
window.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 16  # height and width of a thumbnail in pixels
_FREQUENCIES = 5
_MIN_CONTRAST = 1.0  # standard deviation below which a thumbnail counts as flat
# Measured on five datasets: docs/measurements/near-duplicates.md.
_SAME = 0.12  # limit for the distance of thumbnails, and thus of descriptors
_SAME_WINDOW = 0.5  # limit for the difference of the windows that differ most
# The same limits for images of which only one is compared with the others.
_EQUAL = 0.01
_EQUAL_WINDOW = 0.05
_MAX_WINDOWS_SIDE = 64  # larger images are reduced before windows are compared, to limit the time
_NOISE = 25.0  # variance in a window that compression may cause
_CELL = 0.02  # side of a grid cell for descriptors
# Neighbors compared with each image: limits time and memory if thousands are near-duplicates.
_NEIGHBORS = 16
_BATCH = 1000

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
ReadRow = Callable[[int], NDArray[np.uint8]]
"""Function that returns the image of an index, uint8 [H, W, C]."""


def group_near_duplicates(
    read: ReadRow,
    hashes: Sequence[bytes],
    keys: Sequence[Hashable] | None = None,
    workers: int = -1,
) -> NDArray[np.int64]:
    """Return groups of near-duplicates, copies and images with equal keys.

    Two images are near-duplicates if :func:`image_difference` is at most 0.12 and
    :func:`window_difference` is at most 0.5, for the second image or its mirror image. Two images
    are in one group if a chain of such pairs connects them. Groups depend on contents and keys
    only, not on the order. Each image is compared with at most 15 neighbors. Of images that differ
    by at most 0.01 and 0.05, only one is compared with the others. Memory holds about 1.2 kB per
    image.

    Args:
        read: returns the image of an index.
        hashes: hash of each image's bytes.
        keys: key of each image, for example the photograph that a face was cropped from; ``None``
            for an image without a key.
        workers: number of threads; -1 for one per core.

    Returns:
        The group of each image, int64 [N], counted from 0.
    """
    distinct, contents = _distinct(hashes)
    sets = _DisjointSets(len(distinct))
    _join_keys(sets, keys or (), contents.tolist())
    _join_near_duplicates(sets, lambda number: read(int(distinct[number])), workers)
    roots = np.array([sets.root(number) for number in range(len(distinct))])
    numbers = np.unique(roots, return_inverse=True)[1]
    return np.asarray(numbers[contents], np.int64)


def describe_images(images: Iterable[NDArray[np.uint8]]) -> Floats:
    """Return descriptors of images, uint8 [H, W, C] each, as float64 [N, 24 + C].

    A descriptor has 24 low frequencies and the color. These are orthonormal coordinates of
    normalized thumbnails: the distance of two descriptors is at most :func:`image_difference`.
    """
    thumbnails = _normalize(np.stack([_thumbnail(image) for image in images]))
    count, channels = len(thumbnails), thumbnails.shape[3]
    gray = thumbnails.sum(axis=3) / np.sqrt(channels)
    frequencies = (_COSINES @ gray @ _COSINES.T).reshape(count, -1)[:, 1:]
    return np.hstack([frequencies, thumbnails.sum(axis=(1, 2)) / _SIDE])


def _cosines() -> Floats:
    """Return the rows of lowest frequency of the orthonormal discrete cosine transform (DCT-II)."""
    angles = np.pi * (np.arange(_SIDE) + 0.5) * np.arange(_FREQUENCIES)[:, None] / _SIDE
    rows = np.cos(angles) * np.sqrt(2 / _SIDE)
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


def _join_keys(sets: _DisjointSets, keys: Sequence[Hashable], contents: list[int]) -> None:
    first: dict[Hashable, int] = {}
    for key, content in zip(keys, contents, strict=bool(keys)):
        if key is not None:
            sets.join(first.setdefault(key, content), content)


def _descriptors(read: ReadRow, count: int) -> NDArray[np.float32]:
    """Return the descriptors of all images; float32 halves the memory."""
    batches = [range(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]
    return np.concatenate(
        [describe_images(map(read, batch)).astype(np.float32) for batch in batches]
    )


def _join_near_duplicates(sets: _DisjointSets, read: ReadRow, workers: int) -> None:
    """Join the sets of near-duplicates among distinct images."""
    descriptors = _descriptors(read, len(sets))

    def join_near(first: int, second: int, mirrored: bool) -> None:
        # In a large group, most pairs are connected already and need no comparison.
        if sets.root(first) != sets.root(second):
            other = read(second)
            if _agree(read(first), other[:, ::-1] if mirrored else other, _SAME, _SAME_WINDOW):
                sets.join(first, second)

    indices = _indices_to_search(sets, read, descriptors)
    points = descriptors[indices]
    for mirrored in (False, True):
        for first, second in _close_pairs(points, mirrored, workers):
            join_near(int(indices[first]), int(indices[second]), mirrored)


def _indices_to_search(
    sets: _DisjointSets, read: ReadRow, descriptors: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the indices of images to search for, and join the other images to one of them.

    Thousands of nearly equal descriptors would take quadratic time in a tree. Therefore only the
    first of nearly equal images in one cell of a grid is searched for. Images that differ more can
    have near-duplicates that the first does not have.
    """
    cells = np.round(descriptors / _CELL).astype(np.int16)
    _, firsts, numbers = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    indices = []
    for index, first in enumerate(firsts[numbers.ravel()].tolist()):
        if index != first and _agree(read(first), read(index), _EQUAL, _EQUAL_WINDOW):
            sets.join(first, index)
        else:
            indices.append(index)
    return np.array(indices, np.int64)


def _close_pairs(
    points: NDArray[np.float32], mirrored: bool, workers: int
) -> Iterator[tuple[int, int]]:
    """Yield every pair of indices of close descriptors once, sorted.

    Args:
        points: descriptors, [N, D].
        mirrored: compare the mirror image of each image with the other images.
        workers: number of threads; -1 for one per core.
    """
    from scipy.spatial import KDTree

    # A tree along the principal axes separates points earlier: half the time for digits.
    axes = np.linalg.eigh((points.T @ points).astype(np.float64))[1][:, ::-1]
    tree = KDTree(points @ axes)
    found = []
    for start in range(0, len(points), _BATCH):
        batch = points[start : start + _BATCH].astype(np.float64)
        queries = (_mirrored(batch) if mirrored else batch) @ axes
        near = tree.query(queries, _NEIGHBORS, distance_upper_bound=_SAME, workers=workers)[1]
        rows, columns = np.nonzero(near < len(points))  # len(points) marks a missing neighbor
        pairs = np.stack([rows + start, near[rows, columns]], axis=1).astype(np.int32)
        found.append(pairs[pairs[:, 0] != pairs[:, 1]])
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    yield from zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), strict=True)


def image_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the Euclidean distance of two thumbnails of equal brightness and contrast."""
    first, second = (_normalize(_thumbnail(image)[None]) for image in (one, other))
    return float(np.linalg.norm(first - second))


def window_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the largest difference of two images in any window, from 0 to 2.

    The side of a window is an eighth of the image's side. The difference is 1 minus the structural
    term of SSIM: 0 if both images vary equally around their means, 1 if they are uncorrelated or
    only one of them varies.
    """
    first, second = _details(one), _details(other)
    scales = [max(float(image.std()), _MIN_CONTRAST) for image in (first, second)]
    # Scale both images to the geometric mean of their contrasts.
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
    """Return an image, reduced to at most 64×64, blurred and centered, float32 [H, W, C]."""
    side = min(_MAX_WINDOWS_SIDE, *image.shape[:2])
    pixels = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(pixels, (3, 3), 0).reshape(side, side, -1)
    return np.asarray(blurred - blurred.mean(), np.float32)


def _agree(
    one: NDArray[np.uint8], other: NDArray[np.uint8], limit: float, window_limit: float
) -> bool:
    return image_difference(one, other) <= limit and window_difference(one, other) <= window_limit


def _normalize(thumbnails: Floats) -> Floats:
    """Subtract each thumbnail's mean and divide the result by its norm."""
    axes = tuple(range(1, thumbnails.ndim))
    centered = thumbnails - thumbnails.mean(axes, keepdims=True)
    contrasts = np.maximum(centered.std(axes, keepdims=True), _MIN_CONTRAST)
    return np.asarray(centered / (contrasts * np.sqrt(centered[0].size)), np.float64)


def _thumbnail(image: NDArray[np.uint8]) -> Floats:
    """Return the thumbnail of an image, float64 [_SIDE, _SIDE, C].

    It is computed in floats, because the rounding of integers depends on the processor.
    """
    small = cv2.resize(image.astype(np.float32), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float64).reshape(_SIDE, _SIDE, -1)
