"""Settings, files, errors and devices: modules that every other package may import."""
