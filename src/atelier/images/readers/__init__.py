"""One module per format of raw pictures: members in a fixed order, nothing unpacked to disk."""
