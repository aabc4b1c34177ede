"""Explorer of a small generator."""

from pathlib import Path

from atelier.core.presets import preset_values
from atelier.core.settings import ConvertSettings, EvaluateSettings, StylizeSettings
from atelier.gan.generation import TrainedGenerator
from atelier.gan.networks import Architecture
from atelier.latents.directions import principal_directions
from atelier.latents.inversion import InversionOptions
from atelier.metrics.cache import FeatureCache
from atelier.metrics.extractors import build_extractor
from atelier.web.explorer.explored_generator import ExploredGenerator
from atelier.web.explorer.painting import Painter, Styles
from atelier.web.explorer.photographs import Photographs
from atelier.web.explorer.routes import Explorer
from atelier.web.explorer.training_search import TrainingSearch

from .architectures import PRESETS, SMALL, vivid

CPU = FeatureCache().device


def explored(arch: Architecture = SMALL) -> ExploredGenerator:
    """Return a generator with random weights and its directions."""
    generator = TrainedGenerator(
        vivid(arch), arch.latent_size, arch.latent_distribution, arch.classes, CPU, arch
    )
    return ExploredGenerator(generator, principal_directions(generator, 4, samples=64))


def explorer(folder: Path, title: str = "small", iterations: int = 6) -> Explorer:
    """Return an explorer whose pictures and training images are in a folder.

    Args:
        folder: with ``pictures`` and ``images.npz``; both may be missing.
        title: name of the generator.
        iterations: of paintings.
    """
    values = preset_values("photo", PRESETS)
    fast = {"weights": "random", "style_layers": {1: 1.0}, "content_layers": {1: 1.0}}
    stylize = values["stylize"] | fast | {"iterations": iterations}
    small = explored()
    options = InversionOptions(candidates=64, starts=4, iterations=60, refinements=0)
    return Explorer(
        title=title,
        explored=small,
        styles=Styles(folder / "pictures", 80, seed=8),
        painter=Painter(StylizeSettings.model_validate(stylize), CPU, folder),
        photographs=Photographs(
            small,
            ConvertSettings.model_validate(values["convert"]),
            options,
        ),
        search=TrainingSearch(
            (folder / "images.npz", folder / "test.npz"),
            EvaluateSettings.model_validate(values["evaluate"]),
            lambda: build_extractor("random", 1),
            cache=FeatureCache(),
        ),
    )
