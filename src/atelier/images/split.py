"""Split of images into training, validation and test, by groups that are never divided."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Places of the images of each set, each in increasing order."""

    training: list[int]
    validation: list[int]
    test: list[int]


def share_of(share: float, count: int) -> int:
    """Return a share of so many images, rounded down.

    The share is taken as it is written, not as a float holds it: 0.29 of 100 images is 29.
    """
    return int(Fraction(str(share)) * count)


def split(
    groups: NDArray[np.int64], hashes: Sequence[bytes], validation: float, test: float
) -> Split:
    """Choose a validation and a test set of at most these shares; the rest is for training.

    Groups are taken in the order of their hash, a SHA-256 of the hashes of their images: the
    choice needs no seed and does not depend on names or order. A group that is larger than the
    room left in a set is skipped. The test set is chosen first, so that it does not depend on
    ``validation``.

    Args:
        groups: of each image, int64 [N].
        hashes: of each image's bytes.
        validation: from 0 to 1.
        test: from 0 to 1; both together less than 1.
    """
    members = defaultdict(list)
    for place, number in enumerate(groups.tolist()):
        members[number].append(place)
    ranked = sorted(members.values(), key=lambda places: _hash([hashes[i] for i in places]))
    chosen: list[list[int]] = []
    for share in (test, validation):
        room = min(share_of(share, len(groups)), sum(map(len, ranked)) - 1)  # one for training
        taken, rest = [], []
        for places in ranked:
            if len(places) <= room:
                room -= len(places)
                taken += places
            else:
                rest.append(places)
        ranked = rest
        chosen.append(sorted(taken))
    return Split(sorted(place for places in ranked for place in places), chosen[1], chosen[0])


def _hash(hashes: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"".join(sorted(set(hashes)))).digest()
