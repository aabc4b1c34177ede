"""`atelier stylize` with images from another folder."""

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

from .conftest import CommandRunner

QUICK = ("--iterations", 6, "--preserve-color", "none")
WAVES = ("--style", "A/waves.png")


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with settings and presets."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copytree(root / "presets", folder / "presets")
    params = (root / "params.yaml").read_text("utf-8")
    quiet = params.replace("  progress: true", "  progress: false")
    (folder / "params.yaml").write_text(quiet.replace("device: auto", "device: cpu"), "utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Folder outside the working folder, with images in several formats."""
    folder = tmp_path / "an album"
    folder.mkdir()
    colors = np.random.default_rng(1).integers(0, 256, (5, 6, 3), np.uint8)
    smooth = Image.fromarray(colors).resize((48, 40), Image.Resampling.BICUBIC)
    smooth.save(folder / "ann.jpg", quality=95)
    smooth.transpose(Image.Transpose.ROTATE_90).save(folder / "bob.PNG")
    transparent = smooth.convert("RGBA")
    transparent.putalpha(Image.fromarray(np.tile(np.arange(48, dtype=np.uint8) * 5, (40, 1))))
    transparent.save(folder / "cut out.tif")
    Image.fromarray(colors[::-1]).resize((64, 64)).save(folder / "waves.png")
    Image.fromarray(colors[:, ::-1]).resize((64, 50)).save(folder / "stars.webp")
    (folder / "note.txt").write_text("not an image")
    return folder


def load_image(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def rgb_values(path: str | Path) -> np.ndarray:
    return np.asarray(load_image(path).convert("RGB")).astype(int)


@pytest.mark.slow
def test_every_image_is_stylized_in_every_style_at_its_own_size(
    atelier: CommandRunner, album: Path
) -> None:
    styles = ("--style", album / "waves.png", "--style", album / "stars.webp")
    output = atelier("stylize", album / "ann.jpg", album / "bob.PNG", *styles, *QUICK)
    assert output.splitlines() == [
        "Wrote painted/ann-waves.jpg: 48 x 40 pixels.",
        "Wrote painted/bob-waves.PNG: 40 x 48 pixels.",
        "Wrote painted/ann-stars.jpg: 48 x 40 pixels.",
        "Wrote painted/bob-stars.PNG: 40 x 48 pixels.",
    ]
    assert sorted(os.listdir("painted")) == [
        "ann-stars.jpg", "ann-waves.jpg", "bob-stars.PNG", "bob-waves.PNG",
    ]  # fmt: skip
    assert load_image("painted/ann-stars.jpg").size == (48, 40)
    assert load_image("painted/bob-waves.PNG").size == (40, 48)
    change = np.abs(rgb_values("painted/bob-waves.PNG") - rgb_values(album / "bob.PNG"))
    assert change.mean() > 1, "the image is stylized, not copied"


def test_transparency_is_preserved(atelier: CommandRunner, album: Path) -> None:
    output = atelier("stylize", album / "cut out.tif", "--style", "drawn", *QUICK)
    assert output == "Wrote painted/cut out-drawn.tif: 48 x 40 pixels.\n"
    alpha = np.asarray(load_image("painted/cut out-drawn.tif").getchannel("A"))
    assert np.array_equal(alpha, np.asarray(load_image(album / "cut out.tif").getchannel("A")))


def test_size_is_the_shorter_side_and_out_may_be_a_file(
    atelier: CommandRunner, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new folder" / "me.webp"
    options = ("--style", album / "waves.png", "--size", 60, "--out", out)
    output = atelier("stylize", album / "ann.jpg", *options, *QUICK)
    assert output == f"Wrote {out}: 72 x 60 pixels, of 48 x 40.\n"
    assert load_image(out).size == (72, 60)


@pytest.mark.slow
def test_gif_contains_intermediates(atelier: CommandRunner, album: Path) -> None:
    options = ("--style", album / "waves.png", "--gif", "--iterations", 30)
    output = atelier("stylize", album / "ann.jpg", *options)
    assert "Wrote painted/ann-waves.gif: " in output
    with Image.open("painted/ann-waves.gif") as gif:
        assert gif.size == (48, 40)
        assert gif.n_frames >= 24


def test_intermediates_of_a_written_image_are_released(
    atelier: CommandRunner, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, frame_counts = Intermediates.add, []

    def add_and_count(intermediates: Intermediates, preview: Preview) -> None:
        frame_counts.append((preview.image, len(intermediates.of_image(0))))
        add(intermediates, preview)

    monkeypatch.setattr(Intermediates, "add", add_and_count)
    images = (album / "bob.PNG", album / "waves.png")
    command = ("stylize", *images, "--style", album / "stars.webp", "--size", 32)
    output = atelier(*command, "--gif", *QUICK)
    assert output.count(".gif: ") == 2
    assert max(frames for image, frames in frame_counts if image == 0) > 2
    assert {frames for image, frames in frame_counts if image == 1} == {0}


@pytest.mark.slow
def test_interrupted_gif_keeps_the_stylized_image(
    atelier: CommandRunner, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = []

    def interrupt(frames: object, target: Path) -> None:
        finished.append(Path("painted/ann-waves.jpg").stat().st_mtime_ns)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("atelier.figures.style_figures.save_gif", interrupt)
    command = ("stylize", album / "ann.jpg", "--style", album / "waves.png", "--gif", *QUICK)
    output = atelier(*command, code=130)
    assert "WARNING: painted/ann-waves.gif was not written, because it was interrupted\n" in output
    assert finished == [Path("painted/ann-waves.jpg").stat().st_mtime_ns]
    assert os.listdir("painted") == ["ann-waves.jpg"]


def test_output_lines_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe or a file receives a line before the program ends."""
    with (tmp_path / "output").open("w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        stylize._print_line("Wrote it.")
        assert (tmp_path / "output").read_text() == "Wrote it.\n"


def test_strength_0_returns_the_image_unchanged(atelier: CommandRunner, album: Path) -> None:
    atelier("stylize", album / "bob.PNG", "--style", album / "waves.png", "--strength", 0)
    assert np.array_equal(rgb_values("painted/bob-waves.PNG"), rgb_values(album / "bob.PNG"))


@pytest.mark.parametrize("channels", [(), (4,)], ids=["white on black", "white on transparent"])
def test_mask_leaves_other_pixels_unchanged(
    atelier: CommandRunner, album: Path, channels: tuple[int, ...]
) -> None:
    mask = np.zeros((48, 40, *channels), np.uint8)
    mask[:24] = 255
    Image.fromarray(mask).save(album / "sky.png")
    options = ("--style", album / "waves.png", "--style-mask", album / "sky.png")
    atelier("stylize", album / "bob.PNG", *options, *QUICK)
    stylized, original = rgb_values("painted/bob-waves.PNG"), rgb_values(album / "bob.PNG")
    assert np.array_equal(stylized[26:], original[26:])
    assert np.abs(stylized[:22] - original[:22]).mean() > 2


def test_weighted_styles_are_mixed_in_one_image(atelier: CommandRunner, album: Path) -> None:
    styles = ("--style", album / "waves.png", "--style", album / "stars.webp")
    styles += ("--style-weights", "2,1")
    output = atelier("stylize", album / "bob.PNG", *styles, *QUICK)
    assert output == "Wrote painted/bob-waves+stars.PNG: 40 x 48 pixels.\n"


@pytest.mark.slow
def test_styles_cycle_over_images_of_all_sizes(atelier: CommandRunner, album: Path) -> None:
    for name, side in (("a", 40), ("b", 44), ("c", 40), ("d", 40)):
        Image.new("RGB", (side, side), (90, 160, 40)).save(album / f"{name}.png")
    images = [album / f"{name}.png" for name in "abcd"]
    styles = ("--style", album / "waves.png", "--style", album / "stars.webp")
    styles += ("--pairing", "cycle")
    for size in (0, 32):
        output = atelier("stylize", *images, *styles, "--size", size, "--force", *QUICK)
        written = [line.split("/")[1].split(".")[0] for line in output.splitlines()]
        assert sorted(written) == ["a-waves", "b-stars", "c-waves", "d-stars"]


@pytest.mark.slow
def test_preset_replaces_values_of_params(
    atelier: CommandRunner, album: Path, checkout: Path
) -> None:
    params = (checkout / "params.yaml").read_text("utf-8")
    (checkout / "params.yaml").write_text(params.replace("strength: 1.0", "strength: 0.0"), "utf-8")
    command = ("stylize", album / "bob.PNG", "--style", album / "waves.png", *QUICK)
    original = rgb_values(album / "bob.PNG")
    atelier(*command, "--params")
    assert np.array_equal(rgb_values("painted/bob-waves.PNG"), original)
    atelier(*command, "--force")
    default_preset_values = rgb_values("painted/bob-waves.PNG")
    assert np.abs(default_preset_values - original).mean() > 1
    atelier(*command, "--preset", "photo", "--force")
    assert np.array_equal(rgb_values("painted/bob-waves.PNG"), default_preset_values), (
        "photo is the default"
    )
    output = atelier(*command, "--preset", "photo", "--params", code=1)
    assert output == "ERROR: --preset and --params exclude each other; give one of them.\n"
    atelier(*command, "--preset", "sample", "--force")
    assert np.abs(rgb_values("painted/bob-waves.PNG") - original).mean() > 1


def test_box_constraints_are_added_if_required(atelier: CommandRunner, album: Path) -> None:
    Image.new("L", (40, 48), 255).save(album / "all.png")
    command = ("stylize", album / "bob.PNG", "--style", album / "waves.png", "--preset", "gatys")
    for option in (("--style-mask", album / "all.png"), ("--preserve-color", "luminance")):
        output = atelier(*command, *option, "--weights", album / "none.pth", code=1)
        assert output.startswith(f"ERROR: --weights is {album}/none.pth, but there is no such file")


def test_setting_without_option_is_named_with_its_file(
    atelier: CommandRunner, album: Path, checkout: Path
) -> None:
    params = (checkout / "params.yaml").read_text("utf-8")
    (checkout / "params.yaml").write_text(params.replace("memory_gb: auto", "memory_gb: 0.016"))
    command = ("stylize", album / "ann.jpg", "--style", album / "waves.png", "--params")
    output = atelier(*command, *QUICK, code=1)
    assert "needs more than stylize.memory_gb of params.yaml (0.016); " in output


def test_outputs_with_equal_names_are_rejected(atelier: CommandRunner, album: Path) -> None:
    Image.new("RGB", (33, 50)).save(album / "ann-wild.jpg")
    shutil.copy(album / "waves.png", album / "wild-waves.png")
    images = (album / "ann.jpg", album / "ann-wild.jpg")
    styles = ("--style", album / "wild-waves.png", "--style", album / "waves.png")
    assert "the same name; rename one" in atelier("stylize", *images, *styles, code=1)
    assert sorted(os.listdir()) == ["params.yaml", "presets"]


def test_existing_file_is_replaced_only_with_force(atelier: CommandRunner, album: Path) -> None:
    command = ("stylize", album / "bob.PNG", "--style", album / "waves.png", *QUICK)
    Path("painted").mkdir()
    Path("painted/bob-waves.PNG").write_bytes(b"mine")
    assert "is there already; choose another place, or give --force" in atelier(*command, code=1)
    assert Path("painted/bob-waves.PNG").read_bytes() == b"mine"
    two_images = ("stylize", album / "ann.jpg", *command[1:])
    Path("painted/ann-waves.jpg").write_bytes(b"mine")
    output = atelier(*two_images, code=1)
    assert "ann-waves.jpg and 1 more are there already; choose another place, or" in output
    assert output.endswith("give --force to replace them.\n")
    atelier(*command, "--force")
    assert load_image("painted/bob-waves.PNG").size == (40, 48)


@pytest.mark.parametrize("option", ["--style", "--style-mask"])
def test_second_value_of_an_option_is_not_taken_for_an_image(
    atelier: CommandRunner, album: Path, option: str
) -> None:
    """An earlier version took several values after one option."""
    before = ("stylize", album / "ann.jpg", "--style", album / "waves.png")
    values = (album / "waves.png", album / "bob.PNG")
    output = atelier(*before, option, *values, *QUICK, code=1)
    assert output.startswith(f"ERROR: {album}/bob.PNG follows the value of {option}, which takes")
    assert output.count("\n") == 1
    assert not Path("painted").exists()


@pytest.mark.slow
def test_options_may_precede_images(atelier: CommandRunner, album: Path) -> None:
    assert re.search(r"atelier stylize \[OPTIONS\] .*IMAGE", atelier("stylize --help"))
    options = ("--style", album / "waves.png", "--size", 32, *QUICK)
    output = atelier("stylize", *options, album / "ann.jpg")
    assert output == "Wrote painted/ann-waves.jpg: 38 x 32 pixels, of 48 x 40.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent.jpg", *WAVES], "there is no image absent.jpg; check the path."),
        (["A/note.txt", *WAVES], "A/note.txt cannot be read (not an image)."),
        (["A", *WAVES], "ERROR: A cannot be read (it is a folder, not a regular file)."),
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
            ["A/ann.jpg", *WAVES, "--style-mask", "A/ann.jpg", "--style-mask", "A/bob.PNG"],
            "ERROR: --style-mask is a list of 2",
        ),
        (["A/ann.jpg", *WAVES, "--out", "me.bmp"], "does not end in a supported format"),
        (["A/cut out.tif", *WAVES, "--out", "me.jpg"], "lose the image's transpar"),
        (["A/ann.jpg", "A/bob.PNG", *WAVES, "--out", "me.png"], "need a folder"),
        (["A/ann.jpg", "A/ann.jpg", *WAVES], "two images are called ann"),
        (["A/ann.jpg", *WAVES, "--out", "A/note.txt/x"], "no file can be created in"),
    ],
)  # fmt: skip
def test_invalid_command_is_one_error_sentence_and_writes_nothing(
    atelier: CommandRunner, album: Path, arguments: list[object], sentence: str
) -> None:
    paths = [str(w).replace("A/", f"{album}/") if w != "A" else album for w in arguments]
    output = atelier("stylize", *paths, code=1)
    assert output.startswith("ERROR: ")
    assert output.count("\n") == 1
    assert sentence in output.replace(f"{album}/", "A/").replace(str(album), "A")
    assert sorted(os.listdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize("role", ["image", "style", "mask", "weights"])
@pytest.mark.parametrize("kind", ["pipe", "device", "endless"])
def test_only_regular_files_are_read(
    atelier: CommandRunner, album: Path, role: str, kind: str
) -> None:
    path = album / f"odd.{'pth' if role == 'weights' else 'png'}"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "/proc/self/pagemap")
    arguments: list[object] = [path if role == "image" else album / "ann.jpg", *QUICK]
    style = path if role == "style" else album / "waves.png"
    extra_options = (
        ["--style-mask", path]
        if role == "mask"
        else ["--weights", path]
        if role == "weights"
        else []
    )
    output = atelier("stylize", *arguments, "--style", style, *extra_options, code=1)
    assert output.startswith("ERROR: ")
    assert output.count("\n") == 1
    reason = {"pipe": "it is a pipe", "device": "it is a device", "endless": "it is empty"}[kind]
    assert f"cannot be read ({reason}" in output
    assert sorted(os.listdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize(
    ("shape", "size"),
    [((768, 1024), 768), ((1024, 1024), 1024), ((3000, 4000), 886), ((4096, 256), 256),
     ((8192, 256), 181), ((10, 900), 32)],
)  # fmt: skip
def test_default_size_is_at_most_a_megapixel(shape: tuple[int, int], size: int) -> None:
    assert own_size(*shape) == own_size(*shape[::-1]) == size


@pytest.mark.slow
def test_interruption_saves_the_latest_intermediate(checkout: Path, album: Path) -> None:
    """Interrupt a real process in its own terminal that ignores SIGHUP, as with nohup."""
    params = (checkout / "params.yaml").read_text("utf-8")
    params = params.replace("progress: false", "progress: true")
    (checkout / "params.yaml").write_text(params, "utf-8")
    program = "from atelier.cli.app import main; main()"
    arguments = ("stylize", album / "ann.jpg", "--style", album / "waves.png", "--iterations", 5000)
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = subprocess.Popen(
        [
            "sh",
            "-c",
            'trap "" HUP; exec "$0" "$@"',
            sys.executable,
            "-c",
            program,
            *map(str, arguments),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
    )
    os.close(terminal)
    terminal_output = ""
    # The image is stored every 10 iterations, and SIGHUP has no effect.
    for signal_number, pattern in (
        (signal.SIGHUP, r" \d\d+/5000|ERROR"),
        (signal.SIGINT, r" [4-9]\d/|\d{3}/"),
    ):
        while not re.search(pattern, terminal_output):
            terminal_output += os.read(controller, 4096).decode(errors="replace")
        process.send_signal(signal_number)
    output, _ = process.communicate(timeout=60)
    os.close(controller)
    assert process.returncode == 130
    assert re.fullmatch(
        r"Wrote painted/ann-waves\.jpg: \d+ of 5000 iterations, 48 x 40 pixels\.\n", output
    )
    assert load_image(checkout / "painted/ann-waves.jpg").size == (48, 40)
    assert os.listdir(checkout / "painted") == ["ann-waves.jpg"]


def test_image_that_exceeds_memory_is_rejected_first(atelier: CommandRunner, album: Path) -> None:
    Image.new("L", (1, 1_000_000)).save(album / "line.png")
    output = atelier("stylize", album / "line.png", "--style", album / "waves.png", *QUICK, code=1)
    assert output.startswith("ERROR: a stylized image of 32 x 32000000 pixels needs more than ")
    assert "no image size of this aspect ratio fits" in output
    assert output.count("\n") == 1


@pytest.mark.slow
def test_out_of_memory_is_one_error_sentence(checkout: Path, album: Path) -> None:
    """Limit the memory of a real process to less than the image needs."""
    params = (checkout / "params.yaml").read_text("utf-8")
    (checkout / "params.yaml").write_text(params.replace("memory_gb: auto", "memory_gb: 0.0"))
    Image.new("L", (1, 1_000_000)).save(album / "line.png")
    arguments = ("stylize", album / "line.png", "--style", album / "waves.png", "--params", *QUICK)
    program = "from atelier.cli.app import main; main()"
    shell_command = f'ulimit -v {6 * 2**20}; exec "$0" "$@"'
    process = subprocess.run(
        ["sh", "-c", shell_command, sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    estimate, output = process.stderr.splitlines()
    assert estimate.startswith("1 image of ")
    assert output.startswith("ERROR: the memory is too small for this; ")


@pytest.mark.parametrize("size", [(), ("--size", 32)])
def test_later_image_that_exceeds_memory_is_rejected_before_any_work(
    atelier: CommandRunner, album: Path, checkout: Path, size: tuple[object, ...]
) -> None:
    params = (checkout / "params.yaml").read_text("utf-8")
    (checkout / "params.yaml").write_text(params.replace("memory_gb: auto", "memory_gb: 0.03"))
    Image.new("RGB", (32, 1000)).save(album / "long.png")
    command = ("stylize", album / "bob.PNG", album / "long.png", "--style", album / "waves.png")
    output = atelier(*command, *size, *QUICK, "--params", code=1)
    assert output.startswith("ERROR: a stylized image of 32 x 1000 pixels needs more than")
    assert not Path("painted").exists()


def test_each_output_is_written_before_the_next_starts(atelier: CommandRunner, album: Path) -> None:
    """The path of the second output is a folder."""
    Path("painted/ann-waves.jpg/taken").mkdir(parents=True)
    command = ("stylize", album / "bob.PNG", album / "ann.jpg", "--style", album / "waves.png")
    output = atelier(*command, "--force", *QUICK, code=1).splitlines()
    assert re.fullmatch(r"2 images of up to 40 x 48: about \d+ s on cpu\.", output[0])
    assert output[1].startswith("ERROR: painted/ann-waves.jpg cannot be read or written")
    assert load_image("painted/bob-waves.PNG").size == (40, 48)


def test_estimate_names_the_largest_area(atelier: CommandRunner, album: Path) -> None:
    Path("painted/tall-waves.png/taken").mkdir(parents=True)
    Image.new("RGB", (32, 80)).save(album / "tall.png")
    Image.new("RGB", (64, 64)).save(album / "broad.png")
    command = ("stylize", album / "tall.png", album / "broad.png", "--style", album / "waves.png")
    output = atelier(*command, "--force", *QUICK, code=1).splitlines()
    assert output[0].startswith("2 images of up to 64 x 64: about ")
