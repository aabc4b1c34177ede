"""Content of the report page from the outputs of the other stages."""

import ast
import base64
import importlib.util
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
import pytest
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.core.settings import Settings, check
from atelier.figures.montage import save_png
from atelier.figures.nearest import nearest_figure
from atelier.report.build import build_page
from atelier.report.page import Page, write_page

from ..support.arrays import random_images
from ..support.pipeline_outputs import EVALUATION, Outputs, sample_settings


def build(outputs: Outputs, root: Path, settings: Settings | None = None) -> Page:
    settings = settings or sample_settings(root)
    return build_page(settings, settings.model_dump(), outputs.results, outputs.presets)


def changed_settings(root: Path, **sections: dict[str, Any]) -> Settings:
    values = sample_settings(root).model_dump()
    for section, changes in sections.items():
        values[section] |= changes
    return check(values, "params.yaml")


def test_title_has_data_and_preset(outputs: Outputs, root: Path) -> None:
    assert build(outputs, root).title == "Sample data, preset sample"
    own = changed_settings(
        root,
        download={"source": "folder", "folders": {"me": "/a", "you": "/b"}},
        train={"lr": 0.0004},
    )
    page = build(outputs, root, own)
    assert page.title == "Folders me and you, preset sample with 1 change"
    assert [change.key for change in page.changed] == [
        "download.source",
        "download.folders",
        "train.lr",
    ]
    assert (page.changed[2].own, page.changed[2].preset) == (0.0004, 0.001)


@pytest.mark.parametrize(
    ("download", "name"),
    [
        ({"source": "folder", "folders": {"me": "/a"}}, "Folder me"),
        (
            {
                "source": "archive",
                "archive": {"location": "https://me:word@host/img.zip?key=1", "sha256": ""},
            },
            "img.zip",
        ),
        ({"source": "kaggle"}, "Kaggle's human-faces"),
        ({"source": "kaggle", "kaggle": {"handle": "me/dogs/versions/3"}}, "Kaggle's dogs"),
        ({"source": "torchvision"}, "MNIST"),
    ],
)
def test_data_is_named_without_secrets(
    outputs: Outputs, root: Path, download: dict[str, Any], name: str
) -> None:
    title = build(outputs, root, changed_settings(root, download=download)).title
    assert title == f"{name}, preset sample"


def test_facts_begin_with_the_data(outputs: Outputs, root: Path) -> None:
    fact = build(outputs, root).facts[0]
    assert (fact.name, fact.text) == (
        "Data",
        "6 training images of 16 × 16 pixels, 200 for validation and 200 for test, 6 files"
        " rejected",
    )
    outputs.write_images(random_images(1, 16, 1))
    outputs.write_metrics("convert", {"validation": 0, "test": 0, "rejected": 0})
    assert build(outputs, root).facts[0].text == ("1 training image of 16 × 16 pixels in grayscale")


BEST = {"select_model": "best", "kid_every_epochs": 1}


def test_chosen_epoch_is_a_fact_and_a_sentence_below_the_gallery(
    outputs: Outputs, root: Path
) -> None:
    outputs.write_metrics("train", {"epochs": 3, "best_epoch": 2, "best_kid": 0.4})
    page = build(outputs, root, changed_settings(root, train=BEST))
    sentence = (
        "The generator of epoch 2 was chosen by its validation KID; metrics and paintings use it."
    )
    assert page.chosen == sentence
    assert [fact.name for fact in page.facts] == ["Data", "Generator"]
    assert page.facts[1].text == sentence
    html = html_of(page, outputs.folder)
    assert "Generated after epoch <output>3</output> of 3" in html, "the gallery ends with the last"
    gallery = html.partition('<section id="epochs"')[2].partition("</section>")[0]
    assert gallery.count(f'<p class="hint below">{sentence}</p>') == 1
    assert html.count(sentence) == 2


