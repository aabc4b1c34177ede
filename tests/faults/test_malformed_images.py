"""Pictures from strangers: every file is a row or has a reason, in bounded time and memory."""

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

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="a process's own peak is told by Linux only"
)

SIZE = 16
KINDS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "AVIF", "ICO")
NAMES = (
    "лицо", "顔", "चेहरा", "وجه", "πρόσωπο", "얼굴", "פנים", "😀", "e\u0301", "é", "FACE", "face",
    "line\nbreak", "tab\tand\rreturn", "\u202egnp.exe", "-rf", ".hidden", "=1+1", "<script>",
    "%s{0}", "a\\b", "C:", "con", "x" * 200, os.fsdecode(b"caf\xe9"), "\x1b[31m", "'; drop",
)  # fmt: skip

# Runs in a process of its own, so that a crash, a hang or a glut of memory is its own only.
CHILD = """
import json, re, sys
from pathlib import Path
from atelier.data.convert import convert
from atelier.data.sources.download import download
from atelier.core.progress import silent
from atelier.core.settings import ConvertSettings, DownloadSettings

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

report = silent
folder, given, size = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
#PRELUDE
before = peak()
download(DownloadSettings(**given), folder / "raw", folder / "scratch", report)
done = convert(
    ConvertSettings(
        image_size=size, color="rgb", resize_mode="crop", max_megapixels=1,
        validation_fraction=0.0, test_fraction=0.0
    ),
    folder / "raw", folder / "images.npz", workers=2,
)
print(json.dumps({**done.metrics(), "megabytes": peak() - before}))
"""


def process(
    folder: Path, source: str, *, prelude: str = "", deadline: int = 120, **values: Any
) -> dict[str, Any]:
    """Download from a source and convert, in a process of its own; return what it counted."""
    given: dict[str, Any] = {
        "source": source,
        "sample": {"count": 16, "seed": 1},
        "folders": {},
        "archive": {"location": "unset", "sha256": ""},
        "kaggle": {"handle": "owner/faces"},
        "torchvision": {"dataset": "MNIST", "split": "all", "root": "", "mirror": ""},
        **values,
    }
    script = CHILD.replace("#PRELUDE", prelude)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(folder), json.dumps(given), str(SIZE)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=deadline,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return dict(json.loads(done.stdout))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(lot: random.Random) -> Image.Image:
    width, height = lot.randrange(SIZE, 48), lot.randrange(SIZE, 48)
    coarse = Image.frombytes("RGB", (4, 4), lot.randbytes(48))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def whole(lot: random.Random) -> bytes:
    return saved(pixels(lot), lot.choice(KINDS))


def flipped(lot: random.Random) -> bytes:
    data = bytearray(whole(lot))
    # The first bytes say what all others mean: damage does most harm there.
    reach = lot.choice((64, len(data)))
    for _ in range(lot.choice((1, 1, 3, 30))):
        data[lot.randrange(min(reach, len(data)))] ^= 1 << lot.randrange(8)
    return bytes(data)


def truncated(lot: random.Random) -> bytes:
    data = whole(lot)
    return data[: lot.randrange(len(data))]


def swapped(lot: random.Random) -> bytes:
    head, body = whole(lot), whole(lot)
    cut = lot.randrange(4, 40)
    return head[:cut] + body[cut:]


def animated(lot: random.Random) -> bytes:
    first = pixels(lot)
    more = [first.rotate(90 * turn) for turn in (1, 2)]
    return saved(first, lot.choice(("GIF", "PNG", "WEBP")), save_all=True, append_images=more)


def sixteen_bits(lot: random.Random) -> bytes:
    values = np.asarray(pixels(lot).convert("L"), np.uint16) * 257
    return saved(Image.fromarray(values), "PNG")


