"""Metrics of nearest neighbors: precision, recall, density, coverage and memorization."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBORS = 5  # as Naeem et al. 2020 recommend
# Rows and entries of a block of the distance matrix; both bound the memory.
_BLOCK_ROWS = 1024
_BLOCK_DISTANCES = 2**25
_RARE_PERCENT = 1


@dataclass(frozen=True)
class PRDC:
    """Precision, recall, density and coverage of generated images.

    Attributes:
        precision: fraction of generated images inside the neighborhoods of real ones.
        recall: fraction of real images inside the neighborhoods of generated ones.
        density: mean number of real neighborhoods around a generated image, divided by the number
            of neighbors; about 1 for equal distributions.
        coverage: fraction of real images with a generated one inside their neighborhood.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall_density_coverage(real: Tensor, generated: Tensor) -> PRDC:
    """Compute precision, recall, density and coverage of two sets of features.

    The neighborhood of an image is a ball that reaches to its fifth neighbor in its own set.
    Precision and recall:
    Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative
    models". Density and coverage: Naeem et al. 2020, "Reliable fidelity and diversity metrics for
    generative models".

    Args:
        real: [N, D] float features, N above 5.
        generated: [M, D] float features, M above 5.
    """
    real_radii, generated_radii = _radii(real), _radii(generated)
    neighborhoods = torch.zeros(len(generated), dtype=torch.float64)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for start, distances in _distances(generated, real):
        inside = distances <= real_radii
        neighborhoods[start : start + len(inside)] = inside.sum(dim=1).double()
        covered |= inside.any(dim=0)
    recalled = [
        (distances <= generated_radii).any(dim=1) for _, distances in _distances(real, generated)
    ]
    return PRDC(
        precision=float((neighborhoods > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(neighborhoods.mean()) / NEIGHBORS,
        coverage=float(covered.double().mean()),
    )


@dataclass(frozen=True)
class Nearest:
    """Nearest neighbors of N images in another set.

    Attributes:
        index: int64 [N], index of the neighbor in that set.
        distance: [N], distance to the neighbor.
        mirrored: bool [N], true if the neighbor is that of the image's mirror image.
    """

    index: Tensor
    distance: Tensor
    mirrored: Tensor

    def or_mirrored(self, of_mirror: "Nearest") -> "Nearest":
        """Return the nearer neighbor of each image: its own, or that of its mirror image."""
        mirrored = of_mirror.distance < self.distance
        return Nearest(
            torch.where(mirrored, of_mirror.index, self.index),
            torch.minimum(of_mirror.distance, self.distance),
            mirrored,
        )


def nearest_pairs(features: Tensor, among: Tensor, exclude_self: bool = False) -> Nearest:
    """Find the nearest of ``among`` for each of ``features``.

    Args:
        features: float [N, D].
        among: float [M, D].
        exclude_self: true if ``features`` are those of the first N of ``among``, or of their
            mirror images, and an image is not its own neighbor.
    """
    blocks = []
    for start, distances in _distances(features, among):
        if exclude_self:
            rows = torch.arange(len(distances))
            distances[rows, rows + start] = torch.inf
        blocks.append(distances.min(dim=1))
    index = torch.cat([block.indices for block in blocks])
    distance = torch.cat([block.values for block in blocks])
    return Nearest(index, distance, torch.zeros(len(index), dtype=torch.bool))


def memorized_fraction(generated: Nearest, others: Nearest) -> float:
    """Return the fraction of generated images that are unusually near to the training images.

    They are nearer than about 99% of other real images: nearer than the k-th nearest of these,
    see :func:`expected_memorized_fraction`. It is 1 for a generator that copies training images.

    Args:
        generated: nearest training images of generated images.
        others: nearest training images of real images that were not used for training.
    """
    threshold = others.distance.sort().values[_rank(len(others.distance)) - 1]
    return float((generated.distance < threshold).double().mean())


def expected_memorized_fraction(count: int) -> float:
    """Return the expectation of :func:`memorized_fraction` for a perfect generator.

    If generated images have the distribution of real ones, the distance of a generated image lies
    in each of the n + 1 gaps between the distances of n real images with equal probability. It is
    below the k-th smallest with probability k / (n + 1) for every distribution; k is 0.01 (n + 1)
    rounded down, but at least 1. The expectation is 0.01 for 99 or 199 real images, 0.0099 for
    100, and 0.059 for 16.

    Args:
        count: n, the number of real images, at least 1.
    """
    return _rank(count) / (count + 1)


def _rank(count: int) -> int:
    return max(1, (count + 1) * _RARE_PERCENT // 100)


def _radii(features: Tensor) -> Tensor:
    # The nearest one is the image itself.
    return torch.cat(
        [d.kthvalue(NEIGHBORS + 1, dim=1).values for _, d in _distances(features, features)]
    )


def _distances(features: Tensor, others: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of the distance matrix [N, M]: the first row, and distances [rows, M]."""
    others = others.double()
    rows = max(1, min(_BLOCK_ROWS, _BLOCK_DISTANCES // len(others)))
    for start in range(0, len(features), rows):
        yield start, torch.cdist(features[start : start + rows].double(), others)
