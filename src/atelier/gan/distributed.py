"""Several processes that train one GAN: each on its part of every batch, with one outcome.

The sums that a single process would make over a batch are made over the parts of all: of
gradients, of batch normalisation, of statistics. So the number of processes changes nothing but
rounding. DistributedDataParallel is not used, since it expects one backward pass for each forward
pass and one network: here the discriminator has three forward passes a step, one of them frozen.
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

_MOMENTUM = 0.1  # of running statistics, torch's own default


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; torchrun counts from 0."""

    number: int = 0
    count: int = 1

    def shard(self, batch: Tensor) -> Tensor:
        """This process's part of a batch; parts differ by one at most, and may be empty."""
        return batch.tensor_split(self.count)[self.number]

    def all_reduce_sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange."""
        if self.count == 1:
            return
        listed = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in listed])
        _all_reduce(flat)
        for tensor, total in zip(listed, flat.split([t.numel() for t in listed]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def broadcast_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of process 0, in every process; as safetensors, which hold no code."""
        if self.count == 1:
            return dict(state)
        device = _device()
        content = bytearray()
        if self.number == 0:
            content += save({name: tensor.contiguous().cpu() for name, tensor in state.items()})
        length = torch.tensor([len(content)], device=device)
        with _global_moments():
            dist.broadcast(length, 0)
        content = content or bytearray(int(length))
        sent = torch.frombuffer(content, dtype=torch.uint8).to(device)
        with _global_moments():
            dist.broadcast(sent, 0)
        tensors: dict[str, Tensor] = load(sent.cpu().numpy().tobytes())
        return tensors


SINGLE_PROCESS = Ranks()


@contextmanager
def init_distributed(device_name: str) -> Iterator[tuple[Ranks, torch.device]]:
    """Make this process ready to train: alone, or as one of those that torchrun started.

    Each has a GPU of its own, and keeps the memory that it once had.

    Args:
        device_name: ``runtime.device``.
    """
    disable_malloc_trim()
    device = choose_device(device_name)
    if not runs_under_torchrun():
        if device.index is not None:
            torch.cuda.set_device(device)
        yield SINGLE_PROCESS, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise AtelierError(
                f"runtime.launcher starts more processes than there are GPUs"
                f" ({torch.cuda.device_count()}); give --nproc-per-node that number."
            )
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except RuntimeError as error:
        raise AtelierError(
            f"the processes of this training did not find one another ({_first_line(error)}); see"
            " that the machines and ports of runtime.launcher are free and can be reached."
        ) from None
    yield Ranks(dist.get_rank(), dist.get_world_size()), device
    # Not after an error: it would wait for processes that wait for this one.
    dist.destroy_process_group()


def convert_sync_batchnorm(network: nn.Module) -> None:
    """Let every batch normalisation see the batches of all processes."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            norm = SyncBatchNorm(module.num_features, device=module.weight.device)
            norm.load_state_dict(module.state_dict())
            network.set_submodule(name, norm)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the joined batch of all processes.

    torch's own SyncBatchNorm does the same, on GPUs only. Ioffe and Szegedy 2015, "Batch
    normalization" (https://arxiv.org/abs/1502.03167).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W]; B may be 0 in some of the processes."""
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = values.new_tensor([x.numel() / x.shape[1]])
        total, seen = _AllReduceSum.apply(values.sum((0, 2, 3))), _AllReduceSum.apply(count)
        mean = total / seen
        centred = values - mean[:, None, None]
        variance = _AllReduceSum.apply(centred.square().sum((0, 2, 3))) / seen
        with torch.no_grad():
            state = self.get_buffer
            state("num_batches_tracked").add_(1)
            state("running_mean").lerp_(mean, _MOMENTUM)
            state("running_var").lerp_(variance * seen / (seen - 1), _MOMENTUM)
        scale = self.weight * (variance + self.eps).rsqrt()
        normal: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normal.to(x.dtype)


class _AllReduceSum(torch.autograd.Function):
    """The sum over all processes; each one's loss depends on it, so gradients add up as well."""

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
    with _global_moments():
        dist.all_reduce(tensor)


@contextmanager
def _global_moments() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(
            "another process of this training ended, so that it cannot go on"
            f" ({_first_line(error)}); `dvc repro` goes on from the last checkpoint."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:120]


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