@pytest.mark.parametrize(
    ("train", "details"),
    [
        ({"kid_every_epochs": 1}, {"epochs": 3, "best_epoch": 2, "best_kid": 0.4}),
        (BEST, {"epochs": 3}),
    ],
)
def test_no_epoch_is_named_without_a_choice(
    outputs: Outputs, root: Path, train: dict[str, Any], details: dict[str, Any]
) -> None:
    outputs.write_metrics("train", details)
    page = build(outputs, root, changed_settings(root, train=train))
    assert page.chosen == ""
    assert [fact.name for fact in page.facts] == ["Data"]
    assert "was chosen by its validation KID" not in html_of(page, outputs.folder)


def test_short_training_is_a_reason_with_advice(outputs: Outputs, root: Path) -> None:
    # Six images are one batch; the preset has 41 epochs.
    assert dict(build(outputs, root).verdict.reasons)["Length"] == (
        "The training has 41 steps (41 epochs of 1), but good images usually need 2,000 or more;"
        " set train.epochs to 2000."
    )
    long = changed_settings(root, train={"epochs": 2000})
    assert dict(build(outputs, root, long).verdict.reasons)["Length"] == "30 steps in 3 epochs."
    tuned = changed_settings(root, train={"start_from": {"faces": "models:/faces/1"}})
    assert dict(build(outputs, root, tuned).verdict.reasons)["Length"] == "30 steps in 3 epochs."


def test_warnings_are_those_of_batches_and_of_the_evaluation(outputs: Outputs, root: Path) -> None:
    outputs.write_metrics("evaluate", EVALUATION | {"notes": ["KID is uncertain."]})
    small, note = build(outputs, root).warnings
    assert small.startswith("the training set has 6 images, fewer than train.batch_size (32)")
    assert note == "KID is uncertain."


def test_stylized_images_of_one_content_are_together(outputs: Outputs, root: Path) -> None:
    page = build(outputs, root)
    assert [(each.content_name, each.style_name) for each in page.stylized] == [
        ("face_0", "style_0"),
        ("face_0", "style_1"),
        ("face_1", "style_0"),
        ("face_1", "style_1"),
    ]
    assert page.stylized_total == 4
    outputs.write_styled(styles=9, side=16)
    page = build(outputs, root)
    assert (len(page.stylized), page.stylized_total) == (12, 18)


