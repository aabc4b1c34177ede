"""Coded image sizes and color codes of AVIF files, read without decoding.

The container (ISO/IEC 14496-12 and 23008-12) states a size, but a decoder allocates the size in the
AV1 sequence headers ("AV1 Bitstream & Decoding Process Specification", section 5.5). Pillow does
not compare the two.
"""

import itertools
import struct
from collections.abc import Iterator

Size = tuple[int, int]
Box = tuple[bytes, int, int]

_MAX_BOXES = 20_000
_MAX_UNITS = 1000
_SEQUENCE_HEADER = 1
_MAX_SEQUENCE_HEADER = 1024
# Boxes that contain boxes, and the number of bytes before the first.
_CONTAINERS = {b"meta": 4, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}


def coded_sizes(data: bytes) -> tuple[Size | None, list[Size]]:
    """Return the coded width and height of the main image and of all images in a file.

    Args:
        data: the file.

    Returns:
        Size of the main image (``None`` for an animation), and sizes of all sequence headers and
        grids.

    Raises:
        ValueError: the file is damaged or uses a feature that is not supported.
    """
    try:
        boxes = list(itertools.islice(_boxes(data, 0, len(data)), _MAX_BOXES + 1))
        if len(boxes) > _MAX_BOXES:
            raise ValueError("it has too many boxes")
        items = _item_sizes(data, boxes)
        frames = _first_frames(data, boxes)
        pitm = next((data[start:end] for kind, start, end in boxes if kind == b"pitm"), None)
        primary = None
        if pitm is not None and not frames:
            (primary,) = struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)
    except (struct.error, IndexError):
        raise ValueError("its boxes are damaged") from None
    sizes = [*itertools.chain.from_iterable(items.values()), *frames]
    if primary is None and frames:
        return None, sizes
    if primary is None or not items.get(primary):
        raise ValueError("it has no main image")
    return max(items[primary], key=lambda size: size[0] * size[1]), sizes


def color_codes(data: bytes) -> tuple[int, int] | None:
    """Return the codes (ITU-T H.273) of primaries and transfer function.

    The result is ``None`` if the file has no codes or several, for example for an HDR version.
    """
    found: set[tuple[int, int]] = set()
    try:
        boxes = _main_meta(list(itertools.islice(_boxes(data, 0, len(data)), _MAX_BOXES)))
        for start, end in [box[1:] for box in boxes if box[0] == b"iprp"]:
            for kind, inner_start, inner_end in _boxes(data, start, end):
                if kind == b"ipco":
                    found |= set(_color_properties(data, inner_start, inner_end))
    except (struct.error, ValueError):
        return None
    return found.pop() if len(found) == 1 else None


