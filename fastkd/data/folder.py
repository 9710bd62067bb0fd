"""Image folders: TRAIN/CLASS/*.jpg and VAL/CLASS/*.jpg."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fastkd.data.base import DataSet, FileSplit, Split
from fastkd.errors import UserError

_EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".gif", ".tif", ".tiff"}
_TEST_FOLDERS = ("val", "test")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagefolder(path: str) -> DataSet:
    """The files of path/train/CLASS and of path/val/CLASS (or path/test/CLASS); nothing is decoded yet."""
    if not path:
        raise UserError("imagefolder needs a folder: --data imagefolder:PATH")
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"no folder {path} (from --data imagefolder:{path})")
    test_root = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or test_root is None:
        raise UserError(f"{path} has no folders 'train' and 'val' (or 'test') with one folder a class in each")
    classes = tuple(sorted(entry.name for entry in os.scandir(root / "train") if entry.is_dir()))
    if not classes:
        raise UserError(f"{root / 'train'} has no class folders")
    test_classes = {entry.name for entry in os.scandir(test_root) if entry.is_dir()}
    strangers = sorted(test_classes - set(classes))
    if strangers:
        raise UserError(f"{test_root} has a class {strangers[0]!r} that {root / 'train'} lacks")
    return DataSet(
        name="imagefolder",
        train=_scan(root / "train", classes),
        test=_scan(test_root, classes),
        classes=classes,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    )


def _scan(root: Path, classes: tuple[str, ...]) -> FileSplit:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            os.path.join(folder, file)
            for folder, _, names in os.walk(root / name)
            for file in names
            if os.path.splitext(file)[1].lower() in _EXTENSIONS
        )
        if not found:
            raise UserError(f"the class folder {root / name} has no images")
        paths += found
        labels += [label] * len(found)
    return FileSplit(tuple(paths), torch.tensor(labels))


def decode(path: str) -> Image.Image:
    """The image as RGB, as it is stored (EXIF orientation is left alone)."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the image {path}: {error}") from error


def load_resident(split: FileSplit, image_size: int, threads: int) -> Split:
    """Decodes every image; one that is not image_size x image_size is resized (shorter side) and cropped (centre)."""
    images = torch.empty(len(split.paths), image_size, image_size, 3, dtype=torch.uint8)

    def place(number: int) -> None:
        images[number] = to_tensor(centre(decode(split.paths[number]), image_size, image_size))

    with ThreadPoolExecutor(max_workers=threads) as pool:
        for _ in pool.map(place, range(len(split.paths))):
            pass
    return Split(images, split.labels)


def centre(image: Image.Image, resize_to: int, crop_to: int) -> Image.Image:
    """The shorter side resized to `resize_to` pixels, then the centre `crop_to` x `crop_to`; as torchvision does it."""
    width, height = image.size
    shorter = min(width, height)
    if shorter != resize_to:
        width, height = int(width * resize_to / shorter), int(height * resize_to / shorter)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - crop_to) / 2), round((height - crop_to) / 2)
    return image.crop((left, top, left + crop_to, top + crop_to))


def to_tensor(image: Image.Image) -> Tensor:
    """[H,W,3] uint8"""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