def test_frames_are_spread_over_all_epochs(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = build(Outputs(tmp_path, epochs=99), root)
    epochs = [epoch for epoch, _ in page.frames]
    assert (len(epochs), epochs[0], epochs[-1], page.epochs) == (32, 1, 99, 99)
    assert {later - earlier for earlier, later in itertools.pairwise(epochs)} == {3, 4}


def test_frames_have_the_pixels_of_the_samples(outputs: Outputs, root: Path) -> None:
    page = build(outputs, root)
    assert (page.frames[0][1].width, page.frames[0][1].height) == (8 * 16, 16)
    assert list(page.frames[0][1].factors) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_classes_have_named_rows(outputs: Outputs, root: Path) -> None:
    outputs.write_images(random_images(6, 16, 3), [f"{kind}/{n}" for kind in "ab" for n in "123"])
    page = build(outputs, root, changed_settings(root, train={"conditional": True}))
    assert page.frames[0][1].height == 2 * 64
    assert page.frames[0][1].width > 3 * 64, "a name, and three images of each class"
    assert page.real.width == 3 * 16


def test_augmented_images_are_on_the_page_if_they_exist(outputs: Outputs, root: Path) -> None:
    assert build(outputs, root).augmented is None
    images = random_images(6, 16, 3).reshape(2, 3, 16, 16, 3)
    np.save(outputs.folder / "samples/augmented.npy", images)
    augmented = build(outputs, root).augmented
    assert augmented is not None
    assert (augmented.width, augmented.height) == (48, 32)


def test_private_images_are_left_out(outputs: Outputs, root: Path) -> None:
    images = random_images(6, 16, 3).reshape(2, 3, 16, 16, 3)
    np.save(outputs.folder / "samples/augmented.npy", images)
    distances = nearest_figure(random_images(7, 16, 3, seed=5), [0.5] * 7, None)
    save_png(distances, outputs.folder / "plots/nearest.png")
    own = changed_settings(root, download={"source": "folder", "folders": {"me": "/a"}})
    page = build(outputs, root, own)
    assert (page.real, page.augmented) == (None, None)
    assert page.hidden == "Real images are not shown here: convert.share_images"
    (nearest,) = page.nearest
    assert (nearest.width, nearest.height) == (6 * 64, 2 * 30 + 2 * (64 + 20))
    html = html_of(page, outputs.folder)
    assert html.count(page.hidden) == 2
    assert "Generated and real" not in html
    assert "Augmentation" not in html
    assert "augment" in html, "settings are shown"


@pytest.mark.parametrize(
    ("share_images", "source", "shared"),
    [
        ("public", "sample", True),
        ("public", "torchvision", True),
        ("public", "folder", False),
        ("public", "archive", False),
        ("public", "kaggle", False),
        ("all", "folder", True),
        ("none", "sample", False),
    ],
)
def test_images_of_public_sources_are_shared_by_default(
    root: Path, share_images: str, source: str, shared: bool
) -> None:
    download = {
        "source": source,
        "folders": {"me": "/a"} if source == "folder" else {},
        "archive": {"location": "faces.zip", "sha256": ""},
    }
    own = changed_settings(root, download=download, convert={"share_images": share_images})
    assert own.shares_images is shared


def test_page_without_measured_epochs_has_no_kid_curve(outputs: Outputs, root: Path) -> None:
    assert len(build(outputs, root).charts) == 3
    outputs.write_rows("kid", "epoch,kid,error")
    charts = build(outputs, root).charts
    assert [chart.title for chart in charts] == ["Losses", "Scores of the discriminator"]


def test_single_epoch_of_one_step_has_one_frame_and_all_charts(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = Outputs(tmp_path, epochs=1)
    header = "step,epoch,images,loss_d,loss_g,d_x,d_g_z1,d_g_z2"
    outputs.write_rows("losses", header, "1,1,6,1.4,0.7,0.6,0.4,0.3")
    page = build(outputs, root)
    assert [epoch for epoch, _ in page.frames] == [1]
    assert len(page.charts) == 3
    html = html_of(page, tmp_path)
    assert "Generated after epoch <output>1</output> of 1" in html
    assert re.search(r'<div class="controls w\d+" hidden>', html), "nothing to slide"
    assert "nan" not in " ".join(re.findall(r' (?:d|x|y|width|height)="([^"]*)"', html))


def test_gray_images_have_equal_color_channels(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = build(Outputs(tmp_path, channels=1), root)
    assert page.facts[0].text.startswith("6 training images of 16 × 16 pixels in grayscale, ")
    assert (page.real.width, page.real.height) == (8 * 16, 16)
    for image in (page.real, page.nearest[0], page.frames[0][1]):
        content = base64.b64decode(image.uri.partition(",")[2])
        with Image.open(io.BytesIO(content)) as decoded:
            red, green, blue = np.moveaxis(np.asarray(decoded.convert("RGB"), np.int16), 2, 0)
        assert np.abs(red - green).max() <= 8
        assert np.abs(red - blue).max() <= 8
        assert np.ptp(red) > 100


def test_page_without_test_images_has_no_values_of_real_ones(outputs: Outputs, root: Path) -> None:
    outputs.write_metrics("convert", {"validation": 0, "test": 0, "rejected": 0})
    conditions = EVALUATION["measured_with"] | {"reference": "training", "reference_images": 6}
    evaluation = {k: v for k, v in EVALUATION.items() if not k.startswith("real_")}
    outputs.write_metrics("evaluate", evaluation | {"measured_with": conditions})
    page = build(outputs, root)
    assert page.facts[0].text == "6 training images of 16 × 16 pixels"
    assert dict(page.verdict.reasons)["Distance"] == "KID 2.7 ± 0.2; equal sets have 0."
    assert {row.real for row in page.metrics} == {""}
    assert "on 200 generated images and 6 training images" in page.measured_with
    assert "compared with training images" in page.charts[0].note
    assert page.verdict.headline == "Visibly different from the training images"
    assert page.charts[0].level is None
    outputs.write_metrics("evaluate", {"notes": ["kid: left out."]})
    outputs.write_rows("kid", "epoch,kid,error")
    page = build(outputs, root)
    assert page.verdict.headline == "Too few images for a verdict"
    assert (list(page.metrics), page.measured_with) == ([], "")


HOSTILE = "\"'><img src=x onerror=alert(1)>{{ 7*7 }}&lt;<!--\u202e\N{PILE OF POO}"


def test_hostile_names_of_files_and_classes_are_text(outputs: Outputs, root: Path) -> None:
    sources = outputs.folder / "styled/sources"
    entries = json.loads((sources / "list.json").read_text("utf-8"))
    for entry in entries[:1]:
        for kind in ("content", "style"):
            shutil.copy(sources / f"{kind}-{entry[kind]}.png", sources / f"{kind}-{HOSTILE}.png")
            entry[kind] = HOSTILE
        shutil.copy(
            outputs.folder / f"styled/{entry['image']}.png",
            outputs.folder / f"styled/{HOSTILE}.png",
        )
        entry["image"] = HOSTILE
    (sources / "list.json").write_text(json.dumps(entries), "utf-8")
    names = [f"{kind}/{number}" for kind in (HOSTILE, "b") for number in "123"]
    outputs.write_images(random_images(6, 16, 3), names)
    download = {"source": "archive", "archive": {"location": f"/a/{HOSTILE}.zip", "sha256": ""}}
    settings = changed_settings(root, download=download, train={"conditional": True})
    page = build(outputs, root, settings)
    assert page.title == f"{HOSTILE}.zip, preset sample with 1 change"
    assert page.stylized[0].content_name == page.stylized[0].style_name == HOSTILE
    html = html_of(page, outputs.folder)
    assert "<img src=x" not in html
    assert "<!--" not in html
    assert html.count(str(markupsafe.escape(HOSTILE))) >= 6


def html_of(page: Page, folder: Path) -> str:
    write_page(folder / "report.html", page)
    return (folder / "report.html").read_text("utf-8")


def size_of(page: Page, folder: Path) -> int:
    write_page(folder / "report.html", page)
    return (folder / "report.html").stat().st_size


def flatten_epoch(outputs: Outputs, epoch: int) -> None:
    """Replace the samples of an epoch by those of a collapsed generator."""
    file = outputs.folder / f"samples/epoch_{epoch:04d}.npy"
    np.save(file, np.full_like(np.load(file), 127))


@pytest.mark.parametrize(
    ("collapsed", "characters"), [(0, 110_000), (9, 110_000), (1, 150_000), (9, 240_000)]
)
def test_images_fit_the_budget(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, collapsed: int, characters: int
) -> None:
    """Noise is the largest input: no image has more details."""
    monkeypatch.chdir(tmp_path)
    outputs = Outputs(tmp_path, epochs=9, count=36, side=16, styles=3, stylized_side=48)
    np.save(tmp_path / "samples/augmented.npy", random_images(36, 16, 3).reshape(6, 6, 16, 16, 3))
    if collapsed:
        flatten_epoch(outputs, collapsed)
    settings = sample_settings(root)
    values = settings.model_dump()
    page = build_page(settings, values, outputs.results, outputs.presets, characters=characters)
    assert sum(len(image.uri) for image in page.images()) <= characters
    epochs = [epoch for epoch, _ in page.frames]
    assert (epochs[0], epochs[-1]) == (1, 9)
    assert len(epochs) >= 4
    assert (page.real.width, page.frames[0][1].width) == (8 * 16, 8 * 16)
    assert (len(page.nearest), len(page.stylized)) == (12, 6)
    assert (page.animation.address == "renders/training.gif") == (characters < 200_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "collapsed"),
    [
        ({"epochs": 41, "count": 64, "side": 64, "styles": 3}, 0),
        ({"epochs": 40, "count": 64, "side": 64, "styles": 6}, 40),
        ({"epochs": 6, "count": 64, "side": 128, "styles": 6}, 0),
        ({"epochs": 6, "count": 64, "side": 256, "styles": 6}, 6),
    ],
)
def test_large_page_stays_below_5_mb_and_links_the_animation(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: dict[str, int],
    collapsed: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = Outputs(tmp_path, stylized_side=512, **images)
    if collapsed:
        flatten_epoch(outputs, collapsed)
    (tmp_path / "renders/training.gif").write_bytes(b"GIF89a" + bytes(4_000_000))
    page = build(outputs, root)
    assert size_of(page, tmp_path) < 5_000_000
    assert len(page.frames) >= (8 if images["side"] == 64 else 4)
    assert (page.animation.address, page.animation.size) == ("renders/training.gif", "4.0 MB")
    assert {image.image.width for image in page.stylized} == {384}


REPORT_MODULES = ("atelier.report.build", "atelier.report.page", "atelier.tracking.timings")


def imported_packages(module: str, found: dict[str, set[str]]) -> set[str]:
    """Return the packages that a module and its imports from the project load."""
    if module not in found:
        found[module] = set()
        spec = importlib.util.find_spec(module)
        assert spec
        assert spec.origin
        for node in ast.parse(Path(spec.origin).read_text("utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            found[module] |= {name.split(".")[0] for name in names}
            for name in names:
                if name.startswith("atelier."):
                    found[module] |= imported_packages(name, found)
    return found[module]


@pytest.mark.parametrize("module", REPORT_MODULES)
def test_modules_of_the_report_do_not_name_torch(module: str) -> None:
    assert "atelier" in imported_packages(module, {})
    assert "torch" not in imported_packages(module, {})
    assert "torch" in imported_packages("atelier.core.device", {}), "the import would be detected"


@pytest.mark.slow
def test_report_does_not_import_torch() -> None:
    code = f"import sys, {', '.join(REPORT_MODULES)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def damage(path: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage("metrics/evaluate.json", b"{"), r"evaluate\.json cannot be read .*the evaluate"),
        (damage("metrics/convert.json", b"[1]"), r"convert\.json cannot be read .*the convert st"),
        (damage("plots/kid.csv", b"epoch,kid\n1,2\n"), r"kid\.csv cannot be read .*the evaluate"),
        (damage("plots/losses.csv", b""), r"losses\.csv .*run the train stage"),
        (damage("plots/nearest.png", b"half"), r"nearest\.png cannot be read .*the evaluate stage"),
        (damage("styled/face_0-style_0.png", b""), r"style_0\.png cannot be read .*the stylize"),
        (damage("styled/sources/list.json", b"[{}]"), r"list\.json cannot be read .*the stylize"),
        (damage("samples/epoch_0003.npy", b"x"), r"epoch_0003\.npy cannot be read .*the train st"),
        (lambda folder: (folder / "renders/training.gif").unlink(), r"training\.gif cannot be re"),
        (lambda folder: (folder / "styled/sources/style-style_1.png").unlink(), r"style_1\.png c"),
    ],
)
def test_damaged_input_is_one_sentence(
    outputs: Outputs, root: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(outputs.folder)
    with pytest.raises(AtelierError, match=message) as error:
        build(outputs, root)
    assert "\n" not in str(error.value)


def test_nearest_image_of_another_size_is_refused(outputs: Outputs, root: Path) -> None:
    outputs.write_images(random_images(6, 28, 3))
    with pytest.raises(AtelierError, match=r"nearest\.png cannot be read .*run the evaluate"):
        build(outputs, root)


def test_secrets_of_settings_are_printed_as_the_caller_passes_them(
    outputs: Outputs, root: Path, tmp_path: Path
) -> None:
    settings = sample_settings(root)
    values = json.loads(json.dumps(settings.model_dump()).replace("human-faces", "removed"))
    page = build_page(settings, values, outputs.results, outputs.presets)
    write_page(tmp_path / "report.html", page)
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "removed" in html
