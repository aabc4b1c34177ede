"""State of the last finished training, from which a longer one continues."""

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atelier.core.errors import NotExtendableError
from atelier.tracking import finished
from atelier.tracking.finished import clear_recorded, open_finished
from atelier.tracking.run_state import Fingerprint, ResumeDir, remove_stale, stale
from atelier.tracking.store import open_store

from ..support.project import Project
from ..support.stage_runs import checkpoints, start, wait_for_checkpoint

TRAINING = Fingerprint(
    settings={"train.epochs": 2, "train.steps": 0, "train.lr": 0.1, "train.augment": []},
    files={"data/images.npz": "seen", "src/atelier/gan": "code"},
    contents={"data/images.npz": "1234", "src/atelier/gan": "5678"},
)
LONGER = replace(TRAINING, settings=TRAINING.settings | {"train.epochs": 4})
OUTPUTS = (
    *("models", "samples", "plots/losses.csv", "plots/quality.csv"),
    *("metrics/train.json", "metrics/details/train.json"),
)


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder ``.atelier/`` of the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    return tmp_path / ".atelier"


def record(fingerprint: Fingerprint, stage: str = "train") -> None:
    """Write the ``dvc.lock`` of a stage."""
    values = {
        "deps": [{"path": path, "md5": hash_} for path, hash_ in fingerprint.contents.items()],
        "params": {"params.yaml": fingerprint.settings},
    }
    Path("dvc.lock").write_text(json.dumps({"stages": {stage: values}}), "utf-8")


def finish(
    private: Path, fingerprint: Fingerprint, number: int, stage: str = "train", end: bool = True
) -> Path:
    """Save checkpoints of a stage, and record its outputs; return the folder."""
    resume_dir = ResumeDir(private, stage, fingerprint, "cpu", None)
    with resume_dir.checkpoints("outbox") as saved:
        for step in range(4):
            saved.save(step, {"number": torch.tensor(number)}, epoch_end=step == 1)
    if end:
        resume_dir.mark_finished()
    record(fingerprint, stage)
    return resume_dir.folder


def opened(private: Path, fingerprint: Fingerprint | None, device: str = "cpu") -> int | None:
    """Return the number in the state that a training may extend."""
    with open_finished(ResumeDir(private, "train", fingerprint, device, None)) as found:
        state = None if found is None else found.latest()
        return None if state is None else int(state["number"])


def test_checkpoints_of_the_last_recorded_training_are_kept(private: Path) -> None:
    assert opened(private, LONGER) is None
    folder = finish(private, TRAINING, 1)
    assert opened(private, LONGER) is None, "DVC may not have recorded it"
    clear_recorded(private)
    assert not folder.exists()
    kept = private / "finished" / folder.name
    assert sorted(path.stem for path in kept.glob("state-*")) == [
        *("state-000000000001-milestone", "state-000000000003"),
    ]
    assert opened(private, LONGER) == 1
    assert opened(private, replace(TRAINING, settings=TRAINING.settings | {"train.steps": 9})) == 1
    finish(private, replace(TRAINING, contents={"src/atelier/gan": "9"}), 2)
    clear_recorded(private)
    assert [path.name for path in (private / "finished").glob("train-*")] != [folder.name]
    assert len(list((private / "finished").glob("train-*"))) == 1


@pytest.mark.parametrize(("stage", "end"), [("stylize", True), ("train", False)])
def test_checkpoints_of_other_stages_and_unfinished_work_are_removed(
    private: Path, stage: str, end: bool
) -> None:
    """DVC may have recorded the outputs before, so that the second attempt was not needed."""
    finish(private, TRAINING, 1, stage, end)
    clear_recorded(private)
    assert not list((private / "unfinished").iterdir())
    assert not (private / "finished").exists()


def test_training_that_is_killed_while_it_replaces_another_is_kept_later(private: Path) -> None:
    finish(private, TRAINING, 1)
    clear_recorded(private)
    (old,) = (private / "finished").glob("train-*")
    (old / "fingerprint.json").unlink()  # the removal of the folder was interrupted
    assert opened(private, LONGER) is None
    finish(private, TRAINING, 2)
    clear_recorded(private)
    assert opened(private, LONGER) == 2


