"""One module per source of raw pictures, and what they share."""
