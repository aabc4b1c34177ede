"""Seeds and files of latents for ``atelier generate``."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.core.errors import AtelierError, count_text, printable

if TYPE_CHECKING:
    from torch import Tensor

    from atelier.gan.generation import TrainedGenerator

MAX_IMAGES = 10_000  # images of one call; few programs open a larger grid
_DEFAULT_COUNT, _DEFAULT_GIF_COUNT = 16, 5
_LISTED = 8  # seeds or latents in a file name; a longer list is hashed


@dataclass(frozen=True)
class GeneratorInputs:
    """Seeds and files of latents whose images a command generates.

    Attributes:
        seeds: of the images after those of the latents.
        latents: files that ``atelier invert`` wrote.
        variation: from 0 to 1; if set, each image is the only latent, moved towards the latent of a
            seed by this share of their great circle.
    """

    seeds: list[int]
    latents: list[Path]
    variation: float | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.seeds) + (0 if self.variation is not None else len(self.latents))

    def text(self) -> str:
        """Return the inputs in words, e.g. ``latent me, seeds 1 to 16``."""
        names = ", ".join(printable(latent_name(path)) for path in self.latents)
        latents = [f"latent{'s' if len(self.latents) > 1 else ''} {names}"] if names else []
        seeds = [seeds_text(self.seeds)] if self.seeds else []
        return (", varied by " if self.variation is not None else ", ").join([*latents, *seeds])

    def names(self) -> list[str]:
        """Return the name of each image's own file."""
        seeds = [f"seed_{seed:04d}.png" for seed in self.seeds]
        latents = [latent_name(path) for path in self.latents]
        if self.variation is not None:
            return [f"{latents[0]}_{seed}" for seed in seeds]
        return [f"{name}.png" for name in latents] + seeds

    def without_repetitions(self) -> "GeneratorInputs":
        """Return the inputs with each seed and each latent once, for files that they name.

        Raises:
            AtelierError: two of the images' files have the same name.
        """
        latents = list(dict.fromkeys(self.latents))
        inputs = replace(self, seeds=list(dict.fromkeys(self.seeds)), latents=latents)
        for name, count in Counter(inputs.names()).items():
            if count > 1:
                raise AtelierError(
                    f"two images would be written to {printable(name)}, so that one overwrites the"
                    " other; rename the file of a --latent."
                )
        return inputs

    def name_parts(self) -> list[str]:
        """Return parts of the name of a grid's file; a long list is hashed."""
        parts: list[str] = []
        if self.latents:
            digests = [sha256(path.read_bytes()).hexdigest()[:8] for path in self.latents]
            parts += ["latents", *_shorten(digests)]
        if self.variation is not None:
            parts += ["variation", repr(self.variation)]
        if not self.seeds:
            return parts
        numbers = [str(seed) for seed in self.seeds]
        if len(numbers) > 2 and _is_range(self.seeds):
            numbers = [numbers[0], "to", numbers[-1]]
        return [*parts, "seeds", *_shorten(numbers)]

    def load(
        self, generator: "TrainedGenerator", truncation: float | None, labels: Sequence[int]
    ) -> "list[Tensor]":
        """Return the generator's input for each image, float32 [latent_size + classes].

        Args:
            generator: the generator.
            truncation: of the latents of seeds.
            labels: classes of the seeds' images.

        Raises:
            AtelierError: a latent's file is damaged or of another generator, options of seeds
                are used without a seed, or as for
                :func:`atelier.gan.sampling.latents_for_seeds`.
        """
        if not self.seeds and (truncation is not None or labels):
            raise AtelierError(
                "--truncation and --class change the images of seeds, but there are only latents;"
                " leave them out, or add --seed."
            )
        from atelier.gan.sampling import latents_for_seeds
        from atelier.latents.latent_file import load_latent, vary_latent

        latents = [load_latent(path, generator) for path in self.latents]
        seeds = list(latents_for_seeds(self.seeds, generator, truncation, labels))
        if self.variation is None:
            return [*latents, *seeds]
        return [vary_latent(latents[0], other, self.variation, generator) for other in seeds]


def generator_inputs(
    count: int | None,
    seeds: list[int],
    listed_seeds: str,
    *,
    latents: list[Path],
    variation: float | None,
    gif: bool,
) -> GeneratorInputs:
    """Return the inputs that the options of the command name.

    Raises:
        AtelierError: options contradict each other, or a value is out of range.
    """
    if variation is not None and (len(latents) != 1 or not 0 <= variation <= 1):
        found = f"{variation:g} with {count_text(len(latents), '--latent', '--latent')}"
        raise AtelierError(
            f"--variation is a number from 0 to 1 that moves one --latent, not {found}."
        )
    default = _DEFAULT_GIF_COUNT if gif else _DEFAULT_COUNT
    if latents and variation is None:
        # A GIF needs two images; a grid of latents has no seeds unless they are requested.
        default = len(seeds) or (1 if gif and len(latents) == 1 else 0)
    inputs = GeneratorInputs(_seeds(count, seeds, listed_seeds, default), latents, variation)
    if len(inputs) > MAX_IMAGES:
        raise AtelierError(
            f"at most {MAX_IMAGES:,} images are generated by one command; use several for more."
        )
    return inputs


def _seeds(count: int | None, seeds: list[int], listed: str, default: int) -> list[int]:
    """Return the seed of each image."""
    from atelier.gan.sampling import MAX_SEED

    if listed:
        if count is not None or seeds:
            raise AtelierError(
                "--seeds lists the seeds of all images; leave --count and --seed out."
            )
        try:
            seeds = [int(part) for part in listed.split(",")]
        except ValueError:
            raise AtelierError(f"--seeds is {listed!r}, but it is a list, e.g. 1,5,9.") from None
    elif len(seeds) < 2:
        start, number = seeds[0] if seeds else 1, default if count is None else count
        seeds = list(range(start, start + min(number, MAX_IMAGES + 1)))
    elif count is not None:
        raise AtelierError("several --seed are the seeds of all images; leave --count out.")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise AtelierError(f"a seed is a whole number from 0 to {MAX_SEED}, not {seed}.")
    return seeds


def latent_name(path: Path) -> str:
    """Return the name of a latent: that of its file without suffixes."""
    from atelier.latents.latent_file import SUFFIX

    return path.name.removesuffix(SUFFIX).removesuffix(".safetensors")


def seeds_text(seeds: list[int]) -> str:
    """Return the seeds as text, e.g. ``seeds 1 to 16``."""
    if len(seeds) > 1 and _is_range(seeds):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    listed = ", ".join(map(str, seeds[:12]))
    more = f" and {len(seeds) - 12} more" if len(seeds) > 12 else ""
    return f"seed{'s' if len(seeds) > 1 else ''} {listed}{more}"


def _is_range(seeds: list[int]) -> bool:
    return seeds == list(range(seeds[0], seeds[0] + len(seeds)))


def _shorten(parts: list[str]) -> list[str]:
    if len(parts) <= _LISTED:
        return parts
    return [*parts[:2], "and", sha256(",".join(parts).encode()).hexdigest()[:12]]
