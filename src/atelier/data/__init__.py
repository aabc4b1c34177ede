"""Raw images to arrays: sources, formats, decoding, conversion and splits."""
