"""The notebook of the library runs from the first to the last cell."""

import io
import json
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SMALL = {"FACES": 96, "EPOCHS": 4, "ITERATIONS": 6}


@pytest.fixture(scope="module")
def names(root: Path) -> dict[str, Any]:
    """Run the code cells on little data; return their names, and the text as ``printed``."""
    notebook = json.loads((root / "examples/quickstart.ipynb").read_text("utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with chdir(root / "examples"), redirect_stdout(printed):  # as Jupyter does
        for number, cell in enumerate(cells):
            exec(compile(cell, f"cell {number}", "exec"), names)
            names |= SMALL if number == 0 else {}
    return names | {"printed": printed.getvalue()}


def test_notebook_has_no_outputs(root: Path) -> None:
    notebook = json.loads((root / "examples/quickstart.ipynb").read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    first = "".join(code[0]["source"])
    assert all(f"{name} = " in first for name in SMALL), "the test replaces these values"


def test_generator_learns_and_returns_images(names: dict[str, Any]) -> None:
    assert names["faces"].shape == (96, 32, 32, 3)
    assert names["held_out"].shape == (16, 32, 32, 3)
    assert names["generated"].shape == (16, 32, 32, 3)
    assert names["generated"].dtype == np.uint8
    qualities = list(names["result"].history.qualities().values())
    assert len(qualities) >= 2
    assert qualities[-1] < qualities[0], "the KID falls"
    assert names["printed"].count("KID") == len(qualities)


def test_style_transfer_lowers_the_loss(names: dict[str, Any]) -> None:
    stylized, losses = names["stylized"], names["losses"]
    assert stylized.pixels.shape == (128, 128, 3)
    assert stylized.name == "face-night_sky"
    assert len(losses) >= SMALL["ITERATIONS"]
    assert losses[-1] < 0.8 * losses[0]
