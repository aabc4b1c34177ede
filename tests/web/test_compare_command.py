"""Command `atelier compare` in a finished project."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier.core.files import write_text
from atelier.tracking.store import open_store

from ..support.project import Project


@pytest.fixture(scope="module")
def project(_tracked: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = _tracked.copy(tmp_path_factory.mktemp("compare") / "project")
    project.commit()
    return project


@pytest.fixture(autouse=True)
def _no_page(project: Project) -> Iterator[None]:
    yield
    (project.folder / "compare.html").unlink(missing_ok=True)


def test_page_of_the_last_pipelines_is_written_once(project: Project) -> None:
    page = project.folder / "compare.html"
    output = project.atelier("compare")
    assert re.search(r"KID \S+ ± \S+ in 1 seed of one setting\.\n", output)
    assert "Downloading" not in output  # no progress bars of MLflow
    assert re.fullmatch(r"compare\.html compares 1 run \(\d+ KB\)\.", output.splitlines()[-1])
    text = page.read_text("utf-8")
    assert "<h1>Comparison of 1 run</h1>" in text
    assert "after epoch <output>2</output> of 2" in text
    before = page.read_bytes()
    message = project.atelier("compare", ok=False)
    assert "compare.html is there already; choose another place, or give --force" in message
    assert page.read_bytes() == before
    assert project.run("git", "status", "--porcelain") == ""  # git ignores the page
    write_text(page, "old")
    project.atelier("compare", "--force")
    assert "<h1>Comparison of 1 run</h1>" in page.read_text("utf-8")


@pytest.mark.slow
def test_named_runs_are_compared_in_their_order(project: Project, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    output = project.atelier("compare", "HEAD", "workspace", "HEAD", "--out", str(page))
    assert f"{page} compares 2 runs" in output
    text = page.read_text("utf-8")
    assert text.index("git revision HEAD") < text.index("<td>workspace</td>")
    assert "A has 1 more measured run of seeds that are counted already" in text


@pytest.mark.parametrize("sharing", ["public", "none"])
def test_photographs_of_a_revision_need_the_present_permission(
    project: Project, sharing: str
) -> None:
    names = ("dvc.lock", "params.yaml")
    before = {name: (project.folder / name).read_text() for name in names}
    lock = re.sub(r"contents:\n( +)- generated", r"contents:\n\1- me.jpg", before["dvc.lock"])
    assert lock != before["dvc.lock"]
    try:
        write_text(project.folder / "dvc.lock", lock)
        project.set(**{"convert.share_images": sharing})
        project.atelier("compare", "workspace")
    finally:
        for name, text in before.items():
            write_text(project.folder / name, text)
    text = (project.folder / "compare.html").read_text("utf-8")
    assert ("stylized images of 1 run are left out" in text.replace("\n", " ")) == (
        sharing == "none"
    )


@pytest.mark.slow
def test_last_limits_the_number_of_pipelines(project: Project) -> None:
    client, experiment = open_store(project.folder, "atelier")
    late = client.create_run(experiment, tags={"atelier.pipeline": "late"}, run_name="<i>late</i>")
    client.set_terminated(late.info.run_id, "FAILED")
    try:
        assert "compare.html compares 2 runs" in project.atelier("compare")
        output = project.atelier("compare", "--last", "1", "--force")
    finally:
        client.delete_run(late.info.run_id)
    assert "compare.html compares 1 run" in output
    text = (project.folder / "compare.html").read_text("utf-8")
    assert "&lt;i&gt;late&lt;/i&gt;" in text
    assert '<td class="failed">failed</td>' in text
    assert "<i>" not in text


def test_an_unknown_run_writes_nothing(project: Project) -> None:
    message = project.atelier("compare", "workspce", ok=False)
    assert message.endswith("ERROR: there is no run workspce; did you mean workspace?\n")
    assert not (project.folder / "compare.html").exists()
    many = [f"r{number}" for number in range(31)]
    assert "31 runs do not fit on a page; name at most 30." in project.atelier(
        "compare", *many, ok=False
    )
    message = project.atelier("compare", "--force", "--out", "data", ok=False)
    assert message.endswith(
        "ERROR: data cannot be read or written (Is a directory); change its permissions, or move"
        " what is in its place, and run again.\n"
    )


def test_page_is_logged_to_mlflow_on_request(project: Project) -> None:
    output = project.atelier("compare", "--log")
    client, experiment = open_store(project.folder, "atelier")
    (run,) = client.search_runs([experiment], "tags.`atelier.compared` != ''")
    assert f"runs/{run.info.run_id}" in output
    assert (run.info.run_name, run.info.status) == ("Comparison of 1 run", "FINISHED")
    artifact = Path(client.download_artifacts(run.info.run_id, "compare.html"))
    assert artifact.read_bytes() == (project.folder / "compare.html").read_bytes()
    assert "artifacts/compare.html" in run.data.tags["mlflow.note.content"]
    # It is no pipeline: the next page does not compare it, and no command removes it.
    project.atelier("compare", "--force")
    assert "Comparison of 1 run<" in (project.folder / "compare.html").read_text("utf-8")
    assert run.info.run_id not in project.atelier("gc", "--best", "0")


def test_a_store_that_does_not_respond_is_one_sentence(project: Project) -> None:
    database = project.folder / "mlflow.db"
    content = database.read_bytes()
    try:
        database.write_bytes(b"no database" * 100)
        message = project.atelier("compare", ok=False)
    finally:
        database.write_bytes(content)
    assert message.count("ERROR: ") == 1
    assert "Traceback" not in message
