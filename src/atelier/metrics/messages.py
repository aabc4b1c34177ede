"""Sentences about too few images."""

from atelier.metrics.kid import CERTAIN_FROM


def count_of(count: int, name: str) -> str:
    """Return a count with its name, for example ``1 image`` or ``2 images``."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def more_real_images(samples: int, samples_key: str, available: int, share_key: str) -> str:
    """Return what to do for enough real images to compare with.

    Args:
        samples: the setting that limits how many are compared.
        samples_key: its key.
        available: how many there are to choose from.
        share_key: the key of the setting that gives their share of all images; empty if they are
            training images.
    """
    actions = [f"raise {samples_key} to {CERTAIN_FROM}"] if samples < CERTAIN_FROM else []
    if available < CERTAIN_FROM:
        actions.append(f"raise {share_key} or add images" if share_key else "add images")
    return " and ".join(actions)
