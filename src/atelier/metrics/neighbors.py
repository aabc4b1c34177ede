"""What the nearest neighbours of pictures say: fidelity, diversity, memorising."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBORS = 5  # as Naeem et al. 2020 recommend
_ROWS = 1024  # of a matrix of distances at a time, and how many distances; both bound the memory
_DISTANCES = 2**25
_RARE_PERCENT = 1


@dataclass(frozen=True)
class PRDC:
    """How far two sets of pictures lie in the same places.

    Attributes:
        precision: share of generated pictures that lie among the real ones.
        recall: share of real pictures that lie among the generated ones.
        density: how thick around the generated pictures the real ones lie; near 1 where alike.
        coverage: share of real pictures that have a generated one nearby.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall_density_coverage(real: Tensor, generated: Tensor) -> PRDC:
    """Compare the places of two sets of features, each picture with a ball around it.

    A ball reaches to the fifth neighbour in the picture's own set. Precision and recall:
    Kynkäänniemi et al. 2019, "Improved precision and recall metric for assessing generative
    models". Density and coverage: Naeem et al. 2020, "Reliable fidelity and diversity metrics for
    generative models".

    Args:
        real: [N, D] float features, N above 5.
        generated: [M, D] float features, M above 5.
    """
    of_real, of_generated = _radii(real), _radii(generated)
    around = torch.zeros(len(generated), dtype=torch.float64)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for start, distances in _distances(generated, real):
        inside = distances <= of_real
        around[start : start + len(inside)] = inside.sum(dim=1).double()
        covered |= inside.any(dim=0)
    recalled = [
        (distances <= of_generated).any(dim=1) for _, distances in _distances(real, generated)
    ]
    return PRDC(
        precision=float((around > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(around.mean()) / NEIGHBORS,
        coverage=float(covered.double().mean()),
    )


@dataclass(frozen=True)
class Nearest:
    """The nearest of a set of images for each image.

    Attributes:
        place: int64 [N], its place in that set.
        distance: [N], its distance.
        mirrored: bool [N], true if it is nearer to the image's mirror image than to the image.
    """

    place: Tensor
    distance: Tensor
    mirrored: Tensor

    def or_mirrored(self, of_mirror: "Nearest") -> "Nearest":
        """Take for each image the nearer of two: its own, and that of its mirror image."""
        mirrored = of_mirror.distance < self.distance
        return Nearest(
            torch.where(mirrored, of_mirror.place, self.place),
            torch.minimum(of_mirror.distance, self.distance),
            mirrored,
        )


def nearest_pairs(features: Tensor, among: Tensor, leave_itself_out: bool = False) -> Nearest:
    """Find for each of ``features``, [N, D], the nearest of ``among``, [M, D].

    Args:
        features: float.
        among: float.
        leave_itself_out: ``features`` are those of the first N of ``among``, or of their mirror
            images, and no image may find itself.
    """
    found = []
    for start, distances in _distances(features, among):
        if leave_itself_out:
            rows = torch.arange(len(distances))
            distances[rows, rows + start] = torch.inf
        found.append(distances.min(dim=1))
    place = torch.cat([f.indices for f in found])
    distance = torch.cat([f.values for f in found])
    return Nearest(place, distance, torch.zeros(len(place), dtype=torch.bool))


def memorised(generated: Nearest, others: Nearest) -> float:
    """Return the share of generated images that are nearer to the training than real ones are.

    Nearer than about 99% of real images that the training did not see: than the k-th nearest of
    these, see :func:`expected_memorised`. A generator that repeats what it saw comes to 1.
    """
    threshold = others.distance.sort().values[_rank(len(others.distance)) - 1]
    return float((generated.distance < threshold).double().mean())


def expected_memorised(count: int) -> float:
    """Return the expectation of :func:`memorised` for a generator that learned the distribution.

    The distance of a new image from the training is then as likely to lie in any of the n + 1
    gaps between the distances of n real ones. It is below the k-th smallest with probability
    k / (n + 1), whatever the distribution, where k is 0.01 (n + 1) rounded down, at least 1. So
    the expectation is 0.01 for 99 or 199 real images, 0.0099 for 100, and 0.059 for 16.

    Args:
        count: n, of real images, at least 1.
    """
    return _rank(count) / (count + 1)


def _rank(count: int) -> int:
    return max(1, (count + 1) * _RARE_PERCENT // 100)


def _radii(features: Tensor) -> Tensor:
    # The nearest of all is the picture itself.
    return torch.cat(
        [d.kthvalue(NEIGHBORS + 1, dim=1).values for _, d in _distances(features, features)]
    )


def _distances(these: Tensor, others: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the distances, [rows, M], of some rows at a time."""
    others = others.double()
    rows = max(1, min(_ROWS, _DISTANCES // len(others)))
    for start in range(0, len(these), rows):
        yield start, torch.cdist(these[start : start + rows].double(), others)
