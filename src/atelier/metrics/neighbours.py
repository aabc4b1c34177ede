"""What the nearest neighbours of pictures say: fidelity, diversity, memorising."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOURS = 5  # as Naeem et al. 2020 recommend
_ROWS = 1024  # of a matrix of distances at a time; bounds the memory
_RARE = 0.01


@dataclass(frozen=True)
class Overlap:
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


def overlap(real: Tensor, generated: Tensor) -> Overlap:
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
    return Overlap(
        precision=float((around > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(around.mean()) / NEIGHBOURS,
        coverage=float(covered.double().mean()),
    )


@dataclass(frozen=True)
class Nearest:
    """For each picture the nearest of others: its place among them [N], and how far it is [N]."""

    place: Tensor
    distance: Tensor


def nearest(features: Tensor, among: Tensor, leave_itself_out: bool = False) -> Nearest:
    """Find for each of ``features``, [N, D], the nearest of ``among``, [M, D].

    Args:
        features: float.
        among: float.
        leave_itself_out: ``features`` are the first N of ``among``, and no picture is to find
            itself.
    """
    found = []
    for start, distances in _distances(features, among):
        if leave_itself_out:
            rows = torch.arange(len(distances))
            distances[rows, rows + start] = torch.inf
        found.append(distances.min(dim=1))
    return Nearest(torch.cat([f.indices for f in found]), torch.cat([f.values for f in found]))


def memorised(generated: Nearest, others: Nearest) -> float:
    """Tell the share of generated pictures that are nearer to the training than real ones are.

    Nearer than 99% of real pictures that the training did not see. A generator that learned the
    distribution comes to about 0.01, one that repeats what it saw to 1.
    """
    threshold = torch.quantile(others.distance, _RARE)
    return float((generated.distance < threshold).double().mean())


def _radii(features: Tensor) -> Tensor:
    # The nearest of all is the picture itself.
    return torch.cat(
        [d.kthvalue(NEIGHBOURS + 1, dim=1).values for _, d in _distances(features, features)]
    )


def _distances(these: Tensor, others: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the distances, [rows, M], of some rows at a time."""
    others = others.double()
    for start in range(0, len(these), _ROWS):
        yield start, torch.cdist(these[start : start + _ROWS].double(), others)