def test_two_processes_that_keep_a_training_do_not_remove_it(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finish(private, TRAINING, 1)
    wait = finished.locked

    def wait_for_the_other_process(path: Path) -> AbstractContextManager[bool]:
        monkeypatch.setattr(finished, "locked", wait)
        clear_recorded(private)
        return wait(path)

    monkeypatch.setattr(finished, "locked", wait_for_the_other_process)
    clear_recorded(private)
    assert not folder.exists()
    assert opened(private, LONGER) == 1


@pytest.mark.parametrize(
    ("longer", "device", "reason"),
    [
        (
            replace(LONGER, settings=LONGER.settings | {"train.lr": 0.2}),
            "cpu",
            "train.lr was 0.1 and is 0.2",
        ),
        (
            replace(LONGER, settings=LONGER.settings | {"train.augment": ["color"]}),
            "cpu",
            r"train.augment was \[\] and is \['color'\]",
        ),
        (
            replace(LONGER, settings=LONGER.settings | {"train.start_from.faces": "models:/a/1"}),
            "cpu",
            "train.start_from changed",
        ),
        (
            replace(LONGER, contents=LONGER.contents | {"data/images.npz": "9"}),
            "cpu",
            "data/images.npz changed",
        ),
        (
            replace(LONGER, contents=LONGER.contents | {"src/atelier/gan": "9"}),
            "cpu",
            "the code in src/atelier/gan changed",
        ),
        *(
            (
                replace(LONGER, contents=LONGER.contents | {path: "9"}),
                "cpu",
                "the networks of train.start_from changed",
            )
            for path in ("data/inputs/train.json", "data/start/generator.safetensors")
        ),
        (LONGER, "cuda", "device was cpu and is cuda"),
    ],
)
def test_first_difference_is_the_reason(
    private: Path, longer: Fingerprint, device: str, reason: str
) -> None:
    finish(private, TRAINING, 1)
    clear_recorded(private)
    with pytest.raises(NotExtendableError, match=f"^{reason}$"):
        opened(private, longer, device)


def test_training_of_the_same_length_does_not_ask_for_an_extension(private: Path) -> None:
    finish(private, TRAINING, 1)
    clear_recorded(private)
    assert opened(private, TRAINING) is None
    other = replace(TRAINING, settings=TRAINING.settings | {"train.lr": 0.2})
    assert opened(private, other) is None
    assert opened(private, None) is None


def test_kept_state_becomes_stale(private: Path) -> None:
    folder = finish(private, TRAINING, 1)
    clear_recorded(private)
    assert stale(private, days=1) == []
    kept = private / "finished" / folder.name
    assert stale(private, days=-1) == [kept]
    with open_finished(ResumeDir(private, "train", LONGER, "cpu", None)):
        assert stale(private, days=-1) == [], "a longer training reads it"
        remove_stale(kept)
        assert kept.exists()
    remove_stale(kept)
    assert not kept.exists()


def test_longer_training_continues_the_finished_one(ready: Project, tmp_path: Path) -> None:
    ready.set(**{"train.epochs": 3})
    fresh = ready.copy(tmp_path / "fresh")
    shutil.rmtree(fresh.folder / ".atelier")
    for project in (ready, fresh):
        project.remove_outputs("train")
    output = ready.stage("train")
    assert "\n  The finished training of 8 steps is continued.\n" in f"\n{output}"
    assert "64 images: 12 steps are 3 epochs, of which 4 steps remain; " in output
    output = fresh.stage("train")
    assert "finished training" not in output
    assert ready.bytes(*OUTPUTS) == fresh.bytes(*OUTPUTS)
    timing = json.loads((ready.folder / ".atelier/timings/train.json").read_text("utf-8"))
    assert timing["timing"]["resumed"]


def test_stage_prints_why_it_starts_again(ready: Project) -> None:
    ready.set(**{"train.epochs": 1})
    output = ready.stage("train")
    reason = "it has 4 steps, and the finished one has 8"
    sentence = f"  The training starts again from step 0, because {reason}."
    assert f"\n{sentence}\n" in f"\n{output}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_killed_extension_continues_in_its_own_run(tracked: Project, tmp_path: Path) -> None:
    tracked.set(**{"train.steps": 80, "runtime.checkpoint_seconds": 0.0})
    fresh = tracked.copy(tmp_path / "fresh")
    shutil.rmtree(fresh.folder / ".atelier")
    fresh.set(**{"tracking.enabled": False})
    fresh.repro("train")
    dvc = start(tracked)
    wait_for_checkpoint(dvc, tracked)
    dvc.kill()
    output, _ = dvc.communicate(timeout=240)
    assert "The finished training of 8 steps is continued." in output
    assert checkpoints(tracked)
    output = tracked.run("dvc", "repro", "--no-run-cache", "train")
    assert "finished training" not in output
    assert tracked.bytes(*OUTPUTS) == fresh.bytes(*OUTPUTS)
    tracked.delivered()
    client, experiment = open_store(tracked.folder, "atelier")
    newest, *older = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
    assert len(older) == 1
    assert newest.data.tags["extended_from"] == "8 steps"
    steps = [point.step for point in client.get_metric_history(newest.info.run_id, "loss/d")]
    assert steps == list(range(1, 81))
    speeds = client.get_metric_history(newest.info.run_id, "speed/images_per_second")
    assert min(point.step for point in speeds) > 8, "restored epochs have no speed"
