"""Settings, files, errors and devices; every other package may import these modules."""
