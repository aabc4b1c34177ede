"""Advice of the report on the data if rows are faces."""

from dataclasses import replace

from atelier.data.image_list import ImageEntry
from atelier.data.rows import NO_FACE
from atelier.data_report.findings import DataSet, examine
from atelier.data_report.verdict import verdict

from ..support.arrays import random_images


def test_advice_on_faces_is_about_settings_and_photographs() -> None:
    faces = [
        ImageEntry(f"{n}.jpg", f"{n}", 640, 480, "", f"{n}.jpg#1", "training", n) for n in range(8)
    ]
    pixels = {"training": random_images(8, 16, 3)}
    landscapes = [ImageEntry(name, name, 64, 48, NO_FACE) for name in ("sea.jpg", "hill.jpg")]
    text = ImageEntry("notes.txt", "t", 0, 0, "not an image")
    found = replace(
        examine(DataSet([*faces, *landscapes, text], pixels)),
        outliers=[(faces[0], 2.0)],
        searched=8,
        blurred=[(faces[1], 0.0), (faces[2], 0.0)],
        enlarged=[(faces[1], 9.0)],
        dark=[(faces[3], 0.0)],
        groups=[[faces[4], faces[5]]],
        dropped=[faces[6]],
    )
    result = verdict(found, 64, faces=True)
    assert result.headline == "8 of 11 files are used, with 8 faces"
    remarks = {remark.name: (remark.text, remark.section) for remark in result.remarks}
    assert remarks == {
        "Number": ("8 faces. Add more, if you can.", ""),
        "Rejected": (
            "1 file. Read the reasons, and export or replace the files that you need.",
            "rejected",
        ),
        "Without a face": (
            "2 files. If you see faces in them, lower convert.smallest_face, or"
            " convert.face_confidence to 0.7.",
            "rejected",
        ),
        "Near-duplicates": (
            "1 face in 1 group repeats another one. The generator learns repeated faces better"
            " than others; remove the copies, or set convert.duplicates to drop.",
            "near-duplicates",
        ),
        "Dropped": (
            "1 near-duplicate, because another face of the group is used.",
            "near-duplicates",
        ),
        "Outliers": (
            "1 face is unlike the others. If some show no face, raise convert.face_confidence.",
            "outliers",
        ),
        "Blurred": (
            "2 faces are blurred. The generator learns the blur too. If blurred faces are small in"
            " their photographs, raise convert.smallest_face; else remove the photographs.",
            "blurred",
        ),
        "Enlarged": (
            "1 face is smaller than 64 × 64 pixels. To leave them out, raise"
            " convert.smallest_face; or choose a smaller convert.image_size.",
            "small-originals",
        ),
        "Dark, bright, empty": (
            "1 dark. Correct the brightness of such photographs, or remove them.",
            "brightness",
        ),
    }
