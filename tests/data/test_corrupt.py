"""Files that are damaged, odd or not what they seem: none kills a run that allowed it, none passes silently."""

import contextlib
import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import LOADERS, picture, write_folder
from PIL import Image

from fastkd.data import Augmentation, Reading, evaluation_source, open_dataset, training_source
from fastkd.data.decoding import decode
from fastkd.errors import UserError

SIZE = 16


def opened(root, allowed=0, resident=False):
    reading = Reading(max_bad_images=allowed)
    return open_dataset(
        f"imagefolder:{root}", image_size=SIZE, resident=resident, limit_train=None, threads=2, reading=reading
    )


def trained(data, loader, epoch=0, start=0, **options):
    settings = {"image_size": SIZE, "batch_size": 4, "seed": 1, "augmentation": Augmentation(crop="resized")}
    source = training_source(data, loader=loader, **(settings | options))
    return list(source.loader.epoch(epoch, start))


def evaluated(data, loader, batch_size=3):
    return list(evaluation_source(data, image_size=SIZE, batch_size=batch_size, loader=loader).loader.epoch(0))


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path, size=None, ending="jpg", per_class=8, tests=4)


@pytest.fixture
def image(root):
    return root / "train" / "ant" / "3.jpg"


def cut(file, share=0.5):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


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
    assert len(data.train) == 15 and str(image) not in set(data.train.paths)
    assert [note for note in data.notes if str(image) in note and "left out" in note]
    assert len(trained(data, "torchvision")) == 3


def test_several_are_listed_and_counted(root):
    files = sorted((root / "train" / "bee").iterdir())[:3] + sorted((root / "val" / "ant").iterdir())[:1]
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(UserError) as raised:
        opened(root, allowed=3)
    line = str(raised.value)
    assert line.startswith("4 images cannot be used (--max-bad-images allows 3)") and "\n" not in line
    assert all(f"{file} is empty" in line for file in files)
    data = opened(root, allowed=4)
    assert (len(data.train), len(data.test)) == (13, 7)


def test_a_long_list_is_cut(root):
    for part in ("train", "val"):
        for file in (root / part).rglob("[1-9].jpg"):
            file.write_bytes(b"")
    with pytest.raises(UserError, match=r"20 images cannot be used .*; and 10 more$"):
        opened(root)


def test_a_class_without_usable_images_is_an_error(root):
    for file in (root / "val" / "ant").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="the class folder .*val.ant has no images"):
        opened(root, allowed=10)


def test_unreadable_file():
    with tempfile.TemporaryDirectory() as place:
        root = write_folder(Path(place) / "data", size=None, ending="jpg")
        os.chmod(place, 0o755)
        image = root / "train" / "ant" / "3.jpg"
        image.chmod(0)
        with unprivileged():
            with pytest.raises(UserError, match=f"{image} cannot be read: Permission denied"):
                opened(root)
            assert len(opened(root, allowed=1).train) == 9
        image.chmod(0o644)
        image.parent.chmod(0)
        with unprivileged(), pytest.raises(UserError, match=f"{image.parent}.*(cannot be read|has no images)"):
            opened(root)
        image.parent.chmod(0o755)


