"""`atelier invert`, and `atelier generate` with its latents."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atelier.gan.generation import TrainedGenerator, draw_latents, generate
from atelier.gan.sampling import slerp
from atelier.gan.serialization import load_generator, save_network
from atelier.latents.distances import load_vgg
from atelier.latents.inversion import InversionOptions, invert, psnr_text
from atelier.latents.latent_file import load_latent, save_latent

from ..support.architectures import SMALL, vivid, with_changes
from .conftest import CommandRunner

GENERATOR = Path("models/generator.safetensors")
LATENT = Path("me.latent.safetensors")


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with settings and a generator."""
    shutil.copy(root / "params.yaml", tmp_path)
    save_network(vivid(SMALL), SMALL, tmp_path / GENERATOR)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def generator(checkout: Path) -> TrainedGenerator:
    return load_generator(checkout / GENERATOR)


@pytest.fixture
def latent(generator: TrainedGenerator) -> torch.Tensor:
    """Latent in a file."""
    (values,) = draw_latents(1, generator, 42)
    save_latent(values, generator, LATENT)
    return values


def image_of(generator: TrainedGenerator, latent: torch.Tensor) -> np.ndarray:
    return generate(generator.network, latent[None])[0]


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def save_own_image(generator: TrainedGenerator, name: str, seed: int) -> np.ndarray:
    own = image_of(generator, draw_latents(1, generator, seed)[0])
    Image.fromarray(own).save(name)
    return own


def test_own_image_is_found_and_used_by_other_commands(
    atelier: CommandRunner, generator: TrainedGenerator
) -> None:
    own = save_own_image(generator, "me.png", 7)
    output = atelier("invert me.png")
    assert {file.name for file in Path("generated").iterdir()} == {
        *("me-comparison.png", "me-inverted.png", "me.latent.safetensors")
    }
    found = pixels("generated/me-inverted.png")
    assert np.abs(found.astype(int) - own).mean() < 5
    error = np.square(found.astype(float) - own).mean()
    assert output == (
        f"Wrote generated/me-inverted.png: {psnr_text(10 * np.log10(255**2 / error))}.\n"
        "me-comparison.png next to it contains your photograph.\n"
    )
    comparison = pixels("generated/me-comparison.png")
    assert comparison.shape == (30 + 256 + 30, 3 * 16 + 2 * 256, 3)
    np.testing.assert_array_equal(comparison[30:286:16, 16:272:16], own)
    np.testing.assert_array_equal(comparison[30:286:16, 288:544:16], found)

    atelier(
        "generate --latent generated/me.latent.safetensors --separate-files --out again --seed 3"
    )
    assert {file.name for file in Path("again").iterdir()} == {"me.png", "seed_0003.png"}
    np.testing.assert_array_equal(pixels("again/me.png"), found)


def test_photographs_are_inverted_in_one_command(
    atelier: CommandRunner, generator: TrainedGenerator
) -> None:
    save_own_image(generator, "a.png", 1)
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save("gray.jpg")
    output = atelier("invert a.png gray.jpg --iterations 8 --out found")
    assert [line.partition(": ")[0] for line in output.splitlines()[::2]] == [
        *("Wrote found/a-inverted.png", "Wrote found/gray-inverted.png")
    ]
    for name in ("a", "gray"):
        latent = load_latent(Path(f"found/{name}.latent.safetensors"), generator)
        np.testing.assert_array_equal(
            pixels(f"found/{name}-inverted.png"), image_of(generator, latent)
        )


def test_names_do_not_control_the_terminal(
    atelier: CommandRunner, generator: TrainedGenerator
) -> None:
    Image.fromarray(save_own_image(generator, "me.png", 1)).save("\x1b[31m.png")
    output = atelier("invert", "\x1b[31m.png", "--iterations", 1)
    output += atelier("invert", "\x1b[31m.png", "\x1b[31m.png", code=1)
    output += atelier("generate", "--latent", "generated/\x1b[31m.latent.safetensors")
    assert output.count(r"\x1b[31m") == 4
    assert "\x1b" not in output


def test_options_are_used(atelier: CommandRunner, generator: TrainedGenerator) -> None:
    pixels_of_photograph = np.random.default_rng(2).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels_of_photograph).save("me.png")
    atelier("invert me.png --starts 3 --iterations 9 --seed 5")
    expected = invert(
        generator,
        pixels_of_photograph,
        InversionOptions(starts=3, iterations=9, refinements=2, seed=5),
        vgg=load_vgg(generator.device),
    )
    found = load_latent(Path("generated/me.latent.safetensors"), generator)
    assert torch.equal(found, expected.latent)


def test_class_of_the_photograph_is_chosen(atelier: CommandRunner, checkout: Path) -> None:
    arch = with_changes(SMALL, classes=3)
    save_network(vivid(arch), arch, checkout / GENERATOR)
    generator = load_generator(checkout / GENERATOR)
    save_own_image(generator, "me.png", 7)
    atelier("invert me.png --class 2 --iterations 8")
    latent = load_latent(Path("generated/me.latent.safetensors"), generator)
    assert latent[SMALL.latent_size :].tolist() == [0, 0, 1]
    assert "this generator has classes 0 to 2" in atelier("invert me.png --class 3 --force", code=1)


