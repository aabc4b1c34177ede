"""The ``atelier`` command."""
