"""Checks and conversions of image formats that Pillow lacks."""
