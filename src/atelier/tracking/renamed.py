"""Old names in outbox entries and runs that an earlier version wrote."""

from collections.abc import Mapping

from atelier.core.renamed_settings import RENAMED_KEYS

_LOADER_MODULES = {"atelier.gan.weights": "atelier.gan.serialization"}
_PARAMETERS = {
    f"{section}.{old}": f"{section}.{new[0]}"
    for section, keys in RENAMED_KEYS.items()
    for old, new in keys.items()
}


def current_loader(loader: str) -> str:
    """Return ``module:function`` with the module's present name."""
    module, colon, function = loader.partition(":")
    return f"{_LOADER_MODULES.get(module, module)}{colon}{function}"


def current_parameters(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return parameters by their present names, so that runs of all versions compare."""
    return {_PARAMETERS.get(name, name): value for name, value in parameters.items()}
