"""Compare the outputs of two versions of the project: arrays, tensors, pixels and metrics.

    python scripts/compare_outputs.py record before.json --project ../old
    python scripts/compare_outputs.py record after.json
    python scripts/compare_outputs.py compare before.json after.json

`record` clones the last commit of a checkout into a temporary folder, runs `dvc repro` there with
tracking off, and writes a digest of every output: of a shortened sample chain and of a tiny run of
each preset, or with `--full` of `params.yaml` unchanged. The runs need no network: images for the
presets that download theirs are drawn here. Record both versions on one machine, each with its own
copy of `compare_outputs.yaml`, which has the settings of the runs.

`compare` prints every difference and exits with 1 if there is any. `--renamed` takes a JSON object
from old to new names of runs, files and entries. `--exempt` takes a text file of names that may
differ, one a line: `run/file`, or `run/file:entry`. A line that exempts nothing is a difference.
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from ruamel.yaml import YAML
from safetensors import deserialize

Entries = dict[str, str]
Files = dict[str, Entries]
ROOT = Path(__file__).resolve().parents[1]
SETTINGS = Path(__file__).with_suffix(".yaml")
TIMING = re.compile("second")  # in the names of durations and speeds, which no run repeats

# Python imports a module of this name at every start. Atelier accepts only files with the checksums
# that torchvision knows, so the clone's torchvision must know those of the drawn datasets.
CHECKSUMS = """
import sys
if sys.orig_argv[-1].endswith("download.py"):
    import hashlib, pathlib
    from torchvision import datasets
    def md5(name):
        return hashlib.md5(pathlib.Path("tiny", name).read_bytes()).hexdigest()
    for dataset in (datasets.MNIST, datasets.FashionMNIST):
        dataset.resources = [(name, md5(name)) for name, _ in dataset.resources]
    datasets.CIFAR10.tgz_md5 = md5(datasets.CIFAR10.filename)
    id_, _, name = datasets.CelebA.file_list[0]
    datasets.CelebA.file_list = [(id_, md5(name), name)]
"""


def digest(kind: str, shape: Collection[int], data: bytes) -> str:
    """Return the type, shape and SHA-256 of an array in one line."""
    return f"{kind} {list(shape)} {hashlib.sha256(data).hexdigest()}"


def array_entries(content: bytes) -> Entries:
    """Return the digest of every array of an .npz or .npy file."""
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    arrays = {"array": loaded} if isinstance(loaded, np.ndarray) else loaded
    return {k: digest(str(a.dtype), a.shape, a.tobytes()) for k, a in arrays.items()}


def tensor_entries(content: bytes) -> Entries:
    """Return the digest of every tensor of a .safetensors file."""
    found = deserialize(content)  # type: ignore[no-untyped-call]
    return {name: digest(t["dtype"], t["shape"], bytes(t["data"])) for name, t in found}


def pixel_entries(content: bytes) -> Entries:
    """Return the digest of the decoded pixels of all frames of an image file."""
    with Image.open(io.BytesIO(content)) as image:
        frames = [frame.convert("RGBA") for frame in ImageSequence.Iterator(image)]
    shape = (len(frames), *frames[0].size)
    return {"pixels": digest("frames", shape, b"".join(frame.tobytes() for frame in frames))}


def table_entries(content: bytes) -> Entries:
    """Return the digest of every column of a CSV file."""
    header, *rows = csv.reader(content.decode("utf-8").splitlines())
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    return {
        name: digest("column", [len(cells)], "\n".join(cells).encode())
        for name, cells in columns.items()
        if not TIMING.search(name)
    }


def metric_entries(content: bytes) -> Entries:
    """Return every value of a JSON file by its dotted key."""
    found: Entries = {}
    left = [("", json.loads(content))]
    while left:
        key, value = left.pop()
        if isinstance(value, dict | list) and value:
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{key}.{name}".lstrip("."), part) for name, part in parts]
        elif not TIMING.search(key):
            found[key] = json.dumps(value)
    return found


def file_entries(content: bytes) -> Entries:
    """Return the digest of a file of any other format."""
    return {"bytes": digest("file", [len(content)], content)}


READERS: dict[str, Callable[[bytes], Entries]] = {
    **dict.fromkeys((".npz", ".npy"), array_entries),
    ".safetensors": tensor_entries,
    ".csv": table_entries,
    ".json": metric_entries,
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif"), pixel_entries),
}


def output_entries(project: Path) -> Files:
    """Return the entries of every output of the stages that `dvc.lock` records."""
    lock = YAML(typ="safe").load(project / "dvc.lock")
    outputs = [project / o["path"] for s in lock["stages"].values() for o in s.get("outs", ())]
    files = {file for out in outputs for file in (out, *out.rglob("*")) if file.is_file()}
    return {
        str(file.relative_to(project)): READERS.get(file.suffix, file_entries)(file.read_bytes())
        for file in sorted(files)
        if file.suffix != ".html"  # the report page depends on the date and the machine
    }


def draw_images(count: int, width: int, height: int, channels: int) -> NDArray[np.uint8]:
    """Return smooth random images, uint8 [N, H, W, C]."""
    coarse = np.random.default_rng(width).integers(0, 256, (count, 6, 6, 3), np.uint8)
    images = [Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC) for c in coarse]
    return np.stack([np.asarray(image) for image in images])[..., :channels]


def draw_datasets(folder: Path) -> None:
    """Write small datasets under the names and in the formats of torchvision's and Kaggle's."""
    root, cached = folder / "tiny", folder / "kaggle/datasets/tiny/faces"
    photos = folder / "photos"  # of the preset few64
    root.mkdir()
    photos.mkdir()
    for part, count in (("train", 96), ("t10k", 32)):
        digits = draw_images(count, 28, 28, 1).tobytes()
        images = struct.pack(">4I", 2051, count, 28, 28) + digits
        labels = struct.pack(">2I", 2049, count) + bytes(i % 10 for i in range(count))
        (root / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, mtime=0))
        (root / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels, mtime=0))
    rows = draw_images(96, 32, 32, 3).transpose(0, 3, 1, 2).reshape(96, -1)
    # CIFAR-10 is published as a pickle.
    batch = pickle.dumps({b"data": rows, b"labels": [i % 10 for i in range(96)]}, 2)
    member, stream = tarfile.TarInfo("cifar-10-batches-py/data_batch_1"), io.BytesIO()
    member.size = len(batch)
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(member, io.BytesIO(batch))
    packed = gzip.compress(stream.getvalue(), mtime=0)  # no time: the file is the same in every run
    (root / "cifar-10-python.tar.gz").write_bytes(packed)
    (cached / "versions/1").mkdir(parents=True)
    (cached / "1.complete").touch()
    with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
        for number, pixels in enumerate(draw_images(96, 178, 218, 3), 1):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=95)
            name = zipfile.ZipInfo(f"img_align_celeba/{number:06d}.jpg")
            archive.writestr(name, stream.getvalue())
            for images_folder in (cached / "versions/1", photos):
                (images_folder / f"{number}.jpg").write_bytes(stream.getvalue())


def change_settings(settings: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Write nested values into settings, in place; exit if a key is unknown."""
    for key, value in values.items():
        if key not in settings:
            raise SystemExit(f"{key} is not in params.yaml; correct {SETTINGS.name}.")
        if isinstance(value, dict):
            change_settings(settings[key], value)
        else:
            settings[key] = value


