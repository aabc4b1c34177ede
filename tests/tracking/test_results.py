"""List of results, at the end of a pipeline and as a command."""

from pathlib import Path

import pytest

from atelier.core.yaml_files import read_yaml
from atelier.tracking.links import record_links
from atelier.tracking.results import LAST_STAGE, results_lines

from ..support.project import Project

REPORT = """
from atelier.core.errors import AtelierError
from atelier.tracking.stage import run_stage

def main(settings, run):
    print("page is written")
    {action}

run_stage("report", main, logged=False)
"""


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


RESULTS = ("report.html", "data/report.html", "styled/sheet.png", "renders/training.gif")


def write_results(folder: Path) -> None:
    for name in (*RESULTS, "metrics/train.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "mlflow.db").touch()


def test_last_stage_is_that_of_the_pipeline(root: Path) -> None:
    assert list(read_yaml(root / "dvc.yaml")["stages"])[-1] == LAST_STAGE


def test_existing_results_are_listed_with_the_report_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path)
    lines = results_lines(tmp_path)
    assert lines == [
        "  report.html           all results on one page; open it in a browser",
        "  data/report.html      the images of your data: rejected, alike, blurred or unlike the"
        " others",
        "  styled/sheet.png      the stylized images",
        "  renders/training.gif  an animation of the training",
        "  metrics/              the numbers; `dvc metrics show` prints them",
        "  make ui               MLflow, to compare runs",
    ]
    (tmp_path / "metrics/evaluate.json").write_text('{"kid": 3.4, "kid_error": 0.25}')
    kid = "KID 3.4 ± 0.25, lower is better"
    assert f"  metrics/              the numbers ({kid}); `dvc" in results_lines(tmp_path)[4]
    (tmp_path / "metrics/evaluate.json").unlink()
    (tmp_path / "styled/sheet.png").unlink()
    assert results_lines(tmp_path) == [*lines[:2], *lines[3:]]
    page = "#/experiments/7/runs?viewStateShareKey=atelier&workflowType=machine_learning"
    record_links(tmp_path, tmp_path, "7", "a1")
    assert results_lines(tmp_path)[-2:] == [
        "  make ui               MLflow, to compare runs, at",
        f"                        http://127.0.0.1:5000/{page}",
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://anna:secret@mlflow.example.org/")
    assert page not in "".join(results_lines(tmp_path)), "the run is in another store"
    record_links(tmp_path, tmp_path, "7", "a1")
    link = f"https://mlflow.example.org/{page}"
    assert results_lines(tmp_path)[-1] == f"  MLflow, to compare runs: {link}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "mlflow.db").unlink()
    assert "MLflow" not in "".join(results_lines(tmp_path))


def test_numbers_alone_are_no_results(tmp_path: Path) -> None:
    write_results(tmp_path)
    for name in RESULTS:
        (tmp_path / name).unlink()
    assert results_lines(tmp_path) == []


def test_last_stage_ends_with_the_results(fresh: Project, tmp_path: Path) -> None:
    (fresh.folder / "stages/report.py").write_text(REPORT.format(action="pass"))
    write_results(fresh.folder)
    lines = "\n".join(results_lines(fresh.folder))
    assert fresh.stage("report") == f"page is written\n\nResults:\n{lines}\n"
    assert fresh.atelier("results") == f"{lines}\n"
    # `make repro` prints them below DVC's messages.
    assert fresh.stage("report", ATELIER_RESULTS_LATER="1") == "page is written\n"
    # A temporary copy of an experiment is removed with its files.
    output = fresh.stage("report", DVC_ROOT=str(tmp_path), DVC_EXP_NAME="large-lr")
    assert output.splitlines()[2:] == [
        "`dvc exp apply large-lr` writes this experiment's results here."
    ]


def test_failed_last_stage_lists_no_results(fresh: Project) -> None:
    action = "raise AtelierError('there is no image.')"
    (fresh.folder / "stages/report.py").write_text(REPORT.format(action=action))
    write_results(fresh.folder)
    output = fresh.stage("report", ok=False)
    assert "ERROR: there is no image." in output
    assert "Results" not in output


def test_project_without_results_names_the_next_command(fresh: Project) -> None:
    expected = "There are no rendered or stylized images yet; type: dvc repro\n"
    assert fresh.atelier("results") == expected
