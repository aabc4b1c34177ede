"""State of the last finished training, from which a longer one continues."""

import json
import os
import shutil
import signal
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atelier.core.errors import NotExtendableError
from atelier.tracking import finished
from atelier.tracking.finished import clear_recorded, open_finished
from atelier.tracking.run_state import Fingerprint, ResumeDir, remove_stale, stale
from atelier.tracking.store import locked, open_store

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
    Path("dvc.lock").unlink()
    clear_recorded(private)
    assert opened(private, LONGER) is None, "DVC has not recorded it"
    record(TRAINING)
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


def test_checkpoints_of_another_finished_stage_are_removed(private: Path) -> None:
    folder = finish(private, TRAINING, 1, "stylize")
    clear_recorded(private)
    assert not folder.exists()
    assert not (private / "finished").exists()


@pytest.mark.parametrize("stage", ["stylize", "train"])
def test_interrupted_repetition_of_a_recorded_stage_is_resumed(private: Path, stage: str) -> None:
    """`dvc repro -f` repeats a stage; the second attempt resumes the first one."""
    folder = finish(private, TRAINING, 1, stage, end=False)
    clear_recorded(private)
    assert ResumeDir(private, stage, TRAINING, "cpu", None).has_state()
    # A second process at the same time has a folder of its own, which no attempt resumes.
    temporary = folder.rename(folder.with_name(f".{folder.name}-1"))
    clear_recorded(private)
    assert not temporary.exists()


@pytest.mark.parametrize("is_marked", [True, False])
def test_checkpoints_of_a_running_repetition_stay(private: Path, is_marked: bool) -> None:
    """Each stage of another pipeline clears the checkpoints meanwhile."""
    finish(private, TRAINING, 1, end=is_marked)
    running = ResumeDir(private, "train", TRAINING, "cpu", None)
    with running.checkpoints("outbox") as saved:
        clear_recorded(private)
        saved.save(9, {"number": torch.tensor(9)})
        assert {path.name for path in running.folder.iterdir()} >= {
            *(".lock", "journal", "fingerprint.json", "machine.json"),
            *("state-000000000003.safetensors", "state-000000000009.safetensors"),
        }
    running.mark_finished()
    clear_recorded(private)
    assert opened(private, LONGER) == 9


def test_training_that_is_killed_while_it_replaces_another_is_kept_later(private: Path) -> None:
    finish(private, TRAINING, 1)
    clear_recorded(private)
    (old,) = (private / "finished").glob("train-*")
    (old / "fingerprint.json").unlink()  # the removal of the folder was interrupted
    with pytest.raises(NotExtendableError, match=r"^the saved state of the .* is damaged$"):
        opened(private, LONGER)
    finish(private, TRAINING, 2)
    clear_recorded(private)
    assert opened(private, LONGER) == 2


