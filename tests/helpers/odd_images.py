"""Files that are not what is usual, and the pixels that they should be used as."""

import struct
import zlib

import numpy as np
from PIL import Image

from helpers.image_folders import picture


def png(pixels, bits, colour):
    """A PNG by hand: Pillow does not write 16 bits of three colours."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pixels_of(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


class Odd:
    """What is used, as what it should be used as."""

    pixels = np.asarray(picture(np.random.default_rng(5), 40, 30))

    @classmethod
    def grey(cls, file):
        Image.fromarray(cls.pixels).convert("L").save(file, quality=95)
        return pixels_of(file)

    @classmethod
    def cmyk(cls, file):
        Image.fromarray(cls.pixels).convert("CMYK").save(file, quality=95)
        return pixels_of(file)

    @classmethod
    def png_with_a_jpegs_name(cls, file):
        Image.fromarray(cls.pixels).save(file, format="PNG")
        return cls.pixels

    @classmethod
    def transparent(cls, file):
        alpha = np.full((*cls.pixels.shape[:2], 1), 9, np.uint8)
        Image.fromarray(np.concatenate([cls.pixels, alpha], 2)).save(file, format="PNG")
        return cls.pixels

    @classmethod
    def palette(cls, file):
        Image.fromarray(cls.pixels).convert("P").save(file, format="PNG")
        return pixels_of(file)

    @classmethod
    def grey_of_16_bits(cls, file):
        file.write_bytes(png((cls.pixels[..., 0].astype(np.uint16) * 256 + 77).astype(">u2"), 16, 0))
        return np.repeat(cls.pixels[..., :1], 3, 2)

    @classmethod
    def colours_of_16_bits(cls, file):
        file.write_bytes(png((cls.pixels.astype(np.uint16) * 256 + 77).astype(">u2"), 16, 2))
        return cls.pixels

    @classmethod
    def turned_by_exif(cls, file):
        """Left as it is stored, as Pillow and torchvision do."""
        exif = Image.Exif()
        exif[0x112] = 6
        Image.fromarray(cls.pixels).save(file, quality=95, exif=exif)
        return pixels_of(file)

    @classmethod
    def one_pixel(cls, file):
        Image.fromarray(cls.pixels[:1, :1]).save(file, quality=95)
        return pixels_of(file)

    @classmethod
    def progressive(cls, file):
        Image.fromarray(cls.pixels).save(file, quality=95, progressive=True)
        return pixels_of(file)

    @classmethod
    def bytes_after_the_end(cls, file):
        Image.fromarray(cls.pixels).save(file, quality=95)
        expected = pixels_of(file)
        file.write_bytes(file.read_bytes() + bytes(1000))
        return expected

    @classmethod
    def a_long_head(cls, file):
        Image.fromarray(cls.pixels).save(file, quality=95)
        expected, content = pixels_of(file), file.read_bytes()
        profile = b"\xff\xe2" + struct.pack(">H", 60_000) + bytes(59_998)
        file.write_bytes(content[:2] + profile * 3 + b"\xff" + content[2:])
        return expected

    @classmethod
    def gif(cls, file):
        Image.fromarray(cls.pixels).save(file, format="GIF")
        return pixels_of(file)

    @classmethod
    def bmp(cls, file):
        Image.fromarray(cls.pixels).save(file, format="BMP")
        return cls.pixels

    @classmethod
    def webp(cls, file):
        Image.fromarray(cls.pixels).save(file, format="WEBP", lossless=True)
        return cls.pixels


ODD = [name for name in vars(Odd) if not name.startswith("_") and name != "pixels"]
