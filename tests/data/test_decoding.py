"""What is read out of a file, and what is refused by a look at its head and tail."""

import contextlib
import io
import os
import struct

import numpy as np
import pytest
import torch
from helpers.corrupt_folders import opened, trained
from helpers.image_folders import picture, write_folder
from helpers.odd_images import ODD, Odd, pixels_of, png
from PIL import Image

from fastkd.data.decoding import BadImage, decode, probe, read_whole, to_tensor
from fastkd.support.errors import UserError


@pytest.mark.parametrize("kind", ODD)
def test_what_is_odd_is_converted(root, image, kind):
    expected = getattr(Odd, kind)(image)
    np.testing.assert_array_equal(decode(read_whole(str(image))).numpy(), expected)
    data = opened(root)
    scaled = ("images with 16 bits a channel, of which the upper 8 are used: 1",) if "16_bits" in kind else ()
    assert data.notes == scaled and len(data.train) == 16
    assert data.train.sizes[3].tolist() == [expected.shape[1], expected.shape[0]]
    held = opened(root, resident=True).train.images[3]
    if kind == "one_pixel":
        assert (held == torch.from_numpy(expected[0, 0].copy())).all()


def cut(file, share=0.5):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def jpeg_of(size):
    """A head that states the size, and nothing else."""
    return b"\xff\xd8\xff\xc0\x00\x11\x08" + size + b"\x03" * 10 + b"\xff\xda\0\2\xff\xd9"


class Spoil:
    """What the scan finds."""

    @staticmethod
    def truncated(image):
        cut(image, 0.95)
        return "is truncated: no end of the JPEG"

    @staticmethod
    def cut_within_the_head(image):
        image.write_bytes(image.read_bytes()[:30])
        return "is truncated within the head of the JPEG"

    @staticmethod
    def truncated_behind_a_preview(image):
        """A camera's preview, a whole JPEG in the head, has an end of its own."""
        content = image.read_bytes()
        preview = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
        image.write_bytes((content[:2] + preview + content[2:])[:-20])
        return "is truncated: no end of the JPEG"

    @staticmethod
    def truncated_png(image):
        picture(np.random.default_rng(0), 40, 30).save(image, format="PNG")
        cut(image)
        return "is truncated: no end of the PNG"

    @staticmethod
    def empty(image):
        image.write_bytes(b"")
        return r"is empty \(0 bytes\)"

    @staticmethod
    def text(image):
        image.write_text("no picture")
        return "is no image: it begins with b'no pictu'"

    @staticmethod
    def web_page_for_a_gif(image):
        image.write_bytes(b"GIF8 not really")
        return "cannot be read: cannot identify image file"

    @staticmethod
    def link_to_nowhere(image):
        image.unlink()
        image.symlink_to("nowhere.jpg")
        return "cannot be read: No such file or directory"

    @staticmethod
    def link_to_itself(image):
        image.unlink()
        image.symlink_to(image.name)
        return "cannot be read: Too many levels of symbolic links"

    @staticmethod
    def pipe(image):
        image.unlink()
        os.mkfifo(image)
        return r"is empty|cannot be read"

    @staticmethod
    def too_large(image):
        image.write_bytes(
            b"\xff\xd8" + b"\xff\xc0\x00\x11\x08" + b"\xff\xff\xff\xff" + b"\x03" * 10 + b"\xff\xda\0\2\xff\xd9"
        )
        return "has 65535 x 65535 pixels, more than"

    @staticmethod
    def no_pixels(image):
        image.write_bytes(jpeg_of(bytes(4)))
        return "has 0 x 0 pixels"


SPOILERS = [name for name in vars(Spoil) if not name.startswith("_")]


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_the_scan_names_it_and_leaves_it_out(root, image, spoiler):
    words = getattr(Spoil, spoiler)(image)
    with pytest.raises(UserError, match=rf"1 image cannot be used \(--max-bad-images allows 0\): {image} ({words})"):
        opened(root)
    data = opened(root, allowed=1)
    assert len(data.train) == 15 and str(image) not in set(data.train.records)
    assert [note for note in data.notes if str(image) in note and "left out" in note]
    assert len(trained(data, "torchvision")) == 3


NOT_PLAIN = ("grey_of_16_bits", "colours_of_16_bits", "gif", "bmp", "webp")


