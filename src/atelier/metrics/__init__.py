"""How good the generated pictures are."""
