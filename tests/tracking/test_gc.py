"""Pruning of old runs, their files and their models."""

import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from dvc.repo import Repo as DvcRepo
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from ruamel.yaml import YAML

from atelier.core.errors import AtelierError
from atelier.tracking import references
from atelier.tracking.environment import Process, owner_tags, private_folder
from atelier.tracking.gc import Plan, apply, is_elsewhere, plan
from atelier.tracking.outbox import Outbox, record_start
from atelier.tracking.run_state import ResumeDir, stale
from atelier.tracking.store import locked, open_store

from ..support.programs import run_here
from ..support.project import Project

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MEASURED = {"evaluate.samples": "800", "evaluate.seed": "1"}


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    result = subprocess.run(
        ["git", *author, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def _empty(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Repository with a store."""
    folder = tmp_path_factory.mktemp("empty")
    git(folder, "init", "--quiet")
    Project(folder).run("dvc", "init", "--quiet")
    git(folder, "commit", "--quiet", "-m", "empty")
    private_folder(folder)
    shutil.copy(empty_store, folder)
    return folder


class Store:
    """Repository and its store, with executions logged in Atelier's format."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.client, self.experiment = open_store(root, "atelier")
        self._time = count(1_700_000_000_000, 60_000)

    def execute(
        self,
        name: str,
        kid: float | None = None,
        *,
        outputs: Mapping[str, str] | None = None,
        restored: Mapping[str, str] | None = None,
        measured: Mapping[str, str] = MEASURED,
        status: str = "FINISHED",
        experiment: str = "",
        tags: Mapping[str, str] | None = None,
        at: int = 0,
        table: bool = True,
    ) -> str:
        """Log a parent run with one stage, ``train``, and return the ID of the stage's run."""
        experiment_id = experiment or self.experiment
        owner = dict(tags or {})
        parent_tags = owner | {f"restored.{stage}": run for stage, run in (restored or {}).items()}
        at = at or next(self._time)
        parent = self.client.create_run(
            experiment_id, at, parent_tags | {"atelier.pipeline": name}, name
        )
        if table:
            self.client.set_tag(parent.info.run_id, "stages.ran", "train")
        parameters = [Param(key, value) for key, value in measured.items()]
        metrics = [] if kid is None else [Metric("evaluate.kid", kid, at, 0)]
        self.client.log_batch(parent.info.run_id, metrics=metrics, params=parameters)
        child_tags = owner | {"atelier.stage": "train", "mlflow.parentRunId": parent.info.run_id}
        child = self.client.create_run(experiment_id, at, child_tags, "train")
        for path, md5 in (outputs or {}).items():
            self.client.set_tag(child.info.run_id, f"output.{path}", md5)
        for run in (child, parent):
            self.client.log_text(run.info.run_id, "x" * 1_000_000, "folder/file.txt")
            self.client.set_terminated(run.info.run_id, "FINISHED", at)
        self.client.update_run(child.info.run_id, status)
        return str(child.info.run_id)

    def plan(self, best: int = 0) -> Plan:
        return plan(self.root, "atelier", best)

    def prune(self, best: int = 0) -> None:
        apply(self.root, "atelier", self.plan(best))

    def remaining(self) -> list[str]:
        """Return the names of pipelines that are neither removed nor in the trash."""
        runs = self.client.search_runs([self.experiment], "tags.`atelier.pipeline` != ''")
        return sorted(run.info.run_name for run in runs)

    def files(self) -> dict[str, bytes]:
        """Return the contents of all files that pruning may remove."""
        return Project(self.root).bytes("mlruns", ".dvc/cache")

    def lock(self, *hashes: str) -> None:
        """Write a dvc.lock with outputs of these hashes, which may contain quotes."""
        outs = "".join(
            f"    - path: out{number}\n      hash: md5\n      md5: {md5}\n"
            for number, md5 in enumerate(hashes)
        )
        text = f"schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs:\n{outs}"
        (self.root / "dvc.lock").write_text(text, "utf-8")

    def commit(self, *hashes: str) -> None:
        self.lock(*hashes)
        git(self.root, "add", "dvc.lock")
        git(self.root, "commit", "--quiet", "-m", "result")


@pytest.fixture
def store_and_programs(tmp_path: Path, _empty: Path) -> Store:
    """Store pruned with MLflow and git as subprocesses."""
    return Store(shutil.copytree(_empty, tmp_path / "project"))


@pytest.fixture
def store(store_and_programs: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Store pruned with MLflow in this process, which saves its start."""
    programs = SimpleNamespace(run=run_here, CalledProcessError=subprocess.CalledProcessError)
    monkeypatch.setattr("atelier.tracking.programs.subprocess", programs)
    return store_and_programs


def names(found: Plan) -> tuple[dict[str, list[str]], list[str]]:
    reasons = {execution.head.info.run_name: texts for execution, texts in found.keep.items()}
    return reasons, [execution.head.info.run_name for execution in found.remove]


def test_best_run_is_kept_and_others_removed_with_files(store_and_programs: Store) -> None:
    store = store_and_programs
    removed = store.execute("first", 0.3)
    best = store.execute("second", 0.1)
    store.execute("third", 0.2)
    store.execute("failed")
    before = store.files()
    found = store.plan(best=1)
    assert names(found) == (
        {"second": ["among the lowest KIDs"]},
        ["failed", "third", "first"],
    )
    assert str(found.remove[1]) == "third, 2023-11-14 22:15, KID 0.2, 2.0 MB"
    assert store.files() == before
    assert store.remaining() == ["failed", "first", "second", "third"]

    apply(store.root, "atelier", found)
    assert store.remaining() == ["second"]
    assert store.client.get_run(best).info.lifecycle_stage == "active"
    with pytest.raises(MlflowException, match="not found"):
        store.client.get_run(removed)
    kept_ids = {store.client.get_run(best).data.tags["mlflow.parentRunId"], best}
    assert {folder.name for folder in (store.root / "mlruns" / "atelier").iterdir()} == kept_ids
    assert store.files().items() <= before.items()
    assert names(store.plan(best=1)) == ({"second": ["among the lowest KIDs"]}, [])


def test_each_part_of_the_work_is_announced(store: Store) -> None:
    texts: list[str] = []
    store.execute("old")
    store.execute("older")
    found = plan(store.root, "atelier", 0, show=texts.append)
    apply(store.root, "atelier", found, show=texts.append)
    assert texts == [
        "Reading the runs",
        "Reading the commits that name files of 2 pipelines",
        "Reading DVC's cache",
        "Deleting pipeline 1 of 2",
        "Deleting pipeline 2 of 2",
        "Removing the files of 2 pipelines",
        "Removing files of DVC's cache",
    ]


def test_all_files_of_the_cache_are_found(store: Store) -> None:
    cache = store.root / ".dvc/cache"
    for name in ("files/md5/ab/cd", "files/md5/00/1.dir", "files/md5/no", "ef/01", "runs/ab/cd"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).touch()
    (cache / "files/md5/ab/folder").mkdir()
    (cache / "files/md5/ab/link").symlink_to("nothing")
    with DvcRepo(str(store.root)) as repo:
        for database in (repo.cache.local, repo.cache.legacy):
            expected = sorted(map(database.oid_to_path, database.all()))
            assert sorted(map(str, references._files(database))) == expected
            assert expected


def test_old_and_new_parameter_names_compare(store: Store) -> None:
    store.execute("old", 0.1, measured={**MEASURED, "evaluate.nearest_among": "100"})
    store.execute("new", 0.2, measured={**MEASURED, "evaluate.nearest_neighbor_pool": "100"})
    assert names(store.plan(best=1))[1] == ["new"]


def test_runs_with_other_evaluation_settings_do_not_compare(store: Store) -> None:
    store.execute("quick", 0.01, measured={**MEASURED, "evaluate.samples": "24"})
    store.execute("first", 0.3)
    store.execute("second", 0.3)
    store.execute("newest", 0.4)
    assert names(store.plan(best=1))[1] == ["newest", "second", "quick"]
    assert names(store.plan(best=2))[1] == ["newest", "quick"]
    assert names(store.plan(best=9))[1] == ["quick"]


def test_run_of_registered_model_is_kept_and_other_models_removed(store: Store) -> None:
    client, folders = store.client, {}
    client.create_registered_model("faces")
    for name in ("by run", "by place", "forgotten"):
        run = store.execute(name)
        model = client.create_logged_model(store.experiment, source_run_id=run)
        (store.root / "weights").write_bytes(bytes(500_000))
        client.log_model_artifact(model.model_id, str(store.root / "weights"))
        folders[name] = store.root / "mlruns" / "atelier" / "models" / model.model_id
        if name == "by run":
            client.create_model_version("faces", "file:///elsewhere", run_id=run)
        if name == "by place":
            client.create_model_version("faces", model.artifact_location)
    found = store.plan()
    reasons = ["made a registered model"]
    assert names(found) == ({"by place": reasons, "by run": reasons}, ["forgotten"])
    assert str(found.remove[0]).endswith(" 2.5 MB")
    store.prune()
    assert store.remaining() == ["by place", "by run"]
    assert all((folders[name] / "artifacts" / "weights").exists() for name in store.remaining())
    assert not folders["forgotten"].exists()
    remaining = client.search_logged_models([store.experiment])
    assert {model.model_id for model in remaining} == {
        folders[name].name for name in store.remaining()
    }


def test_run_whose_outputs_git_references_is_kept(store: Store) -> None:
    hashes = {name: f"{number:032x}" for number, name in enumerate(
        ["merged", "branch", "tag", "experiment", "workspace", "amended", "nobody"], 0xA0
    )}  # fmt: skip
    hashes["digits"] = "1" * 32
    hashes["folder"] = f"{0xB0:032x}.dir"
    for name, md5 in hashes.items():
        store.execute(name, outputs={"models": md5})
    store.execute("two", outputs={"models": hashes["digits"], "samples": hashes["folder"]})

    store.commit(hashes["folder"], f"'{hashes['digits']}'")
    main = git(store.root, "branch", "--show-current")
    git(store.root, "checkout", "--quiet", "-b", "side")
    store.commit(hashes["merged"])
    git(store.root, "checkout", "--quiet", main)
    git(store.root, "merge", "--quiet", "-s", "ours", "-m", "not taken", "side")
    git(store.root, "branch", "-D", "side")
    for name in ("branch", "tag", "experiment", "amended"):
        git(store.root, "checkout", "--quiet", "--detach", main)
        store.commit(hashes[name])
        if name in ("branch", "tag"):
            git(store.root, name, f"with-{name}")
        if name == "experiment":
            git(store.root, "update-ref", "refs/exps/ab/cdef/with-experiment", "HEAD")
    git(store.root, "checkout", "--quiet", main)
    store.lock(hashes["workspace"])

    assert names(store.plan())[1] == ["nobody"], "the reflog of HEAD references the amended commit"
    git(store.root, "reflog", "expire", "--expire=now", "--all")
    reasons, removed = names(store.plan())
    assert removed == ["nobody", "amended"]
    assert set(map(tuple, reasons.values())) == {("named by git or by dvc.lock",)}
    assert reasons.keys() == {*hashes, "two"} - {"nobody", "amended"}


def test_running_execution_is_kept(store: Store) -> None:
    store.execute("old")
    store.execute("elsewhere", status="RUNNING")
    # Between two stages of a pipeline, no run has the status RUNNING.
    process = Process.of(os.getpid())
    store.execute(process.key)
    journal = Outbox(private_folder(store.root), process, "train")
    reasons, removed = names(store.plan())
    assert reasons == {process.key: ["still running"], "elsewhere": ["still running"]}
    assert removed == ["old"]
    with pytest.raises(AtelierError, match="a pipeline is running"):
        store.prune()
    assert len(store.remaining()) == 3

    journal.close()
    shutil.rmtree(journal.folder.parent)
    store.prune()
    assert store.remaining() == ["elsewhere"]


def test_execution_without_written_outcome_is_kept(store: Store) -> None:
    # All stages are delivered, but the process was killed before it wrote the outcome.
    process = Process(2**22 + 1, "another-host")
    store.execute(process.key, table=True)
    journal = Outbox(private_folder(store.root), process, "train")
    journal.close()
    shutil.rmtree(journal.folder)
    record_start(journal.folder.parent, {"workspace": "elsewhere"})
    assert names(store.plan()) == ({process.key: ["still running"]}, [])
    with pytest.raises(AtelierError, match="a pipeline is running, or `atelier sync`"):
        store.prune()
    record_start(journal.folder.parent, None)
    assert names(store.plan())[1] == [process.key]


def test_execution_with_lost_outcome_is_kept_until_deleted(store: Store) -> None:
    child = store.execute("lost", table=False)
    assert names(store.plan()) == ({"lost": ["its table of stages is missing"]}, [])
    store.client.delete_run(store.client.get_run(child).data.tags["mlflow.parentRunId"])
    assert names(store.plan()) == ({}, ["lost"])


@pytest.mark.slow
@pytest.mark.parametrize("address", [" ", "sqlite:///{root}/mlflow.db"])
def test_own_store_is_recognized_by_another_address(
    store: Store, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    store.execute("old")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(root=store.root))
    assert not is_elsewhere(store.root)
    store.prune()
    assert store.remaining() == []
    assert not any((store.root / "mlruns").rglob("file.txt"))


def test_clones_have_different_ids(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    ids = owner_tags(first)
    assert ids != owner_tags(second)
    first.rename(tmp_path / "moved")
    assert owner_tags(tmp_path / "moved") == ids
    (tmp_path / "moved/.atelier/clone-id").write_text("")  # e.g. after a power failure
    assert len(owner_tags(tmp_path / "moved")["atelier.clone"]) == 32
    assert [file.name for file in (tmp_path / "moved/.atelier").iterdir()] == ["clone-id"]


def test_output_that_is_equal_in_every_run_keeps_none(store: Store) -> None:
    empty, committed, other = ("0" * 32, "1" * 32, "2" * 32)
    store.execute("committed", outputs={"models": committed, "plots": empty})
    store.execute("draft", outputs={"models": other, "plots": empty})
    store.commit(committed, empty)
    assert names(store.plan()) == ({"committed": ["named by git or by dvc.lock"]}, ["draft"])


def test_stale_checkpoints_are_removed(store: Store) -> None:
    kept_days = {"render-new": 29, "train-held": 31, "train-at-work": 31}
    for name, days in (kept_days | {"train-old": 31, ".stylize-old-1": 31}).items():
        folder = private_folder(store.root) / "unfinished" / name
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
        (folder / "state-000001").write_bytes(bytes(2_000_000))
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - days * 86_400,) * 2)
    work = private_folder(store.root) / "unfinished"
    (work / "train-at-work" / "gone").symlink_to("nowhere")  # like a file that is being replaced
    with locked(work / "train-held" / ".lock"):  # like the running stage
        found = store.plan()
        assert [folder.name for folder in found.stale] == [".stylize-old-1", "train-old"]
        apply(store.root, "atelier", found)
    assert {folder.name for folder in work.iterdir()} == set(kept_days)
    assert [folder.name for folder in plan(store.root, "atelier", days=32).stale] == []


def test_two_stages_with_one_fingerprint_use_separate_folders(tmp_path: Path) -> None:
    first, second = (ResumeDir(tmp_path, "train", None, "cpu", None) for _ in range(2))
    with first.checkpoints("one"), second.checkpoints("two"):
        assert [(resume.folder / "journal").read_text() for resume in (first, second)] == [
            "one",
            "two",
        ]
        assert stale(tmp_path, days=0) == []
    assert list((tmp_path / "unfinished").iterdir()) == []


def test_producers_of_kept_executions_are_kept(store: Store) -> None:
    first = store.execute("first")
    second = store.execute("second", restored={"download": first})
    unused = store.execute("unused")
    store.execute("kept", 0.1, restored={"download": "pulled from elsewhere", "convert": second})
    store.execute("failed", restored={"download": unused})
    reasons, removed = names(store.plan(best=1))
    assert removed == ["failed", "unused"]
    assert reasons["second"] == ["made what kept restored"]
    assert reasons["first"] == ["made what second restored"]


def test_only_runs_of_atelier_in_this_experiment_are_removed(store: Store) -> None:
    _, other = open_store(store.root, "other")
    store.execute("of other", experiment=other)
    own = store.client.create_run(store.experiment, run_name="a notebook's").info.run_id
    orphan = store.client.create_run(store.experiment, tags={"atelier.stage": "train"}).info.run_id
    store.client.set_terminated(orphan)
    found = store.plan()
    assert names(found)[0] == {"of other": ["of another experiment"]}
    assert [execution.head.info.run_id for execution in found.remove] == [orphan]
    store.prune()
    remaining = store.client.search_runs([store.experiment])
    assert [run.info.run_id for run in remaining] == [own]
    assert names(store.plan()) == (names(found)[0], [])


@pytest.mark.slow
def test_files_outside_the_project_are_not_removed(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    other_experiment = store.client.create_experiment("far", artifact_location=folder.as_uri())
    store.execute("far", experiment=other_experiment)
    store.execute("near")
    found = plan(store.root, "far", best=0)
    assert names(found)[0]["far"] == ["has files outside mlruns/"]
    apply(store.root, "far", found)
    assert len(list(folder.rglob("file.txt"))) == 2

    copy = Store(shutil.copytree(store.root, tmp_path / "copy"))
    before = store.files()
    copy.prune()
    assert copy.remaining() == []
    assert not list((copy.root / "mlruns").rglob("file.txt"))
    assert store.files() == before


def test_files_of_referenced_folders_stay_in_the_cache(store: Store) -> None:
    hashes = {}
    with DvcRepo(str(store.root)) as dvc:
        for name in ("committed", "untracked", "of a kept run", "unused"):
            (store.root / name).mkdir()
            (store.root / name / "file").write_text(name)
            (stage,) = dvc.add([str(store.root / name)])
            hashes[name] = stage.outs[0].hash_info.value
    git(store.root, "add", "committed.dvc")
    git(store.root, "commit", "--quiet", "-m", "data")
    for name in ("of a kept run", "unused"):
        (store.root / f"{name}.dvc").unlink()
    store.execute("best", 0.1, outputs={"models": hashes["of a kept run"]})
    before = store.files()
    # DVC 2 kept its files in another place, and hashed texts without carriage returns.
    legacy = store.root / ".dvc" / "cache" / "ab" / ("c" * 30)
    legacy.parent.mkdir()
    legacy.write_text("old")

    found = store.plan(best=1)
    md5 = hashlib.md5(b"unused").hexdigest()
    unused = {f"files/md5/{h[:2]}/{h[2:]}" for h in (hashes["unused"], md5)} | {f"ab/{'c' * 30}"}
    cache = store.root / ".dvc" / "cache"
    assert {file.relative_to(cache).as_posix() for file in found.cached} == unused
    assert before.items() <= store.files().items()
    apply(store.root, "atelier", found)
    remaining = {file.relative_to(cache).as_posix() for file in cache.rglob("*") if file.is_file()}
    every = {file.removeprefix(".dvc/cache/") for file in before if file.startswith(".dvc/cache/")}
    assert remaining == every - unused
    assert store.plan(best=1).cached == []


def test_damaged_list_of_a_folder_removes_no_file(store: Store) -> None:
    """An earlier commit needs the folder's files, which only the damaged list names."""
    folder = store.root / "data-set"
    folder.mkdir()
    with DvcRepo(str(store.root)) as dvc:
        lists = []
        for content in ("first", "second"):
            (folder / "file").unlink(missing_ok=True)
            (folder / "file").write_text(content)
            (stage,) = dvc.add([str(folder)])
            lists.append(stage.outs[0].hash_info.value)
            git(store.root, "add", "data-set.dvc")
            git(store.root, "commit", "--quiet", "-m", content)
    damaged = store.root / ".dvc/cache/files/md5" / lists[0][:2] / lists[0][2:]
    damaged.unlink()
    damaged.write_text("no list")
    before = store.files()
    with pytest.raises(AtelierError, match=r"\.dir in DVC's cache is damaged.*`dvc fetch`"):
        store.plan()
    assert store.files() == before


@pytest.mark.slow
def test_shared_cache_is_not_collected(store: Store, tmp_path: Path) -> None:
    cache = tmp_path / "shared"
    Project(store.root).run("dvc", "cache", "dir", str(cache))
    file = cache / "files" / "md5" / "ab" / ("c" * 30)
    file.parent.mkdir(parents=True)
    file.write_text("somebody's")
    store.execute("old")
    assert store.plan().cached == []
    store.prune()
    assert store.remaining() == []
    assert file.exists()


def test_only_own_runs_in_the_trash_are_removed(store: Store) -> None:
    child = store.execute("trashed", 0.1)
    store.execute("best", 0.2)
    store.client.delete_run(store.client.get_run(child).data.tags["mlflow.parentRunId"])
    assert names(store.plan(best=1)) == ({"best": ["among the lowest KIDs"]}, ["trashed"])
    trash = store.client.create_experiment("draft")
    store.client.delete_experiment(trash)
    with pytest.raises(AtelierError, match=f"draft.*--experiment-ids {trash}"):
        store.prune(best=1)
    assert store.client.get_run(child).info.lifecycle_stage == "active"
    store.client.restore_experiment(trash)
    store.prune(best=1)
    with pytest.raises(MlflowException, match="not found"):
        store.client.get_run(child)


@pytest.mark.slow
def test_runs_in_another_store_are_moved_to_its_trash(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(store.root / "mlflow.db", tmp_path / "team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team.db")
    team = Store(store.root)
    run = team.execute("old", tags=owner_tags(store.root))
    before = team.files()
    assert str(team.plan().remove[0]).endswith("no KID, files on the server")
    team.prune()
    assert team.remaining() == []
    assert team.client.get_run(run).info.lifecycle_stage == "deleted"
    assert team.files() == before
    assert names(team.plan()) == ({}, [])


@pytest.mark.slow
def test_only_old_runs_of_this_clone_are_removed_on_a_server(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(store.root / "mlflow.db", tmp_path / "team.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/team.db")
    team, own = Store(store.root), owner_tags(store.root)
    now, day = time.time_ns() // 1_000_000, 86_400_000
    team.execute("untagged")
    for tag in own:
        team.execute(f"other {tag}", tags=own | {tag: "another"})
    team.execute("old", tags=own, at=now - 8 * day)
    team.execute("recent", tags=own, at=now - 6 * day)
    reasons_by_name, removed = names(team.plan())
    assert removed == ["old"]
    assert reasons_by_name.pop("recent") == ["younger than 7 days"]
    assert reasons_by_name.keys() == {"untagged", *(f"other {tag}" for tag in own)}
    assert all(
        reasons == ["of another user, machine or clone"] for reasons in reasons_by_name.values()
    )
    assert names(plan(store.root, "atelier", best=0, min_age=5))[1] == ["recent", "old"]
    assert len(plan(store.root, "atelier", best=0, everyone=True).remove) == 4
    # Another user's lower KID does not make the best own run removable.
    team.execute("their best", 0.1, tags=own | {"mlflow.user": "another"})
    team.execute("own best", 0.2, tags=own)
    assert names(team.plan(best=1))[1] == ["old"]


@pytest.mark.slow
def test_minimum_age_applies_to_own_store(store: Store) -> None:
    store.execute("old")
    store.execute("fresh", at=time.time_ns() // 1_000_000)
    assert names(plan(store.root, "atelier", best=0))[1] == ["fresh", "old"]
    assert names(plan(store.root, "atelier", best=0, min_age=1))[1] == ["old"]


def test_errors_are_one_sentence(store: Store, tmp_path: Path) -> None:
    store.execute("old")
    shutil.rmtree(store.root / ".git")
    with pytest.raises(AtelierError, match=r"`git rev-list` failed: fatal: not a git repository"):
        store.plan()
    with pytest.raises(AtelierError, match=r"there is no .*mlflow\.db"):
        plan(tmp_path, "atelier")
    assert not (tmp_path / "mlflow.db").exists()
    git(store.root, "init", "--quiet")
    found = store.plan()
    (store.root / "dvc.yaml").write_text("stages: [", "utf-8")
    with pytest.raises(AtelierError, match="DVC's cache cannot be read: "):
        apply(store.root, "atelier", found)


def newest(project: Project) -> Run:
    """Wait until all outboxes are delivered and return the newest training's run."""
    end = time.monotonic() + 120
    while list((project.folder / ".atelier" / "journal").glob("*")):
        assert time.monotonic() < end, "the runs are not delivered"
        time.sleep(0.1)
    client, experiment = open_store(project.folder, "atelier")
    return client.search_runs([experiment], "tags.`atelier.stage` = 'train'")[0]


@pytest.mark.slow
def test_unreferenced_outputs_of_the_pipeline_are_removed(tracked: Project) -> None:
    def cached() -> list[str]:
        folder = tracked.folder / ".dvc" / "cache" / "files" / "md5"
        return [name for name, md5 in models.items() if (folder / md5[:2] / md5[2:]).exists()]

    tracked.run(
        "rm", "-rf", "mlflow.db", "mlruns", ".atelier"
    )  # the first pipeline belongs to another user
    git(tracked.folder, "commit", "--quiet", "-am", "first")
    first = tracked.bytes("models", "samples", "metrics")
    lock = YAML(typ="safe").load((tracked.folder / "dvc.lock").read_text("utf-8"))
    models = {out["path"]: out["md5"] for out in lock["stages"]["train"]["outs"]}
    models = {"commit": models["models"]}
    tracked.run("dvc", "exp", "run", "--temp", "-n", "trial", "-S", "train.lr=0.01", "evaluate")
    models["experiment"] = newest(tracked).data.tags["output.models"]
    tracked.set(**{"train.lr": 0.02})
    assert tracked.repro("evaluate") == ["train", "evaluate"]
    draft = newest(tracked)
    models["draft"] = draft.data.tags["output.models"]
    git(tracked.folder, "checkout", "--quiet", ".")
    tracked.run("dvc", "checkout", "--force")
    assert cached() == ["commit", "experiment", "draft"]

    # The best result is kept, also in DVC's cache, although it is not committed.
    client, _ = open_store(tracked.folder, "atelier")
    client.log_metric(draft.data.tags["mlflow.parentRunId"], "evaluate.kid", -1.0)
    found = plan(tracked.folder, "atelier")
    assert list(found.keep.values()) == [["among the lowest KIDs"], ["named by git or by dvc.lock"]]
    assert found.remove == []
    apply(tracked.folder, "atelier", found)
    assert cached() == ["commit", "experiment", "draft"]

    before = tracked.bytes("mlruns", ".dvc/cache")
    found = plan(tracked.folder, "atelier", best=0)
    (removed,) = found.remove
    assert draft.info.run_id in removed.ids
    assert all(file.exists() for file in (*found.cached, *removed.folders))
    assert tracked.bytes("mlruns", ".dvc/cache") == before
    apply(tracked.folder, "atelier", found)
    assert cached() == ["commit", "experiment"]
    assert not any(file.exists() for file in (*found.cached, *removed.folders))
    found = plan(tracked.folder, "atelier", best=0)
    assert (len(found.keep), found.remove, found.cached) == (1, [], [])

    assert tracked.bytes("models", "samples", "metrics") == first
    assert tracked.repro() == []
    tracked.run("dvc", "exp", "apply", "trial")
    assert tracked.settings().train.lr == 0.01
    tracked.run("dvc", "checkout")
