"""Injected divergence for tests of rollback."""

from atelier.gan.trainer import Trainer


class NanWeights:
    """Stop request that sets weights to NaN after ``steps`` steps, at most ``times`` times."""

    def __init__(self, trainer: Trainer, steps: int, times: int) -> None:
        self.trainer, self.steps, self.times = trainer, steps, times

    def __call__(self) -> bool:
        if self.trainer.steps_done >= self.steps and self.times:
            self.times -= 1
            next(self.trainer.gan.generator.parameters()).data.fill_(float("nan"))
        return False
