"""Architectures for tests, and those of the documents that the presets follow."""

from dataclasses import replace

from atelier.gan.networks import Architecture

CELEBA64 = Architecture(
    image_size=64,
    channels=3,
    network="dcgan",
    latent_size=100,
    latents="normal",
    generator_width=64,
    discriminator_width=64,
    activation_first=False,
    discriminator_norm=True,
    discriminator_padding=1,
    discriminator_head="convolution",
    head_size=512,
    dropout=0.0,
)
FACES32 = replace(CELEBA64, image_size=32, generator_width=128, discriminator_padding=0)
MNIST28 = replace(
    CELEBA64,
    image_size=28,
    channels=1,
    generator_width=32,
    discriminator_width=32,
    activation_first=True,
    discriminator_norm=False,
    discriminator_head="linear",
)
FASHION_MLP = replace(
    CELEBA64,
    image_size=28,
    channels=1,
    network="mlp",
    latents="uniform",
    generator_width=32,
    discriminator_width=32,
    dropout=0.3,
)
SMALL = replace(CELEBA64, image_size=16, latent_size=8, generator_width=4, discriminator_width=4)
