"""Simulated GPU: counts kernel launches and synchronizations on fake CUDA tensors, without a GPU.

Fake tensors have a shape, a type and the device ``cuda``, but no memory. PyTorch's own cannot run a
backward pass if CUDA is compiled in but no GPU exists: the autograd engine asks for a CUDA context.
Here Python sees the device ``cuda``, and the C++ parts of PyTorch see the CPU. The operations are
those that PyTorch dispatches, before they become kernels, so counts differ slightly from a GPU's: a
convolution is one launch, and autocast uses the list of operations for CPUs. Not simulated: CUDA
graphs, generators on the device, and fused Adam with a learning rate in a tensor.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import atelier

CUDA = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_PACKAGE = Path(atelier.__file__).parent
_aten: Any = torch.ops.aten
_tensor_to: Any = torch.Tensor.to

# They allocate or describe memory. Views are recognized by their schema.
_NO_LAUNCH = ("empty", "new_empty", "lift_fresh", "detach", "_unsafe_view", "set_", "resize_")
# Their result, or its shape, depends on values in the device's memory.
_READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")


@dataclass
class Counts:
    """Operations on the simulated GPU.

    Attributes:
        launches: number of launches by operation; one launch of a list counts once.
        syncs: operations that block the host until the GPU is done, with their place in the code.
        uploads: number of copies from the host that do not block.
    """

    launches: Counter[str] = field(default_factory=Counter)
    syncs: list[str] = field(default_factory=list)
    uploads: int = 0

    @property
    def total(self) -> int:
        """Number of launches."""
        return self.launches.total()


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Create all tensors of the body as fake tensors, on CPUs or on a simulated GPU."""
    with pytest.MonkeyPatch.context() as patch:
        _hide_cuda_from_autograd(patch)
        patch.setattr(torch, "autocast", _autocast_like_cpu(torch.autocast))
        patch.setattr(nn.Module, "to", _module_to)
        patch.setattr(torch.cuda, "get_device_capability", lambda _device=None: (9, 0))
        # PyTorch decides by the type of the tensors, and a fake tensor has another one.
        patch.setattr("torch.nn.utils.clip_grad._has_foreach_support", lambda *_: True)
        group = "torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype"
        patch.setattr(group, lambda lists: {(t.device, None): (lists, [0]) for t in lists[0][:1]})
        patch.setattr(torch.Tensor, "new_tensor", _new_tensor)
        patch.setattr(torch.Tensor, "to", _to)
        patch.setattr(torch.Tensor, "cpu", lambda tensor: _to(tensor, "cpu"))
        patch.setattr(torch.Tensor, "cuda", lambda tensor: _to(tensor, CUDA))
        patch.setattr(torch.Tensor, "__deepcopy__", _deepcopy)
        with _FakeMode(allow_non_fake_inputs=True):
            yield


@contextmanager
def count_operations() -> Iterator[Counts]:
    """Count operations of the body on the simulated GPU; use within :func:`fake_cuda`.

    A value read from the GPU is 1 or true.
    """
    counter = _Counter()
    with counter:
        yield counter.counts


class _FakeMode(FakeTensorMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_dispatch__(func, types, args, _correct_device(kwargs or {}))


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = Counts()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = _correct_device(kwargs or {})
        name = func.name().removeprefix("aten::")
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        reads = name.split(".")[0] in _READS and any(map(_on_gpu, inputs))
        if reads:
            self._sync(name)
            if func is _aten._local_scalar_dense.default:
                return 1.0 if inputs[0].is_floating_point() else 1
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if func in (_aten._to_copy.default, _aten.copy_.default):
            source = args[1] if func is _aten.copy_.default else args[0]
            self._copy(name, source, outputs[0], _is_non_blocking(func, args, kwargs))
        elif _launches(func, name) and any(map(_on_gpu, inputs + outputs)):
            self.counts.launches[name] += 1
        return result

    def _copy(self, name: str, source: Tensor, target: Tensor, non_blocking: bool) -> None:
        if _on_gpu(source) and _on_gpu(target):
            self.counts.launches[name] += 1
        elif _on_gpu(source) or _on_gpu(target):
            if not non_blocking:
                self._sync(name)
            self.counts.uploads += non_blocking and _on_gpu(target)

    def _sync(self, name: str) -> None:
        frames = [f for f in traceback.extract_stack() if _PACKAGE in Path(f.filename).parents]
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self.counts.syncs.append(name + place)


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def _is_non_blocking(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if func is _aten.copy_.default and len(args) > 2:
        return bool(args[2])
    return bool(kwargs.get("non_blocking"))


def _launches(func: Any, name: str) -> bool:
    returns = func._schema.returns
    is_view = bool(returns) and all(r.alias_info and not r.alias_info.is_write for r in returns)
    no_launch = name.startswith("empty") or name.split(".")[0] in _NO_LAUNCH
    return func.namespace == "aten" and not is_view and not no_launch


def _hide_cuda_from_autograd(patch: pytest.MonkeyPatch) -> None:
    """Let C++ see fake CUDA tensors as CPU tensors; Python sees their device."""
    make_subclass = torch.Tensor._make_subclass
    prim_device: Any = torch.ops.prim.device.default
    dispatch = FakeTensor.__torch_dispatch__

    def with_cpu_keys(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device_for_backend_keys") is not None:
            kwargs["device_for_backend_keys"] = _CPU
        return make_subclass(*args, **kwargs)

    def device(args: Any) -> torch.device:
        return torch.device("meta") if args[0].fake_mode.in_kernel_invocation else _CPU

    def dispatch_device(
        _cls: type, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return device(args) if func is prim_device else dispatch(func, types, args, kwargs or {})

    patch.setattr(torch.Tensor, "_make_subclass", staticmethod(with_cpu_keys))
    patch.setattr(FakeTensor, "__torch_dispatch__", classmethod(dispatch_device))
    patch.setitem(fake_tensor._DISPATCH_META_HANDLERS, prim_device, device)


def _correct_device(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Replace the CPU in a backward pass, whose C++ code copies the device of its inputs."""
    in_backward = torch._C._current_graph_task_id() >= 0
    if in_backward and kwargs.get("device") == _CPU:
        return kwargs | {"device": CUDA}
    return kwargs


def _new_tensor(like: Tensor, data: Any, **options: Any) -> Tensor:
    defaults: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    return torch.tensor(data, **(defaults | options))


def _autocast_like_cpu(autocast: Callable[..., Any]) -> Callable[..., Any]:
    def on_cpu(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    return on_cpu


def _to(tensor: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
    """Convert a tensor as ``Tensor.to`` does, whose C++ code does not see the simulated device."""
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    options: dict[str, Any] = {"dtype": dtype or tensor.dtype}
    if memory_format is not None:
        options["memory_format"] = memory_format
    if device is None or device.type == tensor.device.type:
        converted: Tensor = _tensor_to(tensor, **options, copy=copy)
        return converted
    options |= {"device": device, "non_blocking": non_blocking}
    moved: Tensor = _aten._to_copy.default(tensor, **options)
    return moved


def _deepcopy(tensor: Tensor, _memo: Any) -> Tensor:
    copy = tensor.detach().clone()
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy


def _module_to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Move a module as ``nn.Module.to`` does, which cannot replace fake parameters."""
    device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)

    def moved(tensor: Tensor) -> Tensor:
        kind = dtype if dtype and tensor.is_floating_point() else tensor.dtype
        layout = memory_format if tensor.ndim == 4 else None
        return _to(tensor.detach(), device or tensor.device, kind, memory_format=layout)

    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(moved(parameter), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = moved(buffer)
    return module
