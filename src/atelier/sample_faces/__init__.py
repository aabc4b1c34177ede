"""Built-in face images: random traits, tables of shapes, and a renderer."""
