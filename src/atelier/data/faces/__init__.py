"""Faces of photographs: detection, alignment and crops."""
