"""Painting: a picture is changed until VGG19 sees one's content and another's style in it."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atelier.errors import AtelierError
from atelier.settings import StylizeSettings
from atelier.style.losses import content_loss, gram_matrix, style_loss
from atelier.style.vgg import calibrate, feature_maps, preprocess

# Losses stay on the device and are fetched in blocks, because each fetch makes the host wait.
_EVALUATIONS_PER_FETCH = 10
# Between two parts a picture can be kept and painted on; each costs L-BFGS one evaluation.
_EVALUATIONS_A_PART = 25
# Each step that L-BFGS remembers costs the memory of two pictures.
_STEPS_REMEMBERED = 20


@dataclass(frozen=True)
class Iterate:
    """The losses of one evaluation.

    Attributes:
        picture: which of the contents, from 0.
        iteration: evaluations of this picture so far, from 1.
        total: the weighted sum that is minimised.
        per_layer: the terms of the sum before weighting, by name: ``style_1``, ``content_11``.
    """

    picture: int
    iteration: int
    total: float
    per_layer: dict[str, float]


def paint(
    contents: Sequence[Tensor],
    style: Tensor,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    device: torch.device,
    on_iteration: Callable[[Iterate], None],
    saver: "Saver | None" = None,
) -> list[Tensor]:
    """Paint each of ``contents`` in the style of ``style``.

    Gatys, Ecker and Bethge 2016, "Image style transfer using convolutional neural networks"
    (CVPR). Pictures are painted one after another: L-BFGS would see a batch as one long vector,
    so that each picture's steps would depend on its neighbours.

    Args:
        contents: each float32 ``[1, 3, H, W]``, RGB, 0 to 1, of any size.
        style: float32 ``[1, 3, h, w]``, RGB, 0 to 1, of any size.
        settings: what to match, and how to optimise.
        vgg: from :func:`atelier.style.vgg.build_vgg19`, deep enough for the settings' layers.
            It is moved to ``device``; random weights are calibrated on the style in a copy.
        device: where to paint.
        on_iteration: called for every evaluation in order, in bursts. An evaluation counts as an
            iteration. L-BFGS may make one more than ``settings.iterations``, or end before, when no
            step makes the picture better.
        saver: keeps what a picture needs to be painted on, and brings back what an earlier
            attempt left; evaluations of that attempt are told again.

    Returns:
        For each content a painting of its size, float32 ``[1, 3, H, W]`` on the CPU, RGB, 0 to 1.

    Raises:
        AtelierError: the loss is no longer finite.
    """
    vgg, style = vgg.to(device), style.to(device)
    if settings.weights == "random":
        vgg = calibrate(vgg, preprocess(style, settings.preprocessing))
    style_maps = _targets(vgg, style, settings.style_layers, settings)
    grams = {layer: gram_matrix(features) for layer, features in style_maps.items()}
    return [
        _paint_one(
            content.to(device),
            grams,
            settings,
            vgg,
            _Journal(index, on_iteration),
            saver or Saver(),
        ).cpu()
        for index, content in enumerate(contents)
    ]


def objective(
    canvas: Tensor,
    grams: dict[int, Tensor],
    contents: dict[int, Tensor],
    settings: StylizeSettings,
    vgg: nn.Sequential,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what painting minimises (equation 7 of Gatys et al. 2016), and its terms.

    Args:
        canvas: float ``[1, 3, H, W]``, RGB, 0 to 1.
        grams: the style's Gram matrices ``[1, C, C]`` by layer.
        contents: the content's feature maps ``[1, C, h, w]`` by layer.
        settings: the layers' weights, and how pixels are preprocessed.
        vgg: from :func:`atelier.style.vgg.build_vgg19`.

    Returns:
        The weighted sum, a scalar, and the terms before weighting by name: ``style_1``,
        ``content_11``.
    """
    weights = {f"style_{layer}": weight for layer, weight in settings.style_layers.items()}
    weights |= {f"content_{layer}": weight for layer, weight in settings.content_layers.items()}
    pixels = preprocess(canvas, settings.preprocessing)
    losses = _losses(feature_maps(vgg, pixels, {*grams, *contents}), grams, contents)
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum(), losses


def _paint_one(
    content: Tensor,
    grams: dict[int, Tensor],
    settings: StylizeSettings,
    vgg: nn.Sequential,
    journal: "_Journal",
    saver: "Saver",
) -> Tensor:
    contents = _targets(vgg, content, settings.content_layers, settings)
    canvas = _first_canvas(content, settings).requires_grad_()

    def evaluate() -> Tensor:
        """Set the canvas's gradient, and return the loss."""
        canvas.grad = None
        total, losses = objective(canvas, grams, contents, settings, vgg)
        total.backward()
        journal.note(total, losses)
        return total.detach()

    optimizer = _optimizer(canvas, settings)
    state = saver.load(journal.picture)
    if state is not None:
        with torch.no_grad():
            canvas.copy_(state.pop("canvas"))
        journal.replay(state.pop("losses"), _names(settings))
        _restore(optimizer, state)
    before = None
    # Where no step makes the picture better, L-BFGS leaves it as it is.
    while journal.told < settings.iterations and not _same(canvas, before):
        before = canvas.detach().clone()
        _minimize(optimizer, evaluate, min(_EVALUATIONS_A_PART, settings.iterations - journal.told))
        journal.deliver()
        told = {"canvas": canvas.detach(), "losses": journal.table()}
        saver.save(journal.picture, journal.told, told | _state(optimizer))
    return canvas.detach().clamp(0, 1)


