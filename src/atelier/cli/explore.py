"""Command that serves a page on which a trained generator is explored."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.cli.checkout import PARAMS, PRESETS
from atelier.cli.generators import GENERATOR, ModelOption, load_generator
from atelier.core.errors import AtelierError, printable
from atelier.core.ports import HOST, reserve
from atelier.core.progress import Progress, ProgressCallback, silent, status_line

if TYPE_CHECKING:
    from atelier.core.settings import Settings, StylizeSettings
    from atelier.gan.generation import TrainedGenerator
    from atelier.web.explorer.routes import Explorer

DEFAULT_PORT = 8002
PICTURES, WEIGHTS = Path("data/pictures"), Path("data/weights")
IMAGES, TEST = Path("data/images.npz"), Path("data/test.npz")
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
            show("Loading the generator")
            generator = load_generator(model)

            def report(progress: Progress) -> None:
                share = progress.done / (progress.total or 1)
                show(f"Computing the principal directions: {share:.0%}")

            explorer = build_explorer(generator, model, loaded, report=report)
        typer.echo(f"Open http://{HOST}:{port}\nCtrl-C ends the server.")
        serve(create_explorer(explorer), reserved, explorer.close)


def build_explorer(
    generator: "TrainedGenerator",
    title: str,
    settings: "Settings",
    *,
    report: ProgressCallback = silent,
) -> "Explorer":
    """Return the explorer of a generator, with the styles and training images of this folder.

    Args:
        generator: the generator.
        title: its name on the page: the option ``--model``.
        settings: all settings.
        report: receives the progress of the directions.

    Raises:
        AtelierError: the latents are too large for the page, or the weights of the face detector
            are missing.
    """
    from atelier.data.faces.yunet import face_detector_weights
    from atelier.latents.directions import principal_directions
    from atelier.latents.inversion import InversionOptions
    from atelier.metrics.cache import FeatureCache
    from atelier.metrics.extractors import build_extractor
    from atelier.tracking.environment import private_folder, repository_root
    from atelier.web.explorer.explored_generator import ExploredGenerator
    from atelier.web.explorer.painting import Painter, Styles
    from atelier.web.explorer.photographs import Photographs
    from atelier.web.explorer.requests import MAX_LATENT_SIZE
    from atelier.web.explorer.routes import Explorer
    from atelier.web.explorer.training_search import TrainingSearch

    convert, evaluate = settings.convert, settings.evaluate
    if generator.latent_size > MAX_LATENT_SIZE:
        raise AtelierError(
            f"the latents of {printable(title, 200)} have {generator.latent_size:,} values, but at"
            f" most {MAX_LATENT_SIZE:,} can be explored; use `atelier generate`."
        )
    directions = principal_directions(generator, report=report)
    explored = ExploredGenerator(generator, directions)
    face_weights = face_detector_weights(convert, WEIGHTS)
    cache = FeatureCache(private_folder(repository_root()) / "features", generator.device)
    return Explorer(
        title=title,
        explored=explored,
        styles=Styles(PICTURES, convert.max_megapixels, settings.stylize.seed),
        painter=Painter(_style_transfer(), generator.device, WEIGHTS),
        photographs=Photographs(explored, convert, InversionOptions(), face_weights),
        search=TrainingSearch(
            (IMAGES, TEST),
            evaluate,
            lambda: build_extractor(evaluate.features, evaluate.seed, WEIGHTS),
            cache=cache,
            are_training=_is_own(title),
        ),
    )


def _is_own(model: str) -> bool:
    """Return True for a file that the pipeline of this folder wrote."""
    return Path(model).resolve().parent == Path(GENERATOR).parent.resolve()


def _style_transfer() -> "StylizeSettings":
    """Return the settings of paintings: those of a preset with fewer iterations."""
    from atelier.core.presets import preset_values
    from atelier.core.settings import StylizeSettings
    from atelier.web.explorer.painting import ITERATIONS

    values = preset_values(_PRESET, PRESETS)["stylize"]
    return StylizeSettings.model_validate(values | {"iterations": ITERATIONS, "gif": False})
