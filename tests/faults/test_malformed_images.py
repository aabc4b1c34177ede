"""Malformed images: each is converted or rejected for a reason, in bounded time and memory."""

import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from atelier.data.dataset import load_images
from atelier.data.safe_names import sanitize_name

from ..support.image_files import saved

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux reports the peak memory of a process"
)

SIZE = 16
KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "AVIF", "ICO")
NAMES = (
    "лицо", "顔", "चेहरा", "وجه", "πρόσωπο", "얼굴", "פנים", "😀", "e\u0301", "é", "FACE", "face",
    "line\nbreak", "tab\tand\rreturn", "\u202egnp.exe", "-rf", ".hidden", "=1+1", "<script>",
    "%s{0}", "a\\b", "C:", "con", "x" * 200, os.fsdecode(b"caf\xe9"), "\x1b[31m", "'; drop",
)  # fmt: skip

# Runs in a separate process, so that a crash, a hang or too much memory does not affect pytest.
CHILD = """
import json, re, sys
from pathlib import Path
from atelier.data.convert import convert
from atelier.data.sources.download import download
from atelier.core.progress import silent
from atelier.core.download_settings import DownloadSettings
from atelier.core.settings import ConvertSettings

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

report = silent
folder, values, size = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
#PRELUDE
before = peak()
download(DownloadSettings(**values), folder / "raw", folder / "scratch", report)
result = convert(
    ConvertSettings(
        image_size=size, color="rgb", resize_mode="crop", max_megapixels=1,
        validation_fraction=0.0, test_fraction=0.0
    ),
    folder / "raw", folder / "images.npz", workers=2,
)
print(json.dumps({**result.details(), "megabytes": peak() - before}))
"""


def process(
    folder: Path, source: str, *, prelude: str = "", deadline: int = 120, **changes: Any
) -> dict[str, Any]:
    """Download and convert in a separate process; return its metrics and peak memory."""
    values: dict[str, Any] = {
        "source": source,
        "sample": {"count": 16, "seed": 1},
        "folders": {},
        "archive": {"location": "unset", "sha256": ""},
        "kaggle": {"handle": "owner/faces"},
        "torchvision": {"dataset": "MNIST", "split": "all", "root": "", "mirror": ""},
        **changes,
    }
    script = CHILD.replace("#PRELUDE", prelude)
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(folder), json.dumps(values), str(SIZE)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
    )
    assert (child.returncode, child.stderr) == (0, ""), child.stderr
    return dict(json.loads(child.stdout))


def random_image(rng: random.Random) -> Image.Image:
    width, height = rng.randrange(SIZE, 48), rng.randrange(SIZE, 48)
    coarse = Image.frombytes("RGB", (4, 4), rng.randbytes(48))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def intact(rng: random.Random) -> bytes:
    return saved(random_image(rng), rng.choice(KINDS))


