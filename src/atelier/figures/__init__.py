"""Figures of a training: montages, GIFs, curves and the report page."""
