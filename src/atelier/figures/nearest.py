"""Figure of generated images and their nearest training images."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atelier.figures.captions import IMAGES_NOT_SHARED, caption
from atelier.figures.montage import Images, montage, side_by_side, whole_tile

_COLUMNS = 4
_COLUMNS_OF_DISTANCES = 6
_DISTANCE_HEIGHT = 20

Floats = NDArray[np.float32]


def nearest_figure(
    generated: Images, distances: Sequence[float] | Floats, neighbors: Images | None
) -> NDArray[np.uint8]:
    """Return generated images next to their nearest training images, uint8 [h, w, 3].

    Args:
        generated: at least one image.
        distances: from the nearest training image, one for each image.
        neighbors: the nearest training images. Without them, the figure has the distances.
    """
    tile = whole_tile(generated[0].shape[0])
    if neighbors is None:
        return _with_distances(generated, distances, tile)
    titles = ("Generated", "Nearest in the training")
    return side_by_side(generated, neighbors, titles, _COLUMNS, tile)


def _with_distances(
    generated: Images, distances: Sequence[float] | Floats, tile: int
) -> NDArray[np.uint8]:
    rows = []
    for start in range(0, len(generated), _COLUMNS_OF_DISTANCES):
        part = slice(start, start + _COLUMNS_OF_DISTANCES)
        texts = [f"{distance:.3g}" for distance in distances[part]]
        texts += [""] * (_COLUMNS_OF_DISTANCES - len(texts))
        rows.append(montage(generated[part], _COLUMNS_OF_DISTANCES, tile))
        rows.append(np.hstack([caption(text, tile, _DISTANCE_HEIGHT) for text in texts]))
    titles = ("Generated, with distances from the nearest training image", IMAGES_NOT_SHARED)
    return np.vstack([*(caption(title, rows[0].shape[1]) for title in titles), *rows])
