"""Optimizers of the image: Adam, L-BFGS of torch, and the spectral L-BFGS, with one interface."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from atelier.core.settings import StylizeSettings
from atelier.style.bounds import Bounds
from atelier.style.spectral_lbfgs import FIRST_STEP, Evaluate, SpectralLbfgs

# Each stored step of torch's L-BFGS takes the memory of two images.
_HISTORY_SIZE = 20


class ImageOptimizer(Protocol):
    """Optimizer that minimizes a loss over images ``[B, 3, H, W]``."""

    def current_image(self) -> Tensor:
        """Return the current images, float32 ``[B, 3, H, W]``."""

    def advance(self, evaluations: int) -> None:
        """Make this number of evaluations; L-BFGS of torch may make one more."""

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that the next step depends on, except :meth:`current_image`."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that :meth:`state` returned."""


def build_optimizer(
    image: Tensor,
    evaluate: Evaluate,
    settings: StylizeSettings,
    bounds: Bounds,
    step_shrinks: int = 0,
) -> ImageOptimizer:
    """Build the optimizer that the settings name.

    Args:
        image: the initial images, float32 ``[B, 3, H, W]``; not modified. B must be 1 for
            optimizers of torch, which would treat a batch as one vector.
        evaluate: returns the losses ``[B]`` of images and their gradients ``[B, 3, H, W]``.
        settings: ``optimizer``, ``lr`` and ``iterate_averaging``.
        bounds: limits of every value.
        step_shrinks: number of earlier optimizers that failed; each divides the step size by 10.
    """
    factor = 0.1**step_shrinks
    if settings.optimizer == "spectral_lbfgs":
        return SpectralLbfgs(image, evaluate, bounds, factor * FIRST_STEP)
    if settings.optimizer == "adam":
        return AdamOptimizer(
            image, evaluate, bounds, factor * settings.lr, settings.iterate_averaging
        )
    return LbfgsOptimizer(image, evaluate, bounds, factor * settings.lr)


class _TorchOptimizer:
    """Base of wrappers around ``torch.optim``: the parameter, and the optimizer's state."""

    _optimizer: torch.optim.Optimizer

    def __init__(self, initial: Tensor) -> None:
        self._parameter = initial.clone().requires_grad_()

    def state(self) -> dict[str, Tensor]:
        """Return the parameter and the optimizer's state as tensors.

        The keys of the state are ``list.``, ``tensor.`` or ``number.``, followed by torch's name.
        """
        state: dict[str, Tensor] = {"place": self._parameter.detach()}
        for name, value in self._optimizer.state_dict()["state"].get(0, {}).items():
            if isinstance(value, list):
                if name != "al":  # L-BFGS's scratch list
                    # The lists are empty before the second step, but torch requires them.
                    stacked = [torch.as_tensor(v) for v in value]
                    state[f"list.{name}"] = torch.stack(stacked) if value else torch.empty(0)
            elif isinstance(value, Tensor):
                state[f"tensor.{name}"] = value
            elif value is not None:
                dtype = torch.int64 if isinstance(value, int) else torch.float64
                state[f"number.{name}"] = torch.tensor(value, dtype=dtype)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that :meth:`state` returned."""
        optimizer_state: dict[str, Any] = {}
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            value = tensor.to(self._parameter.device)
            if kind in ("tensor", "list"):
                optimizer_state[name] = value if kind == "tensor" else list(value)
            elif kind == "number":
                optimizer_state[name] = value.item()
        with torch.no_grad():
            self._parameter.copy_(state["place"])
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict(
            {"state": {0: optimizer_state} if optimizer_state else {}, "param_groups": groups}
        )


class AdamOptimizer(_TorchOptimizer):
    """Adam, with a projection onto the bounds after every step.

    With an averaging factor above 0, :meth:`current_image` is an exponential moving average of
    all iterates, as in Crowson's style-transfer-pytorch. Adam's steps do not shrink, and the
    average removes their noise.
    """

    def __init__(
        self, image: Tensor, evaluate: Evaluate, bounds: Bounds, lr: float, averaging: float
    ) -> None:
        super().__init__(image)
        self._evaluate, self._bounds, self._averaging = evaluate, bounds, averaging
        self._optimizer = torch.optim.Adam([self._parameter], lr=lr)
        self._sum, self._weight = torch.zeros_like(image), 0.0

    def current_image(self) -> Tensor:
        """Return the latest iterate, or the average of all."""
        if self._averaging and self._weight:
            return self._bounds.clamp(self._sum / self._weight)
        return self._parameter.detach()

    def advance(self, evaluations: int) -> None:
        """Make this number of evaluations, each followed by a step."""
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
        """Return the parameter, the optimizer's state and the average as tensors."""
        weight = torch.tensor(self._weight, dtype=torch.float64)
        average = {"mean_sum": self._sum, "mean_weight": weight} if self._averaging else {}
        return super().state() | average

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that :meth:`state` returned."""
        super().restore(state)
        if self._averaging:
            self._sum = state["mean_sum"].to(self._sum.device)
            self._weight = state["mean_weight"].item()


class LbfgsOptimizer(_TorchOptimizer):
    """L-BFGS of torch with a strong Wolfe line search.

    It supports no bounds. With bounds the parameter is an angle, and the color is a scaled sine
    of it (see :meth:`Bounds.from_unbounded`).
    """

    def __init__(self, image: Tensor, evaluate: Evaluate, bounds: Bounds, lr: float) -> None:
        self._evaluate, self._bounds = evaluate, None if bounds.is_unbounded() else bounds
        super().__init__(self._bounds.to_unbounded(image) if self._bounds else image)
        self._best: Tensor | None = None
        self._lowest = math.inf
        self._optimizer = torch.optim.LBFGS(
            [self._parameter],
            lr=lr,
            # The scale of the loss depends on the network: no absolute tolerance fits all.
            tolerance_grad=0,
            tolerance_change=0,
            history_size=_HISTORY_SIZE,
            # With fixed steps, as in Gatys' code, the loss occasionally jumps up, and the last
            # image may be one of those.
            line_search_fn="strong_wolfe",
        )

    def current_image(self) -> Tensor:
        """Return the current image; after an interrupted step, the best that it has tried."""
        return self._decode_parameter() if self._best is None else self._best

    def advance(self, evaluations: int) -> None:
        """Make this number of evaluations, or one more, in a single step of torch.

        The step ends early if a loss is not finite; :meth:`current_image` is then unusable.
        """
        group = self._optimizer.param_groups[0]
        group["max_iter"] = group["max_eval"] = evaluations
        with suppress(_NonFiniteLossError):
            self._optimizer.step(self._loss)
        self._best, self._lowest = None, math.inf

    def _decode_parameter(self) -> Tensor:
        parameter = self._parameter.detach()
        return self._bounds.from_unbounded(parameter) if self._bounds else parameter

    def _loss(self) -> float:
        image = self._decode_parameter()
        loss, gradient = self._evaluate(image)
        value = float(loss[0])  # the only read, because each one synchronizes the device
        if not math.isfinite(value):
            raise _NonFiniteLossError  # the line search cannot continue from here
        slope = self._bounds.d_from_unbounded(self._parameter.detach()) if self._bounds else 1
        self._parameter.grad = gradient * slope
        if value < self._lowest:
            self._best, self._lowest = image.clone(), value
        return value


class _NonFiniteLossError(Exception):
    """Raised to end a line search."""
