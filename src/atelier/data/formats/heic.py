"""HEIC images, which the optional package pillow-heif reads."""

from typing import IO

from PIL import Image

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")


def is_heic(start: bytes) -> bool:
    """Return True if the main brand or one of the first compatible brands is HEIC."""
    if start[4:8] != b"ftyp":
        return False
    end = min(len(start), int.from_bytes(start[:4]))
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, end, 4))}
    return not brands.isdisjoint(_BRANDS) and brands.isdisjoint((b"avif", b"avis"))


def open_heic(stream: IO[bytes]) -> Image.Image | None:
    """Open a HEIC image; ``None`` if pillow-heif is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    image: Image.Image = HeifImageFile(stream)
    return image
