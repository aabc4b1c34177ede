"""Command that serves a page on which a trained generator is explored."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.cli.checkout import PARAMS, PRESETS
from atelier.cli.generators import GENERATOR, ModelOption, load_generator
from atelier.core.ports import HOST, reserve
from atelier.core.progress import status_line

if TYPE_CHECKING:
    from atelier.core.settings import Settings, StylizeSettings
    from atelier.gan.generation import TrainedGenerator
    from atelier.web.explorer.routes import Explorer

DEFAULT_PORT = 8002
PICTURES, WEIGHTS = Path("data/pictures"), Path("data/weights")
IMAGES, TEST = Path("data/images.npz"), Path("data/test.npz")
_SAMPLES = 2048  # for the directions; more change them little and delay the start
_PRESET = "photo"  # its style transfer is tuned for single images


def explore(
    *,
    model: ModelOption = GENERATOR,
    port: Annotated[int, typer.Option(min=1024, max=65535, help="of this machine")] = DEFAULT_PORT,
) -> None:
    """Explore a trained generator on a page: sliders, interpolation, paintings, photographs.

    Example: atelier explore --model models/best.safetensors
    """
    from atelier.core import settings
    from atelier.data.image_file import silence_pillow
    from atelier.web.explorer.routes import create_explorer
    from atelier.web.server import serve

    with reserve(port, "atelier explore") as reserved, silence_pillow():
        loaded = settings.load(PARAMS)
        with status_line() as show:
            show("Computing the principal directions")
            explorer = build_explorer(load_generator(model), model, loaded)
        typer.echo(f"Open http://{HOST}:{port}\nCtrl-C ends the server.")
        serve(create_explorer(explorer), reserved, explorer.close)


def build_explorer(generator: "TrainedGenerator", title: str, settings: "Settings") -> "Explorer":
    """Return the explorer of a generator, with the styles and training images of this folder.

    Args:
        generator: the generator.
        title: its name on the page.
        settings: all settings.
    """
    from atelier.cli.invert import psnr_text
    from atelier.core.paths import user_path
    from atelier.data.faces.yunet import YUNET_FILE, read_yunet
    from atelier.latents.directions import principal_directions
    from atelier.latents.inversion import InversionOptions
    from atelier.metrics.cache import FeatureCache
    from atelier.metrics.extractors import build_extractor
    from atelier.tracking.environment import private_folder, repository_root
    from atelier.web.explorer.explored_generator import ExploredGenerator
    from atelier.web.explorer.painting import Painter, Styles
    from atelier.web.explorer.photographs import Photographs
    from atelier.web.explorer.routes import Explorer
    from atelier.web.explorer.training_search import TrainingSearch

    convert, evaluate = settings.convert, settings.evaluate
    explored = ExploredGenerator(generator, principal_directions(generator, samples=_SAMPLES))
    needs_yunet = convert.faces != "none" and convert.face_detector == "yunet"
    face_weights = read_yunet(user_path(WEIGHTS / YUNET_FILE)) if needs_yunet else b""
    cache = FeatureCache(private_folder(repository_root()) / "features", generator.device)
    return Explorer(
        title=title,
        explored=explored,
        styles=Styles(PICTURES, convert.max_megapixels, settings.stylize.seed),
        painter=Painter(_style_transfer(), generator.device, WEIGHTS),
        photographs=Photographs(explored, convert, psnr_text, InversionOptions(), face_weights),
        search=TrainingSearch(
            (IMAGES, TEST),
            evaluate,
            lambda: build_extractor(evaluate.features, evaluate.seed, WEIGHTS),
            cache=cache,
        ),
    )


def _style_transfer() -> "StylizeSettings":
    """Return the settings of paintings: those of a preset with fewer iterations."""
    from atelier.core.presets import preset_values
    from atelier.core.settings import StylizeSettings
    from atelier.web.explorer.painting import ITERATIONS

    values = preset_values(_PRESET, PRESETS)["stylize"]
    return StylizeSettings.model_validate(values | {"iterations": ITERATIONS, "gif": False})
