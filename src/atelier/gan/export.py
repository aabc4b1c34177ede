"""A trained generator as a file that other programs run, without this one."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from atelier.core.errors import AtelierError
from atelier.core.files import atomic_write
from atelier.gan.generate import to_uint8
from atelier.gan.sampling import SampledGenerator, latents_for_seeds

INPUT, OUTPUT = "latents", "pictures"


class _UnitRangeImages(nn.Module):
    """Latents float32 [B, latent_size + classes] to uint8 [B, H, W, C], to be shown."""

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: Tensor) -> Tensor:
        """Make a picture of each latent."""
        return to_uint8(self.network(latents))


def export(trained: SampledGenerator, target: Path) -> None:
    """Write a generator as ``target``'s ending says, whole or not at all.

    Both files take float32 [B, latent_size + classes], any B, and give uint8 [B, H, W, C]: the
    pictures of :func:`atelier.gan.generate.generate`.

    Args:
        trained: on the CPU.
        target: ``.onnx`` for ONNX, with one input ``latents`` and one output ``pictures``;
            ``.pt`` for TorchScript.

    Raises:
        AtelierError: the ending is another one, or the packages that write ONNX are missing.
    """
    write = {".onnx": _write_onnx, ".pt": _write_torchscript}.get(target.suffix)
    if write is None:
        raise AtelierError(
            f"{target} says no format: a name ends in .onnx for ONNX or in .pt for TorchScript."
        )
    module = _UnitRangeImages(trained.network)
    module.training = False  # its network is in evaluation mode, or a graph made in that
    example = torch.stack(list(latents_for_seeds((1, 2), trained)))
    with atomic_write(target) as temporary, torch.no_grad():
        write(module, example, temporary)


def _write_onnx(module: nn.Module, example: Tensor, target: Path) -> None:
    try:
        import onnx  # noqa: F401 - torch's exporter needs both, and says so late
        import onnxscript  # noqa: F401
    except ImportError:
        raise AtelierError(
            "ONNX is written with onnx and onnxscript, which are not installed; install them with"
            " `pip install onnx onnxscript`, or export to TorchScript: a name that ends in .pt."
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
        raise ValueError("torch.onnx.export gives a program wherever dynamo is True")
    for node in program.model.graph:
        node.metadata_props.clear()  # where in this machine's folders the code stands
    program.save(target, external_data=False)


def _write_torchscript(module: nn.Module, example: Tensor, target: Path) -> None:
    with warnings.catch_warnings():
        # TorchScript is deprecated in favour of torch.export; programs in C++ still read it.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*torch.jit")
        # The checks that a logged graph makes of its input are traced as having passed.
        warnings.filterwarnings("ignore", message="Converting a tensor")
        written = io.BytesIO()  # a file's own, temporary name would become part of its content
        torch.jit.save(torch.jit.trace(module, (example,)), written)
    target.write_bytes(written.getvalue())
