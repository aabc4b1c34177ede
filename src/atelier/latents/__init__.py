"""Latents of trained generators: principal directions, inversion and files."""
