"""Learned weights on disk: fetched once, checked always, and read so that nothing executes."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from atelier.errors import AtelierError


def fetch_weights(url: str, setting: str) -> Path:
    """Fetch a file of weights into torch hub's folder (``TORCH_HOME`` moves it), once.

    The name ends in the first digits of the content's SHA-256, as torchvision has it
    (``vgg19-dcbb9e9d.pth``), and the content is checked by them at every use: a file that somebody
    put there by hand is checked by them too.

    Args:
        url: of the file.
        setting: what asks for it, for messages; it takes ``random`` too.

    Raises:
        AtelierError: it cannot be fetched, or the file at hand is damaged.
    """
    name = url.rpartition("/")[2]
    digits = Path(name).stem.rpartition("-")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digits, progress=False)
        except (OSError, RuntimeError) as error:
            raise AtelierError(
                f"cannot fetch learned weights ({error}); put {name} from {url} into"
                f" {path.parent}, or set {setting} to random."
            ) from None
    found = digest(path)
    if not found.startswith(digits):
        raise AtelierError(
            f"{path} is damaged: its SHA-256 begins with {found[: len(digits)]} instead of"
            f" {digits}; delete it and start again."
        )
    return path


def read_weights(path: Path, setting: str) -> Mapping[str, Any]:
    """Read a ``.safetensors`` file or a PyTorch state_dict, on the CPU.

    Args:
        path: of the file.
        setting: what names it, for messages.

    Raises:
        AtelierError: there is no such file, or it is no state_dict that can be read safely.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of pickles that torch did not write
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise AtelierError(
            f"{setting} is {path}, but there is no such file; put it there, or give random."
        ) from None
    except Exception:  # a damaged or hostile pickle may raise anything at all
        stored = None
    if not isinstance(stored, Mapping):
        raise AtelierError(
            f"{path} holds no state_dict that can be read safely; save one with"
            " torch.save(model.state_dict(), path) or as safetensors."
        )
    return stored


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
