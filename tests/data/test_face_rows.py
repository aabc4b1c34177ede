"""Rows of faces: names, order, rejections, and equal bytes for any number of workers."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from atelier.core.download_settings import DownloadSettings
from atelier.core.errors import AtelierError
from atelier.core.hashing import file_digest
from atelier.core.progress import Progress
from atelier.core.settings import ConvertSettings
from atelier.data.convert import ConversionReport, convert
from atelier.data.dataset import load_images
from atelier.data.faces import extraction
from atelier.data.faces.extraction import find_faces, min_decoded_side
from atelier.data.faces.face import Face
from atelier.data.image_list import ImageEntry, read_image_list
from atelier.data.rows import ConvertedFile, convert_file
from atelier.data.skipped import summarize_skipped
from atelier.data.sources.download import download

from ..support.drawn_group import SEEDS, drawn_group, portrait
from ..support.image_files import saved
from ..support.images import stored_pixels

PLACES = [(10, 20, 150), (180, 10, 90), (290, 60, 190)]
Conversion = Callable[..., ConvertSettings]


@pytest.fixture
def settings(conversion: Conversion) -> Conversion:
    def make(**values: Any) -> ConvertSettings:
        return conversion(**{"image_size": 32, "faces": "align", **values})

    return make


@pytest.fixture(scope="module")
def group() -> Image.Image:
    return drawn_group((500, 320), PLACES)


def test_at_most_100_faces_are_used(settings: Conversion, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crowd:
        """A detector that finds 101 faces, the smallest of them first."""

        def detect(self, image: np.ndarray, smallest: float) -> list[Face]:
            eyes_and_mouth = np.array(
                [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]
            )
            return [
                Face(np.array([0.0, 0, side, side]), side * eyes_and_mouth, 1.0)
                for side in range(60, 161)
            ]

    monkeypatch.setattr(extraction, "_detector", lambda settings, weights: Crowd())
    found = find_faces(settings(), np.zeros((200, 200, 3), np.uint8))
    assert [face.size for face in found] == list(range(160, 60, -1))


def rows(file: ConvertedFile) -> np.ndarray:
    return np.stack([row.pixels for row in file.rows]).astype(int)


@pytest.mark.parametrize("faces", ["crop", "align"])
def test_every_face_is_a_row_and_the_largest_is_the_first(
    settings: Conversion, group: Image.Image, faces: str
) -> None:
    file = convert_file(settings(faces=faces), ("in/a.png", saved(group)))
    assert [row.name for row in file.rows] == ["in/a.png#1", "in/a.png#2", "in/a.png#3"]
    assert (file.width, file.height, file.reason) == (500, 320, "")
    portraits = [np.asarray(portrait(seed).resize((32, 32))).ravel() for seed in SEEDS[:3]]
    # A square around a face shows most of its portrait.
    similarity = np.corrcoef(rows(file).reshape(3, -1), portraits)[:3, 3:]
    assert similarity.argmax(axis=1).tolist() == [2, 0, 1]


def test_largest_face_keeps_its_name_and_pixels(settings: Conversion, group: Image.Image) -> None:
    member = ("a.png", saved(group))
    everything = convert_file(settings(), member)
    largest = convert_file(settings(faces_per_image="largest"), member)
    assert [row.name for row in largest.rows] == ["a.png#1"]
    assert np.array_equal(rows(largest)[0], rows(everything)[0])


def test_small_and_uncertain_faces_are_left_out(settings: Conversion, group: Image.Image) -> None:
    pixels = np.asarray(group)
    faces = find_faces(settings(), pixels)
    for changed, expected in (
        (settings(smallest_face=(faces[1].size + faces[2].size) / 640), 2),
        (settings(smallest_face=(faces[0].size + faces[1].size) / 640), 1),
        (settings(face_confidence=sorted(face.confidence for face in faces)[1]), 2),
        (settings(face_confidence=1.0), 0),
    ):
        assert len(find_faces(changed, pixels)) == expected


class FixedDetector:
    """Returns the same faces for every image."""

    def __init__(self, faces: list[Face]) -> None:
        self.faces = faces

    def detect(self, image: np.ndarray, smallest: float) -> list[Face]:
        return self.faces


def test_faces_with_implausible_landmarks_are_left_out(
    settings: Conversion, group: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The detector is replaced, because it returns no such face for any image of the tests."""
    pixels = np.asarray(group)
    face = find_faces(settings(), pixels)[0]
    center = face.landmarks.mean(axis=0)
    variants = {
        "as found": face.landmarks,
        "almost one point": center + (face.landmarks - center) / 100,
        "far apart": center + (face.landmarks - center) * 5,
        "eyes exchanged": face.landmarks[[1, 0, 2, 3, 4]],
    }
    for name, landmarks in variants.items():
        detector = FixedDetector([Face(face.box, landmarks, 1.0)])
        monkeypatch.setattr(extraction, "_detector", lambda *_, detector=detector: detector)
        assert len(find_faces(settings(), pixels)) == (name == "as found"), name


