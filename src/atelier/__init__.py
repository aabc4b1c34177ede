"""Atelier: a GAN for a folder of faces, and style transfer for the generated faces."""

__version__ = "0.1.0"
