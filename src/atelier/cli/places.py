"""Files of a checkout that several commands read."""

from pathlib import Path

PARAMS = Path("params.yaml")
PRESETS = Path("presets")
