"""Grid of stylized images: a row for each content, and a column for each style."""

import numpy as np

from atelier.figures.contact_sheet import SheetRow, style_grid

from ..support.arrays import uniform_image

CONTENTS = {"ann": (250, 0, 0), "bob": (0, 250, 0)}
STYLES = {"sky": (0, 0, 250), "wave": (250, 250, 0), "glass": (0, 250, 250)}


def mean_color(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple((x + y) // 2 for x, y in zip(a, b, strict=True))


def rows(omitted: tuple[str, str] | None = None) -> list[tuple[SheetRow, SheetRow, SheetRow]]:
    return [
        (
            (uniform_image(256, 256, a), content),
            (uniform_image(256, 256, b), style),
            (uniform_image(256, 256, mean_color(a, b)), f"{content}-{style}"),
        )
        for content, a in CONTENTS.items()
        for style, b in STYLES.items()
        if (content, style) != omitted
    ]


def center(grid: np.ndarray, color: tuple[int, ...]) -> tuple[float, float]:
    positions = np.argwhere((np.abs(grid.astype(int) - color) < 3).all(axis=2))
    assert len(positions) > 1000, color
    return tuple(positions.mean(axis=0))


def test_image_is_in_the_row_of_its_content_and_the_column_of_its_style() -> None:
    grid = style_grid(rows())
    assert grid is not None
    styles = {name: center(grid, color) for name, color in STYLES.items()}
    contents = {name: center(grid, color) for name, color in CONTENTS.items()}
    assert styles["sky"][1] < styles["wave"][1] < styles["glass"][1]
    assert contents["ann"][0] < contents["bob"][0]
    for content, a in CONTENTS.items():
        for style, b in STYLES.items():
            y, x = center(grid, mean_color(a, b))
            assert abs(x - styles[style][1]) < 2
            assert abs(y - contents[content][0]) < 40, "the content has a caption below it"


def test_grid_requires_all_combinations() -> None:
    assert style_grid(rows(omitted=("bob", "wave"))) is None
    assert style_grid([row for row in rows() if row[1][1] == "sky"]) is None
