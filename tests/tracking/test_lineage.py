"""Lineage of outputs whose paths MLflow does not accept as names of tags."""

import os
from pathlib import Path

import pytest

from atelier.tracking.delivery_worker import flush_backlog
from atelier.tracking.environment import Process, private_folder
from atelier.tracking.lineage import find_lineage
from atelier.tracking.outbox import Outbox
from atelier.tracking.run import Run
from atelier.tracking.store import client_of, open_store

pytestmark = pytest.mark.filterwarnings("ignore")
DEAD = Process(os.getpid(), "1")  # no running process with this number has this start time
FACES, MODEL, OTHER = (digit * 32 for digit in "abc")
PATHS = [
    "data/faces #1 (ä & ö)!.npz",
    pytest.param(f"data/{'x' * 300}.npz", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_lineage_follows_paths_that_are_illegal_tag_names(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    client_of.cache_clear()
    model = "models/a$b.safetensors"
    stages = {
        "convert": {"inputs": {}, "outputs": {path: FACES}, "metrics": {}},
        "train": {"inputs": {path: FACES}, "outputs": {model: MODEL}, "metrics": {}},
    }
    common = {"experiment": "atelier", "parameters": {}}
    private = private_folder(tmp_path)
    for stage in stages:
        Run(Outbox(private, DEAD, stage, pipeline="p", tags={}, **common)).end("FINISHED")
    outcome = Outbox(private, DEAD, "pipeline", kind="outcome", stages=stages, **common)
    outcome.write("end", status="FINISHED")
    outcome.close()
    assert flush_backlog(tmp_path) == 0
    # dvc.lock has another hash, so only MLflow has a record of this one.
    (tmp_path / "dvc.lock").write_text(
        f"stages:\n  train:\n    cmd: c\n    outs:\n    - path: '{model}'\n      md5: {OTHER}\n"
    )
    client, _ = open_store(tmp_path, "atelier")
    origin = find_lineage(MODEL[:10], client)
    assert (origin.path, origin.content) == (model, MODEL)
    assert [producer.stage for producer in origin.producers] == ["train", "convert"]
    assert all(producer.run for producer in origin.producers)
    assert origin.producers[0].inputs == {path: FACES}
    client_of.cache_clear()
