"""The average of the generator over its training, which draws better than the last step's."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor

from atelier.gan.networks import Generator


class Average:
    """An exponential moving average of a generator and of its normalisations' statistics.

    Karras et al. 2018, "Progressive growing of GANs", section 6.1; Yazıcı et al. 2019, "The unusual
    effectiveness of averaging in GAN training". So that the first steps are soon forgotten, the
    decay begins small: ``min(decay, (1 + t) / (10 + t))`` at step t, as TensorFlow's
    ``ExponentialMovingAverage`` has it.

    Attributes:
        generator: the average, in evaluation mode.
    """

    def __init__(self, generator: Generator, decay: float) -> None:
        """Begin at ``generator`` as it stands, on its device."""
        self.generator = deepcopy(generator).eval().requires_grad_(False)
        device = next(generator.parameters()).device
        self._decay = torch.tensor(decay, device=device)
        # On the device, so that a recorded step counts on.
        self._steps = torch.zeros((), device=device)

    @torch.no_grad()
    def follow(self, generator: Generator) -> None:
        """Take in the generator after a step."""
        self._steps.add_(1)
        decay = torch.minimum(self._decay, (1 + self._steps) / (10 + self._steps))
        newest = generator.state_dict()
        for name, average in self.generator.state_dict().items():
            if average.is_floating_point():
                average.lerp_(newest[name], (1 - decay).to(average.dtype))
            else:
                average.copy_(newest[name])

    def state(self) -> dict[str, Tensor]:
        """The average and its count of steps, by name."""
        return {"steps": self._steps} | {
            f"generator.{key}": tensor for key, tensor in self.generator.state_dict().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave, to the bit."""
        self._steps.copy_(state["steps"])
        names = self.generator.state_dict()
        self.generator.load_state_dict({key: state[f"generator.{key}"] for key in names})
