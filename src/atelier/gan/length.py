"""Training length that good images need."""

# Measured with `best32` on 400 drawn faces: docs/quality.md.
MIN_STEPS = 2000


def length_warnings(epochs: int, steps_per_epoch: int) -> list[str]:
    """Return a warning if the training has too few steps, else an empty list."""
    steps = epochs * steps_per_epoch
    if steps >= MIN_STEPS or not steps:
        return []
    enough = -(-MIN_STEPS // steps_per_epoch)
    return [
        f"the training has {steps:,} steps ({epochs} {'epoch' if epochs == 1 else 'epochs'} of"
        f" {steps_per_epoch}), but good"
        f" images usually need {MIN_STEPS:,} or more; set train.epochs to {enough}."
    ]
