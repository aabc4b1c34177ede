"""Painting one subject: scale by scale, leg by leg, part by part, and what goes wrong there."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from atelier.errors import AtelierError, lacks_memory
from atelier.settings import StylizeSettings
from atelier.style.journal import Glimpse, Journal, Saver
from atelier.style.objective import weighted
from atelier.style.optimise import Evaluate
from atelier.style.painters import Painter, painter
from atelier.style.room import largest_that_works, side_that_fits
from atelier.style.scales import Leg, legs
from atelier.style.scene import Scene, Subject
from atelier.style.vgg import stride

# Between two parts a picture can be kept and painted on; each costs torch's L-BFGS one evaluation.
_EVALUATIONS_A_PART = 25
# Fewer may all be of the canvas as it was, or of a step that is tried again, shorter.
_EVALUATIONS_TO_STAND = 5
# Each time that a loss is not finite steps become a tenth as long, so often at most.
_MOST_CAUTION = 6


class Work:
    """Painting one subject: the legs of its way, with what goes wrong on them."""

    def __init__(
        self,
        settings: StylizeSettings,
        vgg: nn.Sequential,
        journal: Journal,
        saver: Saver,
        watch: Callable[[Glimpse], None] | None,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._vgg, self._journal = settings, vgg, journal
        self._saver, self._watch, self._say = saver, watch, say

    def paint(self, subject: Subject) -> Tensor:
        """Return paintings ``[B, 3, H, W]``, or say which size the memory would hold."""
        try:
            return self._paint(subject)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        raise AtelierError(self._what_would_fit(subject))

    def _paint(self, subject: Subject) -> Tensor:
        height, width = subject.contents.shape[2:]
        styles = {id(style): style for look in subject.looks for style in look.styles}
        shapes = [(style.shape[2], style.shape[3]) for style in styles.values()]
        side = side_that_fits(height, width, self._settings, self._vgg, shapes)
        if self._settings.strength == 0:
            scene = Scene(subject, self._settings, self._vgg, side)
            self._evaluation(scene, 1.0)(scene.contents)
            self._journal.deliver()
            return subject.contents
        way = list(enumerate(legs(self._settings, height, width)))
        state = self._saver.load(self._journal.picture)
        if state is not None:
            self._journal.replay(state.pop("losses"))
            way = way[int(state.pop("leg")) :]
        whole = Scene(subject, self._settings, self._vgg, side)
        scene = self._scene(subject, way[0][1], side, whole)
        canvas = scene.first_canvas()
        for number, leg in way:
            if scene.contents.shape[2:] != (leg.height, leg.width):
                before, scene = scene, self._scene(subject, leg, side, whole)
                canvas = scene.carried(canvas, before.contents)
            canvas = self._walk(number, leg, scene, canvas, state)
            state = None
        return scene.finished(canvas)

    def _scene(self, subject: Subject, leg: Leg, side: int | None, whole: Scene) -> Scene:
        at_leg = subject.at(leg.height, leg.width, stride(self._vgg))
        if at_leg is subject:
            return whole
        return Scene(at_leg, self._settings, self._vgg, side, whole)

    def _walk(
        self,
        number: int,
        leg: Leg,
        scene: Scene,
        canvas: Tensor,
        state: dict[str, Tensor] | None,
    ) -> Tensor:
        """Paint one leg, from its begin or from where an earlier attempt left it."""
        evaluate, caution, stuck = self._evaluation(scene, leg.firmness), 0, False
        self._journal.begun = self._journal.told
        if state is not None:
            self._journal.begun = int(state.pop("begun"))
            canvas = state.pop("canvas").to(scene.contents.device)
            caution, stuck = int(state.pop("caution")), bool(state.pop("stuck"))
        at_work = painter(canvas, evaluate, self._settings, scene.bounds, caution)
        if state is not None:
            at_work.restore(state)
        while self._journal.told < leg.until and not stuck:
            before, told = at_work.canvas.clone(), self._journal.told
            self._advance(at_work, min(told + _EVALUATIONS_A_PART, leg.until), scene)
            lost, stood = self._was_lost(told), torch.equal(at_work.canvas, before)
            if lost or (stood and self._journal.told - told >= _EVALUATIONS_TO_STAND):
                stuck = stood and caution > 0
                self._complain(lost, caution)
                caution += 1
                at_work = painter(before, evaluate, self._settings, scene.bounds, caution)
            self._keep(number, leg, at_work, caution, stuck)
        return at_work.canvas

    def _advance(self, at_work: Painter, until: int, scene: Scene) -> None:
        """Paint a part, and show it at its end and wherever an intermediate is due."""
        journal = self._journal
        while journal.told < until:
            try:
                at_work.advance(min(until - journal.told, self._until_next(journal.told)))
            except KeyboardInterrupt:
                # The first evaluation is of the canvas as it began.
                if journal.noted > 1:
                    self._show(at_work.canvas, scene, interrupted=True)
                raise
            journal.deliver()
            self._show(at_work.canvas, scene)

    def _show(self, canvas: Tensor, scene: Scene, interrupted: bool = False) -> None:
        """Show pictures as they would be saved now: at full size, and only where masks are."""
        if self._watch:
            shown, journal = scene.glimpse(canvas).cpu().split(1), self._journal
            for picture, pixels in enumerate(shown, start=journal.picture):
                self._watch(Glimpse(picture, journal.noted, pixels, interrupted))

    def _until_next(self, told: int) -> int:
        """Evaluations until the next intermediate is due."""
        wanted = self._settings.intermediates
        # Torch's L-BFGS would pay for every halt: it is looked at where it halts anyway.
        if not wanted or self._settings.optimizer == "lbfgs":
            return _EVALUATIONS_A_PART
        every = max(1, self._settings.iterations // wanted)
        return every - told % every

    def _was_lost(self, told: int) -> bool:
        """Whether the painter came to where a loss is not finite and has not come back itself."""
        lost = self._journal.lost(told)
        # What it could look at before, at another size, is no place to step back to.
        if not lost or self._settings.optimizer != "spectral" or self._journal.hopeless():
            return bool(lost)
        for called in lost:
            self._say(
                f"{called} has had a loss that is not finite by iteration {self._journal.told};"
                " it has stepped back and goes on with a shorter step"
            )
        return False

    def _complain(self, lost: bool, caution: int) -> None:
        """Say what is wrong and that smaller steps follow, or give up where they did not help."""
        if lost and (caution == _MOST_CAUTION or self._journal.hopeless()):
            raise AtelierError(
                f"{self._journal.trouble()}; lower stylize.lr, or set stylize.optimizer to adam"
                " with an lr of 0.02."
            )
        if lost or caution == 0:
            # Only torch's painters are lost, which paint one picture; ours stand still together.
            for called in self._journal.called:
                self._say(
                    f"{called} {'has a loss that is not finite' if lost else 'stands still'} at"
                    f" iteration {self._journal.told}; it goes on from its last good state with"
                    " steps that begin a tenth as long"
                )

    def _keep(self, number: int, leg: Leg, at_work: Painter, caution: int, stuck: bool) -> None:
        """Keep all that the next part depends on."""
        journal = self._journal
        marks = {"leg": number, "begun": journal.begun, "caution": caution, "stuck": stuck}
        told = {"canvas": at_work.canvas, "losses": journal.table()}
        state = {name: torch.tensor(mark) for name, mark in marks.items()} | told
        last = leg.until == self._settings.iterations
        finished = last and (stuck or journal.told >= leg.until)
        self._saver.save(journal.picture, journal.told, state | at_work.state(), finished)

    def _evaluation(self, scene: Scene, firmness: float) -> Evaluate:
        contents = self._settings.content_layers.items()
        firm = {layer: firmness * weight for layer, weight in contents}
        sought = self._settings.model_copy(update={"content_layers": firm})

        def evaluate(canvas: Tensor) -> tuple[Tensor, Tensor]:
            """The losses [B] of pictures, and their gradients; the journal is told."""
            totals, losses, gradient = scene.eye.gradient(canvas, scene.goal, sought)
            self._journal.note(weighted(losses, self._settings), losses)
            return totals, scene.tangent(gradient)

        return evaluate

    def _what_would_fit(self, subject: Subject) -> str:
        height, width = subject.contents.shape[2:]

        def try_out(side: int) -> None:
            factor = side / min(height, width)
            shape = round(height * factor), round(width * factor)
            smaller = subject.at(*shape, stride(self._vgg))
            scene = Scene(smaller, self._settings, self._vgg, None)
            evaluated = self._evaluation(scene, 1.0)
            painter(scene.first_canvas(), evaluated, self._settings, scene.bounds).advance(2)

        fits = largest_that_works(try_out, min(height, width) * 3 // 4, 2 * stride(self._vgg))
        change = "lower" if self._settings.memory_gb else "set"
        return (
            f"the memory is too small for a painting of {width} x {height} pixels; "
            + (f"a stylize.picture_size of {fits} fits" if fits else "no smaller size fits either")
            + f", or {change} stylize.memory_gb, which paints part by part."
        )
