"""ICC color profiles of images, and conversion of colors to and from sRGB.

All code that reads images uses this module, so that all stages have the same colors.
"""

import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from atelier.data.formats.png import PngColors

# Image modes that a profile of each ICC color space can describe. A gray image may have an RGB
# profile: a level then means equal amounts of red, green and blue.
_MODES = {
    "RGB": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr"),
    "GRAY": ("1", "L", "LA"),
    "CMYK": ("CMYK",),
}
_INPUT_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Largest difference in levels between sRGB and a profile that is treated as sRGB.
_MAX_SRGB_DIFFERENCE = 2
_ERRORS = (ImageCms.PyCMSError, OSError, UnicodeDecodeError, ValueError)

# Chromaticities x and y of white, red, green and blue, by code (ITU-T H.273, table 2).
_D65 = (0.3127, 0.3290)
_PRIMARIES = {
    1: (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060),
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
}
# Codes (ITU-T H.273, table 3) of the transfer function of ITU-R BT.709.
_VIDEO = (1, 6, 14, 15)
_SRGB_PRIMARIES = _PRIMARIES[1]
_ADOBE_RGB_PRIMARIES = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_ADOBE_RGB_GAMMA = 563 / 256
# libpng's tolerances for the comparison of chromaticities and gamma with sRGB.
_CHROMATICITY_TOLERANCE = 0.01
_GAMMA_TOLERANCE = 0.05
_SRGB_GAMMA = 2.2
# Luminance of diffuse white in HDR images, cd/m2 (ITU-R BT.2408).
_REFERENCE_WHITE = 203
_EXIF_IFD, _INTEROP_IFD, _COLOR_SPACE, _INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 0x0001
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])


@dataclass(frozen=True, eq=False)
class ColorProfile:
    """ICC profile of an image.

    Attributes:
        content: bytes of the profile, as embedded in files.
        space: ICC color space: ``RGB``, ``GRAY`` or ``CMYK``.
        is_srgb: whether conversion to sRGB makes no visible difference.
        writable: whether colors can be converted from sRGB to the profile.
    """

    content: bytes
    space: str
    is_srgb: bool
    writable: bool

    def describes(self, mode: str) -> bool:
        """Whether an image of this Pillow mode can have the profile."""
        return mode in _MODES[self.space]

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """Convert an image that the profile describes to mode RGB and the colors of sRGB."""
        if self.is_srgb:
            return image.convert("RGB")
        return _to_srgb(self.content, image.convert(_INPUT_MODES[self.space]))

    def from_srgb(self, image: Image.Image) -> Image.Image:
        """Convert an RGB image from sRGB to the profile's colors."""
        transform = _transform(_srgb(), _parse_icc(self.content), "RGB")
        return _apply(transform, image)


@lru_cache(maxsize=8)
def parse_profile(content: bytes) -> ColorProfile | None:
    """Parse an ICC profile; return ``None`` if it is damaged or has another color space."""
    try:
        profile = _parse_icc(content)
        space = profile.profile.xcolor_space.strip()
        if space not in _MODES:
            return None
        # Raises if the profile cannot convert colors to sRGB.
        _to_srgb(content, Image.new(_INPUT_MODES[space], (1, 1)))
        is_rgb = space == "RGB"
        return ColorProfile(
            content, space, is_rgb and _is_srgb(content), is_rgb and _is_invertible(profile)
        )
    except _ERRORS:
        return None


def profile_of(image: Image.Image, mode: str) -> ColorProfile | None:
    """Return the profile that describes an opened image.

    Args:
        image: the opened image, see :func:`find_profile`.
        mode: the image's Pillow mode when decoded.
    """
    content = image.info.get("icc_profile")
    profile = parse_profile(content) if content else None
    return profile if profile is not None and profile.describes(mode) else None


