"""Image files: what their heads and tails say, and their pixels."""

import os
import warnings
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

_HEAD, _TAIL = 1024, 64
_LATE_TAIL = 64 * 1024  # where a JPEG's end is looked for when other bytes follow it
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xae\x42\x60\x82"
_OTHERS = (b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*", *(b"P%d" % number for number in range(1, 7)))
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of the segments that state the size of the picture
_MOST_PIXELS = 178_956_970  # above this Pillow takes a picture for an attack
EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}


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


def probe(path: bytes) -> Head:
    """Looks at head, tail and size; decodes nothing. Raises BadImage.

    What is damaged in between is found by `decode` at the latest, or, where a decoder fills in what is missing, never.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hang the scan
    except OSError as error:
        raise BadImage(_unreadable(error)) from error
    try:
        return _probe_open(file, path)
    except OSError as error:
        raise BadImage(_unreadable(error)) from error
    finally:
        os.close(file)


def _probe_open(file: int, path: bytes) -> Head:
    size = os.fstat(file).st_size
    head = os.pread(file, _HEAD, 0)
    if not head:
        raise BadImage("is empty (0 bytes)")
    if head.startswith(_JPEG):
        found, data_begins = _jpeg_head(file, head)
        if os.pread(file, 2, size - 2) != _JPEG_END:
            first = max(data_begins, size - _LATE_TAIL)
            if _JPEG_END not in os.pread(file, _LATE_TAIL, first):
                raise BadImage(f"is truncated: no end of the JPEG in its {size:,} bytes")
    elif head.startswith(_PNG):
        if len(head) < 33 or head[12:16] != b"IHDR":
            raise BadImage(f"is truncated: {size:,} bytes, no head of a PNG")
        found = Head(int.from_bytes(head[16:20]), int.from_bytes(head[20:24]), head[24] <= 8)
        if not any(_PNG_END in os.pread(file, tail, max(0, size - tail)) for tail in (_TAIL, _LATE_TAIL)):
            raise BadImage(f"is truncated: no end of the PNG in its {size:,} bytes")
    elif head.startswith(_OTHERS):
        if head.startswith(b"RIFF") and int.from_bytes(head[4:8], "little") + 8 > size:
            raise BadImage(f"is truncated: {size:,} bytes of {int.from_bytes(head[4:8], 'little') + 8:,}")
        found = _head_by_pillow(path)
    else:
        raise BadImage(f"is no image: it begins with {head[:8]!r}")
    if found.width < 1 or found.height < 1:
        raise BadImage(f"has {found.width} x {found.height} pixels")
    if found.width * found.height > _MOST_PIXELS:
        raise BadImage(f"has {found.width} x {found.height} pixels, more than the {_MOST_PIXELS:,} that are read")
    return found


def _jpeg_head(file: int, head: bytes) -> tuple[Head, int]:
    """The size, and the offset of the coded picture: a preview in the head has an end of its own."""
    window, offset, found = 0, 2, None
    while True:
        if offset + 10 > window + len(head):
            window, head = offset, os.pread(file, _HEAD, offset)
            if len(head) < 4:
                raise BadImage("is truncated within the head of the JPEG")
        at = offset - window
        if head[at] != 0xFF:
            raise BadImage("is damaged: no marker where the head of the JPEG has one")
        marker = head[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:  # fill bytes and markers without a length
            offset += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            if len(head) < at + 10:
                raise BadImage("is truncated within the head of the JPEG")
            height, width = int.from_bytes(head[at + 5 : at + 7]), int.from_bytes(head[at + 7 : at + 9])
            found = Head(width, height, marker <= 0xC2 and head[at + 4] == 8)
        length = int.from_bytes(head[at + 2 : at + 4])
        if marker == 0xDA:
            if found is None:
                raise BadImage("is damaged: the JPEG does not say its size")
            return found, offset + 2 + length
        offset += 2 + length


def _head_by_pillow(path: bytes) -> Head:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(os.fsdecode(path)) as image:
                return Head(*image.size, False)
    except _PILLOW_FAILS as error:
        raise BadImage(f"cannot be read: {_short(error)}") from error


def decode(path: str) -> Tensor:
    """[H,W,3] uint8: the image as RGB, as it is stored (EXIF orientation is left alone, as Pillow does).

    Raises BadImage. Grey, CMYK and palettes are converted, transparency is dropped, of 16 bits the upper 8 are kept.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BadImage(_unreadable(error)) from error
    if not len(encoded):
        raise BadImage("is empty (0 bytes)")
    if encoded[:3].tobytes() == _JPEG:
        try:
            found = decode_jpeg(torch.from_numpy(encoded), ImageReadMode.RGB)  # Pillow's bytes, in less time
            assert isinstance(found, Tensor)
            return found.permute(1, 2, 0)
        except RuntimeError:
            pass  # Pillow says better what is wrong, or reads the file after all
    return _by_pillow(path)


def _by_pillow(path: str) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of palettes with transparency and of curious EXIF
            with Image.open(path) as image:
                if image.mode.startswith("I"):
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                return to_tensor(image.convert("RGB"))
    except _PILLOW_FAILS as error:
        raise BadImage(f"cannot be read: {_short(error)}") from error


def to_tensor(image: Image.Image) -> Tensor:
    """[H,W,3] uint8"""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)


# What Pillow's readers raise for files that are damaged, or not what they seem.
_PILLOW_FAILS = (OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, Image.DecompressionBombError)


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _short(error: Exception) -> str:
    return str(error).split(" '")[0].split(": ")[0] or type(error).__name__
