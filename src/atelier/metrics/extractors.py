"""The extractor that ``evaluate.features`` names."""

from pathlib import Path

from atelier.metrics.features import Extractor, RandomFeatures
from atelier.settings import is_file_of_weights
from atelier.streams import stream_seed

WEIGHTS = Path("data/weights")


def build_extractor(features: str, seed: int, weights: Path = WEIGHTS) -> Extractor:
    """Build the extractor of a name.

    Args:
        features: as the setting takes it: ``vgg19_caffe``, ``random``, ``inception``, one of
            torchvision's networks, or a file of ``weights``.
        seed: of random filters.
        weights: the folder of files of weights.

    Raises:
        AtelierError: weights cannot be fetched or read, or belong to another network.
    """
    if features == "random":
        filters = stream_seed(seed, "features.random")
        return Extractor(RandomFeatures(filters), f"random {filters}")
    # torchvision takes 3 seconds to import, which random features need not wait for.
    from atelier.metrics.learned import imagenet, inception, vgg19_caffe_features, vgg19_of

    if features == "vgg19_caffe":
        return vgg19_caffe_features()
    if features == "inception":
        return inception()
    if is_file_of_weights(features):
        return vgg19_of(weights / features)
    return imagenet(features)