def test_two_processes_that_keep_a_training_do_not_remove_it(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finish(private, TRAINING, 1)

    def wait_for_the_other_process(path: Path, wait: bool) -> AbstractContextManager[bool]:
        monkeypatch.setattr(finished, "locked", locked)
        clear_recorded(private)
        return locked(path, wait)

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
            replace(
                LONGER,
                settings=LONGER.settings | {"train.augment": 1, "train.start_from.faces": "a"},
                contents=LONGER.contents | {"data/inputs/train.json": "9"},
            ),
            "cpu",
            r"train.start_from changed \(and 1 other change\)",
        ),
        (
            replace(
                LONGER,
                settings=LONGER.settings | {"train.lr": 0.2, "train.augment": 1},
                contents={"data/images.npz": "9", "src/atelier/gan": "9"},
            ),
            "cpu",
            r"train.augment was \[\] and is 1 \(and 3 other changes\)",
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


@pytest.mark.parametrize(
    "settings", [{}, {"train.epochs": 1}, {"train.steps": 0.0}], ids=["equal", "shorter", "0"]
)
def test_no_reason_is_printed_if_the_training_is_not_longer(
    private: Path, settings: dict[str, float]
) -> None:
    finish(private, TRAINING, 1)
    clear_recorded(private)
    other = replace(TRAINING, settings=TRAINING.settings | {"train.lr": 0.2} | settings)
    assert opened(private, other) is None
    assert opened(private, None) is None


def test_missing_state_is_the_reason_if_only_the_length_differs(private: Path) -> None:
    missing = "^the state of the finished training is not on this machine$"
    finish(private, TRAINING, 1)
    for folder in (private / "unfinished", private):  # cleared by the user, or another clone
        shutil.rmtree(folder)
        with pytest.raises(NotExtendableError, match=missing):
            opened(private, LONGER)
    assert not (private / "finished").exists()
    assert opened(private, TRAINING) is None
    # The inputs that a list names are not in dvc.lock.
    named = replace(LONGER, contents=LONGER.contents | {"data/start/generator.safetensors": "9"})
    with pytest.raises(NotExtendableError, match=missing):
        opened(private, named)
    other = replace(LONGER, settings=LONGER.settings | {"train.lr": 0.2})
    assert opened(private, other) is None, "another training does not extend the recorded one"


def test_state_of_a_longer_experiment_is_extended(private: Path) -> None:
    finish(private, LONGER, 1)
    clear_recorded(private)
    record(TRAINING)
    assert opened(private, LONGER) is None, "it has the same length"
    longest = replace(LONGER, settings=LONGER.settings | {"train.epochs": 6})
    assert opened(private, longest) == 1
    with pytest.raises(NotExtendableError, match=r"^device was cpu and is cuda$"):
        opened(private, longest, "cuda")


def test_state_of_another_training_is_the_reason(private: Path) -> None:
    """An experiment has replaced the state of the workspace's training."""
    finish(private, replace(TRAINING, settings=TRAINING.settings | {"train.lr": 0.2}), 1)
    clear_recorded(private)
    record(TRAINING)
    reason = "^.atelier/finished has the state of another training$"
    with pytest.raises(NotExtendableError, match=reason):
        opened(private, LONGER)
    Path("dvc.lock").unlink()
    with pytest.raises(NotExtendableError, match=r"^train.lr was 0.2 and is 0.1$"):
        opened(private, LONGER)
    Path("dvc.lock").write_text("stages: {train: {params: {params.yaml: {train.steps: x}}}}")
    with pytest.raises(NotExtendableError, match=r"^train.lr was 0.2 and is 0.1$"):
        opened(private, LONGER)


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
    reason = "the state of the finished training is not on this machine"
    assert f"\n  The training starts again from step 0, because {reason}.\n" in f"\n{output}"
    assert ready.bytes(*OUTPUTS) == fresh.bytes(*OUTPUTS)
    timing = json.loads((ready.folder / ".atelier/timings/train.json").read_text("utf-8"))
    assert timing["timing"]["resumed"]


def test_stage_prints_why_it_starts_again(ready: Project) -> None:
    ready.set(**{"train.epochs": 1})
    output = ready.stage("train")
    reason = "it has 4 steps, and the finished one has 8"
    sentence = f"  The training starts again from step 0, because {reason}."
    assert f"\n{sentence}\n" in f"\n{output}"


def test_raised_epochs_without_effect_are_reported(ready: Project) -> None:
    ready.set(**{"train.steps": 8, "train.epochs": 3})
    output = ready.stage("train")
    assert (
        "\n  The finished training has these 8 steps already: train.steps is 8, so train.epochs has"
        " no effect; raise train.steps to train longer.\n"
    ) in f"\n{output}"


def test_trial_of_a_search_does_not_extend_a_training(ready: Project) -> None:
    """Its duration is a result, so that it must be that of the whole training."""
    ready.set(**{"train.epochs": 3})
    output = ready.stage("train", ATELIER_STUDY="study")
    assert "64 images: 12 steps are 3 epochs; the time" in output
    assert "finished training" not in output


@pytest.mark.slow
def test_interrupted_repetition_resumes(ready: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ready.folder)
    ready.set(**{"train.steps": 200, "runtime.checkpoint_seconds": 0.0})
    ready.repro("train")
    before = ready.bytes(*OUTPUTS)
    clear_recorded(ready.folder / ".atelier")  # as the next stage does
    dvc = start(ready, "--force", "--single-item", "train")
    wait_for_checkpoint(dvc, ready)
    os.killpg(dvc.pid, signal.SIGINT)
    output, _ = dvc.communicate(timeout=240)
    assert "; `dvc repro -f -s train` resumes it." in output
    clear_recorded(ready.folder / ".atelier")  # as a stage of an experiment does
    output = ready.run("dvc", "repro", "-f", "-s", "--no-run-cache", "train")
    assert "200 steps are 50 epochs, of which " in output
    assert ready.bytes(*OUTPUTS) == before


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
    assert newest.data.tags["extended_from_run"] == older[0].info.run_id
    steps = [point.step for point in client.get_metric_history(newest.info.run_id, "loss/d")]
    assert steps == list(range(1, 81))
    speeds = client.get_metric_history(newest.info.run_id, "speed/images_per_second")
    assert min(point.step for point in speeds) > 8, "restored epochs have no speed"
