"""Files and settings that contain code: none of it is executed."""

import ast
import hashlib
import json
import os
import pickle
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from atelier.core import settings
from atelier.core.checkpoints import Checkpoints
from atelier.core.errors import AtelierError
from atelier.data.dataset import load_images
from atelier.gan.sample_files import load_epochs
from atelier.gan.serialization import load_generator
from atelier.style.vgg import build_vgg19
from atelier.tracking.delivery_worker import flush_backlog
from atelier.tracking.dvc_lock import read_lock
from atelier.tracking.environment import Process, private_folder
from atelier.tracking.models import load_model
from atelier.tracking.outbox import Outbox, problem
from atelier.tracking.rejected import rejected_file
from atelier.tracking.store import open_store

from ..support.project import ROOT, Project
from ..support.selection import slow_after


class Bomb:
    """Object that creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """Folder that executed code would create; the test fails if it exists at the end."""
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists()


def objects(marker: Path) -> np.ndarray:
    return np.array([Bomb(marker)], dtype=object)


def one_sentence(error: AtelierError) -> bool:
    return str(error).isprintable() and str(error).endswith(".")


def test_unsafe_loaders_execute_the_bomb(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "pickle")))
    np.save(tmp_path / "bomb.npy", objects(tmp_path / "numpy"), allow_pickle=True)
    np.load(tmp_path / "bomb.npy", allow_pickle=True)
    torch.save({"features.0.weight": Bomb(tmp_path / "torch")}, tmp_path / "bomb.pth")
    torch.load(tmp_path / "bomb.pth", weights_only=False)
    assert all((tmp_path / name).is_dir() for name in ("pickle", "numpy", "torch"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("member", ["arr_0", "names"])
def test_array_of_objects_is_no_dataset(
    tmp_path: Path, marker: Path, save: Callable[..., None], member: str
) -> None:
    content = {"arr_0": np.zeros((1, 4, 4, 3), np.uint8), "names": np.array(["a"])}
    save(tmp_path / "images.npz", **content | {member: objects(marker)})
    with pytest.raises(AtelierError, match="run the convert stage again") as caught:
        load_images(tmp_path / "images.npz")
    assert one_sentence(caught.value)


def save_objects(file: Path, marker: Path) -> None:
    np.save(file, objects(marker), allow_pickle=True)


def save_pickle(file: Path, marker: Path) -> None:
    file.write_bytes(pickle.dumps(Bomb(marker)))


def save_zip(file: Path, marker: Path) -> None:
    np.savez(file.with_suffix(".npz"), objects(marker))
    file.with_suffix(".npz").rename(file)


def save_torch(file: Path, marker: Path) -> None:
    torch.save({"features.0.weight": Bomb(marker), "architecture": Bomb(marker)}, file)


def save_torch_before_1_6(file: Path, marker: Path) -> None:
    torch.save(Bomb(marker), file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [save_objects, save_pickle, save_zip])
def test_pickle_is_no_sample_file(
    tmp_path: Path, marker: Path, save: Callable[[Path, Path], None]
) -> None:
    save(tmp_path / "epoch_0001.npy", marker)
    with pytest.raises(AtelierError, match=r"epoch_0001\.npy cannot be read as samples") as caught:
        load_epochs(tmp_path)
    assert one_sentence(caught.value)


@pytest.mark.parametrize("save", [save_pickle, save_torch, save_torch_before_1_6])
def test_pickle_is_no_generator(
    tmp_path: Path, marker: Path, save: Callable[[Path, Path], None]
) -> None:
    save(tmp_path / "generator.safetensors", marker)
    with pytest.raises(AtelierError, match="holds no generator that can be rebuilt") as caught:
        load_generator(tmp_path / "generator.safetensors")
    assert one_sentence(caught.value)


@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors", "vgg"])
@pytest.mark.parametrize("save", [save_pickle, save_torch, save_torch_before_1_6])
def test_pickle_is_no_state_dict(
    tmp_path: Path, marker: Path, name: str, save: Callable[[Path, Path], None]
) -> None:
    save(tmp_path / name, marker)
    with pytest.raises(AtelierError, match="holds no state_dict that can be read") as caught:
        build_vgg19(str(tmp_path / name), "max", seed=1, deepest=1)
    assert one_sentence(caught.value)


@pytest.mark.parametrize("save", [save_pickle, save_torch, save_torch_before_1_6])
def test_pickle_is_skipped_as_checkpoint(
    tmp_path: Path, marker: Path, save: Callable[[Path, Path], None]
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"step": torch.tensor(1)})
    for name in ("state-000000000002", "epoch-000001"):
        file = tmp_path / f"{name}.safetensors"
        save(file, marker)
        # Add the checksum at the end of a checkpoint, so that a missing one is not the reason.
        content = file.read_bytes()
        file.write_bytes(content + hashlib.sha256(content).digest())
    latest = checkpoints.latest()
    assert latest is not None
    assert int(latest["step"]) == 1
    assert checkpoints.load_part("epoch-000001") is None


@pytest.mark.parametrize(
    "template",
    [
        "!!python/object/apply:os.mkdir [{}]",
        "!!python/object/new:os.mkdir [{}]",
        "!!python/object/apply:os.system ['mkdir {}']",
        "!!python/name:os.mkdir",
        "!!python/module:{}",
        "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [{}]",
    ],
)
def test_yaml_tag_constructs_no_object(tmp_path: Path, marker: Path, template: str) -> None:
    value = template.replace("{}", str(marker))
    text = (ROOT / "params.yaml").read_text("utf-8").replace("epochs: 41", f"epochs: {value}")
    assert value in text
    (tmp_path / "params.yaml").write_text(text, "utf-8")
    with pytest.raises(AtelierError, match="could not determine a constructor") as caught:
        settings.load(tmp_path / "params.yaml")
    assert one_sentence(caught.value)
    assert read_lock(f"stages: {{train: {value}}}") == {}


# The name has no slash, which some settings do not allow: the folder would be in the project.
SHELL: list[dict[str, Any]] = [
    {"download.source": "folder", "download.folders": {"$(mkdir executed)": "/tmp"}},
    {"download.source": "folder", "download.folders": {"a; mkdir executed": "/tmp"}},
    {"download.source": "folder", "download.folders": {"mine": "$(mkdir executed)"}},
    {
        "download.source": "archive",
        "download.archive.location": "x`mkdir executed`; mkdir executed",
    },
    {"download.source": "kaggle", "download.kaggle.handle": "a/b; mkdir executed"},
    {"runtime.device": "cpu; mkdir executed"},
    {"tracking.experiment": "$(mkdir executed)"},
    {"tracking.registered_model": "; mkdir executed"},
    {"stylize.weights": "$(mkdir executed)"},
]
ALLOWED = {"tracking.experiment", "tracking.registered_model"}  # any name in MLflow


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [SHELL[0], *(pytest.param(other, marks=pytest.mark.slow) for other in SHELL[1:])]
)
def test_dvc_executes_no_shell_command_in_settings(
    fresh: Project, marker: Path, changes: dict[str, Any]
) -> None:
    fresh.set(**changes)
    output = fresh.run("sh", "-c", "dvc repro download stylize_inputs 2>&1 || true")
    assert not list(fresh.folder.rglob("executed*"))
    assert "Traceback" not in output
    assert "ERROR: " in output or set(changes) <= ALLOWED


@pytest.mark.parametrize(
    "changes",
    slow_after(1, SHELL[1:]),
)
def test_stages_execute_no_shell_command_in_settings(
    ready: Project, marker: Path, changes: dict[str, Any]
) -> None:
    """Run stages in this process; the commands in dvc.yaml contain no settings."""
    ready.set(**changes)
    (watch,) = [f"watch@{name}" for name in changes.get("download.folders", ["none"])]
    output = ready.stage("watch", ok=None, DVC_STAGE=watch) if watch != "watch@none" else ""
    output += ready.stage("download", ok=None) + ready.stage("inputs", "stylize", ok=None)
    assert not list(ready.folder.rglob("executed*"))
    assert "Traceback" not in output
    assert ("ERROR: " in output) == (not set(changes) <= ALLOWED)


def journal_of_exited_stage(root: Path) -> Outbox:
    start = {"experiment": "e", "pipeline": "", "workspace": "", "parameters": {}, "tags": {}}
    return Outbox(private_folder(root), Process(2**22 + 1, "0"), "train", **start)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of mlflow
def test_pickle_is_no_delivery_state(tmp_path: Path, marker: Path) -> None:
    journal = journal_of_exited_stage(tmp_path)
    journal.close()
    (journal.folder / "delivered.json").write_bytes(pickle.dumps(Bomb(marker)))
    assert flush_backlog(tmp_path) == 0, "without a JSON state, delivery starts at the first entry"
    client, experiment = open_store(tmp_path, "e")
    assert [run.info.status for run in client.search_runs([experiment])] == ["KILLED"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of mlflow
def test_pickle_is_no_logged_model(tracked: Project, marker: Path) -> None:
    client, experiment = open_store(tracked.folder, "atelier")
    (model,) = client.search_logged_models([experiment])
    (graph,) = (tracked.folder / "mlruns").rglob("model.pt2")
    torch.save(Bomb(marker), graph)
    with pytest.raises(AtelierError, match="pickle") as caught:
        load_model(f"models:/{model.model_id}", client)
    assert one_sentence(caught.value)


def test_entry_calls_no_function_of_another_package(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("still here")
    journal = journal_of_exited_stage(tmp_path)
    journal.write("model", file=str(victim), loader="os:unlink")
    journal.write("end", status="FINISHED")
    journal.close()
    assert flush_backlog(tmp_path) == 0, problem(journal.folder.parent)
    assert victim.read_text() == "still here"
    assert "os:unlink is no loader of this package" in rejected_file(tmp_path).read_text()


@pytest.mark.parametrize(
    ("stage", "file", "save"),
    slow_after(
        1,
        [
            ("train", "data/images.npz", save_zip),
            ("evaluate", "samples/epoch_0001.npy", save_objects),
            ("render", "samples/epoch_0001.npy", save_objects),
            ("evaluate", "models/generator.safetensors", save_torch),
            ("stylize", "data/weights/vgg.pth", save_torch),
        ],
    ),
)
def test_stage_reports_a_pickle_in_one_sentence(
    ready: Project, marker: Path, stage: str, file: str, save: Callable[[Path, Path], None]
) -> None:
    target = ready.folder / file
    target.unlink(missing_ok=True)  # a link into DVC's cache, which must not be written to
    save(target, marker)
    if file.startswith("data/weights"):
        ready.set(**{"stylize.weights": target.name})
    output = ready.stage(stage, ok=False)
    (sentence,) = output.splitlines()
    assert sentence.startswith("ERROR: ")
    assert target.name in sentence
    assert sentence.endswith(".")


class Tags(HTMLParser):
    """Parser that collects the tags of a page with their attributes."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[str]]] = []
        self.feed(page.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [name for name, _ in attrs]))