def test_margin_enlarges_the_crop(settings: Conversion, group: Image.Image) -> None:
    """Twice the square has the smaller one in its middle."""
    member = ("a.png", saved(group))
    narrow = convert_file(settings(faces="crop", face_margin=0.0), member)
    wide = convert_file(settings(faces="crop", face_margin=0.5, image_size=64), member)
    assert np.abs(rows(wide)[:, 16:48, 16:48] - rows(narrow)).mean() < 3
    pairs = zip(wide.rows, narrow.rows, strict=True)
    assert all(abs(large.side - 2 * small.side) <= 1 for large, small in pairs)


@pytest.mark.parametrize("orientation", [2, 3, 6])
def test_faces_of_a_rotated_file_are_those_of_the_upright_image(
    settings: Conversion, group: Image.Image, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(stored_pixels(np.asarray(group), orientation))
    rotated = convert_file(settings(), ("a.png", saved(stored, exif=exif)))
    upright = convert_file(settings(), ("a.png", saved(group)))
    assert np.array_equal(rows(rotated), rows(upright))


def test_grey_rows_are_the_luma_of_color_rows(settings: Conversion, group: Image.Image) -> None:
    color = convert_file(settings(), ("a.png", saved(group)))
    grey = convert_file(settings(color="grey"), ("a.png", saved(group)))
    assert rows(grey).shape == (3, 32, 32, 1)
    assert np.abs(rows(grey)[..., 0] - rows(color) @ [0.299, 0.587, 0.114]).max() < 2


def test_faces_of_arrays_equal_those_of_files(settings: Conversion, group: Image.Image) -> None:
    from_file = convert_file(settings(), ("a", saved(group)))
    from_array = convert_file(settings(), ("a", np.asarray(group)))
    assert np.array_equal(rows(from_file), rows(from_array))
    digit = np.asarray(drawn_group((90, 90), [(5, 5, 80)]).convert("L"))
    assert rows(convert_file(settings(color="grey"), ("a", digit))).shape == (1, 32, 32, 1)


def test_reduced_photograph_has_the_same_faces(settings: Conversion) -> None:
    """Faces are cut from a JPEG that was decoded at half of its size."""
    large = drawn_group((1800, 1300), [(100, 200, 700), (1100, 300, 500)])
    options = settings(image_size=64, max_megapixels=5, smallest_face=0.2)
    assert 325 < min_decoded_side(options, 128) <= 650
    from_jpeg = convert_file(options, ("a", saved(large, "JPEG", quality=95, subsampling=0)))
    from_array = convert_file(options, ("a", np.asarray(large)))
    assert (from_jpeg.width, from_jpeg.height) == (1800, 1300)
    assert np.abs(rows(from_jpeg) - rows(from_array)).mean() < 4
    sides = np.array([[row.side for row in file.rows] for file in (from_jpeg, from_array)])
    assert sides[0] == pytest.approx(sides[1], rel=0.02)
    assert 600 < sides[0][0] < 1100


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (200, 100)])
def test_image_without_a_face_is_rejected(settings: Conversion, size: tuple[int, int]) -> None:
    file = convert_file(settings(), ("a.png", saved(Image.new("RGB", size, "teal"))))
    assert (file.rows, file.reason) == ((), "an image without a face")
    assert (file.width, file.height, len(file.sha256)) == (*size, 64)


