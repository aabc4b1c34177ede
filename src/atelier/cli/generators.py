"""Shared code of commands that use a trained generator: the option ``--model`` and loading."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.cli.checkout import PARAMS
from atelier.core.errors import AtelierError

if TYPE_CHECKING:
    from atelier.gan.generation import TrainedGenerator

GENERATED = Path("generated")
GENERATOR = "models/generator.safetensors"
ModelOption = Annotated[
    str, typer.Option("--model", help="a .safetensors file, an MLflow run's id, or models:/...")
]


def load_generator(model: str, on_cpu: bool = False) -> "TrainedGenerator":
    """Load a generator from a file or from MLflow.

    Args:
        model: a file, the id of an MLflow run, or the address of a registered model.
        on_cpu: use the CPU instead of ``runtime.device``.

    Raises:
        AtelierError: there is no such generator, or it cannot be read.
    """
    from atelier.core import settings
    from atelier.core.device import choose_device
    from atelier.gan.generation import TrainedGenerator
    from atelier.gan.serialization import load_generator as load_file
    from atelier.tracking.environment import repository_root
    from atelier.tracking.models import is_reference, load_model
    from atelier.tracking.store import existing_store, quiet_environment

    if is_reference(model):
        quiet_environment()
        logged = load_model(model, existing_store(repository_root()))
        cpu = choose_device("cpu")
        return TrainedGenerator.from_module(logged.network, logged.inputs, logged.about, cpu)
    if not Path(model).exists():
        expected = "a .safetensors file, the id of an MLflow run or models:/name@champion"
        is_default = model == GENERATOR
        advice = "run `dvc repro train`" if is_default else f"--model takes {expected}"
        raise AtelierError(f"there is no {model}; {advice}.")
    device = "cpu" if on_cpu else settings.load(PARAMS).runtime.device
    return load_file(Path(model), choose_device(device))
