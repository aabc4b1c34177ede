"""Outliers: images whose features are far from those of all others."""

import numpy as np
from numpy.typing import NDArray

NEIGHBORS = 10
"""Nearest neighbors of each image; fewer similar outliers than this are found."""
FAR = 1.5
"""An outlier is farther from its neighbors than the median of all images by this factor.

Of 200 CelebA faces, the farthest has 1.43; other pictures among them have 1.4 to 2.1.
"""
_MIN_IMAGES = 20  # the median of fewer images is too uncertain
_BATCH = 1000


def outlier_scores(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each image's mean distance from its nearest neighbors, relative to the median.

    Features are compared by Hellinger's distance: their square roots, scaled to length 1. It is
    not dominated by the few largest features.

    Args:
        features: not negative, as after a ReLU, [N, D].

    Returns:
        float64 [N]: 1 is usual, more than :data:`FAR` an outlier. All are 1 for few images.
    """
    count = len(features)
    if count < _MIN_IMAGES:
        return np.ones(count)
    roots = np.sqrt(features.astype(np.float64))
    points = roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-12)
    distances = np.concatenate(
        [_mean_distances(points, start) for start in range(0, count, _BATCH)]
    )
    median = float(np.median(distances))
    return distances / median if median > 0 else np.ones(count)


def _mean_distances(points: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    """Return the mean distances of a batch of points from their nearest other points."""
    batch = points[start : start + _BATCH]
    # Points have length 1, so that the squared distance is 2 - 2 cos.
    squares = np.maximum(2 - 2 * batch @ points.T, 0)
    squares[np.arange(len(batch)), np.arange(start, start + len(batch))] = np.inf
    nearest = np.partition(squares, NEIGHBORS - 1, axis=1)[:, :NEIGHBORS]
    return np.asarray(np.sqrt(nearest).mean(axis=1))
