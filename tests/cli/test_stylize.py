"""`atelier stylize` as a user types it, on pictures of another folder."""

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.cli import stylize
from atelier.cli.stylize import own_size
from atelier.style.checkpoint import Intermediates
from atelier.style.loss_log import Preview

from .conftest import Typed

QUICK = ("--iterations", 6, "--preserve-color", "none")
WAVES = ("--style", "A/waves.png")


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings, in which commands run."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copytree(root / "presets", folder / "presets")
    params = (root / "params.yaml").read_text("utf-8")
    shown = params.replace("  progress: true", "  progress: false")
    (folder / "params.yaml").write_text(shown.replace("device: auto", "device: cpu"), "utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder outside of the checkout, with pictures of several kinds."""
    folder = tmp_path / "an album"
    folder.mkdir()
    colors = np.random.default_rng(1).integers(0, 256, (5, 6, 3), np.uint8)
    smooth = Image.fromarray(colors).resize((48, 40), Image.Resampling.BICUBIC)
    smooth.save(folder / "ann.jpg", quality=95)
    smooth.transpose(Image.Transpose.ROTATE_90).save(folder / "bob.PNG")
    cut = smooth.convert("RGBA")
    cut.putalpha(Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (40, 1))))
    cut.save(folder / "cut out.tif")
    Image.fromarray(colors[::-1]).resize((64, 64)).save(folder / "waves.png")
    Image.fromarray(colors[:, ::-1]).resize((64, 50)).save(folder / "stars.webp")
    (folder / "note.txt").write_text("no picture")
    return folder