@pytest.fixture
def raw(tmp_path: Path, source: Callable[..., DownloadSettings]) -> Path:
    """Return raw images with 3, 0, 1, 2 and 0 faces, and a file that is not an image."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    groups = [PLACES, [], PLACES[:1], [(30, 40, 110), (300, 90, 160)], []]
    for number, places in enumerate(groups):
        saved_as = ("JPEG", "PNG")[number % 2]
        data = saved(drawn_group((480, 300), places), saved_as)
        (folder / f"{number}.{saved_as.lower()}").write_bytes(data)
    (folder / "page.jpg").write_bytes(b"<html>")
    download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
    return tmp_path / "raw"


@pytest.fixture
def listed(
    tmp_path: Path, source: Callable[..., DownloadSettings]
) -> Callable[[list[Image.Image], ConvertSettings], list[ImageEntry]]:
    """Return a function that converts images and returns the list of their rows."""

    def convert_all(images: list[Image.Image], options: ConvertSettings) -> list[ImageEntry]:
        folder = tmp_path / "photographs"
        folder.mkdir()
        for number, image in enumerate(images):
            image.save(folder / f"{number}.png")
        download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
        convert(options, tmp_path / "raw", tmp_path / "images.npz")
        return read_image_list(tmp_path / "images.csv")

    return convert_all


def test_faces_of_one_photograph_are_in_one_set(
    settings: Conversion, listed: Callable[..., list[ImageEntry]]
) -> None:
    places = [(10, 20, 150), (290, 60, 190)]
    images = [drawn_group((500, 320), places, seeds=SEEDS[i : i + 2]) for i in (0, 2, 4)]
    entries = listed(images, settings(validation_fraction=0.34, test_fraction=0.34))
    assert [entry.set for entry in entries[::2]] == [entry.set for entry in entries[1::2]]
    assert {entry.set for entry in entries} == {"training", "validation", "test"}
    assert {entry.group for entry in entries} == {-1}


def compressed(image: Image.Image) -> Image.Image:
    """Return a mirrored copy at half size, strongly compressed."""
    small = ImageOps.mirror(image.resize((image.width // 2, image.height // 2)))
    return Image.open(BytesIO(saved(small, "JPEG", quality=30)))


def dotted(image: Image.Image, places: list[tuple[int, int, int]]) -> Image.Image:
    """Return a copy with a green dot on every face, which is invisible in an overview."""
    copy = image.copy()
    for left, top, side in places:
        x, y = left + 0.3 * side, top + 0.62 * side
        ImageDraw.Draw(copy).ellipse((x - 4, y - 4, x + 4, y + 4), fill="green")
    return copy


def test_dropped_faces_are_those_of_the_worse_copies_of_a_photograph(
    settings: Conversion, listed: Callable[..., list[ImageEntry]]
) -> None:
    """The rows of the dotted copy are no near-duplicates, but its faces are at the same places."""
    places = [(10, 20, 150), (290, 60, 190)]
    image = drawn_group((500, 320), places)
    other = drawn_group((320, 300), [(60, 50, 190)], seeds=SEEDS[4:])
    images = [compressed(image), image, other, dotted(image.resize((498, 318)), places)]
    entries = listed(images, settings(image_size=64, duplicates="drop"))
    used = [entry.name for entry in entries if entry.set != "dropped"]
    assert used == ["mine/1.png#1", "mine/1.png#2", "mine/2.png#1"]
    groups = {entry.name: entry.group for entry in entries}
    assert groups["mine/2.png#1"] == -1
    largest, smaller = ({groups[f"mine/{copy}.png#{n}"] for copy in (0, 1, 3)} for n in (1, 2))
    assert len(largest) == len(smaller) == 1
    assert not {-1, *largest} & smaller


def test_photographs_with_a_common_face_are_in_one_set_but_keep_their_other_faces(
    settings: Conversion, listed: Callable[..., list[ImageEntry]]
) -> None:
    """Alone, the second photograph would be in another set than the first."""
    images = [
        drawn_group((500, 320), [(10, 20, 150), (290, 60, 190)], seeds=SEEDS[:2]),
        drawn_group((480, 300), [(240, 30, 200), (20, 90, 170)], seeds=SEEDS[1:3]),
        drawn_group((500, 320), [(10, 20, 150), (290, 60, 190)], seeds=SEEDS[3:5]),
    ]
    options = settings(validation_fraction=0.34, test_fraction=0.34)
    entries = listed(images, options)
    assert [entry.group >= 0 for entry in entries] == [True, False, True, False, False, False]
    assert entries[0].group == entries[2].group
    assert len({entry.set for entry in entries[:4]}) == 1
    assert entries[4].set == entries[5].set != entries[0].set


def test_dropped_duplicate_is_the_smaller_face_not_that_of_the_smaller_file(
    settings: Conversion, listed: Callable[..., list[ImageEntry]]
) -> None:
    images = [
        drawn_group((900, 700), [(310, 210, 130)]),
        drawn_group((330, 330), [(30, 40, 260)]),
    ]
    options = settings(image_size=64, faces="crop", face_margin=0.0, duplicates="drop")
    small, large = listed(images, options)
    assert (small.set, large.set) == ("dropped", "training")
    assert small.side < large.side


def test_bytes_do_not_depend_on_workers(tmp_path: Path, raw: Path, settings: Conversion) -> None:
    results = []
    for workers in (1, 2, 5):
        target = tmp_path / str(workers) / "images.npz"
        target.parent.mkdir()
        report = convert(settings(), raw, target, workers)
        files = (target, target.with_name("images.csv"))
        results.append((report, *(file_digest(file) for file in files)))
    assert results[0] == results[1] == results[2]


def test_report_counts_faces_and_images_without_a_face(
    tmp_path: Path, raw: Path, settings: Conversion
) -> None:
    progress: list[Progress] = []
    report = convert(settings(), raw, tmp_path / "images.npz", 2, progress.append)
    assert (report.found, report.used, report.accepted, report.without_face) == (6, 3, 6, 2)
    assert progress[-1] == Progress(6, 6, "3 rejected")
    details = report.details()
    assert (details["images_with_faces"], details["images_without_face"]) == (3, 2)
    assert report.warnings(settings()) == []
    line = summarize_skipped(
        report.accepted, report.noun, [reason for _, reason in report.rejected], Path("x.json")
    )
    assert line == (
        "6 faces in 3 images, 3 skipped (2 images without a face, 1 not an image):"
        " x.json lists them"
    )
    names = load_images(tmp_path / "images.npz").names.tolist()
    entries = read_image_list(tmp_path / "images.csv")
    assert [entry.name for entry in entries if entry.name] == names
    assert [entry.file for entry in entries if entry.name] == [
        name.rpartition("#")[0] for name in names
    ]
    rejected = {entry.file: entry.reason for entry in entries if entry.reason}
    assert rejected["mine/1.png"] == rejected["mine/4.jpeg"] == "an image without a face"


def test_turned_face_in_another_photograph_is_a_near_duplicate(
    settings: Conversion, listed: Callable[..., list[ImageEntry]]
) -> None:
    group = drawn_group((500, 320), [(10, 20, 150), (290, 60, 190)])
    alone = drawn_group((320, 300), [(60, 50, 190)], seeds=SEEDS[1:2]).rotate(4)
    entries = listed([group, alone], settings(faces="crop", image_size=64))
    assert [entry.group >= 0 for entry in entries] == [True, False, True]


def test_warning_of_a_small_set_names_the_faces_of_one_photograph(
    tmp_path: Path, source: Callable[..., DownloadSettings], settings: Conversion
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    drawn_group((500, 320), PLACES).save(folder / "a.png")
    drawn_group((320, 300), [(60, 50, 190)], seeds=SEEDS[4:]).save(folder / "b.png")
    download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
    options = settings(validation_fraction=0.49, test_fraction=0.5)
    report = convert(options, tmp_path / "raw", tmp_path / "images.npz")
    assert (report.training, report.validation, report.test) == (3, 0, 1)
    assert report.warnings(options) == [
        "the validation set has 0 of 1 faces, because 3 of the 4 faces are of one photograph, its"
        " copies or others with its faces and stay in one set; add different photographs."
    ]


def test_photographs_of_dropped_faces_do_not_count(
    settings: Conversion,
    group: Image.Image,
    tmp_path: Path,
    source: Callable[..., DownloadSettings],
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    group.save(folder / "a.png")
    group.save(folder / "b.png")
    download(source("folder", mine=str(folder)), tmp_path / "raw", tmp_path / "s")
    for duplicates, noun in (("keep", "faces in 2 images"), ("drop", "faces in 1 image")):
        report = convert(settings(duplicates=duplicates), tmp_path / "raw", tmp_path / "images.npz")
        assert report.noun == noun
        assert report.used == 2


def test_few_images_with_a_face_give_a_warning(settings: Conversion) -> None:
    def warnings(used: int, without_face: int) -> list[str]:
        rejected = (("a", "an image without a face"),) * without_face + (("b", "truncated"),) * 9
        report = ConversionReport(
            found=used + len(rejected), accepted=3 * used, training=3 * used, validation=0, test=0,
            groups=0, largest_group=1, rejected=rejected, has_faces=True,
        )  # fmt: skip
        return report.warnings(settings())

    assert warnings(5, 5) == []
    (message,) = warnings(4, 5)
    assert message.startswith("no face was found in 5 of 9 images; look at some of them")


def test_no_face_at_all_is_an_error(tmp_path: Path, raw: Path, settings: Conversion) -> None:
    with pytest.raises(AtelierError, match="no face was found in 5 images; lower"):
        convert(settings(face_confidence=1.0, smallest_face=0.9), raw, tmp_path / "images.npz")
    assert not (tmp_path / "images.npz").exists()
