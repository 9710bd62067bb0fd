"""STL-10 in its published binary format: 5,000 training and 8,000 test images of 96 pixels, 10 classes."""

from pathlib import Path

import numpy as np
import torch

from fastkd.data.base import DataSet, Split, channel_statistics
from fastkd.data.folder import existing_folder
from fastkd.support.errors import UserError
from fastkd.support.files import read_bytes, read_text
from fastkd.support.paths import is_file, is_folder

_SIZE = 96
_RECORD = 3 * _SIZE * _SIZE


def stl10(path: str) -> DataSet:
    """STL-10. path: the folder of train_X.bin, train_y.bin, test_X.bin, test_y.bin (or of stl10_binary)."""
    root = existing_folder(path, "stl10")
    if not is_file(root / "train_X.bin") and is_folder(root / "stl10_binary"):
        root = root / "stl10_binary"
    names = tuple(str(number) for number in range(10))
    named = is_file(root / "class_names.txt")
    if named:
        names = tuple(read_text(root / "class_names.txt").split())
        if len(names) != 10:
            raise UserError(f"{root / 'class_names.txt'} has {len(names)} names, expected 10")
    train, test = (_read(root, part) for part in ("train", "test"))
    mean, std = channel_statistics(train.images)
    return DataSet(name="stl10", train=train, test=test, classes=names, mean=mean, std=std, named=named)


def _read(root: Path, part: str) -> Split:
    """Images are planes of red, green and blue, each column after column; labels begin with 1."""
    pixels, labels = _bytes(root / f"{part}_X.bin", _RECORD), _bytes(root / f"{part}_y.bin", 1)
    if len(pixels) != len(labels):
        raise UserError(f"{root}: {len(pixels)} {part} images and {len(labels)} labels")
    if labels.min() < 1 or labels.max() > 10:
        raise UserError(f"{root / f'{part}_y.bin'} has labels from {labels.min()} to {labels.max()}, expected 1 to 10")
    planes = np.ascontiguousarray(pixels.reshape(-1, 3, _SIZE, _SIZE).swapaxes(2, 3))
    return Split(torch.from_numpy(planes).movedim(1, -1), torch.from_numpy(labels[:, 0].astype(np.int64) - 1))


def _bytes(file: Path, record: int) -> np.ndarray:
    if not is_file(file):
        raise UserError(f"no file {file}")
    content = read_bytes(file)
    size = len(content)
    if size == 0 or size % record:
        raise UserError(f"{file} has {size:,} bytes, expected a multiple of {record:,} above 0: truncated?")
    return np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
