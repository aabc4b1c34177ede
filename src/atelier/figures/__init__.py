"""Figures of a training: montages, GIFs and curves."""