def turned(lot: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = lot.randrange(1, 9)
    return saved(pixels(lot), "JPEG", exif=exif)


def transparent(lot: random.Random) -> bytes:
    image = pixels(lot).convert("RGBA")
    image.putalpha(image.getchannel("R"))
    return saved(image, lot.choice(("PNG", "TGA", "TIFF")))


def bomb(lot: random.Random) -> bytes:
    """Claim 50,000 x 50,000 pixels in a file of some hundred bytes."""
    kind = lot.choice(("PNG", "GIF", "BMP", "JPEG", "PPM"))
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
    """A TIFF of 10 x 10 pixels in one tile of 256 million, deflated to a few hundred kB."""
    side = 16_000
    squeeze = zlib.compressobj(9)
    data = b"".join(squeeze.compress(bytes(side)) for _ in range(side)) + squeeze.flush()
    values = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    values |= {324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4) + data


@cache
def scanned_bomb() -> bytes:
    """A JPEG of some hundred kB that would be decoded for minutes: 20,000 passes."""
    data = saved(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + 20_000 * last + data[-2:]


@cache
def many_tiles() -> bytes:
    """A JPEG 2000 of 255 x 255 tiles, each of which costs more than ten kilobytes."""
    image = Image.new("RGB", (255, 255))
    return saved(image, "JPEG2000", tile_size=(1, 1), num_resolutions=1)


@cache
def icon_bomb() -> bytes:
    """An ICO of 16 x 16 pixels that holds a PNG of 100 million."""
    inner = saved(Image.new("L", (10_000, 10_000)), "PNG")
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + inner


Make = Callable[[random.Random], bytes]
MUTATIONS: tuple[Make, ...] = (
    whole, flipped, flipped, flipped, truncated, truncated, swapped, swapped, animated,
    sixteen_bits, turned, transparent, bomb, lambda lot: b"", lambda lot: lot.randbytes(400),
)  # fmt: skip
HEAVY: tuple[Callable[[], bytes], ...] = (tiled_bomb, scanned_bomb, many_tiles, icon_bomb)
ENTRIES = ("a link out", "a link to nowhere", "a link to a folder", "a pipe", "a socket", "closed")


def strangers(folder: Path, count: int, seed: int) -> dict[str, bytes | None]:
    """Fill ``folder`` with ``count`` entries; return what each holds, None for what is no file."""
    lot = random.Random(seed)
    outside = folder.with_name("outside.png")
    outside.write_bytes(saved(Image.new("RGB", (SIZE, SIZE), (1, 254, 3)), "PNG"))
    made: dict[str, bytes | None] = {}
    for index in range(count):
        stem = f"{lot.choice(('', 'sub/', 'sub/子/'))}{lot.choice(NAMES)}{index:05d}"
        name = f"{stem}.{lot.choice((*KINDS, 'txt', 'JPG', ''))}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < len(HEAVY):
            made[name] = HEAVY[index]()
        elif index % 12 == 0:
            entry = lot.choice(ENTRIES)
            place(path, entry, outside)
            made[name] = outside.read_bytes() if entry == "a link out" else None
            continue
        else:
            made[name] = lot.choice(MUTATIONS)(lot)
        path.write_bytes(made[name] or b"")
    return made


def place(path: Path, entry: str, outside: Path) -> None:
    """Put something that is no readable file at ``path``."""
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


def as_pillow_reads(data: bytes) -> np.ndarray:
    """Read a picture as Pillow alone does, upright and on white, cropped to the row's size."""
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


def check(folder: Path, made: dict[str, bytes | None], told: dict[str, Any], root: str) -> None:
    """Hold what was counted against what was made, and each row against Pillow."""
    known = {sanitize_name(root + name): data for name, data in made.items()}
    assert len(known) == len(made)
    rejected = {file["name"]: file["reason"] for file in told["rejected_files"]}
    images = load_images(folder / "images.npz")
    accepted = dict(zip(images.names.tolist(), images.pixels, strict=True))
    assert told["found"] == len(made) == told["accepted"] + told["rejected"]
    # Of a long name the array keeps the end.
    short = {name if len(name) <= 120 else f"…{name[-120:]}": name for name in known}
    assert {short[name] for name in accepted} | set(rejected) == set(known)
    assert (len(accepted), len(rejected)) == (told["accepted"], told["rejected"])
    assert all(0 < len(reason) < 80 for reason in rejected.values())
    for name, row in accepted.items():
        data = known[short[name]]
        assert data is not None, name
        difference = np.abs(row - as_pillow_reads(data)).mean()
        assert difference < 1, f"{name}: {difference}"


def is_unicode(path: Path) -> bool:
    return str(path).encode(errors="ignore").decode() == str(path)


def packed(folder: Path, ending: str) -> tuple[Path, set[str]]:
    """Pack a folder, links and pipes included; return the archive and the names within."""
    archive = folder.with_suffix(f".{ending}")
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as store:
            for path in files:
                # A zip's names are UTF-8.
                if path.is_file() and not path.is_symlink() and is_unicode(path):
                    store.write(path, path.relative_to(folder))
            return archive, set(store.namelist())
    with tarfile.open(archive, "w:gz", compresslevel=1) as stored:
        for path in files:
            stored.add(path, str(path.relative_to(folder)))
        return archive, set(stored.getnames())


def as_in_archive(name: str, ending: str) -> str:
    r"""Replace a ``\`` that separates folders."""
    separates = ending == "zip" or "/" not in name
    return name.replace("\\", "/") if separates else name


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the pictures that Pillow reads here
@pytest.mark.parametrize(
    ("source", "count", "deadline"),
    [
        ("folder", 300, 120),
        ("tar.gz", 150, 120),
        ("zip", 150, 120),
        pytest.param("folder", 10_000, 540, marks=pytest.mark.slow),
    ],
)
def test_strangers_files_are_all_accounted_for(
    tmp_path: Path, source: str, count: int, deadline: int
) -> None:
    folder = tmp_path / "f"
    made = strangers(folder, count, seed=count)
    if source == "folder":
        told = process(tmp_path, "folder", folders={"mine": str(folder)}, deadline=deadline)
        root = "mine/"
    else:
        archive, names = packed(folder, source)
        digest = sha256(archive.read_bytes()).hexdigest()
        settings = {"location": str(archive), "sha256": digest}
        told = process(tmp_path, "archive", archive=settings, deadline=deadline)
        made, root = {name: data for name, data in made.items() if name in names}, ""
        assert len(made) == len(names)
        made = {as_in_archive(name, source): data for name, data in made.items()}
    check(tmp_path, made, told, root)
    assert told["accepted"] > count / 5
    assert told["rejected"] > count / 5
    # Two workers with a megapixel each, and the names: no bomb was expanded.
    assert told["megabytes"] < 100


# Files change after they were found, and before they are opened.
CHANGES = """
import os
place = Path(given["folders"]["mine"])

def report(progress):
    if progress.done == 1:
        for name in ("gone", "pipe", "out", "folder", "short"):
            (place / f"{name}.png").unlink()
        os.mkfifo(place / "pipe.png")
        (place / "out.png").symlink_to(folder / "outside.png")
        (place / "folder.png").mkdir()
        (place / "short.png").write_bytes((place / "0.png").read_bytes()[:60])
"""


def test_a_folder_may_change_while_it_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    picture = saved(Image.new("RGB", (20, 20), (200, 10, 10)), "PNG")
    for name in ("0", "gone", "pipe", "out", "folder", "short", "stays"):
        (folder / f"{name}.png").write_bytes(picture)
    (tmp_path / "outside.png").write_bytes(picture)
    told = process(tmp_path, "folder", prelude=CHANGES, folders={"mine": str(folder)})
    reasons = {file["name"]: file["reason"] for file in told["rejected_files"]}
    assert (told["found"], told["accepted"]) == (7, 2)
    assert set(reasons) == {f"mine/{n}.png" for n in ("gone", "pipe", "out", "folder", "short")}
    assert reasons["mine/gone.png"] == "cannot be read: No such file or directory"
    assert reasons["mine/pipe.png"] == "not a regular file"
    assert reasons["mine/folder.png"] == "cannot be read: Is a directory"
    assert reasons["mine/out.png"].startswith("cannot be read: Too many levels of symbolic links")


# Whichever of two folders is looked into first, the other one goes away at that moment.
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


def test_a_folder_may_vanish_while_its_parent_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "1.png").write_bytes(saved(Image.new("L", (9, 9)), "PNG"))
    told = process(tmp_path, "folder", prelude=VANISHES, folders={"mine": str(tmp_path / "mine")})
    assert len(list((tmp_path / "mine").iterdir())) == 1
    assert (told["found"], told["accepted"]) == (1, 1)


def test_strangers_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    made = [strangers(tmp_path / name, 40, seed=3) for name in ("one", "two")]
    assert made[0] == made[1]
    assert any(re.search(r"[\n\u0600-\u06ff]", name) for name in made[0])