def test_report_escapes_names_of_files(ready: Project, tmp_path: Path) -> None:
    page = ready.folder / "report.html"
    before = Tags(page).tags
    folder = tmp_path / "<b onclick=alert(1)>"
    folder.mkdir()
    names = [
        "<script>alert(1)<script>.png",
        "\"'><img src=x onerror=alert(1)>.png",
        "{{ 7*7 }}.png",
    ]
    for name in names:
        Image.new("RGB", (20, 20), "red").save(folder / name)
        (folder / f"broken {name}").write_bytes(b"\x89PNG\r\n\x1a\n")
    changes = {
        "download.source": "folder",
        "download.folders": {"mine": str(folder)},
        "convert.share_images": "all",  # by default, the page shows no image of a folder
    }
    ready.set(**changes)
    ready.stage("watch", DVC_STAGE="watch@mine")
    for stage in ("download", "convert"):
        ready.remove_outputs(stage)
        ready.stage(stage)
    counts = json.loads((ready.folder / "metrics/details/convert.json").read_text("utf-8"))
    assert [file["name"] for file in counts["rejected_files"] if "<script>" in file["name"]]
    # The page shows notes, but no names of files.
    details = ready.folder / "metrics/details/evaluate.json"
    evaluation = json.loads(details.read_text("utf-8")) | {"notes": names}
    details.unlink()
    details.write_text(json.dumps(evaluation), "utf-8")
    ready.stage("report")
    text = page.read_text("utf-8")
    assert "Warning: &lt;script&gt;alert(1)&lt;script&gt;.png" in text
    assert "<h1>Folder mine, preset " in text
    after = Tags(page).tags
    for tag in ("script", "img", "b"):
        assert [t for t in after if t[0] == tag] == [t for t in before if t[0] == tag]
    assert not [name for _, attributes in after for name in attributes if name.startswith("on")]