def find_profile(
    image: Image.Image, png: PngColors | None, codes: tuple[int, int] | None
) -> bytes | None:
    """Return the ICC profile of an opened image, embedded or built from other metadata.

    The order of precedence in a PNG is that of its specification (third edition): cICP, iCCP, sRGB,
    then gAMA and cHRM. A missing gAMA or cHRM has the value of sRGB. An embedded profile that is
    damaged or describes other modes is ignored.

    Args:
        image: an opened image.
        png: color metadata of a PNG.
        codes: primaries and transfer function (ITU-T H.273) of an AVIF or HEIC.

    Returns:
        ``None`` if the image is sRGB or its colors are not specified.
    """
    if png is not None:
        if png.cicp is not None:
            profile = cicp_profile(*png.cicp)
            if profile is not None:
                return profile
            if png.cicp[:2] == (1, 13):
                return None
        if _is_usable(png.profile, image):
            return png.profile
        if "srgb" in image.info:
            return None
        return _from_gamma(image.info.get("gamma"), image.info.get("chromaticity"))
    content = image.info.get("icc_profile")
    if content and _is_usable(content, image):
        return bytes(content)
    if codes is not None:
        primaries, transfer = codes
        # Still images with codes of video are displayed as sRGB.
        return cicp_profile(primaries, 13 if transfer in _VIDEO else transfer, 0, 1)
    if isinstance(image, JpegImageFile) and _is_adobe_rgb(image):
        return rgb_profile(_ADOBE_RGB_PRIMARIES, gamma_curve(_ADOBE_RGB_GAMMA))
    return None


def _is_usable(content: bytes | None, image: Image.Image) -> bool:
    """Whether a profile can be parsed and describes an opened image."""
    profile = parse_profile(content) if content else None
    mode = "L" if image.mode.startswith("I") else image.mode  # 16 bits become 8
    return profile is not None and profile.describes(mode)


def cicp_profile(primaries: int, transfer: int, matrix: int, full: int) -> bytes | None:
    """Build a profile from color codes (ITU-T H.273); return ``None`` for sRGB and unknown codes.

    Diffuse white of HDR images (PQ and HLG) is mapped to white; highlights are clipped.
    """
    if (primaries, transfer) == (1, 13) or matrix != 0 or full != 1:
        return None
    chromaticities, curve = _PRIMARIES.get(primaries), _transfer_curve(transfer)
    return None if chromaticities is None or curve is None else rgb_profile(chromaticities, curve)


