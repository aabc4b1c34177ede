"""How a canvas is moved: torch's optimizers and our own L-BFGS behind one face."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from atelier.settings import StylizeSettings
from atelier.style.optimise import Evaluate, Lbfgs

# Each step that torch's L-BFGS remembers costs the memory of two pictures.
_STEPS_REMEMBERED = 20


class Painter(Protocol):
    """Moves :attr:`canvas`, float32 ``[B, 3, H, W]``, where its loss is lower."""

    @property
    def canvas(self) -> Tensor:
        """As good as it is so far."""

    def advance(self, evaluations: int) -> None:
        """Evaluate so often; torch's L-BFGS may do so once more."""

    def state(self) -> dict[str, Tensor]:
        """All that what comes depends on, but for the canvas."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""


def painter(canvas: Tensor, evaluate: Evaluate, settings: StylizeSettings) -> Painter:
    """Return the painter that the settings ask for.

    Args:
        canvas: float32 ``[B, 3, H, W]``, which stays as it is; torch's painters take B = 1, or
            they would see the pictures as one long vector.
        evaluate: gives the losses ``[B]`` of pictures and their gradients ``[B, 3, H, W]``.
        settings: optimizer and lr.
    """
    if settings.optimizer == "spectral":
        return Lbfgs(canvas, evaluate)
    return TorchPainter(canvas, evaluate, settings)


class TorchPainter:
    """Adam, or L-BFGS with a strong Wolfe line search, of ``torch.optim``."""

    def __init__(self, canvas: Tensor, evaluate: Evaluate, settings: StylizeSettings) -> None:
        self._canvas = canvas.clone().requires_grad_()
        self._evaluate = evaluate
        self._optimizer = _optimizer(self._canvas, settings)

    @property
    def canvas(self) -> Tensor:
        """The picture."""
        return self._canvas.detach()

    def advance(self, evaluations: int) -> None:
        """Go on for so many evaluations; L-BFGS may take one more."""
        if isinstance(self._optimizer, torch.optim.LBFGS):
            group = self._optimizer.param_groups[0]
            group["max_iter"] = group["max_eval"] = evaluations
            # One step of torch's L-BFGS makes all the evaluations.
            self._optimizer.step(lambda: float(self._loss()))
            return
        for _ in range(evaluations):
            self._loss()
            self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """The optimizer's memory as tensors; ``kind.name`` says what each was."""
        state: dict[str, Tensor] = {}
        for name, value in self._optimizer.state_dict()["state"].get(0, {}).items():
            if isinstance(value, list):
                # L-BFGS's scratch list `al` holds nothing before its first use.
                if name != "al" and value:
                    state[f"list.{name}"] = torch.stack([torch.as_tensor(v) for v in value])
            elif isinstance(value, Tensor):
                state[f"tensor.{name}"] = value
            elif value is not None:
                kind = torch.int64 if isinstance(value, int) else torch.float64
                state[f"number.{name}"] = torch.tensor(value, dtype=kind)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        memory: dict[str, Any] = {}
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            held = tensor.to(self._canvas.device)
            memory[name] = (
                held if kind == "tensor" else list(held) if kind == "list" else held.item()
            )
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict(
            {"state": {0: memory} if memory else {}, "param_groups": groups}
        )

    def _loss(self) -> Tensor:
        loss, self._canvas.grad = self._evaluate(self._canvas.detach())
        return loss[0]


def _optimizer(canvas: Tensor, settings: StylizeSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam([canvas], lr=settings.lr)
    return torch.optim.LBFGS(
        [canvas],
        lr=settings.lr,
        # The losses' scale is the network's own, so that no absolute tolerance suits all.
        tolerance_grad=0,
        tolerance_change=0,
        history_size=_STEPS_REMEMBERED,
        # With fixed steps, as in Gatys' code, the loss jumps up now and then from noise, and the
        # last picture may be one of those.
        line_search_fn="strong_wolfe",
    )
