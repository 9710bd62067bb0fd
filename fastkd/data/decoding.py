"""Image files: what their heads and tails say, and their pixels."""

import io
import os
import warnings
from collections.abc import Callable
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

_HEAD, _TAIL = 1024, 64
_LATE_TAIL = 64 * 1024  # where a JPEG's end is looked for when other bytes follow it
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xae\x42\x60\x82"
_OTHERS = (b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*", *(b"P%d" % number for number in range(1, 7)))
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of the segments that state the size of the picture
_MOST_PIXELS = 178_956_970  # above this Pillow takes a picture for an attack
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")  # Pillow makes RGB of these rightly
_NO_WHITE = "which do not say how bright white is: convert it to 8 bits, or to a PNG of 16"
_BITS_PER_SAMPLE = 258  # a tag of TIFF
_MOST_SEGMENTS = 10_000
_PORTION = 1 << 22  # pixels


class BadImage(Exception):
    """An image that cannot be used.

    The message continues a sentence that begins with the path: "is empty (0 bytes)".
    """


class Head(NamedTuple):
    """What the first bytes of an image file say."""

    width: int
    height: int
    plain: bool
    """Whether it is a JPEG or a PNG of 8 bits, out of which every decoder reads the same bytes."""
    scaled: bool = False
    """Whether it has 16 bits a channel, of which the upper 8 are kept."""


ReadAt = Callable[[int, int], bytes]
"""(how many, from where on): bytes of an image file, fewer at its end."""


def probe(path: bytes) -> Head:
    """What `probe_bytes` says of a file. Raises BadImage."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hang the scan
    except OSError as error:
        raise BadImage(unreadable(error)) from error
    try:
        return probe_bytes(partial(os.pread, file), os.fstat(file).st_size, lambda: open(path, "rb"))
    except OSError as error:
        raise BadImage(unreadable(error)) from error
    finally:
        os.close(file)


def probe_bytes(read: ReadAt, size: int, whole: Callable[[], BinaryIO]) -> Head:
    """Looks at head, tail and size of an image file; decodes nothing. Raises BadImage.

    What is damaged in between is found by `decode` at the latest, or, where a decoder fills in what is missing, never.
    whole: opens all of it, for Pillow, which is asked about what is neither JPEG nor PNG.
    """
    head = read(_HEAD, 0)
    if not head:
        raise BadImage("is empty (0 bytes)")
    if head.startswith(_JPEG):
        found, data_begins = _jpeg_head(read, head)
        if read(2, max(0, size - 2)) != _JPEG_END:
            first = max(data_begins, size - _LATE_TAIL)
            if _JPEG_END not in read(_LATE_TAIL, first):
                raise BadImage(f"is truncated: no end of the JPEG in its {size:,} bytes")
    elif head.startswith(_PNG):
        if len(head) < 33 or head[12:16] != b"IHDR":
            raise BadImage(f"is truncated: {size:,} bytes, no head of a PNG")
        found = Head(int.from_bytes(head[16:20]), int.from_bytes(head[20:24]), head[24] <= 8, head[24] > 8)
        if not any(_PNG_END in read(tail, max(0, size - tail)) for tail in (_TAIL, _LATE_TAIL)):
            raise BadImage(f"is truncated: no end of the PNG in its {size:,} bytes")
    elif head.startswith(_OTHERS):
        if head.startswith(b"RIFF") and int.from_bytes(head[4:8], "little") + 8 > size:
            raise BadImage(f"is truncated: {size:,} bytes of {int.from_bytes(head[4:8], 'little') + 8:,}")
        found = _head_by_pillow(whole())
    else:
        raise BadImage(f"is no image: it begins with {head[:8]!r}")
    if found.width < 1 or found.height < 1:
        raise BadImage(f"has {found.width} x {found.height} pixels")
    if found.width * found.height > _MOST_PIXELS:
        raise BadImage(f"has {found.width} x {found.height} pixels, more than the {_MOST_PIXELS:,} that are read")
    return found


def _jpeg_head(read: ReadAt, head: bytes) -> tuple[Head, int]:
    """The size, and the offset of the coded picture: a preview in the head has an end of its own."""
    window, offset, found = 0, 2, None
    for _ in range(_MOST_SEGMENTS):
        if offset + 10 > window + len(head):
            window, head = offset, read(_HEAD, offset)
            if len(head) < 4:
                raise BadImage("is truncated within the head of the JPEG")
        at = offset - window
        if head[at] != 0xFF:
            raise BadImage("is damaged: no marker where the head of the JPEG has one")
        marker = head[at + 1]
        if marker == 0xFF:
            offset = _behind_fill_bytes(read, offset)
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a length
            offset += 2
            continue
        if marker in _FRAMES:
            if len(head) < at + 10:
                raise BadImage("is truncated within the head of the JPEG")
            height, width = int.from_bytes(head[at + 5 : at + 7]), int.from_bytes(head[at + 7 : at + 9])
            if head[at + 4] != 8:
                raise BadImage(f"has {head[at + 4]} bits a channel in a JPEG: convert it to 8")
            found = Head(width, height, marker <= 0xC2)
        length = int.from_bytes(head[at + 2 : at + 4])
        if marker == 0xDA:
            if found is None:
                raise BadImage("is damaged: the JPEG does not say its size")
            return found, offset + 2 + length
        offset += 2 + length
    raise BadImage(f"is damaged: the head of the JPEG has more than {_MOST_SEGMENTS:,} segments")


def _behind_fill_bytes(read: ReadAt, offset: int) -> int:
    """The offset of the last of the bytes FF that follow each other from `offset` on."""
    while window := read(_LATE_TAIL, offset):
        filled = len(window) - len(window.lstrip(b"\xff"))
        if filled < len(window):
            return offset + filled - 1
        offset += filled
    raise BadImage("is truncated within the head of the JPEG")


def _head_by_pillow(file: BinaryIO) -> Head:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with file, Image.open(file) as image:
                _refuse_other_bits(image)
                return Head(*image.size, False, image.mode.startswith("I"))
    except _PILLOW_FAILS as error:
        raise BadImage(f"cannot be read: {_short(error)}") from error


def read_whole(path: str) -> np.ndarray:
    """[bytes] uint8: what a file holds. Raises BadImage."""
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise BadImage(unreadable(error)) from error


def decode(encoded: np.ndarray) -> Tensor:
    """[H,W,3] uint8: the image of a file with these bytes as RGB, as it is stored (EXIF orientation is left alone, as
    Pillow does).

    Raises BadImage. Grey, CMYK and palettes are converted, transparency is dropped, of 16 bits the upper 8 are kept.
    """
    if not len(encoded):
        raise BadImage("is empty (0 bytes)")
    if encoded[:3].tobytes() == _JPEG:
        try:
            found = decode_jpeg(torch.from_numpy(encoded), ImageReadMode.RGB)  # Pillow's bytes, in less time
            assert isinstance(found, Tensor)
            return found.permute(1, 2, 0)
        except RuntimeError:
            pass  # Pillow says better what is wrong, or reads the file after all
    return _by_pillow(io.BytesIO(encoded.data))


def _by_pillow(file: BinaryIO) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of palettes with transparency and of curious EXIF
            with Image.open(file) as image:
                _refuse_other_bits(image)
                if image.mode.startswith("I"):
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                return to_tensor(image if image.mode == "RGB" else image.convert("RGB"))
    except _PILLOW_FAILS as error:
        raise BadImage(f"cannot be read: {_short(error)}") from error


def _refuse_other_bits(image: Image.Image) -> None:
    """Raises BadImage for a picture whose numbers do not say which of them is white.

    Bytes do, and 16 bits in a PNG or a PNM. What a TIFF holds may be 12 bits in 16, or heights in metres.
    """
    bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) if isinstance(image, TiffImageFile) else 8
    if image.mode not in _MODES and not (image.mode.startswith("I") and image.format in ("PNG", "PPM")):
        raise BadImage(f"holds numbers of Pillow's mode {image.mode}, {_NO_WHITE}")
    if bits > 8:
        raise BadImage(f"has {bits} bits a channel in a TIFF, {_NO_WHITE}")


def to_tensor(image: Image.Image) -> Tensor:
    """[H,W,3] uint8: copied by portions of the rows, so that a large picture is not in memory three times."""
    pixels = torch.empty(image.height, image.width, 3, dtype=torch.uint8)
    rows = max(1, _PORTION // image.width)
    for top in range(0, image.height, rows):
        part = bytearray(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
        pixels[top : top + rows] = torch.frombuffer(part, dtype=torch.uint8).view(-1, image.width, 3)
    return pixels


# What Pillow's readers raise for files that are damaged, or not what they seem.
_PILLOW_FAILS = (OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, Image.DecompressionBombError)


def unreadable(error: OSError) -> str:
    """What is wrong with a file that the system does not let one read."""
    return f"cannot be read: {error.strerror or error}"


def _short(error: Exception) -> str:
    return str(error).split(" '")[0].split(": ")[0] or type(error).__name__
