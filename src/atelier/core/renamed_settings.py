"""Old names of settings and of their values, for messages and for ``atelier migrate``."""

from typing import Any

RENAMED_KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "convert": {
        "fit": ("resize_mode",),
        "validation": ("validation_fraction",),
        "test": ("test_fraction",),
        "held_out": ("validation_fraction", "test_fraction"),
    },
    "train": {
        "latents": ("latent_distribution",),
        "generator_width": ("generator_channels",),
        "discriminator_width": ("discriminator_channels",),
        "activation_first": ("relu_before_norm",),
        "clip": ("grad_clip",),
        "ema": ("ema_decay",),
        "flip": ("horizontal_flip",),
        "samples": ("fixed_samples",),
        "sample_every": ("sample_every_steps",),
        "measure_every": ("kid_every_epochs",),
        "measure_samples": ("kid_samples",),
        "measure_with": ("kid_features",),
        "keep": ("select_model",),
        "penalty_every": ("penalty_interval",),
    },
    "evaluate": {"nearest_among": ("nearest_neighbor_pool",)},
    "render": {"tile": ("tile_pixels",), "every": ("montage_every_epochs",)},
    "stylize": {
        "pictures": ("contents",),
        "count": ("generated_count",),
        "strength": ("style_strength",),
        "picture_size": ("image_size",),
        "size": ("image_size",),
        "start": ("init",),
        "bounded": ("clamp_to_range",),
        "average": ("iterate_averaging",),
        "smoothness": ("tv_weight",),
        "scales": ("pyramid_levels",),
        "keep_colors": ("preserve_color",),
        "intermediates": ("save_intermediates",),
        "film": ("gif",),
    },
    "runtime": {"cluster": ("dask_scheduler",)},
    "tracking": {
        "wait_seconds": ("delivery_timeout_seconds",),
        "register": ("registered_model",),
    },
}
"""By section: each old key, and the keys that take its value today."""

RENAMED_VALUES: dict[tuple[str, str], dict[str, str]] = {
    ("train", "loss"): {"least_squares": "lsgan", "wasserstein": "wgan"},
    ("stylize", "pairing"): {"all": "product", "each": "cycle"},
    ("stylize", "optimizer"): {"spectral": "spectral_lbfgs"},
}
"""By section and key: each old value, and its name today."""


def renamed_key(section: str, key: str) -> tuple[str, ...]:
    """Return today's keys of an old key; an empty tuple if the key is not an old one."""
    return RENAMED_KEYS.get(section, {}).get(key, ())


def renamed_value(section: str, key: str, value: Any) -> str | None:
    """Return today's name of an old value; ``None`` if the value is not an old one."""
    known = RENAMED_VALUES.get((section, key), {})
    return known.get(value) if isinstance(value, str) else None
