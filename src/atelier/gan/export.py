"""Export of a trained generator to ONNX or TorchScript, for use without this package."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from atelier.core.arrays import to_uint8
from atelier.core.errors import AtelierError
from atelier.core.files import atomic_write
from atelier.gan.generation import TrainedGenerator
from atelier.gan.sampling import latents_for_seeds

INPUT, OUTPUT = "latents", "pictures"


class _Uint8Generator(nn.Module):
    """Generator whose images are uint8 [B, H, W, C]."""

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor) -> Tensor:
        """Generate images uint8 [B, H, W, C] from float32 [B, latent_size + classes]."""
        return to_uint8(self.network(latents), signed=True)


def export(generator: TrainedGenerator, target: Path) -> None:
    """Write a generator atomically, in the format given by the suffix of ``target``.

    Both formats map float32 [B, latent_size + classes], for any B, to uint8 [B, H, W, C]: the
    images of :func:`atelier.gan.generation.generate`.

    Args:
        generator: on the CPU.
        target: ``.onnx`` for ONNX, with one input ``latents`` and one output ``pictures``;
            ``.pt`` for TorchScript.

    Raises:
        AtelierError: the suffix is another one, or the packages that write ONNX are missing.
    """
    write = {".onnx": _write_onnx, ".pt": _write_torchscript}.get(target.suffix)
    if write is None:
        raise AtelierError(
            f"the suffix of {target} names no format; use .onnx for ONNX or .pt for TorchScript."
        )
    module = _Uint8Generator(generator.network)
    module.training = False  # a loaded MLflow graph has no eval(); it is in evaluation mode already
    example = torch.stack(list(latents_for_seeds((1, 2), generator)))
    with atomic_write(target) as temporary, torch.no_grad():
        write(module, example, temporary)


def _write_onnx(module: nn.Module, example: Tensor, target: Path) -> None:
    try:
        import onnx  # noqa: F401 - PyTorch's exporter needs both, and would fail late without them
        import onnxscript  # noqa: F401
    except ImportError:
        raise AtelierError(
            "ONNX export needs the packages onnx and onnxscript, which are not installed; install"
            " them with `pip install onnx onnxscript`, or export to TorchScript with a name that"
            " ends in .pt."
        ) from None
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise ValueError("torch.onnx.export returned no program although dynamo is True")
    for node in program.model.graph:
        node.metadata_props.clear()  # absolute paths of this machine's source files
    program.save(target, external_data=False)


def _write_torchscript(module: nn.Module, example: Tensor, target: Path) -> None:
    with warnings.catch_warnings():
        # TorchScript is deprecated in favor of torch.export, but C++ programs still read it.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.jit")
        # The input checks of a graph logged to MLflow are traced as passed.
        warnings.filterwarnings("ignore", message="Converting a tensor")
        buffer = io.BytesIO()  # a file would embed its temporary name
        torch.jit.save(torch.jit.trace(module, (example,)), buffer)
    target.write_bytes(buffer.getvalue())
