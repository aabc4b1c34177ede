"""How a canvas is moved: torch's optimizers and our own L-BFGS behind one face."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from atelier.settings import StylizeSettings
from atelier.style.bounds import Bounds
from atelier.style.optimise import FIRST_STEP, Evaluate, Lbfgs

# Each step that torch's L-BFGS remembers costs the memory of two pictures.
_STEPS_REMEMBERED = 20


class _NotFiniteError(Exception):
    """Ends a line search."""


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


def painter(
    canvas: Tensor, evaluate: Evaluate, settings: StylizeSettings, bounds: Bounds, caution: int = 0
) -> Painter:
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
    if settings.optimizer == "spectral":
        return Lbfgs(canvas, evaluate, bounds, less * FIRST_STEP)
    if settings.optimizer == "adam":
        return AdamPainter(canvas, evaluate, bounds, less * settings.lr, settings.average)
    return LbfgsPainter(canvas, evaluate, bounds, less * settings.lr)


class _TorchPainter:
    """What is common to optimizers of ``torch.optim``: the place they move, and their memory."""

    _optimizer: torch.optim.Optimizer

    def __init__(self, place: Tensor) -> None:
        self._place = place.clone().requires_grad_()

    def state(self) -> dict[str, Tensor]:
        """The optimizer's memory as tensors; ``kind.name`` says what each was."""
        state: dict[str, Tensor] = {"place": self._place.detach()}
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
            held = tensor.to(self._place.device)
            if kind in ("tensor", "list"):
                memory[name] = held if kind == "tensor" else list(held)
            elif kind == "number":
                memory[name] = held.item()
        with torch.no_grad():
            self._place.copy_(state["place"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict(
            {"state": {0: memory} if memory else {}, "param_groups": groups}
        )


class AdamPainter(_TorchPainter):
    """Adam, brought back into bounds after every step.

    With an average above 0 the canvas is the mean of all its places, the later the heavier, as in
    Crowson's style-transfer-pytorch: Adam's steps do not shrink, so that each place has its noise.
    """

    def __init__(
        self, canvas: Tensor, evaluate: Evaluate, bounds: Bounds, lr: float, average: float
    ) -> None:
        super().__init__(canvas)
        self._evaluate, self._bounds, self._keep = evaluate, bounds, average
        self._optimizer = torch.optim.Adam([self._place], lr=lr)
        self._sum, self._weight = torch.zeros_like(canvas), 0.0

    @property
    def canvas(self) -> Tensor:
        """The picture, or the mean of its places."""
        if self._keep and self._weight:
            return self._bounds.nearest(self._sum / self._weight)
        return self._place.detach()

    def advance(self, evaluations: int) -> None:
        """Go on for so many evaluations."""
        for _ in range(evaluations):
            _, self._place.grad = self._evaluate(self._place.detach())
            self._optimizer.step()
            with torch.no_grad():
                self._place.copy_(self._bounds.nearest(self._place))
            if self._keep:
                self._sum = self._keep * self._sum + (1 - self._keep) * self._place.detach()
                self._weight = self._keep * self._weight + 1 - self._keep

    def state(self) -> dict[str, Tensor]:
        """As the optimizer's, with the mean."""
        weight = torch.tensor(self._weight, dtype=torch.float64)
        mean = {"mean_sum": self._sum, "mean_weight": weight} if self._keep else {}
        return super().state() | mean

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        super().restore(state)
        if self._keep:
            self._sum = state["mean_sum"].to(self._sum.device)
            self._weight = state["mean_weight"].item()


class LbfgsPainter(_TorchPainter):
    """Torch's L-BFGS with a strong Wolfe line search.

    It knows no bounds: where there are some it moves angles, whose sines are the colours.
    """

    def __init__(self, canvas: Tensor, evaluate: Evaluate, bounds: Bounds, lr: float) -> None:
        self._evaluate, self._bounds = evaluate, None if bounds.are_free else bounds
        super().__init__(self._bounds.angles(canvas) if self._bounds else canvas)
        self._best: Tensor | None = None
        self._lowest = math.inf
        self._optimizer = torch.optim.LBFGS(
            [self._place],
            lr=lr,
            # The losses' scale is the network's own, so that no absolute tolerance suits all.
            tolerance_grad=0,
            tolerance_change=0,
            history_size=_STEPS_REMEMBERED,
            # With fixed steps, as in Gatys' code, the loss jumps up now and then from noise, and
            # the last picture may be one of those.
            line_search_fn="strong_wolfe",
        )

    @property
    def canvas(self) -> Tensor:
        """The picture; amid a step of torch's, as after an interruption, the best it has tried."""
        return self._at_place() if self._best is None else self._best

    def advance(self, evaluations: int) -> None:
        """Go on for so many evaluations, or one more: one step of torch's makes them all.

        It ends at once where a loss is not finite, with a canvas that is of no use.
        """
        group = self._optimizer.param_groups[0]
        group["max_iter"] = group["max_eval"] = evaluations
        with suppress(_NotFiniteError):
            self._optimizer.step(self._loss)
        self._best, self._lowest = None, math.inf

    def _at_place(self) -> Tensor:
        place = self._place.detach()
        return self._bounds.at_angles(place) if self._bounds else place

    def _loss(self) -> float:
        canvas = self._at_place()
        loss, gradient = self._evaluate(canvas)
        if not bool(loss.isfinite().all()):
            raise _NotFiniteError  # from here its line search would find nowhere to go
        slope = self._bounds.slope(self._place.detach()) if self._bounds else 1
        self._place.grad = gradient * slope
        if float(loss[0]) < self._lowest:
            self._best, self._lowest = canvas.clone(), float(loss[0])
        return float(loss[0])