def reproduce(clone: Path, *changes: Mapping[str, Any]) -> Files:
    """Run the chain with changed settings; return the entries of its outputs."""
    yaml = YAML()
    document = yaml.load(clone / "params.yaml")
    for values in changes:
        change_settings(document, values)
    yaml.dump(document, clone / "params.yaml")
    run(clone, "dvc", "repro")
    return output_entries(clone)


def run(project: Path, *command: str) -> None:
    """Run a command in a clone, on one thread; exit with its output if it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "src",
        "OMP_NUM_THREADS": "1",
        "KAGGLEHUB_CACHE": str(project / "kaggle"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    out, err = subprocess.PIPE, subprocess.STDOUT
    done = subprocess.run(command, cwd=project, env=environment, stdout=out, stderr=err, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}")


def record(project: Path, full: bool, names: Collection[str]) -> Iterator[tuple[str, Files]]:
    """Run the chain in a temporary clone; yield the name and the entries of every run."""
    settings = YAML(typ="safe").load(SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "project")
        run(Path(folder), "git", "clone", "--quiet", str(project.resolve()), str(clone))
        if full:
            yield "full", reproduce(clone, settings["all"])
            return
        draw_datasets(clone)
        (clone / "src/sitecustomize.py").write_text(CHECKSUMS, "utf-8")
        for name, values in settings["runs"].items():
            if name in names or not names:
                run(clone, "atelier", "preset", values.pop("preset", name))
                yield name, reproduce(clone, settings["all"], settings["tiny"], values)


def named_entries(runs: Mapping[str, Files], renamed: Mapping[str, str]) -> Entries:
    """Return every entry by `run/file:entry`, under the new names."""
    found: Entries = {}
    for run_name, files in runs.items():
        for file, entries in files.items():
            for entry, value in entries.items():
                name = "{}/{}:{}".format(*(renamed.get(n, n) for n in (run_name, file, entry)))
                if name in found:
                    raise SystemExit(f"two entries would be named {name}; correct --renamed.")
                found[name] = value
    return found


def differences(
    before: Mapping[str, Files],
    after: Mapping[str, Files],
    renamed: Mapping[str, str],
    exempt: Collection[str],
) -> list[str]:
    """Return a line for every entry that differs and for every exemption of nothing."""
    old, new = named_entries(before, renamed), named_entries(after, {})
    lines, unused = [], set(exempt)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            continue
        exemptions = {name, name.partition(":")[0]} & set(exempt)
        unused -= exemptions
        if not exemptions:
            lines.append(f"{name}: {old.get(name, 'missing')} -> {new.get(name, 'missing')}")
    return lines + [f"{name}: exempted, but equal or unknown" for name in sorted(unused)]


def main() -> None:
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the chain and write digests")
    recording.add_argument("file", type=Path)
    recording.add_argument("--project", type=Path, default=ROOT, help="checkout to clone")
    recording.add_argument("--full", action="store_true", help="run params.yaml unchanged")
    recording.add_argument("--only", nargs="*", default=(), help="record some runs again")
    comparing = commands.add_parser("compare", help="print the differences of two records")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--renamed", type=Path, help="JSON object of old and new names")
    comparing.add_argument("--exempt", type=Path, help="text file of names that may differ")
    args = parser.parse_args()
    if args.command == "record":
        found = json.loads(args.file.read_text("utf-8")) if args.only and args.file.exists() else {}
        for name, found[name] in record(args.project, args.full, args.only):
            args.file.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
            print(f"{name}: {len(found[name])} files", flush=True)
        return
    before, after = (json.loads(file.read_text("utf-8")) for file in (args.before, args.after))
    renamed = json.loads(args.renamed.read_text("utf-8")) if args.renamed else {}
    exempt = args.exempt.read_text("utf-8").splitlines() if args.exempt else ()
    lines = differences(before, after, renamed, exempt)
    print("\n".join(lines) or f"equal: {len(named_entries(after, {}))} entries")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