@pytest.mark.parametrize("kind", ODD)
def test_a_look_at_the_head_gives_the_size_and_whether_every_decoder_reads_it_alike(tmp_path, kind):
    file = tmp_path / "image.jpg"
    height, width, _ = getattr(Odd, kind)(file).shape
    assert probe(bytes(file)) == (width, height, kind not in NOT_PLAIN, "16_bits" in kind)


def test_the_size_is_found_wherever_the_head_of_a_jpeg_has_it(tmp_path):
    """The head is read 1,024 bytes at a time: before that border, on it and behind it."""
    file = tmp_path / "image.jpg"
    Image.fromarray(Odd.pixels).save(file, quality=95)
    content = file.read_bytes()
    for length in (2, 3, *range(830, 1040)):
        comment = b"\xff\xfe" + struct.pack(">H", length) + bytes(length - 2)
        file.write_bytes(content[:2] + comment + content[2:])
        assert probe(bytes(file)) == (40, 30, True, False), length


@pytest.mark.parametrize("between", (b"\xff" * 3, b"\xff\x01", b"\xff\xd0\xff\xd7"), ids=("fill", "TEM", "RST"))
def test_markers_without_a_length_are_passed_over(tmp_path, between):
    file = tmp_path / "image.jpg"
    Image.fromarray(Odd.pixels).save(file, quality=95)
    content = file.read_bytes()
    file.write_bytes(content[:2] + between + content[2:])
    assert probe(bytes(file)) == (40, 30, True, False)


@pytest.mark.parametrize("filling", (b"\xff", b"\xff\xe0\0\2", b"\xff\xd0"), ids=("fill", "empty", "RST"))
def test_a_head_of_megabytes_that_say_nothing_takes_no_time(tmp_path, filling):
    """Fill bytes are passed over at once; segments without end are no head."""
    file = tmp_path / "image.jpg"
    Image.fromarray(Odd.pixels).save(file, quality=95)
    content = file.read_bytes()
    file.write_bytes(content[:2] + filling * (4_000_000 // len(filling)) + content[2:])
    if filling == b"\xff":
        assert probe(bytes(file)) == (40, 30, True, False)
        assert torch.equal(decode(read_whole(str(file))), torch.from_numpy(np.array(pixels_of(file))))
    else:
        with pytest.raises(BadImage, match="the head of the JPEG has more than 10,000 segments"):
            probe(bytes(file))


def test_a_jpeg_of_12_bits_is_refused_by_name(tmp_path):
    file = tmp_path / "image.jpg"
    file.write_bytes(jpeg_of(b"\x00\x10\x00\x10").replace(b"\x11\x08", b"\x11\x0c"))
    with pytest.raises(BadImage, match="has 12 bits a channel in a JPEG: convert it to 8"):
        probe(bytes(file))


GREY = np.linspace(0, 255, 30 * 40).reshape(30, 40)


def in_mode(mode):
    """The grey values in one of Pillow's modes."""
    if mode in ("I;16", "I", "F"):
        kind, most = {"I;16": (np.uint16, 65535), "I": (np.int32, 65535), "F": (np.float32, 1.0)}[mode]
        return Image.fromarray((GREY / 255 * most).astype(kind))
    grey = Image.fromarray(GREY.round().astype(np.uint8)).convert("RGB")
    return Image.new("LAB", grey.size) if mode == "LAB" else grey.convert(mode)


def written():
    """(mode, ending) of everything that Pillow writes as it is."""
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"):
        for ending in ("tiff", "png", "bmp", "ppm"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                in_mode(mode).save(io.BytesIO(), format=ending)
                yield mode, ending


class TestBits:
    """Every kind of numbers that Pillow can write is used as what it is, or refused by name when it is looked at."""

    def both(self, file):
        """The pixels, or the reason why there are none: the scan refuses what the decoder does."""
        said = []
        for read in (lambda: probe(bytes(file)), lambda: decode(read_whole(str(file)))):
            try:
                found = read()
            except BadImage as error:
                said.append(str(error))
        assert len(said) in (0, 2), said
        return said[-1] if said else found.numpy()

    @pytest.mark.parametrize("mode, ending", list(written()))
    def test_every_mode_in_every_format(self, tmp_path, mode, ending):
        file = tmp_path / f"image.{ending}"
        in_mode(mode).save(file)
        found = self.both(file)
        if isinstance(found, str):
            assert "convert it to 8 bits, or to a PNG of 16" in found
            assert mode in ("LAB", "I;16", "I", "F") and (ending == "tiff" or mode == "F")
        elif mode in ("1", "P"):  # the nearest of the colours that there are
            assert (found == pixels_of(file)).all()
        else:
            assert np.abs(found.astype(float) - GREY[..., None]).max() <= 1.5

    def test_12_bits_in_16_are_refused_in_a_tiff(self, tmp_path):
        Image.fromarray((GREY * 16).astype(np.uint16)).save(tmp_path / "image.tif")
        assert "16" in self.both(tmp_path / "image.tif")

    def test_a_whole_folder_of_them_is_no_data_set(self, tmp_path):
        root = write_folder(tmp_path)
        for file in list(root.glob("*/*/*.png")):
            Image.fromarray(GREY.astype(np.float32) / 255).save(file.with_suffix(".tif"))
            file.unlink()
        with pytest.raises(UserError, match="14 images cannot be used .* holds numbers of Pillow's mode F, which do"):
            opened(root)


@pytest.mark.parametrize("missing", (1, 8, 100))
def test_a_webp_that_is_shorter_than_it_says_is_truncated(tmp_path, missing):
    file = tmp_path / "image.webp"
    Odd.webp(file)
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-missing])
    with pytest.raises(BadImage, match=f"is truncated: {size - missing:,} bytes of {size:,}"):
        probe(bytes(file))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"\xff\xd8\xff\xe0\0\4abnothing", "is damaged: no marker where the head of the JPEG has one"),
        (b"\xff\xd8\xff\xda\0\2" + bytes(20), "is damaged: the JPEG does not say its size"),
        (b"\xff\xd8\xff\xe0\xff\xff" + bytes(20), "is truncated within the head of the JPEG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8), "is truncated: 16 bytes, no head of a PNG"),
        (b"RIFF\x10\x27\0\0WEBP", "is truncated: 12 bytes of 10,008"),
        (b"\0", "is no image: it begins with b'\\x00'"),
    ],
)
def test_a_head_that_cannot_be_is_refused_in_words(tmp_path, content, words):
    file = tmp_path / "image.jpg"
    file.write_bytes(content)
    with pytest.raises(BadImage) as raised:
        probe(bytes(file))
    assert str(raised.value) == words