# Functions that execute their argument, or load files that can contain code.
_EXECUTING = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open"),
    *("dill.load", "joblib.load", "cloudpickle.load", "cloudpickle.loads"),
    *(
        "torch.jit.load",
        "mlflow.pytorch.load_model",
        "mlflow.pyfunc.load_model",
        "subprocess.getoutput",
    ),
}

# PyYAML is included: by default, its loaders construct objects.
_UNPICKLING = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}


def executing(source: str) -> list[str]:
    """Return the calls in a program that might execute their argument."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [text for call in calls if (text := _executing(call))]


def _executing(call: ast.Call) -> str:
    name = ast.unparse(call.func)
    keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
    unsafe = (
        name in _EXECUTING
        or keywords.get("allow_pickle", "False") != "False"
        or keywords.get("shell", "False") != "False"
        or (name.endswith("torch.load") and keywords.get("weights_only") != "True")
        or (name.endswith("YAML") and keywords.get("typ", "'rt'") not in ("'rt'", "'safe'"))
        or (name.endswith("jinja2.Environment") and keywords.get("autoescape") != "True")
    )
    return ast.unparse(call) if unsafe else ""


@pytest.mark.parametrize(
    "source",
    [
        *("eval(x)", "exec(x)", "os.system(x)", "pickle.load(f)", "pickle.Unpickler(f).load()"),
        *("np.load(f, allow_pickle=True)", "np.load(f, allow_pickle=trusted)", "torch.load(f)"),
        *("torch.load(f, weights_only=False)", "YAML(typ='unsafe')"),
        *("subprocess.run(x, shell=True)", "jinja2.Environment()"),
    ],
)
def test_search_finds_executing_calls(source: str) -> None:
    assert executing(source)


def test_no_module_executes_code_from_files() -> None:
    programs = [*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
    assert len(programs) > 50
    found = {p.name: calls for p in programs if (calls := executing(p.read_text("utf-8")))}
    # This call rejects pickles (see test_pickle_is_no_logged_model).
    assert found == {"models.py": ["mlflow.pytorch.load_model(folder)"]}


def test_only_the_cifar_reader_imports_an_unpickler() -> None:
    programs = [*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
    using = {
        p.name
        for p in programs
        for node in ast.walk(ast.parse(p.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if (name or "").partition(".")[0] in _UNPICKLING
    }
    assert using == {"cifar.py"}
