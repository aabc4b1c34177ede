"""Atelier: teach a GAN a folder of faces, and paint what it learned in an artist's style."""

__version__ = "0.1.0"
