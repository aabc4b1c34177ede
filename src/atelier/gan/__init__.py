"""Generator, discriminator, and how they are trained."""
