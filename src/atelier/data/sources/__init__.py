"""One module per source of raw images, and their shared download code."""