def flipped(rng: random.Random) -> bytes:
    data = bytearray(intact(rng))
    # Half of the damages are in the header, which has more effect.
    reach = rng.choice((64, len(data)))
    for _ in range(rng.choice((1, 1, 3, 30))):
        data[rng.randrange(min(reach, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(data)


def truncated(rng: random.Random) -> bytes:
    data = intact(rng)
    return data[: rng.randrange(len(data))]


def swapped(rng: random.Random) -> bytes:
    head, body = intact(rng), intact(rng)
    cut = rng.randrange(4, 40)
    return head[:cut] + body[cut:]


def animated(rng: random.Random) -> bytes:
    first = random_image(rng)
    more = [first.rotate(90 * turns) for turns in (1, 2)]
    return saved(first, rng.choice(("GIF", "PNG", "WEBP")), save_all=True, append_images=more)


def sixteen_bits(rng: random.Random) -> bytes:
    values = np.asarray(random_image(rng).convert("L"), np.uint16) * 257
    return saved(Image.fromarray(values), "PNG")


def rotated(rng: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = rng.randrange(1, 9)
    return saved(random_image(rng), "JPEG", exif=exif)


def transparent(rng: random.Random) -> bytes:
    image = random_image(rng).convert("RGBA")
    image.putalpha(image.getchannel("R"))
    return saved(image, rng.choice(("PNG", "TGA", "TIFF")))


def bomb(rng: random.Random) -> bytes:
    """Return a file of a few hundred bytes whose header says 50,000 x 50,000 pixels."""
    kind = rng.choice(("PNG", "GIF", "BMP", "JPEG", "PPM"))
    data = bytearray(saved(Image.new("RGB", (16, 16)), kind))
    side = 50_000
    if kind == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", side, side)
    else:
        return bytes(data).replace(b"16 16", b"50000 50000", 1)
    return bytes(data)


@cache
def tiled_bomb() -> bytes:
    """Return a TIFF of 10 x 10 pixels in a tile of 256 million, deflated to a few hundred kB."""
    side = 16_000
    squeeze = zlib.compressobj(9)
    data = b"".join(squeeze.compress(bytes(side)) for _ in range(side)) + squeeze.flush()
    values = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    values |= {324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + data


@cache
def scanned_bomb() -> bytes:
    """Return a JPEG of a few hundred kB with 20,000 scans, whose decoding would take minutes."""
    data = saved(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + 20_000 * last + data[-2:]


@cache
def many_tiles() -> bytes:
    """Return a JPEG 2000 of 255 x 255 tiles; each needs more than 10 kB of memory."""
    image = Image.new("RGB", (255, 255))
    return saved(image, "JPEG2000", tile_size=(1, 1), num_resolutions=1)


@cache
def icon_bomb() -> bytes:
    """Return an ICO of 16 x 16 pixels that contains a PNG of 100 million pixels."""
    inner = saved(Image.new("L", (10_000, 10_000)), "PNG")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inner


Make = Callable[[random.Random], bytes]
MUTATIONS: tuple[Make, ...] = (
    intact, flipped, flipped, flipped, truncated, truncated, swapped, swapped, animated,
    sixteen_bits, rotated, transparent, bomb, lambda rng: b"", lambda rng: rng.randbytes(400),
)  # fmt: skip
HEAVY: tuple[Callable[[], bytes], ...] = (tiled_bomb, scanned_bomb, many_tiles, icon_bomb)
ENTRIES = ("a link out", "a link to nowhere", "a link to a folder", "a pipe", "a socket", "closed")


def write_entries(folder: Path, count: int, seed: int) -> dict[str, bytes | None]:
    """Write ``count`` random entries; return their bytes by name, None if not a readable file."""
    rng = random.Random(seed)
    outside = folder.with_name("outside.png")
    outside.write_bytes(saved(Image.new("RGB", (SIZE, SIZE), (1, 254, 3)), "PNG"))
    contents: dict[str, bytes | None] = {}
    for index in range(count):
        stem = f"{rng.choice(('', 'sub/', 'sub/子/'))}{rng.choice(NAMES)}{index:05d}"
        name = f"{stem}.{rng.choice((*KINDS, 'txt', 'JPG', ''))}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < len(HEAVY):
            contents[name] = HEAVY[index]()
        elif index % 12 == 0:
            entry = rng.choice(ENTRIES)
            write_special(path, entry, outside)
            contents[name] = outside.read_bytes() if entry == "a link out" else None
            continue
        else:
            contents[name] = rng.choice(MUTATIONS)(rng)
        path.write_bytes(contents[name] or b"")
    return contents


def write_special(path: Path, entry: str, outside: Path) -> None:
    """Create a link, pipe, socket or unreadable file at ``path``."""
    match entry:
        case "a link out":
            path.symlink_to(outside)
        case "a link to nowhere":
            path.symlink_to("nothing")
        case "a link to a folder":
            path.symlink_to(path.parent)
        case "a socket" if len(os.fsencode(path)) < 100:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "closed" if os.geteuid() != 0:
            path.write_bytes(b"")
            path.chmod(0)
        case _:
            os.mkfifo(path)


def read_with_pillow(data: bytes) -> np.ndarray:
    """Decode an image with Pillow alone: upright, on white, cropped and resized to ``SIZE``."""
    with Image.open(BytesIO(data)) as image:
        image.load()
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        elif image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        upright = image
        if "exif" in image.info:
            upright = ImageOps.exif_transpose(image)
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        square = upright.convert("RGB").crop((left, top, left + side, top + side))
        return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float)


def stored_name(name: str) -> str:
    """Return a name as the dataset has it: of a long one, the last folder and the end."""
    folders, _, file = name.rpartition("/")
    if len(name) <= 120:
        return name
    if not folders:
        return f"…{name[-120:]}"
    folder = folders.rpartition("/")[2]
    return f"{folder}/…{file[-(118 - len(folder)) :]}"


def check(
    folder: Path, contents: dict[str, bytes | None], metrics: dict[str, Any], root: str
) -> None:
    """Compare the metrics with the written entries, and each row with Pillow's."""
    data_of = {sanitize_name(root + name): data for name, data in contents.items()}
    assert len(data_of) == len(contents)
    rejected = {file["name"]: file["reason"] for file in metrics["rejected_files"]}
    images = load_images(folder / "images.npz")
    accepted = dict(zip(images.names.tolist(), images.pixels, strict=True))
    assert metrics["found"] == len(contents) == metrics["accepted"] + metrics["rejected"]
    full_names = {stored_name(name): name for name in data_of}
    assert {full_names[name] for name in accepted} | set(rejected) == set(data_of)
    assert (len(accepted), len(rejected)) == (metrics["accepted"], metrics["rejected"])
    assert all(0 < len(reason) < 80 for reason in rejected.values())
    for name, row in accepted.items():
        data = data_of[full_names[name]]
        assert data is not None, name
        difference = np.abs(row - read_with_pillow(data)).mean()
        assert difference < 1, f"{name}: {difference}"


def is_unicode(path: Path) -> bool:
    return str(path).encode(errors="ignore").decode() == str(path)


def pack(folder: Path, ending: str) -> tuple[Path, set[str]]:
    """Pack a folder with links and pipes; return the archive and the names of its members."""
    archive = folder.with_suffix(f".{ending}")
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as zip_file:
            for path in files:
                # A zip's names are UTF-8.
                if path.is_file() and not path.is_symlink() and is_unicode(path):
                    zip_file.write(path, path.relative_to(folder))
            return archive, set(zip_file.namelist())
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar_file:
        for path in files:
            tar_file.add(path, str(path.relative_to(folder)))
        return archive, set(tar_file.getnames())


def as_in_archive(name: str, ending: str) -> str:
    r"""Replace a ``\`` that separates folders."""
    separates = ending == "zip" or "/" not in name
    return name.replace("\\", "/") if separates else name


@pytest.mark.filterwarnings("ignore::UserWarning")  # from Pillow
@pytest.mark.parametrize(
    ("source", "count", "deadline"),
    [
        ("folder", 150, 120),
        ("tar.gz", 75, 120),
        ("zip", 75, 120),
        pytest.param("folder", 300, 120, marks=pytest.mark.slow),
        pytest.param("folder", 10_000, 540, marks=pytest.mark.slow),
    ],
)
def test_every_file_is_accepted_or_rejected(
    tmp_path: Path, source: str, count: int, deadline: int
) -> None:
    folder = tmp_path / "f"
    contents = write_entries(folder, count, seed=count)
    if source == "folder":
        metrics = process(tmp_path, "folder", folders={"mine": str(folder)}, deadline=deadline)
        root = "mine/"
    else:
        archive, names = pack(folder, source)
        digest = sha256(archive.read_bytes()).hexdigest()
        settings = {"location": str(archive), "sha256": digest}
        metrics = process(tmp_path, "archive", archive=settings, deadline=deadline)
        contents, root = {name: data for name, data in contents.items() if name in names}, ""
        assert len(contents) == len(names)
        contents = {as_in_archive(name, source): data for name, data in contents.items()}
    check(tmp_path, contents, metrics, root)
    assert metrics["accepted"] > count / 5
    assert metrics["rejected"] > count / 5
    # Enough for two workers with a megapixel each, and for the names, but not for a bomb.
    assert metrics["megabytes"] < 100


# Changes files after they were listed and before they are opened.
CHANGES = """
import os
source = Path(values["folders"]["mine"])

def report(progress):
    if progress.done == 1:
        for name in ("gone", "pipe", "out", "folder", "short"):
            (source / f"{name}.png").unlink()
        os.mkfifo(source / "pipe.png")
        (source / "out.png").symlink_to(folder / "outside.png")
        (source / "folder.png").mkdir()
        (source / "short.png").write_bytes((source / "0.png").read_bytes()[:60])
"""


def test_files_that_change_during_the_download_are_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    image = saved(Image.new("RGB", (20, 20), (200, 10, 10)), "PNG")
    for name in ("0", "gone", "pipe", "out", "folder", "short", "stays"):
        (folder / f"{name}.png").write_bytes(image)
    (tmp_path / "outside.png").write_bytes(image)
    metrics = process(tmp_path, "folder", prelude=CHANGES, folders={"mine": str(folder)})
    reasons = {file["name"]: file["reason"] for file in metrics["rejected_files"]}
    assert (metrics["found"], metrics["accepted"]) == (7, 2)
    assert set(reasons) == {f"mine/{n}.png" for n in ("gone", "pipe", "out", "folder", "short")}
    assert reasons["mine/gone.png"] == "cannot be read: No such file or directory"
    assert reasons["mine/pipe.png"] == "not a regular file"
    assert reasons["mine/folder.png"] == "cannot be read: Is a directory"
    assert reasons["mine/out.png"].startswith("cannot be read: Too many levels of symbolic links")


# Removes one of two folders when the other one is scanned.
VANISHES = """
import shutil
others = {"a": "b", "b": "a"}

def vanish(event, arguments):
    if event == "os.scandir" and (name := Path(str(arguments[0])).name) in others:
        other = others[name]
        others.clear()
        shutil.rmtree(Path(arguments[0]).with_name(other))

sys.addaudithook(vanish)
"""


def test_removed_subfolder_does_not_stop_the_download(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "1.png").write_bytes(saved(Image.new("L", (9, 9)), "PNG"))
    metrics = process(
        tmp_path, "folder", prelude=VANISHES, folders={"mine": str(tmp_path / "mine")}
    )
    assert len(list((tmp_path / "mine").iterdir())) == 1
    assert (metrics["found"], metrics["accepted"]) == (1, 1)


def test_entries_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    contents = [write_entries(tmp_path / name, 40, seed=3) for name in ("one", "two")]
    assert contents[0] == contents[1]
    assert any(re.search(r"[\n\u0600-\u06ff]", name) for name in contents[0])
