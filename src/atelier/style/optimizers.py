"""How a canvas is moved: torch's optimizers and our own L-BFGS behind one face."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from atelier.core.settings import StylizeSettings
from atelier.style.problem import Bounds
from atelier.style.spectral_lbfgs import FIRST_STEP, Evaluate, SpectralLbfgs

# Each step that torch's L-BFGS remembers costs the memory of two pictures.
_HISTORY_SIZE = 20


class _NotFiniteError(Exception):
    """Ends a line search."""


class ImageOptimizer(Protocol):
    """Moves :attr:`canvas`, float32 ``[B, 3, H, W]``, where its loss is lower."""

    @property
    def image(self) -> Tensor:
        """As good as it is so far."""

    def advance(self, evaluations: int) -> None:
        """Evaluate so often; torch's L-BFGS may do so once more."""

    def state(self) -> dict[str, Tensor]:
        """All that what comes depends on, but for the canvas."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""


def build_optimizer(
    canvas: Tensor, evaluate: Evaluate, settings: StylizeSettings, bounds: Bounds, caution: int = 0
) -> ImageOptimizer:
    """Return the painter that the settings ask for.

    Args:
        canvas: float32 ``[B, 3, H, W]``, which stays as it is; torch's painters take B = 1, or
            they would see the pictures as one long vector.
        evaluate: gives the losses ``[B]`` of pictures and their gradients ``[B, 3, H, W]``.
        settings: optimizer, lr and average.
        bounds: between which the canvas stays.
        caution: how often an earlier painter failed here: each time steps begin a tenth as long.
    """
    less = 0.1**caution
    if settings.optimizer == "spectral_lbfgs":
        return SpectralLbfgs(canvas, evaluate, bounds, less * FIRST_STEP)
    if settings.optimizer == "adam":
        return AdamOptimizer(
            canvas, evaluate, bounds, less * settings.lr, settings.iterate_averaging
        )
    return LbfgsOptimizer(canvas, evaluate, bounds, less * settings.lr)


class _TorchOptimizer:
    """What is common to optimizers of ``torch.optim``: the place they move, and their memory."""

    _optimizer: torch.optim.Optimizer

    def __init__(self, place: Tensor) -> None:
        self._parameter = place.clone().requires_grad_()

    def state(self) -> dict[str, Tensor]:
        """The optimizer's memory as tensors; ``kind.name`` says what each was."""
        state: dict[str, Tensor] = {"place": self._parameter.detach()}
        for name, value in self._optimizer.state_dict()["state"].get(0, {}).items():
            if isinstance(value, list):
                if name != "al":  # L-BFGS's scratch list
                    # Before the second step the lists are empty, but torch needs them.
                    stacked = [torch.as_tensor(v) for v in value]
                    state[f"list.{name}"] = torch.stack(stacked) if value else torch.empty(0)
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
            held = tensor.to(self._parameter.device)
            if kind in ("tensor", "list"):
                memory[name] = held if kind == "tensor" else list(held)
            elif kind == "number":
                memory[name] = held.item()
        with torch.no_grad():
            self._parameter.copy_(state["place"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict(
            {"state": {0: memory} if memory else {}, "param_groups": groups}
        )


class AdamOptimizer(_TorchOptimizer):
    """Adam, brought back into bounds after every step.

    With an average above 0 the canvas is the mean of all its places, the later the heavier, as in
    Crowson's style-transfer-pytorch: Adam's steps do not shrink, so that each place has its noise.
    """

    def __init__(
        self, canvas: Tensor, evaluate: Evaluate, bounds: Bounds, lr: float, average: float
    ) -> None:
        super().__init__(canvas)
        self._evaluate, self._bounds, self._averaging = evaluate, bounds, average
        self._optimizer = torch.optim.Adam([self._parameter], lr=lr)
        self._sum, self._weight = torch.zeros_like(canvas), 0.0

    @property
    def image(self) -> Tensor:
        """The picture, or the mean of its places."""
        if self._averaging and self._weight:
            return self._bounds.clamp(self._sum / self._weight)
        return self._parameter.detach()

    def advance(self, evaluations: int) -> None:
        """Go on for so many evaluations."""
        for _ in range(evaluations):
            _, self._parameter.grad = self._evaluate(self._parameter.detach())
            self._optimizer.step()
            with torch.no_grad():
                self._parameter.copy_(self._bounds.clamp(self._parameter))
            if self._averaging:
                self._sum = (
                    self._averaging * self._sum + (1 - self._averaging) * self._parameter.detach()
                )
                self._weight = self._averaging * self._weight + 1 - self._averaging

    def state(self) -> dict[str, Tensor]:
        """As the optimizer's, with the mean."""
        weight = torch.tensor(self._weight, dtype=torch.float64)
        mean = {"mean_sum": self._sum, "mean_weight": weight} if self._averaging else {}
        return super().state() | mean

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        super().restore(state)
        if self._averaging:
            self._sum = state["mean_sum"].to(self._sum.device)
            self._weight = state["mean_weight"].item()


class LbfgsOptimizer(_TorchOptimizer):
    """Torch's L-BFGS with a strong Wolfe line search.

    It knows no bounds: where there are some it moves angles, whose sines are the colours.
    """

    def __init__(self, canvas: Tensor, evaluate: Evaluate, bounds: Bounds, lr: float) -> None:
        self._evaluate, self._bounds = evaluate, None if bounds.is_unbounded else bounds
        super().__init__(self._bounds.to_unbounded(canvas) if self._bounds else canvas)
        self._best: Tensor | None = None
        self._lowest = math.inf
        self._optimizer = torch.optim.LBFGS(
            [self._parameter],
            lr=lr,
            # The losses' scale is the network's own, so that no absolute tolerance suits all.
            tolerance_grad=0,
            tolerance_change=0,
            history_size=_HISTORY_SIZE,
            # With fixed steps, as in Gatys' code, the loss jumps up now and then from noise, and
            # the last picture may be one of those.
            line_search_fn="strong_wolfe",
        )

    @property
    def image(self) -> Tensor:
        """The picture; amid a step of torch's, as after an interruption, the best it has tried."""
        return self._current_image() if self._best is None else self._best

    def advance(self, evaluations: int) -> None:
        """Go on for so many evaluations, or one more: one step of torch's makes them all.

        It ends at once where a loss is not finite, with a canvas that is of no use.
        """
        group = self._optimizer.param_groups[0]
        group["max_iter"] = group["max_eval"] = evaluations
        with suppress(_NotFiniteError):
            self._optimizer.step(self._loss)
        self._best, self._lowest = None, math.inf

    def _current_image(self) -> Tensor:
        place = self._parameter.detach()
        return self._bounds.from_unbounded(place) if self._bounds else place

    def _loss(self) -> float:
        canvas = self._current_image()
        loss, gradient = self._evaluate(canvas)
        if not bool(loss.isfinite().all()):
            raise _NotFiniteError  # from here its line search would find nowhere to go
        slope = self._bounds.d_from_unbounded(self._parameter.detach()) if self._bounds else 1
        self._parameter.grad = gradient * slope
        if float(loss[0]) < self._lowest:
            self._best, self._lowest = canvas.clone(), float(loss[0])
        return float(loss[0])
