"""As many small pictures as ImageNet has, in folders by hard links and in tar shards, made of twenty photographs."""

import io
import itertools
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pictures import REAL

SIDE = 64
"""Pixels of a picture's sides: decoding is not what is measured."""
_LINKS = 60_000
"""Names of one file: ext4 allows 65,000."""
_LEAST_ORIGINALS = 20
_OF_A_SHARD = 10_000
PARTS = ("train", "val")


def originals(count: int) -> list[bytes]:
    """JPEGs of so many photographs of imagenet-sample, or of noise where it is not beside the checkout."""
    files = sorted((REAL / "imagenet-sample").glob("*/*"))[:count]
    pictures = [Image.open(file) for file in files] or [_noise(number) for number in range(count)]
    return [_jpeg(pictures[number % len(pictures)]) for number in range(count)]


def _noise(number: int) -> Image.Image:
    small = Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _jpeg(picture: Image.Image) -> bytes:
    found = io.BytesIO()
    picture.convert("RGB").resize((SIDE, SIDE)).save(found, "JPEG", quality=75)
    return found.getvalue()


def needed(images: int) -> int:
    """How many originals so many names need."""
    return max(_LEAST_ORIGINALS, -(-images // _LINKS))


def names(part: str, images: int, classes: int) -> Iterator[str]:
    """PART/CLASS/CLASS_NUMBER.JPEG, as ImageNet's are called, class by class."""
    for label in range(classes):
        for number in range(images // classes + (label < images % classes)):
            yield f"{part}/n{label:08}/n{label:08}_{number}.JPEG"


def make_folders(root: Path, images: int, tested: int, classes: int) -> str:
    """root/train and root/val by hard links to files in root/originals; returns what --data calls it."""
    (root / "originals").mkdir(parents=True)
    sources = []
    for number, content in enumerate(originals(needed(images + tested))):
        sources.append(root / "originals" / f"{number}.JPEG")
        sources[-1].write_bytes(content)
    for part, label in itertools.product(PARTS, range(classes)):
        (root / part / f"n{label:08}").mkdir(parents=True)
    both = itertools.chain(names("train", images, classes), names("val", tested, classes))
    for place, name in enumerate(both):
        os.link(sources[place % len(sources)], root / name)
    return f"imagefolder:{root}"


def make_shards(root: Path, images: int, tested: int, classes: int) -> str:
    """The same pictures in root/PART-NUMBER.tar, each in the folder of its class; returns what --data calls them."""
    root.mkdir(parents=True)
    contents = originals(needed(images + tested))
    place = 0
    for part, count in zip(PARTS, (images, tested), strict=True):
        for number, portion in enumerate(_portions(part, count, classes)):
            with open(root / f"{part}-{number:06}.tar", "wb") as file:
                for name in portion:
                    file.write(_member(name.removeprefix(f"{part}/"), contents[place % len(contents)]))
                    place += 1
                file.write(bytes(2 * tarfile.BLOCKSIZE))
    return f"tar:{root}/*.tar"


def _portions(part: str, count: int, classes: int) -> Iterator[list[str]]:
    every = names(part, count, classes)
    while portion := list(itertools.islice(every, _OF_A_SHARD)):
        yield portion


def _member(name: str, content: bytes) -> bytes:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    padding = -len(content) % tarfile.BLOCKSIZE
    return about.tobuf(tarfile.USTAR_FORMAT) + content + bytes(padding)
