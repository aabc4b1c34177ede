"""The grid of stylized images: contents down, styles across, each in its own cell."""

import numpy as np

from atelier.figures.contact_sheet import SheetRow, style_grid

CONTENTS = {"ann": (250, 0, 0), "bob": (0, 250, 0)}
STYLES = {"sky": (0, 0, 250), "wave": (250, 250, 0), "glass": (0, 250, 250)}


def flat(color: tuple[int, ...], height: int = 256, width: int = 256) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def rows(skip: tuple[str, str] | None = None) -> list[tuple[SheetRow, SheetRow, SheetRow]]:
    return [
        (
            (flat(a), content),
            (flat(b), style),
            (flat(tuple((x + y) // 2 for x, y in zip(a, b, strict=True))), f"{content}-{style}"),
        )
        for content, a in CONTENTS.items()
        for style, b in STYLES.items()
        if (content, style) != skip
    ]


def middle(grid: np.ndarray, color: tuple[int, ...]) -> tuple[float, float]:
    places = np.argwhere((np.abs(grid.astype(int) - color) < 3).all(axis=2))
    assert len(places) > 1000, color
    return tuple(places.mean(axis=0))


def test_every_image_lies_in_the_row_of_its_content_and_the_column_of_its_style() -> None:
    grid = style_grid(rows())
    assert grid is not None
    styles = {name: middle(grid, color) for name, color in STYLES.items()}
    contents = {name: middle(grid, color) for name, color in CONTENTS.items()}
    assert styles["sky"][1] < styles["wave"][1] < styles["glass"][1]
    assert contents["ann"][0] < contents["bob"][0]
    for content, a in CONTENTS.items():
        for style, b in STYLES.items():
            y, x = middle(grid, tuple((p + q) // 2 for p, q in zip(a, b, strict=True)))
            assert abs(x - styles[style][1]) < 2
            assert abs(y - contents[content][0]) < 40, "the content has a caption below it"


def test_without_all_combinations_there_is_no_grid() -> None:
    assert style_grid(rows(skip=("bob", "wave"))) is None
    assert style_grid([row for row in rows() if row[1][1] == "sky"]) is None