def test_a_size_above_what_is_read_is_refused(tmp_path):
    file = tmp_path / "image.png"
    whole = png(np.zeros((1, 1, 3), np.uint8), 8, 2)
    for width, height in ((2**31 - 1, 1), (13378, 13378)):
        file.write_bytes(whole[:16] + struct.pack(">II", width, height) + whole[24:])
        with pytest.raises(BadImage, match=f"has {width} x {height} pixels, more than the 178,956,970 that are read"):
            probe(bytes(file))
    file.write_bytes(whole[:16] + struct.pack(">II", 13377, 13377) + whole[24:])
    assert probe(bytes(file))[:2] == (13377, 13377)


class TestDecode:
    def test_what_is_missing_or_empty_or_no_image_is_refused_in_words(self, tmp_path):
        file = tmp_path / "image.jpg"
        missing, empty = "cannot be read: No such file", r"is empty \(0 bytes\)"
        for content, words in ((None, missing), (b"", empty), (b"text", "cannot be read: cannot identify")):
            if content is not None:
                file.write_bytes(content)
            with pytest.raises(BadImage, match=words):
                decode(read_whole(str(file)))

    def test_a_folder_is_no_image(self, tmp_path):
        for read in (lambda: decode(read_whole(str(tmp_path))), lambda: probe(bytes(tmp_path))):
            with pytest.raises(BadImage, match="cannot be read: Is a directory"):
                read()

    @pytest.mark.parametrize("ending", ("jpg", "png"))
    def test_what_ends_too_early_is_refused_by_the_whole_of_it(self, tmp_path, ending):
        """Also where the head is whole."""
        file = tmp_path / f"image.{ending}"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
        file.write_bytes(file.read_bytes()[:-2000])
        with pytest.raises(BadImage, match="cannot be read: "):
            decode(read_whole(str(file)))

    @pytest.mark.parametrize("size", ((1, 1), (1, 7), (7, 1), (3, 5)))
    def test_pixels_are_rows_of_red_green_and_blue(self, tmp_path, size):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        found = decode(read_whole(str(tmp_path / "image.png")))
        assert found.dtype == torch.uint8 and torch.equal(found, torch.from_numpy(pixels))
        assert torch.equal(to_tensor(Image.fromarray(pixels)), found)
