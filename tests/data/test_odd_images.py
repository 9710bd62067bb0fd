"""Files that are not what is usual: each is used, by every loader alike, as what it should be used as."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from helpers.corrupt_folders import evaluated, opened, trained
from helpers.image_folders import LOADERS, needs_dali, picture, write_folder
from PIL import Image

from fastkd.data.decoding import decode
from fastkd.support.errors import UserError


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


@pytest.mark.parametrize("kind", ODD)
def test_what_is_odd_is_converted(root, image, kind):
    expected = getattr(Odd, kind)(image)
    np.testing.assert_array_equal(decode(str(image)).numpy(), expected)
    data = opened(root)
    assert data.notes == () and len(data.train) == 16
    assert data.train.sizes[3].tolist() == [expected.shape[1], expected.shape[0]]
    held = opened(root, resident=True).train.images[3]
    if kind == "one_pixel":
        assert (held == torch.from_numpy(expected[0, 0].copy())).all()


@pytest.mark.parametrize("loader", LOADERS)
def test_what_is_odd_is_trained_and_tested_on(root, loader):
    """All of it in one folder, seen by each loader as by the other."""
    for number, kind in enumerate(ODD):
        getattr(Odd, kind)(root / "train" / "ant" / f"{number + 20}.jpg")
        getattr(Odd, kind)(root / "val" / "bee" / f"{number + 20}.jpg")
    data = opened(root)
    batches = trained(data, loader, drop_last=False)
    assert sorted(place for raw in batches for place in raw.index.tolist()) == list(range(16 + len(ODD)))
    reference = trained(data, "torchvision", drop_last=False)
    for ours, theirs in zip(batches, reference, strict=True):
        apart = (ours.images.float() - theirs.images.float()).abs().mean((0, 2, 3, 4))
        assert (apart < 1.0).all(), [data.train.paths[place] for place in ours.index[apart >= 1.0].tolist()]
    for ours, theirs in zip(evaluated(data, loader), evaluated(data, "torchvision"), strict=True):
        assert (ours.images.float() - theirs.images.float()).abs().mean((0, 2, 3, 4)).max() < 1.0


@needs_dali
def test_dali_does_not_rewrite_a_whole_data_set(root, monkeypatch):
    monkeypatch.setattr("fastkd.data.dali._MOST_REWRITTEN", 3 * 40 * 30 * 2)
    for number, allowed in enumerate((True, True, False)):
        Odd.webp(root / "train" / "ant" / f"{number}.jpg")
        if allowed:
            assert len(trained(opened(root), "dali")) == 4
    with pytest.raises(UserError, match="3 images are neither JPEG nor PNG of 8 bits, .*--loader torchvision"):
        trained(opened(root), "dali")


@pytest.mark.parametrize("loader", LOADERS)
def test_names_in_every_script(tmp_path, loader):
    classes = ("Ärger und Öl", "日本語", "with 'quotes' and \"more\"", "emoji 🐜")
    root = write_folder(tmp_path / "données", size=None, ending="jpg", classes=classes)
    (root / "train" / classes[0] / "0.jpg").rename(root / "train" / classes[0] / "ß ü 图.JPEG")
    os.rename(root / "train" / classes[1] / "0.jpg", os.fsencode(root / "train" / classes[1]) + b"/\xff\xfe.jpg")
    data = opened(root)
    assert data.classes == tuple(sorted(classes))
    batches = trained(data, loader, drop_last=False)
    assert sum(len(raw.index) for raw in batches) == 20
