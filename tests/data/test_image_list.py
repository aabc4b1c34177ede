"""Lists of images: other versions of the program's, and damaged ones."""

from pathlib import Path

import pytest

from atelier.core.errors import AtelierError
from atelier.data.image_list import ImageEntry, read_image_list, write_image_list

ENTRIES = [
    ImageEntry("a.png", "1", 40, 48, name="a.png", set="test", index=0, group=2, side=40),
    ImageEntry("b.png", "2", 40, 48, name="b.png", set="dropped", group=2, side=40),
    ImageEntry("c.png", "3", 0, 0, reason="truncated"),
]
HEADER = "file,sha256,width,height,set,index,group,side"


def test_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_image_list(tmp_path / "images.csv", ENTRIES)
    assert read_image_list(tmp_path / "images.csv") == ENTRIES


def test_lists_of_other_versions_are_read(tmp_path: Path) -> None:
    """Columns that have a default may be missing, and others may be added."""
    path = tmp_path / "images.csv"
    path.write_text("height,width,file,sha256,color,set,index\n4,3,a,b,red,training,1\n")
    assert read_image_list(path) == [ImageEntry("a", "b", 3, 4, set="training", index=1)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file,sha256\na,b\n",
        "\xff",
        "file,sha256,width,height\na,b,c,4\n",
        "file,sha256,width,height\na,b,3\n",
        f"{HEADER}\na,b,3,4,dropped,0,1,3\n",
        f"{HEADER}\na,b,3,4,,0,-1,3\n",
        f"{HEADER}\na,b,3,4,training,-1,-1,3\n",
        f"{HEADER}\na,b,3,4,,-2,-1,3\n",
        f"{HEADER}\na,b,-3,4,test,0,-1,3\n",
        f"{HEADER}\na,b,3,-4,test,0,-1,3\n",
        f"{HEADER}\na,b,3,4,test,0,-1,-3\n",
        f"{HEADER}\na,b,3,4,drawer,-1,-1,3\n",
    ],
)
def test_damaged_list_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "images.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(
        AtelierError, match=r"images\.csv is damaged; run the convert stage again\."
    ):
        read_image_list(path)
    with pytest.raises(AtelierError, match=r"^the list of v1 is damaged; choose another version\."):
        read_image_list(path, "the list of v1")
    path.unlink()
    with pytest.raises(AtelierError, match=r"images\.csv does not exist; run the convert stage"):
        read_image_list(path)
