"""Data-parallel training of one GAN by several processes.

Each process computes its shard of every batch. Gradients, batch statistics and logged statistics
are summed over all processes, so the number of processes changes the result only by rounding.

DistributedDataParallel is not used. It expects one network and one backward pass per forward pass.
Here the discriminator has up to four forward passes per step, some of them with frozen weights.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor, nn

from atelier.core.device import choose_device, disable_malloc_trim
from atelier.core.errors import AtelierError, PeerLostError
from atelier.core.torchrun import runs_under_torchrun

_MOMENTUM = 0.1  # of the running statistics, PyTorch's default


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, from 0, and the number of processes."""

    number: int = 0
    count: int = 1

    def shard(self, batch: Tensor) -> Tensor:
        """Return this process's shard of a batch; shards differ by one at most and may be empty."""
        return batch.tensor_split(self.count)[self.number]

    def all_reduce_sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one collective operation."""
        if self.count == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        _all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def broadcast_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return rank 0's state on all ranks; sent as safetensors, which cannot execute code."""
        if self.count == 1:
            return dict(state)
        device = _device()
        content = bytearray()
        if self.number == 0:
            content += save({name: tensor.contiguous().cpu() for name, tensor in state.items()})
        length = torch.tensor([len(content)], device=device)
        with _peer_errors():
            dist.broadcast(length, 0)
        content = content or bytearray(int(length))
        buffer = torch.frombuffer(content, dtype=torch.uint8).to(device)
        with _peer_errors():
            dist.broadcast(buffer, 0)
        tensors: dict[str, Tensor] = load(buffer.cpu().numpy().tobytes())
        return tensors


SINGLE_PROCESS = Ranks()


@dataclass(frozen=True)
class Runtime:
    """This process among those of a training, and its device."""

    ranks: Ranks
    device: torch.device


def single_process() -> Runtime:
    """Return one process on the fastest device."""
    return Runtime(SINGLE_PROCESS, choose_device("auto"))


@contextmanager
def init_distributed(device_name: str, cudnn_benchmark: bool = False) -> Iterator[Runtime]:
    """Choose the device; under torchrun, join the process group as well.

    Under torchrun each process uses its own GPU. Freed memory stays with the process.

    Args:
        device_name: ``runtime.device``.
        cudnn_benchmark: measure cuDNN's algorithms for each shape of a convolution, and use the
            fastest. Another one may be the fastest in the next process, with other rounding.

    Raises:
        AtelierError: there are fewer GPUs than processes, or the processes cannot connect.
    """
    disable_malloc_trim()
    torch.backends.cudnn.benchmark = cudnn_benchmark
    device = choose_device(device_name)
    if not runs_under_torchrun():
        if device.index is not None:
            torch.cuda.set_device(device)
        yield Runtime(SINGLE_PROCESS, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise AtelierError(
                f"runtime.launcher starts more processes than there are GPUs"
                f" ({torch.cuda.device_count()}); set --nproc-per-node to that number."
            )
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except RuntimeError as error:
        raise AtelierError(
            f"the processes of this training could not connect ({_first_line(error)}); check that"
            " the hosts and ports in runtime.launcher are free and can be reached."
        ) from None
    yield Runtime(Ranks(dist.get_rank(), dist.get_world_size()), device)
    # Not after an error: this would block until the other processes, which wait for this one.
    dist.destroy_process_group()


def convert_sync_batchnorm(network: nn.Module) -> None:
    """Replace every BatchNorm2d of a network by :class:`SyncBatchNorm`, in place."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            norm = SyncBatchNorm(module.num_features, device=module.weight.device)
            norm.load_state_dict(module.state_dict())
            network.set_submodule(name, norm)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalization over the batch of all processes.

    Unlike PyTorch's SyncBatchNorm it also runs on CPUs. Ioffe and Szegedy 2015, "Batch
    normalization" (https://arxiv.org/abs/1502.03167).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [B, C, H, W]; B may be 0 in some of the processes."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        # In one vector, because each collective operation waits for all processes.
        local_count = values.new_full((1,), x.numel() / x.shape[1])
        sums = _AllReduceSum.apply(torch.cat([values.sum((0, 2, 3)), local_count]))
        total, count = sums[:-1], sums[-1:].detach()
        mean = total / count
        centered = values - mean[:, None, None]
        variance = _AllReduceSum.apply(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            buffer = self.get_buffer
            buffer("num_batches_tracked").add_(1)
            buffer("running_mean").lerp_(mean, _MOMENTUM)
            buffer("running_var").lerp_(variance * count / (count - 1), _MOMENTUM)
        scale = self.weight * (variance + self.eps).rsqrt()
        normalized: Tensor = centered * scale[:, None, None] + self.bias[:, None, None]
        return normalized.to(x.dtype)


class _AllReduceSum(torch.autograd.Function):
    """Sum over all processes; the loss of each depends on it, so gradients are summed as well."""

    @staticmethod
    def forward(_ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        _all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        _all_reduce(total)
        return total


def _all_reduce(tensor: Tensor) -> None:
    with _peer_errors():
        dist.all_reduce(tensor)


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Raise PeerLostError if a collective operation fails because another process exited."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(
            "another process of this training exited, so this one cannot continue"
            f" ({_first_line(error)}); `dvc repro` continues from the last checkpoint."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:120]


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
