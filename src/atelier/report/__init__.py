"""Report page: one HTML file with the results of a whole pipeline."""