def _color_properties(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    for kind, at, _ in itertools.islice(_boxes(data, start, end), _MAX_BOXES):
        if kind == b"colr" and data[at : at + 4] == b"nclx":
            primaries, transfer = struct.unpack_from(">HH", data, at + 4)
            yield primaries, transfer


def _boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Yield kind, start and end of the content of each box, including nested boxes."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        stop = end if size == 0 else start + size
        if not content <= stop <= end:
            raise ValueError("its boxes are damaged")
        yield kind, content, stop
        if kind in _CONTAINERS:
            yield from _boxes(data, content + _CONTAINERS[kind], stop)
        start = stop


def _item_sizes(data: bytes, boxes: list[Box]) -> dict[int, list[Size]]:
    """Return the coded sizes of each item, by item number."""
    meta = _main_meta(boxes)
    kinds = _item_kinds(data, meta)
    iloc = _only(meta, b"iloc")
    if iloc is None:
        return {}
    embedded = _only(meta, b"idat") or (0, 0)
    left = len(data)  # bytes of extents that may be joined, of all items
    sizes: dict[int, list[Size]] = {}
    for number, method, extents in _locations(data[slice(*iloc)]):
        if kinds.get(number) not in (b"av01", b"grid"):
            continue
        if method > 1:
            raise ValueError("its images are inside other items")
        source = memoryview(data)[slice(*embedded)] if method else memoryview(data)
        parts = [source[at : at + (size or len(source))] for at, size in extents]
        if len(parts) > 1:  # a single extent is not copied, and equal tiles may share it
            left -= sum(map(len, parts))
            if left < 0:
                raise ValueError("its images are longer than the file")
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        found = [_grid_size(content)] if kinds[number] == b"grid" else _sequence_sizes(content)
        sizes.setdefault(number, []).extend(found)
    return sizes


def _main_meta(boxes: list[Box]) -> list[Box]:
    """Return the boxes inside the first ``meta`` at the top level."""
    previous_end = 0
    for kind, start, end in boxes:
        if start < previous_end:
            continue
        previous_end = end
        if kind == b"meta":
            return [box for box in boxes if start < box[1] and box[2] <= end]
    return []


def _only(boxes: list[Box], kind: bytes) -> tuple[int, int] | None:
    """Return start and end of the only box of a kind; ``None`` if there is none."""
    found = [(start, end) for name, start, end in boxes if name == kind]
    if len(found) > 1:
        raise ValueError(f"it has more than one {kind.decode()} box")
    return found[0] if found else None


def _item_kinds(data: bytes, boxes: list[Box]) -> dict[int, bytes]:
    """Return the kind of each item, by item number."""
    kinds: dict[int, bytes] = {}
    iinf = _only(boxes, b"iinf")
    if iinf:
        entries = iinf[0] + (8 if data[iinf[0]] else 6)
        for _, at, _ in itertools.islice(_boxes(data, entries, iinf[1]), _MAX_BOXES):
            layout = ">IH4s" if data[at] == 3 else ">HH4s"
            number, _, item_kind = struct.unpack_from(layout, data, at + 4)
            kinds[number] = item_kind
    return kinds


def _locations(box: bytes) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yield number, construction method and extents of each item in an ``iloc`` box."""
    version, (sizes,) = box[0], struct.unpack_from(">H", box, 4)
    widths = [sizes >> shift & 15 for shift in (12, 8, 4, 0)]
    offset_bytes, length_bytes, base_bytes = widths[:3]
    index_bytes = widths[3] if version else 0
    at, left, number_bytes = 6, _MAX_BOXES, 4 if version == 2 else 2

    def read(size: int) -> int:
        nonlocal at
        at += size
        if at > len(box):
            raise ValueError("its boxes are damaged")
        return int.from_bytes(box[at - size : at])

    for _ in range(read(number_bytes)):
        number = read(number_bytes)
        method = read(2) & 15 if version else 0
        read(2)
        base, count = read(base_bytes), read(2)
        left -= 1 + count
        if left < 0:
            raise ValueError("it has too many items")
        extents = []
        for _ in range(count):
            read(index_bytes)
            offset = read(offset_bytes)
            extents.append((base + offset, read(length_bytes)))
        yield number, method, extents


def _grid_size(content: bytes | memoryview) -> Size:
    """Return the size of an image that consists of tiles."""
    width, height = struct.unpack_from(">II" if content[1] & 1 else ">HH", content, 4)
    return width, height


def _first_frames(data: bytes, boxes: list[Box]) -> list[Size]:
    """Return the coded sizes of the first frame of each track."""
    offsets, lengths = [], []
    for kind, start, _ in boxes:
        if kind in (b"stco", b"co64"):
            offsets.append(
                struct.unpack_from(">Q" if kind == b"co64" else ">I", data, start + 8)[0]
            )
        elif kind == b"stsz":
            (size,) = struct.unpack_from(">I", data, start + 4)
            lengths.append(size or struct.unpack_from(">I", data, start + 12)[0])
    if len(offsets) != len(lengths):
        raise ValueError("its boxes are damaged")
    sizes = []
    for offset, length in zip(offsets, lengths, strict=True):
        sizes += _sequence_sizes(data[offset : offset + length])
    return sizes


def _sequence_sizes(content: bytes | memoryview) -> list[Size]:
    """Return the largest frame size of each sequence header in AV1 data."""
    sizes: list[Size] = []
    at = 0
    for _ in range(_MAX_UNITS):
        if at >= len(content):
            return sizes
        header = content[at]
        at += 2 if header & 4 else 1
        length = len(content) - at
        if header & 2:
            length, at = _leb128(content, at)
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            stop = at + min(length, _MAX_SEQUENCE_HEADER)
            sizes.append(_frame_size(_Bits(content[at:stop])))
        at += length
    raise ValueError("it has too many parts")


def _leb128(content: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return a LEB128 number of up to eight bytes, and the position after it."""
    value = 0
    for index in range(8):
        byte = content[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    raise ValueError("its lengths are damaged")


class _Bits:
    """Reader of numbers of any bit length, in order."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._value, self._left = int.from_bytes(data), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("its sequence header is cut short")
        return self._value >> self._left & (1 << count) - 1

    def skip_uvlc(self) -> None:
        """Skip a number of variable length (uvlc, section 4.10.3)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        if zeros < 32:
            self.read(zeros)


def _frame_size(bits: _Bits) -> Size:
    """Return the largest width and height of a sequence header (section 5.5.1)."""
    bits.read(3 + 1)
    if bits.read(1):  # reduced_still_picture_header
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    width = bits.read(width_bits) + 1
    return width, bits.read(height_bits) + 1


def _skip_operating_points(bits: _Bits) -> None:
    """Skip timing and operating points of a sequence header (section 5.5.1)."""
    delay_bits = 0
    if bits.read(1):  # timing_info_present_flag
        bits.read(64)
        if bits.read(1):  # equal_picture_interval
            bits.skip_uvlc()
        if bits.read(1):  # decoder_model_info_present_flag
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5 + 5)
    display_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if display_delay and bits.read(1):
            bits.read(4)
