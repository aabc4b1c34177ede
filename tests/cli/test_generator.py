"""`atelier generate` and `atelier export` with a generator in a file."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atelier.gan.generation import draw_latents, generate
from atelier.gan.serialization import save_network

from ..support.architectures import SMALL, vivid, with_changes
from .conftest import CommandRunner


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with settings and a generator."""
    shutil.copy(root / "params.yaml", tmp_path)
    save_network(vivid(SMALL), SMALL, tmp_path / "models/generator.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def expected(seed: int) -> np.ndarray:
    generator = vivid(SMALL)
    return generate(generator, draw_latents(1, SMALL, seed))[0]


def test_grid_contains_an_image_of_each_seed(atelier: CommandRunner) -> None:
    output = atelier("generate --seed 5 --seed 2 --seed 9 --columns 2 --tile-pixels 16")
    assert atelier("generate --seeds 5,2,9 --columns 2 --tile-pixels 16") == output
    (file,) = Path("generated").iterdir()
    assert re.fullmatch(r"seeds-5-2-9-columns-2-tile-16-generator-[0-9a-f]{8}\.png", file.name)
    assert output == f"Wrote {file}: seeds 5, 2, 9.\n"
    grid = pixels(file)
    assert grid.shape == (32, 32, 3)
    np.testing.assert_array_equal(grid[:16, 16:], expected(2))
    np.testing.assert_array_equal(grid[16:, :16], expected(9))


def test_default_grid_has_sixteen_enlarged_images(atelier: CommandRunner) -> None:
    output = atelier("generate")
    (file,) = Path("generated").iterdir()
    assert output == f"Wrote {file}: seeds 1 to 16.\n"
    grid = pixels(file)
    assert grid.shape == (256, 256, 3)
    np.testing.assert_array_equal(grid[:64:4, :64:4], expected(1))


def test_separate_files_are_named_by_seed_and_keep_other_files(
    atelier: CommandRunner, checkout: Path
) -> None:
    user_file = checkout / "mine/notes.txt"
    user_file.parent.mkdir()
    user_file.write_text("mine")
    output = atelier("generate --count 2 --seed 8 --separate-files --out mine")
    assert output == "Wrote 2 images to mine/: seeds 8 to 9.\n"
    assert {file.name for file in user_file.parent.iterdir()} == {
        *("notes.txt", "seed_0008.png", "seed_0009.png")
    }
    np.testing.assert_array_equal(pixels("mine/seed_0009.png"), expected(9))
    (checkout / "mine/seed_0009.png").write_text("edited")
    atelier("generate --seeds 10,9 --separate-files --out mine", code=1)
    assert (checkout / "mine/seed_0009.png").read_text() == "edited"
    assert not (checkout / "mine/seed_0010.png").exists(), "no file is written if one is rejected"
    assert not list(checkout.glob(".atelier*"))


def test_gif_is_a_closed_loop(atelier: CommandRunner) -> None:
    output = atelier("generate --seeds 1,5,9 --gif walk.gif --frames 4 --fps 10 --tile-pixels 32")
    assert output == "Wrote walk.gif: seeds 1, 5, 9, 12 frames at 10 fps.\n"
    with Image.open("walk.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (12, (32, 32), 100)
        for number, seed in enumerate((1, 5, 9)):
            gif.seek(4 * number)
            frame = np.asarray(gif.convert("RGB"))[::2, ::2]
            assert np.abs(frame.astype(int) - expected(seed)).mean() < 6  # GIF has 256 colors


def test_class_is_chosen_or_cycles(atelier: CommandRunner, checkout: Path) -> None:
    arch = with_changes(SMALL, classes=3)
    generator = vivid(arch)
    save_network(generator, arch, checkout / "models/generator.safetensors")

    def image_of_class(label: int, seed: int) -> np.ndarray:
        return generate(generator, draw_latents(1, arch, seed, [label]))[0]

    assert not np.array_equal(image_of_class(0, 1), image_of_class(1, 1)), (
        "the classes must differ for this test"
    )
    atelier("generate --seeds 6,7 --columns 1 --tile-pixels 16 --out turns.png")
    np.testing.assert_array_equal(
        pixels("turns.png"), [*image_of_class(0, 6), *image_of_class(1, 7)]
    )
    atelier("generate --seeds 6,7 --columns 1 --tile-pixels 16 --class 2 --out twos.png")
    np.testing.assert_array_equal(
        pixels("twos.png"), [*image_of_class(2, 6), *image_of_class(2, 7)]
    )
    atelier("generate --seed 6 --seed 7 --columns 1 --tile-pixels 16 --class 2 --class 1")
    (file,) = Path("generated").iterdir()
    assert file.name.startswith("seeds-6-7-class-2-1-columns-1-tile-16-generator-")
    np.testing.assert_array_equal(pixels(file), [*image_of_class(2, 6), *image_of_class(1, 7)])
    assert "this generator has classes 0 to 2" in atelier("generate --class 3", code=1)
    assert f"[B, {SMALL.latent_size + 3}]" in atelier("export faces.pt")


def test_unusable_folder_is_one_error_sentence(atelier: CommandRunner, checkout: Path) -> None:
    (checkout / ".atelier").write_text("not a folder")
    output = atelier("sync", code=1)
    assert output.startswith(f"ERROR: {checkout / '.atelier'}")
    assert output.count("\n") == 1


def test_existing_file_is_replaced_only_with_force(atelier: CommandRunner) -> None:
    atelier("generate --count 1 --out one.png")
    before = Path("one.png").read_bytes()
    assert "one.png is there already" in atelier("generate --seed 3 --out one.png", code=1)
    assert Path("one.png").read_bytes() == before
    atelier("generate --seed 3 --count 1 --out one.png --force")
    np.testing.assert_array_equal(pixels("one.png")[::4, ::4], expected(3))
    Path("faces.pt").write_text("mine")
    assert "faces.pt is there already" in atelier("export faces.pt", code=1)
    assert Path("faces.pt").read_text() == "mine"
    assert not list(Path().glob(".atelier*"))


@pytest.mark.parametrize(
    "command",
    [
        *(
            "generate --count 24",
            "generate --seeds 3,5 --separate-files",
            "generate --seed 9 --count 1",
        ),
        "generate --seeds 1,5 --gif generated/walk.gif --frames 3 --tile-pixels 16",
        pytest.param("export generated/faces.onnx", marks=pytest.mark.slow),
    ],
)
def test_repeated_commands_write_the_same_bytes(atelier: CommandRunner, command: str) -> None:
    output = atelier(command)
    before = {file: file.read_bytes() for file in Path("generated").iterdir()}
    assert atelier(command) == output
    assert {file: file.read_bytes() for file in Path("generated").iterdir()} == before


def test_grid_of_another_generator_has_another_name(atelier: CommandRunner, checkout: Path) -> None:
    first = atelier("generate --count 2")
    other = vivid(SMALL)
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.5)
    save_network(other, SMALL, checkout / "models/generator.safetensors")
    second = atelier("generate --count 2")
    assert first != second
    assert len(list(Path("generated").iterdir())) == 2
    assert atelier("generate --count 2") == second


@pytest.mark.parametrize("command", ["generate --gif one.gif --frames 2", "export one.pt"])
def test_comparison_with_existing_file_is_reported_first(
    atelier: CommandRunner, command: str
) -> None:
    file = Path(command.split()[1 if "export" in command else 2])
    file.write_text("mine")
    output = atelier(command, code=1).splitlines()
    assert output[0].startswith(f"{file} is there already: the new content is compared with it")
    assert output[1].startswith(f"ERROR: {file} is there already, with other content")
    file.unlink()
    file.mkdir()
    assert atelier(command, code=1) == f"ERROR: {file} is a folder; choose another place.\n"


def test_grids_of_other_images_have_other_names(atelier: CommandRunner, checkout: Path) -> None:
    arch = with_changes(SMALL, classes=3)
    save_network(vivid(arch), arch, checkout / "models/generator.safetensors")
    commands = [
        *("--count 3", "--count 4", "--count 3 --seed 2", "--seeds 1,3", "--seeds 3,1"),
        *("--seeds 1,3,5", "--count 3 --class 1", "--count 3 --truncation 1.5"),
        *("--count 3 --columns 3", "--count 3 --tile-pixels 16"),
        *("--seeds " + ",".join(map(str, range(a, 300, 2))) for a in (1, 3)),
    ]
    for command in commands:
        atelier(f"generate {command}")
    names = [file.name for file in (checkout / "generated").iterdir()]
    assert len(names) == len(commands)
    assert max(map(len, names)) < 100


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("generate --count 0", "--count is 0, but it is 1 or more"),
        ("generate --count 10001", "at most 10,000 images"),
        ("generate --columns 0", "--columns is 0"),
        ("generate --seeds 1,two", "--seeds is '1,two', but it is a list, e.g. 1,5,9"),
        ("generate --seed -1", "a seed is a whole number from 0"),
        ("generate --count -1", "--count is -1, but it is 1 or more"),
        (f"generate --seed {2**63}", f"not {2**63}"),
        ("generate --seeds 1,2 --count 2", "leave --count and --seed out"),
        ("generate --seed 1 --seed 2 --count 2", "several --seed are the seeds of all images"),
        ("generate --seed 1 --seed -2", "a seed is a whole number from 0"),
        ("generate --seeds 1,2 --seed 2", "leave --count and --seed out"),
        ("generate --tile-pixels 5001", "use at most 5000"),
        ("generate --truncation 0", "0.01 or more"),
        ("generate --class 0", "this generator has no classes"),
        ("generate --out faces.jpg", "a folder, or a file that ends in .png"),
        ("generate --out params.yaml", "a folder, or a file that ends in .png"),
        ("generate --out faces.png --separate-files", "with --separate-files a folder"),
        ("generate --gif walk.mp4", "must end in .gif"),
        ("generate --gif walk.gif --fps 51", "at most 50"),
        ("generate --gif walk.gif --frames 9999", "at most 10,000"),
        ("generate --gif walk.gif --out here", "leave --out and --separate-files out"),
        ("generate --model none.safetensors", "there is no none.safetensors"),
        ("generate --model params.yaml", "params.yaml holds no generator"),
        ("generate --model models", "it is a folder, not a regular file"),
        ("generate --model pipe", "it is a pipe, not a regular file"),
        ("export faces.pt --model pipe", "it is a pipe, not a regular file"),
        ("generate --model /dev/zero", "it is a device, not a regular file"),
        ("generate --model models:/faces@champion", "no MLflow store here"),
        (f"generate --model {'0' * 32}", "no MLflow store here"),
        ("generate --out params.yaml/pictures", "cannot be read or written (Not a directory)"),
        ("export faces.txt", "use .onnx for ONNX or .pt"),
    ],
)
def test_invalid_command_is_one_error_sentence_and_writes_nothing(
    atelier: CommandRunner, checkout: Path, command: str, sentence: str
) -> None:
    os.mkfifo(checkout / "pipe")
    before = sorted(checkout.rglob("*"))
    output = atelier(command, code=1)
    assert sentence in output
    assert output.startswith("ERROR: ")
    assert output.count("\n") == 1
    assert sorted(checkout.rglob("*")) == before
