"""Generative adversarial networks: architecture, training and sampling."""
