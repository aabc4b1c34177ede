"""Neural style transfer: a picture's content, painted with another picture's textures."""
