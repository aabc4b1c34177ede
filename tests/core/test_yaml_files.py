"""Editing of YAML: other lines and comments stay."""

from pathlib import Path

import pytest

from atelier.core.yaml_files import document_text, parse_yaml, read_document, set_value

BLOCK = """\
train:
  lr: 1  # a
  augment:      # views of an image
  - color  # one
  # between
  - cutout
  size: 100
  flip: true
stylize:
  layers:  # of VGG19
    1: 2.0
    6: 1.0  # last

  # before
  next: 1
"""
ON_ONE_LINE = """\
train:
  lr: 1  # a
  augment: [x]  # views of an image
  size: 100
  flip: true
stylize:
  layers: {2: 1.0}  # of VGG19

  # before
  next: 1
"""


@pytest.mark.parametrize("comments", [True, False])
def test_value_on_several_lines_is_replaced_by_one_line(tmp_path: Path, comments: bool) -> None:
    """A list or mapping may be written with one item on a line, with or without comments."""

    def plain(text: str) -> str:
        lines = (line if comments else line.partition("#")[0] for line in text.splitlines())
        return "\n".join(" ".join(line.split()) for line in lines if comments or line.strip())

    (tmp_path / "params.yaml").write_text(BLOCK if comments else plain_block(), "utf-8")
    document = read_document(tmp_path / "params.yaml")
    set_value(document["train"], "augment", ["x"])
    set_value(document["stylize"], "layers", {2: 1.0})
    assert plain(document_text(document)) == plain(ON_ONE_LINE)
    assert parse_yaml(document_text(document))["train"] == {
        "lr": 1,
        "augment": ["x"],
        "size": 100,
        "flip": True,
    }


def plain_block() -> str:
    """Return the document without comments."""
    lines = (line.partition("#")[0].rstrip() for line in BLOCK.splitlines())
    return "\n".join(line for line in lines if line) + "\n"
