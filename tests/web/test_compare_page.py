"""Content and HTML of the compare page, from synthetic runs."""

import base64
import io
import math
import re
from collections.abc import Sequence
from functools import partial
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atelier.cli.checkout import size_text
from atelier.figures.montage import montage
from atelier.tracking.compared_run import ComparedRun, StylizedFile
from atelier.web.compare_charts import charts, kid_curve, loss_curve
from atelier.web.compare_differences import VALIDATION_KID
from atelier.web.compare_groups import group_runs
from atelier.web.compare_images import encode_paintings, encode_samples
from atelier.web.compare_page import build_compare_page, contains, render_compare_page

from ..support.arrays import random_image, random_images, uniform_image
from ..support.compared_runs import make_run, seeds_of

HOSTILE = "</script><script>alert(1)</script><b onclick=x>&amp;"
A = {1: 3.0, 2: 3.1, 3: 3.2}
B = {1: 2.0, 2: 2.1, 3: 2.2}


@pytest.fixture(scope="module")
def two_groups() -> list[ComparedRun]:
    return [*seeds_of("0.0002", A), *seeds_of("0.0004", B)]


class Elements(HTMLParser):
    """Start tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def pixels(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_page_has_the_statement_means_and_deviations(two_groups: Sequence[ComparedRun]) -> None:
    page = build_compare_page(two_groups)
    assert page.title == "Comparison of 6 runs of 2 settings"
    assert page.verdict.level == "good"
    assert page.verdict.headline == (
        "The KID of B (lr 0.0004) is lower (better) than that of A (lr 0.0002)"
    )
    assert page.verdict.main == [
        "Distance (KID): B (lr 0.0004) is 1.00 ± 0.23 lower (better) than A (lr 0.0002). The"
        " difference is larger than its error."
    ]
    assert [(row.detail, list(row.values)) for row in page.rows] == [
        ("3 seeds", ["3.10 ± 0.10"]),
        ("3 seeds", ["2.10 ± 0.10"]),
    ]
    assert [row.values[0] for row in page.run_rows][:2] == ["3.0 ± 0.1", "3.1 ± 0.1"]
    text = Elements(render_compare_page(page)).text
    for part in (page.title, page.verdict.headline, *page.verdict.main, "3.10 ± 0.10", "train.lr"):
        assert part in text, part
    assert dict(page.facts)["Baseline"].startswith("A (lr 0.0002)")


@pytest.mark.parametrize(
    ("runs", "headline"),
    [
        ([make_run()], "KID 2.00 ± 0.10 in 1 seed of one setting"),
        (seeds_of("0.1", B), "KID 2.10 ± 0.10 in 3 seeds of one setting"),
        ([make_run(metrics={})], "KID was not measured"),
        (
            [*seeds_of("0.1", A), *seeds_of("0.2", {1: 3.1, 2: 3.2})],
            "No difference in KID is larger than its error",
        ),
        (
            [*seeds_of("0.1", {1: 3.0}), *seeds_of("0.2", {1: 1.0})],
            "One seed each: no statement on the settings",
        ),
        ([make_run(), make_run("b", {"train.lr": "1"}, {})], "The KID of these settings cannot be"),
        (
            [
                *(make_run("a"), make_run("b", {"train.lr": "1"}, {"kid": 3.0, "kid_error": 0.1})),
                *(
                    make_run(f"c{seed}", {"train.lr": "2", "train.seed": seed}, measured_with={})
                    for seed in "12"
                ),
            ],
            "Too few seeds: no statement on the settings",
        ),
        (
            [*seeds_of("0.1", A), *seeds_of("0.2", B), *seeds_of("0.3", {1: 5.0, 2: 5.1, 3: 5.2})],
            "The KID of B, C differs from that of A",
        ),
    ],
)
def test_headline_follows_from_kid(runs: list[ComparedRun], headline: str) -> None:
    found = build_compare_page(runs).verdict
    assert found.headline.startswith(headline)
    assert found.level == ("good" if "differs" in headline else "unknown")


def test_other_metrics_follow_kid() -> None:
    runs = [
        make_run(
            f"{lr} {seed}",
            {"train.lr": lr, "train.seed": str(seed)},
            {"kid": seed, "fid": 100 * float(lr) + seed, "recall": 0.1 * seed},
        )
        for lr in ("1", "2")
        for seed in (1, 2, 3)
    ]
    page = build_compare_page(runs)
    assert page.verdict.main == [
        "Distance (KID) is the same in B (lr 2) and A (lr 1).",
        "Fréchet distance (FID): B is 100.0 ± 2.3 higher (worse) than A. The difference is larger"
        " than its error.",
    ]
    assert page.verdict.others == ["Variety (recall) is the same in B and A."]
    assert [metric.key for metric in page.metrics] == ["kid", "fid", "recall"]
    assert page.rows[0].values == ["2.0 ± 1.0", "102.0 ± 1.0", "20% ± 10%"]
    assert page.run_rows[0].values == ["1.00", "101", "10%"]


def test_names_settings_and_notes_are_escaped() -> None:
    run = make_run(
        HOSTILE,
        {"train.lr": HOSTILE, "train.seed": "1"},
        source=HOSTILE,
        status=HOSTILE,
        date=HOSTILE,
        commit=HOSTILE,
        experiment=HOSTILE,
        hashes={"data/images.npz": HOSTILE, "models": HOSTILE},
        address='javascript:"><script>',
        notes=(HOSTILE,),
        stylized={HOSTILE: StylizedFile(HOSTILE, HOSTILE, lambda: random_image(1))},
    )
    html = render_compare_page(build_compare_page([run, make_run("b")]))
    found = Elements(html)
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not [tag for tag, _ in found.tags if tag == "b"]
    assert not [name for _, attributes in found.tags for name in attributes if name[:2] == "on"]
    assert html.count("alert(1)") == html.count("&lt;script&gt;alert(1)")
    assert HOSTILE in found.text
    assert not [a["href"] for tag, a in found.tags if tag == "a" and "javascript" in str(a["href"])]


def test_page_makes_no_requests_and_has_no_inline_code(two_groups: Sequence[ComparedRun]) -> None:
    found = Elements(render_compare_page(build_compare_page(two_groups)))
    sources = {str(a.get("src", ""))[:11] for tag, a in found.tags if tag == "img"}
    assert sources <= {"data:image/", ""}
    assert not [a for _, a in found.tags if "style" in a]
    (policy,) = (a["content"] for tag, a in found.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_samples_are_those_of_each_run_and_epoch(two_groups: Sequence[ComparedRun]) -> None:
    runs = [make_run("short", epochs=2), make_run("long", {"train.seed": "2"}, epochs=5)]
    found = encode_samples(runs, 10_000_000)
    assert list(found.positions) == [1, 2, 3, 4, 5]
    assert [[epoch for epoch, _ in frames] for frames in found.frames] == [[1, 2], [1, 2, 3, 4, 5]]
    assert not found.left_out
    epoch, image = found.frames[1][-1]
    expected = montage(runs[1].samples[epoch](), 5, 16)  # all 20, in a nearly square grid
    assert pixels(image.uri).shape == expected.shape == (64, 80, 3)
    grey = pixels(image.uri).mean(axis=2).ravel(), expected.mean(axis=2).ravel()
    assert np.corrcoef(*grey)[0, 1] > 0.8  # noise, compressed
    assert image.alt == "Generated images of long after epoch 5, in rows"
    sixteen = encode_samples(two_groups, 10_000_000).frames[0][0][1]
    assert (sixteen.width, sixteen.height) == (64, 64)  # six runs: 16 samples of each


def test_samples_of_many_classes_are_spread() -> None:
    rows = np.repeat(np.arange(8, dtype=np.uint8) * 30, 8)  # 8 classes of 8
    images = np.broadcast_to(rows[:, None, None, None], (64, 16, 16, 3))
    runs = [make_run(str(n), samples={1: lambda: images}) for n in range(5)]
    image = pixels(encode_samples(runs, 10_000_000).frames[0][0][1].uri)
    found = {
        int(image[16 * row + 8, 16 * column + 8, 0]) for row in range(4) for column in range(4)
    }
    assert len({round(value / 30) for value in found}) == 8


def test_damaged_samples_are_left_out_and_named() -> None:
    def damaged() -> Any:
        raise OSError("damaged")

    run = make_run(epochs=3)
    run = make_run(samples={**run.samples, 2: damaged, 3: damaged})
    page = build_compare_page([run, make_run("b", epochs=0, samples={})])
    assert [epoch for epoch, _ in page.samples.frames[0]] == [1]
    assert page.runs[0].notes == ["samples of epoch 2 damaged", "samples of epoch 3 damaged"]
    assert page.samples.frames[1] == []
    assert "no samples" in Elements(render_compare_page(page)).text


def test_every_run_has_samples_if_not_even_the_last_ones_fit() -> None:
    runs = [make_run(str(n), {"train.seed": str(n)}) for n in range(3)]
    found = encode_samples(runs, 100)
    assert [[epoch for epoch, _ in frames] for frames in found.frames] == [[3]] * 3
    assert list(found.positions) == [3]
    assert found.left_out


def test_metrics_that_a_seed_lacks_have_their_number_of_seeds() -> None:
    runs = seeds_of("0.1", A)
    runs[0] = make_run("x", {"train.lr": "0.1"}, {"kid": 3.0, "fid": 50.0})
    rows = build_compare_page(runs).rows
    assert rows[0].values == ["3.10 ± 0.10", "50.0 (1 seed)"]


@pytest.mark.parametrize("characters", [60_000, 300_000])
def test_page_keeps_its_budget_and_the_last_epochs(characters: int) -> None:
    runs = [make_run(str(n), {"train.seed": str(n)}, epochs=20 + n) for n in range(1, 5)]
    page = build_compare_page(runs, characters)
    images = [image for frames in page.samples.frames for _, image in frames]
    images += [image for row in page.paintings for image in row.images if image]
    assert 0.2 * characters < sum(len(image.uri) for image in images) <= characters
    assert page.samples.left_out
    assert [frames[-1][0] for frames in page.samples.frames] == [21, 22, 23, 24]
    assert [frames[0][0] for frames in page.samples.frames] == [1, 1, 1, 1]
    text = Elements(render_compare_page(page)).text
    assert f"it has {len(page.samples.positions)} of the epochs" in text


def test_samples_are_loaded_once_for_all_formats() -> None:
    loaded = []

    def load(epoch: int) -> np.ndarray:
        loaded.append(epoch)
        return random_images(20, 16, 3, seed=epoch)

    run = make_run(samples={epoch: partial(load, epoch) for epoch in range(1, 13)})
    encode_samples([run], 9_000)  # not enough for six epochs in any format
    assert sorted(loaded) == list(range(1, 13))


def test_long_names_do_not_exceed_the_size_of_a_page() -> None:
    long = "x" * 8000
    runs = [
        make_run(
            long + str(seed),
            {"train.seed": str(seed), "train.option": long, "download.source": str(seed)},
            source=long,
            experiment=long,
            notes=(long,),
            stylized={long: StylizedFile(long, long, partial(random_image, seed, 32, 32))},
        )
        for seed in range(1, 11)
    ]
    html = render_compare_page(build_compare_page(runs, 100_000))
    assert len(html) < 300_000
    assert "x" * 119 + "…" in html
    assert "x" * 401 not in html


def test_paintings_are_side_by_side_by_content_and_style() -> None:
    colors = [uniform_image(32, 32, 60 * n) for n in range(4)]
    runs = [
        make_run(
            str(n),
            stylized={"x": StylizedFile("face_01", "wave", lambda n=n: colors[n])}
            | ({"y": StylizedFile("face_02", "wave", lambda: colors[3])} if n == 1 else {}),
        )
        for n in range(3)
    ]
    rows, total, notes = encode_paintings(runs, 1_000_000)
    assert [(row.content, row.style) for row in rows] == [("face_01", "wave"), ("face_02", "wave")]
    for n, image in enumerate(rows[0].images):
        assert image is not None
        assert abs(int(pixels(image.uri).mean()) - 60 * n) <= 2
    assert [image is None for image in rows[1].images] == [True, False, True]
    assert (total, notes) == (2, [[], [], []])


def test_photographs_are_left_out_unless_they_are_shared() -> None:
    photograph = {"stylize.contents": "['me.jpg']", "download.source": "folder"}
    private, shared = make_run("a", photograph), make_run("b", {"stylize.contents": "['me.jpg']"})
    assert contains([make_run()]) == (
        "Settings and metrics, generated images and stylized images; no original photographs."
    )
    page = build_compare_page([private])
    assert page.paintings == []
    assert "The stylized images of 1 run are left out" in dict(page.facts)["Contains"]
    text = contains([private, shared])
    assert "show files that stylize.contents names (['me.jpg'])" in text
    assert contains([make_run(epochs=0, samples={}, stylized={})]) == (
        "Settings and metrics; no original photographs."
    )


def test_curves_have_mean_minimum_and_maximum_of_the_seeds() -> None:
    kids = {1: [4.0, 2.0], 2: [6.0, 2.0], 3: [8.0, 8.0]}
    runs = [
        make_run(str(s), {"train.seed": str(s)}, kid_by_epoch=[(5, first, 0.5), (9, second, 0.5)])
        for s, (first, second) in kids.items()
    ]
    (group,) = group_runs(runs)
    curve = kid_curve(group, lambda run: run.kid_by_epoch)
    assert curve is not None
    values = [part.tolist() for part in (curve.x, curve.mean, curve.low, curve.high)]
    assert values == [[5.0, 9.0], [6.0, 4.0], [4.0, 2.0], [8.0, 8.0]]
    (single,) = group_runs(runs[:1])
    curve = kid_curve(single, lambda run: run.kid_by_epoch)
    assert curve is not None
    assert (curve.low.tolist(), curve.high.tolist()) == ([3.5, 1.5], [4.5, 2.5])


def test_loss_curve_is_the_mean_where_runs_have_steps() -> None:
    def run(seed: int, value: float, steps: int) -> ComparedRun:
        column = np.full(steps, value)
        losses = {"step": np.arange(1.0, steps + 1), "loss_d": column, "loss_g": 2 * column}
        return make_run(str(seed), {"train.seed": str(seed)}, losses=losses)

    (group,) = group_runs([run(1, 1.0, 100), run(2, 3.0, 50)])
    curve = loss_curve(group, "loss_d")
    assert curve is not None
    assert curve.x[[0, -1]].tolist() == [1.0, 100.0]
    both = curve.x <= 49
    for part, expected in ((curve.mean, 2.0), (curve.low, 1.0), (curve.high, 3.0)):
        np.testing.assert_allclose(part[both], expected)
    np.testing.assert_allclose(curve.mean[curve.x > 51], 1.0)
    assert loss_curve(group_runs([make_run(losses={})])[0], "loss_d") is None


def test_charts_have_a_labeled_line_per_group(two_groups: Sequence[ComparedRun]) -> None:
    found = charts(group_runs(two_groups))
    assert [chart.title for chart in found] == [
        "Distance from real images (KID)",
        "Loss of the discriminator",
        "Loss of the generator",
    ]
    for chart in found:
        assert [line.series for line in chart.lines] == [1, 2]
        assert [end.label for end in chart.end_labels] == ["A", "B"]
        assert chart.end_labels[1].at - chart.end_labels[0].at >= 6.9
        assert all(line.path.startswith("M") and line.band.endswith("Z") for line in chart.lines)
    dots = re.findall(r"M(\d+) (\d+)h", found[0].lines[0].dots)
    assert [int(x) for x, _ in dots] == [330, 660, 990]  # epochs 1, 2 and 3 of 1.01 * 3
    assert charts(group_runs([make_run(kid_by_epoch=(), losses={})])) == []


def test_labels_of_many_lines_stay_on_the_chart() -> None:
    runs = [make_run(str(n), {"train.lr": str(n)}) for n in range(1, 21)]
    for chart in charts(group_runs(runs)):
        places = [end.at for end in chart.end_labels]
        assert len(places) == 20
        assert places == sorted(places)
        assert min(places) >= 0
        assert max(places) <= 100
        assert min(np.diff(places)) > 4


def test_kid_below_zero_has_a_linear_axis() -> None:
    run = make_run(kid_by_epoch=[(1, -0.2, float("nan")), (2, -0.1, float("nan"))])
    kid = charts(group_runs([run]))[0]
    assert kid.lines[0].band == ""
    assert [kid.y_ticks[0].label, kid.y_ticks[-1].label] == ["-0.2", "0"]


def test_stopped_pipeline_is_called_interrupted() -> None:
    page = build_compare_page([make_run("x", status="KILLED")])
    assert page.runs[0].is_unsuccessful
    text = Elements(render_compare_page(page)).text
    assert "interrupted" in text
    assert "killed" not in text.lower()


def test_lineage_names_status_commit_hashes_and_missing_parts() -> None:
    run = make_run("x", status="FAILED", is_dirty=True, notes=("losses missing",), experiment="e1")
    page = build_compare_page([run])
    (row,) = page.runs
    assert (row.commit, row.images, row.networks) == ("12345678 with changes", "a" * 8, "c" * 8)
    assert row.is_unsuccessful
    found = Elements(render_compare_page(page))
    assert {"class": "failed"} in [attributes for tag, attributes in found.tags if tag == "td"]
    for text in ("failed", "12345678 with changes", "losses missing", "e1"):
        assert text in found.text
    assert run.address in [a["href"] for tag, a in found.tags if tag == "a"]


@pytest.mark.parametrize(
    ("runs", "columns"), [(1, 1), (3, 3), (6, 6), (7, 4), (8, 4), (10, 5), (13, 5)]
)
def test_rows_of_samples_are_nearly_full(runs: int, columns: int) -> None:
    many = [make_run(str(n), {"train.seed": str(n)}, epochs=0, samples={}) for n in range(runs)]
    assert build_compare_page(many).columns == columns


def test_size_of_a_page_is_in_a_suitable_unit() -> None:
    assert [size_text("é" * n) for n in (150, 20_000, 2_000_000)] == ["0 KB", "40 KB", "4.0 MB"]


def training(lr: str, seed: int, kid: float) -> ComparedRun:
    settings = {"train.lr": lr, "train.seed": str(seed)}
    points = [(1, 2 * kid, math.nan), (3, kid, math.nan)]
    return make_run(
        f"{lr} {seed}",
        settings,
        {"validation_kid": kid},
        measured_with={},
        validation_by_epoch=points,
    )


def test_trainings_without_evaluation_are_judged_by_their_validation_kid() -> None:
    page = build_compare_page([training("0.1", 1, 2.0), training("0.2", 1, 1.0)])
    assert page.verdict.headline == "One seed each: no statement on the settings"
    (sentence,) = page.verdict.main
    assert sentence.startswith("Distance from validation images (KID): the generator of B")
    assert [row.detail for row in page.rows] == ["1 seed", "1 seed"]
    assert [row.values for row in page.rows] == [["2.00"], ["1.00"]]
    assert "Welch" not in render_compare_page(page)
    kids = {"0.1": 2.0, "0.2": 1.0}
    runs = [training(lr, s, kid + s / 100) for lr, kid in kids.items() for s in (1, 2, 3)]
    page = build_compare_page(runs)
    assert page.verdict.level == "good"
    headline = "The validation KID of B (lr 0.2) is lower (better) than that of A (lr 0.1)"
    assert page.verdict.headline == headline
    assert "Welch" in render_compare_page(page)
    titles = [chart.title for chart in page.charts]
    assert titles[:2] == ["Distance from real images (KID)", VALIDATION_KID.name]
    (chart,) = [chart for chart in page.charts if chart.title == VALIDATION_KID.name]
    assert [line.dots.count("M") for line in chart.lines] == [2, 2]  # epochs 1 and 3
    one = build_compare_page(runs[:3])
    assert one.verdict.headline == "Validation KID 2.020 ± 0.010 in 3 seeds of one setting"


def test_group_without_any_shown_metric_is_not_measured() -> None:
    other = make_run("other", {"train.lr": "0.2"}, {}, measured_with={})
    page = build_compare_page([training("0.1", 1, 2.0), other])
    assert [row.detail for row in page.rows] == ["1 seed", "not measured"]