def rgb_profile(chromaticities: tuple[float, ...], curve: bytes) -> bytes:
    """Build an ICC profile for RGB (ICC.1:2010).

    Args:
        chromaticities: x and y of white, red, green and blue.
        curve: ICC element of the transfer function of red, green and blue.

    Raises:
        ValueError: the chromaticities are impossible.
    """
    adaptation, matrix = _matrices(chromaticities)
    text = "Built by Atelier".encode("utf-16-be")
    label = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    tags = {b"desc": label, b"cprt": label, b"wtpt": _xyz(_D50)}
    tags[b"chad"] = b"sf32\0\0\0\0" + b"".join(map(_fixed, adaptation.ravel()))
    for index, name in enumerate((b"r", b"g", b"b")):
        tags[name + b"XYZ"] = _xyz(matrix[:, index])
        tags[name + b"TRC"] = curve
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    sizes = struct.pack(">I4xI4s4s4s", start + len(body), 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    dates = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    white = b"".join(map(_fixed, _D50))
    return sizes + dates + b"acsp" + bytes(28) + white + bytes(48) + table + body


def gamma_curve(gamma: float) -> bytes:
    """Return the ICC element of a power function."""
    return b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _fixed(gamma)


def _from_gamma(gamma: Any, chromaticities: Any) -> bytes | None:
    """Build a profile from gAMA and cHRM of a PNG; return ``None`` for sRGB and invalid values."""
    exponent = 1 / gamma if gamma and 0.1 <= gamma <= 10 else None
    if chromaticities is None and exponent is None:
        return None
    known = tuple(chromaticities or _SRGB_PRIMARIES)
    is_srgb = np.abs(np.subtract(known, _SRGB_PRIMARIES)).max() <= _CHROMATICITY_TOLERANCE
    if is_srgb and (exponent is None or abs(exponent / _SRGB_GAMMA - 1) <= _GAMMA_TOLERANCE):
        return None
    try:
        return rgb_profile(known, _SRGB_CURVE if exponent is None else gamma_curve(exponent))
    except ValueError:
        return None


def _is_adobe_rgb(image: JpegImageFile) -> bool:
    """Whether EXIF marks a photograph without a profile as Adobe RGB (DCF 2.0, "R03")."""
    if "exif" not in image.info:
        return False
    try:
        exif = image.getexif()
        if exif.get_ifd(_EXIF_IFD).get(_COLOR_SPACE, 1) == 1:
            return False
        index = exif.get_ifd(_INTEROP_IFD).get(_INTEROP_INDEX, "")
    except MemoryError:
        raise
    except Exception:
        # Damaged EXIF does not specify colors.
        return False
    return str(index).strip("\0 ") == "R03"


def _parametric(*values: float) -> bytes:
    """Return the ICC element of (a x + b)^g for x >= d, and c x below; values are g, a to d."""
    return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    """Return an s15Fixed16Number."""
    number = round(float(value) * 65536)
    if not -(2**31) <= number < 2**31:
        raise ValueError("impossible color")
    return struct.pack(">i", number)


def _xyz(values: Any) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


_SRGB_CURVE = _parametric(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_BT709_CURVE = _parametric(1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)


def _transfer_curve(transfer: int) -> bytes | None:
    """Return the ICC element for a transfer function of ITU-T H.273, table 3."""
    if transfer in _VIDEO:
        return _BT709_CURVE
    if transfer == 13:
        return _SRGB_CURVE
    if transfer in (4, 5, 8):
        return gamma_curve({4: 2.2, 5: 2.8, 8: 1.0}[transfer])
    levels = np.linspace(0, 1, 4096)
    if transfer == 16:
        root = levels ** (1 / 78.84375)
        light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        return _table(10_000 * light ** (1 / 0.1593017578125) / _REFERENCE_WHITE)
    if transfer == 18:
        return _table((_hlg(levels) / _hlg(np.array(0.75))) ** 1.2)
    return None


def _hlg(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scene light of hybrid log-gamma levels (ITU-R BT.2100)."""
    high = (np.exp((np.maximum(levels, 0.5) - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(levels <= 0.5, levels**2 / 3, high)


def _table(light: NDArray[np.float64]) -> bytes:
    values = np.rint(65535 * np.clip(light, 0, 1)).astype(">u2")
    return b"curv\0\0\0\0" + struct.pack(">I", len(values)) + values.tobytes()


def _matrices(
    chromaticities: tuple[float, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrices [3, 3] of chromatic adaptation to D50, and of RGB to adapted XYZ.

    Raises:
        ValueError: the chromaticities are impossible.
    """
    xy = np.array(chromaticities, np.float64).reshape(4, 2)
    if not np.isfinite(xy).all() or xy[:, 1].min() <= 0:
        raise ValueError("impossible color")
    xyz = np.stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(axis=1)) / xy[:, 1]])
    white, primaries = xyz[:, 0], xyz[:, 1:]
    try:
        matrix = primaries * np.linalg.solve(primaries, white)
    except np.linalg.LinAlgError:
        raise ValueError("impossible color") from None
    cones = _BRADFORD @ white
    if cones.min() <= 0 or not np.isfinite(matrix).all():
        raise ValueError("impossible color")
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / cones) @ _BRADFORD
    return adaptation, adaptation @ matrix


def _parse_icc(content: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(BytesIO(content))


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=8)
def _transform_to_srgb(content: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return _transform(_parse_icc(content), _srgb(), mode)


def _transform(source: Any, target: Any, mode: str) -> ImageCms.ImageCmsTransform:
    """Build a relative colorimetric conversion to RGB with black point compensation."""
    return ImageCms.buildTransform(
        source,
        target,
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = transform.apply(image)
    converted.info.pop("icc_profile", None)
    return converted


def _to_srgb(content: bytes, image: Image.Image) -> Image.Image:
    return _apply(_transform_to_srgb(content, image.mode), image)


def _is_srgb(content: bytes) -> bool:
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3)
    converted = np.asarray(_to_srgb(content, Image.fromarray(colors))).astype(int)
    return bool(np.abs(converted - colors).max() <= _MAX_SRGB_DIFFERENCE)


def _is_invertible(profile: ImageCms.ImageCmsProfile) -> bool:
    """Whether colors can be converted to a profile (false for profiles of scanners)."""
    try:
        _transform(_srgb(), profile, "RGB")
    except _ERRORS:
        return False
    return True
