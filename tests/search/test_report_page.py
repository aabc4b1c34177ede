"""HTML of the report of a study."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from atelier.pages.images import Format, encode
from atelier.search.report import StudyReport, build_report
from atelier.search.report_page import render_report

from ..support.arrays import random_image
from ..support.studies import KID, a_study, a_trial, random_study

HOSTILE = "</title></script><script>alert(1)</script><b onclick=x>&amp;"


class Page(HTMLParser):
    """Elements of a page, and the texts of its sections by id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"": ""}
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
            self.sections[self._section] = ""

    def handle_data(self, data: str) -> None:
        self.sections[self._section] += f"{data} "

    def text(self, section: str) -> str:
        return re.sub(" +([,:])", r"\1", " ".join(self.sections[section].split()))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page_of(report: StudyReport) -> Page:
    return Page(render_report(report))


def test_sections_in_the_order_of_their_importance(tmp_path: Path) -> None:
    report = build_report(random_study(30), tmp_path)
    page = page_of(report)
    assert list(page.sections) == [
        *("", "verdict", "best", "history", "importance", "slices-1", "parallel", "trials")
    ]
    assert page.text("verdict").startswith(f"{report.headline} Trials 21 finished, 9 pruned.")
    rows = [attributes for tag, attributes in page.tags if tag == "tr"]
    assert len(rows) == 30 + 4 + 4 + 3, "trials, settings of the best, importances, three heads"
    assert page.text("trials").count("pruned") == 9
    assert page.text("importance").startswith("Importance of settings setting share train.lr")
    dots = sum("point" in (attrs.get("class") or "") for tag, attrs in page.tags if tag == "circle")
    # History, the ends of pruned curves, and four settings; the rest are two legends.
    assert dots - (30 + 9 + 4 * 30) in range(6, 11)


def test_best_trial_has_the_commands_that_apply_it(tmp_path: Path) -> None:
    trials = [
        a_trial(3.0, experiments=["s-trial-000"], is_present=True),
        a_trial(2.0, experiments=["s-trial-001"], changes={"train.lr": 0.002}),
    ]
    study = a_study(trials, fixed={"train.epochs": 4}, commit="0123456789" * 4)
    text = page_of(build_report(study, tmp_path)).text("best")
    assert "Use the settings of trial 1 At commit 01234567, with your own changes" in text
    assert "dvc exp apply s-trial-001 params.yaml gets the settings of the trial" in text
    assert "train.epochs: ? (4 in the trials; the earlier value is not known)" in text
    assert "dvc repro Trains again and runs the other stages. Without step 2," in text
    assert "The samples of these trials are not in the DVC cache of this computer." in text
    assert text.endswith("dvc exp apply s-trial-000")
    unfixed = page_of(build_report(a_study(trials), tmp_path)).text("best")
    assert "dvc repro Runs the remaining stages; the trial's training is restored." in unfixed
    assert "set back" not in unfixed


def test_present_settings_that_are_the_best_are_not_applied(tmp_path: Path) -> None:
    trials = [
        a_trial(2.0, experiments=["s-trial-000"], is_present=True),
        a_trial(3.0, experiments=["s-trial-001-seed-1", "s-trial-001-seed-2"]),
    ]
    text = page_of(build_report(a_study(trials), tmp_path)).text("best")
    assert "Use the settings of trial 1" in text
    assert "The trial has 2 seeds; this is the first." in text
    alone = page_of(build_report(a_study([a_trial(2.0)]), tmp_path)).text("best")
    assert "dvc exp apply" not in alone


def test_samples_are_enlarged_by_a_button(tmp_path: Path) -> None:
    report = build_report(a_study([a_trial(2.0), a_trial(3.0)]), tmp_path)
    sheet = encode(random_image(1), "Generated images of trial 0", Format())
    object.__setattr__(report.best[0], "sheet", sheet)
    page = page_of(report)
    labels = [attrs.get("aria-label") for tag, attrs in page.tags if tag == "button"]
    assert labels[0] == "Enlarge: Generated images of trial 0"
    assert [attrs["src"] for tag, attrs in page.tags if tag == "img" and "src" in attrs] == [
        sheet.uri
    ]
    assert page.text("best").count("Its samples are not in DVC's cache.") == 1


def test_pareto_front_replaces_the_history(tmp_path: Path) -> None:
    trials = [a_trial(1.0, 30.0, experiments=["a"]), a_trial(2.0, 10.0, experiments=["b"])]
    page = page_of(build_report(a_study(trials, [KID, "seconds"]), tmp_path))
    assert page.text("best").startswith("Pareto front")
    assert "All trials of the Pareto front." in page.text("best")
    assert "Use one of them" in page.text("best")
    assert "Validation KID by training time" in page.text("history")
    assert "best so far" not in page.text("history")
    assert page.text("slices-2").startswith("Training time by setting Pareto front")


@pytest.mark.parametrize("state", [None, TrialState.RUNNING, TrialState.FAIL, TrialState.PRUNED])
def test_study_without_finished_trials(tmp_path: Path, state: TrialState | None) -> None:
    study = a_study([] if state is None else [a_trial(state=state, reason="no room")])
    page = page_of(build_report(study, tmp_path))
    sections = ["", "verdict"]
    if state is not None:
        sections += ["failures", "trials"] if state == TrialState.FAIL else ["trials"]
    assert list(page.sections) == sections
    if state == TrialState.FAIL:
        assert page.text("failures") == "Failed trials Trial 0: no room"


def test_names_are_escaped_and_nothing_else_runs(tmp_path: Path) -> None:
    space = {f"train.{HOSTILE}": CategoricalDistribution([HOSTILE, "b"])}
    trials = [
        a_trial(1.0 + n, space=space, changes={f"train.{HOSTILE}": choice}, experiments=[HOSTILE])
        for n, choice in enumerate([HOSTILE, "b"])
    ]
    trials.append(
        a_trial(
            state=TrialState.FAIL, space=space, reason=HOSTILE, changes={f"train.{HOSTILE}": "b"}
        )
    )
    study = a_study(trials, [HOSTILE], name=HOSTILE, fixed={HOSTILE: HOSTILE}, sampler=HOSTILE)
    html = render_report(build_report(study, tmp_path))
    page = Page(html)
    assert [tag for tag, _ in page.tags if tag in ("script", "b")] == [*["b"] * 3, "script"], (
        "the values of two trials and the number of the failed one are bold"
    )
    assert not any(name.startswith("on") or name == "style" for _, a in page.tags for name in a)
    assert html.count("alert(1)") > 20
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert not re.search(r"https?://", html)


def test_300_trials_fit_into_a_page_that_can_be_mailed(tmp_path: Path) -> None:
    html = render_report(build_report(random_study(300), tmp_path))
    assert len(html) < 600_000
    page = Page(html)
    assert page.count("tr") == 300 + 4 + 4 + 3
    assert ("main", {"class": "many"}) in page.tags