def _targets(
    vgg: nn.Sequential, picture: Tensor, layers: Collection[int], settings: StylizeSettings
) -> dict[int, Tensor]:
    with torch.no_grad():
        return feature_maps(vgg, preprocess(picture, settings.preprocessing), layers)


def _losses(
    maps: dict[int, Tensor], grams: dict[int, Tensor], contents: dict[int, Tensor]
) -> dict[str, Tensor]:
    losses = {f"style_{layer}": style_loss(maps[layer], grams[layer]) for layer in grams}
    for layer in contents:
        losses[f"content_{layer}"] = content_loss(maps[layer], contents[layer])
    return losses


def _first_canvas(content: Tensor, settings: StylizeSettings) -> Tensor:
    if settings.start == "content":
        return content.clone()
    # Drawn on the CPU, so that a seed means the same noise on every device, and anew for every
    # picture, so that a picture does not depend on those before it.
    generator = torch.Generator().manual_seed(settings.seed)
    return torch.rand(content.shape, generator=generator, dtype=content.dtype).to(content.device)


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


def _minimize(
    optimizer: torch.optim.Optimizer, evaluate: Callable[[], Tensor], evaluations: int
) -> None:
    """Go on for so many evaluations; L-BFGS may take one more."""
    if isinstance(optimizer, torch.optim.LBFGS):
        group = optimizer.param_groups[0]
        group["max_iter"] = group["max_eval"] = evaluations
        # One step of torch's L-BFGS makes all the evaluations.
        optimizer.step(lambda: float(evaluate()))
        return
    for _ in range(evaluations):
        evaluate()
        optimizer.step()


def _same(canvas: Tensor, before: Tensor | None) -> bool:
    return before is not None and torch.equal(canvas.detach(), before)


def _state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's memory as tensors; ``kind.name`` says what each was."""
    state: dict[str, Tensor] = {}
    for name, value in optimizer.state_dict()["state"].get(0, {}).items():
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


def _restore(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Take over what :func:`_state` gave."""
    memory: dict[str, Any] = {}
    for key, tensor in state.items():
        kind, _, name = key.partition(".")
        held = tensor.to(optimizer.param_groups[0]["params"][0].device)
        memory[name] = held if kind == "tensor" else list(held) if kind == "list" else held.item()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {0: memory} if memory else {}, "param_groups": groups})


def _names(settings: StylizeSettings) -> list[str]:
    """The terms of the loss, in the order in which they are told."""
    styles = [f"style_{layer}" for layer in settings.style_layers]
    return styles + [f"content_{layer}" for layer in settings.content_layers]


class Saver:
    """Keeps nothing; see :class:`atelier.style.resume.Attempts` for one that does."""

    def load(self, picture: int) -> dict[str, Tensor] | None:
        """What an earlier attempt left of a picture."""
        return None

    def save(self, picture: int, evaluations: int, state: dict[str, Tensor]) -> None:
        """Keep a picture's state after so many evaluations."""


class _Journal:
    """Collects one picture's losses on the device and delivers them in bursts."""

    def __init__(self, picture: int, on_iteration: Callable[[Iterate], None]) -> None:
        self.picture = picture
        self._on_iteration = on_iteration
        self._waiting: list[Tensor] = []
        self._names: list[str] = []
        self._rows: list[list[float]] = []

    @property
    def told(self) -> int:
        """Evaluations delivered so far."""
        return len(self._rows)

    def note(self, total: Tensor, losses: dict[str, Tensor]) -> None:
        """Take the losses of one evaluation."""
        self._names = list(losses)
        self._waiting.append(torch.stack([total, *losses.values()]).detach())
        if len(self._waiting) == _EVALUATIONS_PER_FETCH:
            self.deliver()

    def deliver(self) -> None:
        """Fetch what waits on the device, and tell it."""
        if self._waiting:
            self._tell(torch.stack(self._waiting).tolist())
            self._waiting.clear()

    def table(self) -> Tensor:
        """All losses so far, float64 [evaluations, 1 + terms]: what float32 was, to the bit."""
        return torch.tensor(self._rows, dtype=torch.float64)

    def replay(self, table: Tensor, names: list[str]) -> None:
        """Tell what an earlier attempt evaluated."""
        self._names = names
        self._tell(table.tolist())

    def _tell(self, rows: list[list[float]]) -> None:
        for row in rows:
            total, *losses = row
            self._rows.append(row)
            if not math.isfinite(total):
                raise AtelierError(
                    f"the loss of picture {self.picture + 1} is {total} at iteration"
                    f" {self.told}; lower stylize.lr, or set stylize.optimizer to adam with"
                    " an lr of 0.02."
                )
            per_layer = dict(zip(self._names, losses, strict=True))
            self._on_iteration(Iterate(self.picture, self.told, total, per_layer))
