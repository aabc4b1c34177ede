"""Small ICC profiles like those that other programs embed (ICC.1:2001-04)."""

import struct


def _fixed(value: float) -> bytes:
    """Encode an s15Fixed16Number."""
    return struct.pack(">i", round(value * 65536))


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(x) + _fixed(y) + _fixed(z)


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def _profile(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    description = b"desc\0\0\0\0" + struct.pack(">I", 6) + b"tests\0" + bytes(78)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    white = _fixed(0.9642) + _fixed(1.0) + _fixed(0.8249)  # D50
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"\0" * 4, 0x02400000, kind, space, connection
    )
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white + bytes(48)
    return header + table + body


def display_p3() -> bytes:
    """Return a profile with the primaries of Display P3, adapted to D50, and a gamma of 2.2."""
    return _profile(
        b"RGB ",
        b"XYZ ",
        b"mntr",
        {
            b"wtpt": _xyz(0.9505, 1.0, 1.0891),
            b"rXYZ": _xyz(0.51512, 0.24120, -0.00105),
            b"gXYZ": _xyz(0.29198, 0.69225, 0.04189),
            b"bXYZ": _xyz(0.15710, 0.06657, 0.78407),
            **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(2.2)),
        },
    )


def linear_grey() -> bytes:
    """Return a gray profile with linear levels."""
    tags = {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"kTRC": _gamma(1.0)}
    return _profile(b"GRAY", b"XYZ ", b"mntr", tags)


def warm_cmyk() -> bytes:
    """Return a CMYK profile whose cyan is a warm gray, unlike that of any default profile."""
    inks = []
    for number in range(16):
        cyan, magenta, yellow, black = (bool(number & bit) for bit in (8, 4, 2, 1))
        light = 255 * (0.5 if cyan else 1) * (0.6 if magenta else 1) * (0.1 if black else 1)
        inks += [round(light), 128 + 20 * cyan + 40 * magenta, 128 + 20 * cyan + 60 * yellow]
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0])
    lut += b"".join(_fixed(float(row == column)) for row in range(3) for column in range(3))
    lut += ramp * 4 + bytes(inks) + ramp * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"A2B0": lut})


def scanner() -> bytes:
    """Return an RGB profile of an input device, which has no conversion back to its values."""
    corners = []
    for number in range(8):
        red, green, blue = (bool(number & bit) for bit in (4, 2, 1))
        light = 255 * (0.3 * red + 0.6 * green + 0.1 * blue)
        corners += [round(light), 128 + 60 * red - 60 * green, 128 + 50 * green - 70 * blue]
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes([3, 3, 2, 0])
    lut += b"".join(_fixed(float(row == column)) for row in range(3) for column in range(3))
    lut += ramp * 3 + bytes(corners) + ramp * 3
    return _profile(b"RGB ", b"Lab ", b"scnr", {b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"A2B0": lut})