@contextlib.contextmanager
def unprivileged():
    """Root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_circle_of_links(root):
    (root / "train" / "ant" / "again").symlink_to(root / "train" / "ant")
    with pytest.raises(UserError, match=r"again is a link to a folder that it lies in"):
        opened(root)
    assert len(opened(root, allowed=1).train) == 16


def test_links_that_are_no_circle_are_followed(root):
    (root / "train" / "ant" / "more").symlink_to(root / "train" / "bee")
    data = opened(root)
    assert data.train.labels.tolist() == [0] * 16 + [1] * 8


def test_other_files_are_passed_over_and_told(root):
    for name in ("notes.txt", "more.csv"):
        (root / "train" / "ant" / name).write_text("")
    data = opened(root)
    assert len(data.train) == 16
    assert "2 files that do not end as images do are passed over" in data.notes[0] and "notes.txt" in data.notes[0]


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


class TestWhileTraining:
    """Files that break after the scan."""

    def spoil(self, data, *places, content=None):
        for place in places:
            file = data.train.paths[place]
            Path(file).write_bytes(Path(file).read_bytes()[:300] if content is None else content)

    @pytest.mark.parametrize("loader", LOADERS)
    @pytest.mark.parametrize("content", (None, b"", b"text"), ids=("truncated", "empty", "text"))
    def test_without_allowance_it_is_an_error_that_names_the_file(self, root, loader, content):
        data = opened(root)
        self.spoil(data, 5, content=content)
        with pytest.raises(UserError, match=rf"1 image cannot be used .*{data.train.paths[5]}"):
            trained(data, loader, batch_size=16)

    @pytest.mark.parametrize("loader", LOADERS)
    @pytest.mark.parametrize("content", (None, b"", b"text"), ids=("truncated", "empty", "text"))
    def test_another_sample_takes_its_place(self, root, loader, content):
        data = opened(root, allowed=2)
        whole = trained(data, loader)
        told = []
        data.failures.report = told.append
        self.spoil(data, 5, 9, content=content)
        found = trained(data, loader)
        stand_ins = {}
        for before, after in zip(whole, found, strict=True):
            for row, (place, other) in enumerate(zip(before.index.tolist(), after.index.tolist(), strict=True)):
                if place in (5, 9):
                    stand_ins[place] = other
                    assert other not in (5, 9)
                else:
                    assert place == other
                    assert torch.equal(before.images[:, row], after.images[:, row])
        assert len(told) == len(stand_ins) > 0
        assert all("another takes its place" in line for line in told)
        # A function of (seed, index): the same in another epoch, another batch, another order of reading.
        for options in ({"epoch": 3}, {"batch_size": 2}, {"batch_size": 8, "start": 1}):
            again = trained(data, loader, **options)
            before = trained_indices(data, **options)
            for place, other in zip(before, torch.cat([raw.index for raw in again]).tolist(), strict=True):
                assert other == stand_ins.get(place, place) or place in (5, 9)
        assert data.failures.reasons.keys() <= {data.train.paths[5], data.train.paths[9]}

    def test_both_loaders_choose_the_same_stand_in(self, root):
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
        data = opened(root, allowed=3)
        self.spoil(data, 2, 5, 9)
        ours, theirs = (trained(data, loader, drop_last=False) for loader in ("dali", "torchvision"))
        assert [raw.index.tolist() for raw in ours] == [raw.index.tolist() for raw in theirs]

    @pytest.mark.parametrize("loader", LOADERS)
    def test_one_more_than_allowed(self, root, loader):
        data = opened(root, allowed=1)
        self.spoil(data, 5, 9)
        with pytest.raises(UserError, match=r"2 images cannot be used \(--max-bad-images allows 1\)"):
            trained(data, loader, batch_size=16)

    def test_the_scan_and_the_training_share_the_allowance(self, root, image):
        image.write_bytes(b"")
        data = opened(root, allowed=1)
        self.spoil(data, 5)
        with pytest.raises(UserError, match="2 images cannot be used"):
            trained(data, "torchvision", batch_size=15)

    @pytest.mark.parametrize("loader", LOADERS)
    def test_evaluation_leaves_it_out(self, root, loader):
        data = opened(root, allowed=3)
        for place in (1, 3, 4):  # with batches of two: halves of two batches, and one half
            Path(data.test.paths[place]).write_bytes(b"text")
        data.failures.report = lambda line: None
        found = evaluated(data, loader, batch_size=2)
        assert [raw.index.tolist() for raw in found] == [[0], [2], [5], [6, 7]]

    @pytest.mark.parametrize("loader", LOADERS)
    def test_no_empty_batch(self, root, loader):
        data = opened(root, allowed=3)
        for place in (2, 3, 7):
            Path(data.test.paths[place]).write_bytes(b"")
        assert [raw.index.tolist() for raw in evaluated(data, loader, batch_size=2)] == [[0, 1], [4, 5], [6]]

    @pytest.mark.parametrize("loader", LOADERS)
    def test_an_image_of_another_size(self, root, loader):
        """Its crop was chosen for the size that the scan saw."""
        data = opened(root, allowed=1)
        picture(np.random.default_rng(0), 5, 5).save(data.train.paths[5])
        try:
            found = trained(data, loader, batch_size=16)
        except UserError as error:
            pytest.fail(str(error))
        assert sum(len(raw.index) for raw in found) == 16

    def test_resident_sets_leave_it_out_when_they_are_decoded(self, root, image):
        content = bytearray(image.read_bytes())
        content[-60:-2] = b"\xff\xd9" * 29  # the scan sees an end
        image.write_bytes(content[:200] + content[-60:])
        with pytest.raises(UserError, match=f"1 image cannot be used .*{image}"):
            opened(root, resident=True)
        data = opened(root, allowed=1, resident=True)
        assert len(data.train) == 15


def trained_indices(data, epoch=0, start=0, batch_size=4):
    from fastkd.data.order import Order

    return torch.cat(list(Order(len(data.train), batch_size, 1).epoch(epoch, start))).tolist()