def opened(path: str | Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


def levels(path: str | Path) -> np.ndarray:
    return np.asarray(opened(path).convert("RGB")).astype(int)


def test_every_image_is_stylized_in_every_style_at_its_own_size(
    atelier: Typed, album: Path
) -> None:
    styles = ("--style", album / "waves.png", album / "stars.webp")
    told = atelier("stylize", album / "ann.jpg", album / "bob.PNG", *styles, *QUICK)
    assert told.splitlines() == [
        "Wrote painted/ann-waves.jpg: 48 x 40 pixels.",
        "Wrote painted/bob-waves.PNG: 40 x 48 pixels.",
        "Wrote painted/ann-stars.jpg: 48 x 40 pixels.",
        "Wrote painted/bob-stars.PNG: 40 x 48 pixels.",
    ]
    assert sorted(os.listdir("painted")) == [
        "ann-stars.jpg", "ann-waves.jpg", "bob-stars.PNG", "bob-waves.PNG",
    ]  # fmt: skip
    assert opened("painted/ann-stars.jpg").size == (48, 40)
    assert opened("painted/bob-waves.PNG").size == (40, 48)
    moved = np.abs(levels("painted/bob-waves.PNG") - levels(album / "bob.PNG"))
    assert moved.mean() > 1, "it was painted, and not copied"


def test_transparency_is_kept(atelier: Typed, album: Path) -> None:
    told = atelier("stylize", album / "cut out.tif", "--style", "drawn", *QUICK)
    assert told == "Wrote painted/cut out-drawn.tif: 48 x 40 pixels.\n"
    alpha = np.asarray(opened("painted/cut out-drawn.tif").getchannel("A"))
    assert np.array_equal(alpha, np.asarray(opened(album / "cut out.tif").getchannel("A")))


def test_size_is_the_shorter_side_and_out_may_be_a_file(
    atelier: Typed, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new folder" / "me.webp"
    options = ("--style", album / "waves.png", "--size", 60, "--out", out)
    told = atelier("stylize", album / "ann.jpg", *options, *QUICK)
    assert told == f"Wrote {out}: 72 x 60 pixels, of 48 x 40.\n"
    assert opened(out).size == (72, 60)


def test_gif_contains_intermediates(atelier: Typed, album: Path) -> None:
    options = ("--style", album / "waves.png", "--gif", "--iterations", 30)
    told = atelier("stylize", album / "ann.jpg", *options)
    assert "Wrote painted/ann-waves.gif: " in told
    with Image.open("painted/ann-waves.gif") as film:
        assert film.size == (48, 40)
        assert film.n_frames >= 24


def test_intermediates_of_a_written_image_are_released(
    atelier: Typed, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, held = Intermediates.add, []

    def look(seen: Intermediates, glimpse: Preview) -> None:
        held.append((glimpse.image, len(seen.of_image(0))))
        note(seen, glimpse)

    monkeypatch.setattr(Intermediates, "add", look)
    pictures = (album / "bob.PNG", album / "waves.png")
    command = ("stylize", *pictures, "--style", album / "stars.webp", "--size", 32)
    told = atelier(*command, "--gif", *QUICK)
    assert told.count(".gif: ") == 2
    assert max(frames for picture, frames in held if picture == 0) > 2
    assert {frames for picture, frames in held if picture == 1} == {0}


def test_interrupted_gif_keeps_the_stylized_image(
    atelier: Typed, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = []

    def interrupted(frames: object, target: Path) -> None:
        finished.append(Path("painted/ann-waves.jpg").stat().st_mtime_ns)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("atelier.figures.style_figures.save_gif", interrupted)
    command = ("stylize", album / "ann.jpg", "--style", album / "waves.png", "--gif", *QUICK)
    told = atelier(*command, code=130)
    assert "WARNING: painted/ann-waves.gif was not written, because it was interrupted\n" in told
    assert finished == [Path("painted/ann-waves.jpg").stat().st_mtime_ns]
    assert os.listdir("painted") == ["ann-waves.jpg"]


def test_output_lines_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe or a file hears of it before the program ends."""
    with (tmp_path / "told").open("w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        stylize._print_line("Wrote it.")
        assert (tmp_path / "told").read_text() == "Wrote it.\n"


def test_strength_0_returns_the_image_unchanged(atelier: Typed, album: Path) -> None:
    atelier("stylize", album / "bob.PNG", "--style", album / "waves.png", "--strength", 0)
    assert np.array_equal(levels("painted/bob-waves.PNG"), levels(album / "bob.PNG"))


@pytest.mark.parametrize("channels", [(), (4,)], ids=["white on black", "white on nothing"])
def test_mask_leaves_other_pixels_unchanged(
    atelier: Typed, album: Path, channels: tuple[int, ...]
) -> None:
    mask = np.zeros((48, 40, *channels), np.uint8)
    mask[:24] = 255
    Image.fromarray(mask).save(album / "sky.png")
    options = ("--style", album / "waves.png", "--style-mask", album / "sky.png")
    atelier("stylize", album / "bob.PNG", *options, *QUICK)
    painted, given = levels("painted/bob-waves.PNG"), levels(album / "bob.PNG")
    assert np.array_equal(painted[26:], given[26:])
    assert np.abs(painted[:22] - given[:22]).mean() > 2


def test_weighted_styles_are_mixed_in_one_image(atelier: Typed, album: Path) -> None:
    styles = ("--style", album / "waves.png", album / "stars.webp", "--style-weights", "2,1")
    told = atelier("stylize", album / "bob.PNG", *styles, *QUICK)
    assert told == "Wrote painted/bob-waves+stars.PNG: 40 x 48 pixels.\n"


def test_styles_cycle_over_images_of_all_sizes(atelier: Typed, album: Path) -> None:
    for name, side in (("a", 40), ("b", 44), ("c", 40), ("d", 40)):
        Image.new("RGB", (side, side), (90, 160, 40)).save(album / f"{name}.png")
    pictures = [album / f"{name}.png" for name in "abcd"]
    styles = ("--style", album / "waves.png", album / "stars.webp", "--pairing", "cycle")
    for size in (0, 32):
        told = atelier("stylize", *pictures, *styles, "--size", size, "--force", *QUICK)
        written = [line.split("/")[1].split(".")[0] for line in told.splitlines()]
        assert sorted(written) == ["a-waves", "b-stars", "c-waves", "d-stars"]


def test_preset_replaces_values_of_params(atelier: Typed, album: Path, checkout: Path) -> None:
    params = (checkout / "params.yaml").read_text("utf-8")
    (checkout / "params.yaml").write_text(params.replace("strength: 1.0", "strength: 0.0"), "utf-8")
    command = ("stylize", album / "bob.PNG", "--style", album / "waves.png", *QUICK)
    given = levels(album / "bob.PNG")
    atelier(*command, "--params")
    assert np.array_equal(levels("painted/bob-waves.PNG"), given)
    atelier(*command, "--force")
    photo = levels("painted/bob-waves.PNG")
    assert np.abs(photo - given).mean() > 1
    atelier(*command, "--preset", "photo", "--force")
    assert np.array_equal(levels("painted/bob-waves.PNG"), photo), "photo is the default"
    told = atelier(*command, "--preset", "photo", "--params", code=1)
    assert told == "ERROR: --preset and --params exclude each other; give one of them.\n"
    atelier(*command, "--preset", "sample", "--force")
    assert np.abs(levels("painted/bob-waves.PNG") - given).mean() > 1


def test_box_constraints_are_added_if_required(atelier: Typed, album: Path) -> None:
    Image.new("L", (40, 48), 255).save(album / "all.png")
    command = ("stylize", album / "bob.PNG", "--style", album / "waves.png", "--preset", "gatys")
    for option in (("--style-mask", album / "all.png"), ("--preserve-color", "luminance")):
        told = atelier(*command, *option, "--weights", album / "none.pth", code=1)
        assert told.startswith(f"ERROR: --weights is {album}/none.pth, but there is no such file")


def test_setting_without_option_is_named_with_its_file(
    atelier: Typed, album: Path, checkout: Path
) -> None:
    params = (checkout / "params.yaml").read_text("utf-8")
    (checkout / "params.yaml").write_text(params.replace("memory_gb: 4.0", "memory_gb: 0.016"))
    command = ("stylize", album / "ann.jpg", "--style", album / "waves.png", "--params")
    told = atelier(*command, *QUICK, code=1)
    assert "needs more than stylize.memory_gb of params.yaml (0.016); " in told


def test_outputs_with_equal_names_are_rejected(atelier: Typed, album: Path) -> None:
    Image.new("RGB", (33, 50)).save(album / "ann-wild.jpg")
    shutil.copy(album / "waves.png", album / "wild-waves.png")
    pictures = (album / "ann.jpg", album / "ann-wild.jpg")
    styles = ("--style", album / "wild-waves.png", album / "waves.png")
    assert "the same name; rename one" in atelier("stylize", *pictures, *styles, code=1)
    assert sorted(os.listdir()) == ["params.yaml", "presets"]


def test_no_file_is_replaced_without_force(atelier: Typed, album: Path) -> None:
    command = ("stylize", album / "bob.PNG", "--style", album / "waves.png", *QUICK)
    Path("painted").mkdir()
    Path("painted/bob-waves.PNG").write_bytes(b"mine")
    assert "is there already; choose another place, or give --force" in atelier(*command, code=1)
    assert Path("painted/bob-waves.PNG").read_bytes() == b"mine"
    more = ("stylize", album / "ann.jpg", *command[1:])
    Path("painted/ann-waves.jpg").write_bytes(b"mine")
    told = atelier(*more, code=1)
    assert "ann-waves.jpg and 1 more are there already; choose another place, or" in told
    assert told.endswith("give --force to replace them.\n")
    atelier(*command, "--force")
    assert opened("painted/bob-waves.PNG").size == (40, 48)


def test_usage_lists_images_before_styles(atelier: Typed) -> None:
    assert "atelier stylize IMAGE... --style STYLE... [OPTIONS]" in atelier("stylize --help")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["absent.jpg", *WAVES], "there is no image absent.jpg; check the path."),
        (["A/note.txt", *WAVES], "A/note.txt cannot be read (not an image)."),
        (["A", *WAVES], "ERROR: A cannot be read (it is a folder, not a regular file)."),
        ([*WAVES, "A/ann.jpg"], "takes all values that follow it, so that no IMAGE is left"),
        (["A/ann.jpg", "--style", "nowhere.png"], "there is no image nowhere.png; check"),
        (["A/ann.jpg", *WAVES, "--size", 8], "ERROR: --size is 8, but it should be gre"),
        (["A/ann.jpg", *WAVES, "--strength", 2], "ERROR: --strength is 2.0, but it should be"),
        (["A/ann.jpg", *WAVES, "--iterations", 0], "ERROR: --iterations is 0, but it should be"),
        (["A/ann.jpg", *WAVES, "--preserve-color", "yes"], "ERROR: --preserve-color is 'yes', but"),
        (["A/ann.jpg", *WAVES, "--weights", "no.pth"], "--weights is no.pth, but"),
        (["A/ann.jpg", *WAVES, "--preset", "monet"], "monet"),
        (
            ["A/ann.jpg", *WAVES, "--style-weights", "a lot"],
            "--style-weights is 'a lot', but it is a list",
        ),
        (
            ["A/ann.jpg", *WAVES, "--style-weights", "1,2"],
            "ERROR: --style-weights is a list of 2, but the number of",
        ),
        (["A/ann.jpg", *WAVES, "--pairing", "some"], "--pairing is 'some', but it should be"),
        (
            ["A/ann.jpg", *WAVES, "--style-mask", "A/ann.jpg", "A/bob.PNG"],
            "ERROR: --style-mask is a list of 2",
        ),
        (["A/ann.jpg", *WAVES, "--out", "me.bmp"], "does not end in a supported format"),
        (["A/cut out.tif", *WAVES, "--out", "me.jpg"], "lose the image's transpar"),
        (["A/ann.jpg", "A/bob.PNG", *WAVES, "--out", "me.png"], "need a folder"),
        (["A/ann.jpg", "A/ann.jpg", *WAVES], "two images are called ann"),
        (["A/ann.jpg", *WAVES, "--out", "A/note.txt/x"], "no file can be created in"),
    ],
)  # fmt: skip
def test_mistake_is_one_sentence_and_leaves_no_file(
    atelier: Typed, album: Path, words: list[object], sentence: str
) -> None:
    places = [str(w).replace("A/", f"{album}/") if w != "A" else album for w in words]
    told = atelier("stylize", *places, code=1)
    assert told.startswith("ERROR: ")
    assert told.count("\n") == 1
    assert sentence in told.replace(f"{album}/", "A/").replace(str(album), "A")
    assert sorted(os.listdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize("role", ["picture", "style", "mask", "weights"])
@pytest.mark.parametrize("kind", ["pipe", "device", "endless"])
def test_only_regular_files_are_read(atelier: Typed, album: Path, role: str, kind: str) -> None:
    path = album / f"odd.{'pth' if role == 'weights' else 'png'}"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "/proc/self/pagemap")
    words: list[object] = [path if role == "picture" else album / "ann.jpg", *QUICK]
    style = path if role == "style" else album / "waves.png"
    more = (
        ["--style-mask", path]
        if role == "mask"
        else ["--weights", path]
        if role == "weights"
        else []
    )
    told = atelier("stylize", *words, "--style", style, *more, code=1)
    assert told.startswith("ERROR: ")
    assert told.count("\n") == 1
    reason = {"pipe": "it is a pipe", "device": "it is a device", "endless": "it is empty"}[kind]
    assert f"cannot be read ({reason}" in told
    assert sorted(os.listdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize(
    ("shape", "size"),
    [((768, 1024), 768), ((1024, 1024), 1024), ((3000, 4000), 886), ((4096, 256), 256),
     ((8192, 256), 181), ((10, 900), 32)],
)  # fmt: skip
def test_default_size_is_at_most_a_megapixel(shape: tuple[int, int], size: int) -> None:
    assert own_size(*shape) == own_size(*shape[::-1]) == size


def test_interruption_saves_the_latest_intermediate(checkout: Path, album: Path) -> None:
    """Of a real process in a terminal of its own, started as nohup does."""
    params = (checkout / "params.yaml").read_text("utf-8")
    params = params.replace("progress: false", "progress: true")
    (checkout / "params.yaml").write_text(params, "utf-8")
    program = "from atelier.cli.app import main; main()"
    words = ("stylize", album / "ann.jpg", "--style", album / "waves.png", "--iterations", 5000)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            'trap "" HUP; exec "$0" "$@"',
            sys.executable,
            "-c",
            program,
            *map(str, words),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = ""
    # It is looked at every 10 iterations, and does not hear that the terminal is closed.
    for deafen, wait in (
        (signal.SIGHUP, r" \d\d+/5000|ERROR"),
        (signal.SIGINT, r" [4-9]\d/|\d{3}/"),
    ):
        while not re.search(wait, shown):
            shown += os.read(ours, 4096).decode(errors="replace")
        process.send_signal(deafen)
    told, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 130
    assert re.fullmatch(
        r"Wrote painted/ann-waves\.jpg: \d+ of 5000 iterations, 48 x 40 pixels\.\n", told
    )
    assert opened(checkout / "painted/ann-waves.jpg").size == (48, 40)
    assert os.listdir(checkout / "painted") == ["ann-waves.jpg"]


def test_image_that_exceeds_memory_is_rejected_first(atelier: Typed, album: Path) -> None:
    Image.new("L", (1, 1_000_000)).save(album / "line.png")
    told = atelier("stylize", album / "line.png", "--style", album / "waves.png", *QUICK, code=1)
    assert told.startswith("ERROR: a stylized image of 32 x 32000000 pixels needs more than ")
    assert "no image size of this aspect ratio fits" in told
    assert told.count("\n") == 1


def test_out_of_memory_is_one_sentence(checkout: Path, album: Path) -> None:
    """Of a real process, with room for the program and not for what it is asked."""
    params = (checkout / "params.yaml").read_text("utf-8")
    (checkout / "params.yaml").write_text(params.replace("memory_gb: 4.0", "memory_gb: 0.0"))
    Image.new("L", (1, 1_000_000)).save(album / "line.png")
    words = ("stylize", album / "line.png", "--style", album / "waves.png", "--params", *QUICK)
    program = "from atelier.cli.app import main; main()"
    limited = f'ulimit -v {6 * 2**20}; exec "$0" "$@"'
    ended = subprocess.run(
        ["sh", "-c", limited, sys.executable, "-c", program, *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    estimate, told = ended.stderr.splitlines()
    assert estimate.startswith("1 image of ")
    assert told.startswith("ERROR: the memory is too small for this; ")


@pytest.mark.parametrize("size", [(), ("--size", 32)])
def test_later_image_that_exceeds_memory_is_rejected_before_any_work(
    atelier: Typed, album: Path, checkout: Path, size: tuple[object, ...]
) -> None:
    """Whether or not they are painted at one size."""
    params = (checkout / "params.yaml").read_text("utf-8")
    (checkout / "params.yaml").write_text(params.replace("memory_gb: 4.0", "memory_gb: 0.03"))
    Image.new("RGB", (32, 1000)).save(album / "long.png")
    command = ("stylize", album / "bob.PNG", album / "long.png", "--style", album / "waves.png")
    told = atelier(*command, *size, *QUICK, "--params", code=1)
    assert told.startswith("ERROR: a stylized image of 32 x 1000 pixels needs more than")
    assert not Path("painted").exists()


def test_each_output_is_written_before_the_next_starts(atelier: Typed, album: Path) -> None:
    """The second one's place turns out to be a folder."""
    Path("painted/ann-waves.jpg/taken").mkdir(parents=True)
    command = ("stylize", album / "bob.PNG", album / "ann.jpg", "--style", album / "waves.png")
    told = atelier(*command, "--force", *QUICK, code=1).splitlines()
    assert re.fullmatch(r"2 images of up to 40 x 48: about \d+ s on cpu\.", told[0])
    assert told[1].startswith("ERROR: painted/ann-waves.jpg cannot be read or written")
    assert opened("painted/bob-waves.PNG").size == (40, 48)


def test_estimate_names_the_largest_area(atelier: Typed, album: Path) -> None:
    Path("painted/tall-waves.png/taken").mkdir(parents=True)
    Image.new("RGB", (32, 80)).save(album / "tall.png")
    Image.new("RGB", (64, 64)).save(album / "broad.png")
    command = ("stylize", album / "tall.png", album / "broad.png", "--style", album / "waves.png")
    told = atelier(*command, "--force", *QUICK, code=1).splitlines()
    assert told[0].startswith("2 images of up to 64 x 64: about ")
