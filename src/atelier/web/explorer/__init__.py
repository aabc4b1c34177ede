"""Page on which a trained generator is explored."""
