"""Generative adversarial networks and their training."""