def test_existing_files_are_replaced_only_with_force(
    atelier: CommandRunner, generator: TrainedGenerator
) -> None:
    save_own_image(generator, "me.png", 7)
    Path("generated").mkdir()
    Path("generated/me-inverted.png").write_text("mine")
    assert "generated/me-inverted.png is there already" in atelier("invert me.png", code=1)
    assert [file.read_text() for file in Path("generated").iterdir()] == ["mine"]
    atelier("invert me.png --force --iterations 1")
    assert pixels("generated/me-inverted.png").shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("invert none.jpg", "there is no image none.jpg; check the path."),
        ("invert me.txt", "me.txt cannot be read (not an image)."),
        ("invert me.txt other/me.txt", "two images are called me, so that their files would"),
        ("invert me.txt --out me.txt", "--out is me.txt, which is a file; name a folder."),
        ("invert me.txt --model none.safetensors", "there is no none.safetensors; --model takes"),
        ("generate --latent none", "there is no latent none; `atelier invert` writes one."),
        ("generate --latent me.txt", "me.txt holds no latent of this generator"),
        ("generate --variation 0.5", "moves one --latent, not 0.5 with 0 --latent."),
        ("generate --variation 2 --latent me.txt", "a number from 0 to 1 that moves one --latent"),
    ],
)
def test_mistake_is_one_error_sentence(atelier: CommandRunner, command: str, message: str) -> None:
    Path("me.txt").write_text("not an image")
    output = atelier(command, code=1)
    assert message in output
    assert output.startswith("ERROR: ")
    assert output.count("\n") == 1
    assert not Path("generated").exists()


def test_latent_of_another_generator_is_rejected(
    atelier: CommandRunner, checkout: Path, latent: torch.Tensor
) -> None:
    save_network(vivid(SMALL, seed=2), SMALL, checkout / GENERATOR)
    output = atelier(f"generate --latent {LATENT}", code=1)
    assert f"{LATENT} is a latent of another generator" in output


def test_grid_has_latents_before_seeds(
    atelier: CommandRunner, generator: TrainedGenerator, latent: torch.Tensor
) -> None:
    command = f"generate --latent {LATENT} --seed 3 --columns 2 --tile-pixels 16"
    output = atelier(command)
    (file,) = Path("generated").iterdir()
    assert file.name.startswith("latents-")
    assert "-seeds-3-columns-2-tile-16-generator-" in file.name
    assert output == f"Wrote {file}: latent me, seed 3.\n"
    seed_image = image_of(generator, draw_latents(1, generator, 3)[0])
    np.testing.assert_array_equal(
        pixels(file), np.hstack([image_of(generator, latent), seed_image])
    )


def test_latent_alone_needs_no_seed(
    atelier: CommandRunner, generator: TrainedGenerator, latent: torch.Tensor
) -> None:
    output = atelier(f"generate --latent {LATENT} --tile-pixels 16 --out one.png")
    assert output == "Wrote one.png: latent me.\n"
    np.testing.assert_array_equal(pixels("one.png"), image_of(generator, latent))


def test_variations_are_on_the_way_to_seeds(
    atelier: CommandRunner, generator: TrainedGenerator, latent: torch.Tensor
) -> None:
    command = f"generate --latent {LATENT} --variation 0.25 --count 2 --seed 5"
    output = atelier(f"{command} --separate-files --out some")
    assert output == "Wrote 2 images to some/: latent me, varied by seeds 5 to 6.\n"
    other = draw_latents(1, generator, 6)[0]
    np.testing.assert_array_equal(
        pixels("some/me_seed_0006.png"), image_of(generator, slerp(latent, other, 0.25))
    )
    atelier(command)
    (file,) = Path("generated").iterdir()
    assert "-variation-0.25-seeds-5-6-" in file.name


@pytest.mark.parametrize(("seeds", "frames"), [("", 4), ("--seed 3 --seed 5", 6)])
def test_gif_interpolates_from_the_latent(
    atelier: CommandRunner,
    generator: TrainedGenerator,
    latent: torch.Tensor,
    seeds: str,
    frames: int,
) -> None:
    atelier(f"generate --latent {LATENT} --gif me.gif --frames 2 --tile-pixels 16 {seeds}")
    with Image.open("me.gif") as gif:
        assert gif.n_frames == frames
        first = np.asarray(gif.convert("RGB")).astype(int)
    assert np.abs(first - image_of(generator, latent)).mean() < 6


def test_files_of_latents_with_equal_names_are_rejected(
    atelier: CommandRunner, checkout: Path, latent: torch.Tensor
) -> None:
    (checkout / "other").mkdir()
    shutil.copy(LATENT, "other")
    command = f"generate --latent {LATENT} --latent other/{LATENT} --separate-files"
    assert "two images would be written to me.png" in atelier(command, code=1)
    shutil.copy(LATENT, "seed_0003.safetensors")
    command = "generate --latent seed_0003.safetensors --seed 3 --separate-files"
    assert "two images would be written to seed_0003.png" in atelier(command, code=1)
    assert not Path("generated").exists()


@pytest.mark.parametrize("option", ["--truncation 1.5", "--class 0"])
def test_option_of_seeds_without_a_seed_is_rejected(
    atelier: CommandRunner, latent: torch.Tensor, option: str
) -> None:
    output = atelier(f"generate --latent {LATENT} {option}", code=1)
    assert output == (
        "ERROR: --truncation and --class change the images of seeds, but there are only latents;"
        " leave them out, or add --seed.\n"
    )


@pytest.mark.parametrize(
    ("psnr", "text"),
    [
        (41.0, "PSNR 41.0 dB: the same image, except for details"),
        (float("inf"), "PSNR inf dB: the same image, except for details"),
        (24.0, "PSNR 24.0 dB: very similar"),
        (23.9, "PSNR 23.9 dB: similar pose and colors, not the same face"),
        (5.0, "PSNR 5.0 dB: only the main colors are similar; this generator has no such image"),
    ],
)
def test_psnr_has_a_meaning(psnr: float, text: str) -> None:
    assert psnr_text(psnr) == text
