"""Report on the data: a page on which images are used, rejected, alike or of low quality."""
