"""CIFAR-10 and CIFAR-100 in the published binary format, or the Python version once its checksum has been verified;
CIFAR-100-C (Hendrycks & Dietterich, 2019) as its arrays."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from fastkd.data.base import DataSet, Part, Split
from fastkd.data.folder import existing_folder
from fastkd.support.errors import UserError
from fastkd.support.files import read_array, read_bytes, read_text
from fastkd.support.paths import expanded, inside, is_file, is_folder, is_there

_PIXELS = 3 * 32 * 32
Triple = tuple[float, float, float]
# CIFAR-100: the figures of RepDistiller and its descendants. CIFAR-10: the usual figures of its training set.
_CIFAR100_MEAN, _CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def cifar100(path: str) -> DataSet:
    """CIFAR-100. path: the folder of train.bin and test.bin (or of cifar-100-binary), or of cifar-100-python."""
    root = existing_folder(path, "cifar100")
    binary = _find(root, "cifar-100-binary", "train.bin")
    if binary is not None:
        train, test = (_read_binary([binary / f"{part}.bin"], label_bytes=2, classes=100) for part in ("train", "test"))
        names = _class_names(binary / "fine_label_names.txt", 100)
    elif is_folder(root / "cifar-100-python"):
        train, test, names = _read_python(root, "CIFAR100")
    else:
        raise UserError(f"no CIFAR-100 in {path}: expected train.bin and test.bin, or the folder cifar-100-python")
    return _data_set("cifar100", train, test, names or 100, (_CIFAR100_MEAN, _CIFAR100_STD))


def cifar10(path: str) -> DataSet:
    """CIFAR-10.

    path: the folder of data_batch_1.bin … test_batch.bin (or of cifar-10-batches-bin), or of cifar-10-batches-py.
    """
    root = existing_folder(path, "cifar10")
    binary = _find(root, "cifar-10-batches-bin", "data_batch_1.bin")
    if binary is not None:
        parts = [binary / f"data_batch_{number}.bin" for number in range(1, 6)]
        train = _read_binary(parts, label_bytes=1, classes=10)
        test = _read_binary([binary / "test_batch.bin"], label_bytes=1, classes=10)
        names = _class_names(binary / "batches.meta.txt", 10)
    elif is_folder(root / "cifar-10-batches-py"):
        train, test, names = _read_python(root, "CIFAR10")
    else:
        raise UserError(f"no CIFAR-10 in {path}: expected data_batch_1.bin …, or the folder cifar-10-batches-py")
    return _data_set("cifar10", train, test, names or 10, (_CIFAR10_MEAN, _CIFAR10_STD))


def cifar100c(path: str) -> DataSet:
    """CIFAR-100-C, which has no images to train on.

    Each file holds the test images at five severities, one after the other: its `parts`.

    path: the folder of labels.npy and fog.npy, frost.npy …, to test on all of them; or one of these files.
    """
    if not path:
        raise UserError("cifar100c needs a folder, or one of its files: --data cifar100c:PATH")
    place = expanded(path)
    if not is_there(place):
        raise UserError(f"no folder and no file {path} (from --data cifar100c:{path})")
    root = place if is_folder(place) else place.parent
    files = sorted(set(inside(root, "*.npy")) - {root / "labels.npy"}) if is_folder(place) else [place]
    if not files:
        raise UserError(f"no CIFAR-100-C in {path}: expected labels.npy, fog.npy …")
    labels = _array(root / "labels.npy", 1)
    if labels.dtype.kind not in "iu" or labels.dtype.itemsize > 8:
        raise UserError(f"{root / 'labels.npy'} holds {labels.dtype}, expected integers from 0 to 99")
    if labels.size and not 0 <= labels.min() <= labels.max() < 100:
        raise UserError(f"{root / 'labels.npy'} has labels from {labels.min()} to {labels.max()}, expected 0 to 99")
    images = torch.empty(len(files), len(labels), 32, 32, 3, dtype=torch.uint8)
    for place, file in enumerate(files):  # one at a time: all of them together are 3 GB
        found = _array(file, 4)
        if found.shape != (len(labels), 32, 32, 3) or found.dtype != np.uint8:
            wanted = f"({len(labels)}, 32, 32, 3) of uint8"
            raise UserError(f"{file} has the shape {found.shape} of {found.dtype}, expected {wanted}")
        images[place].numpy()[:] = found
    test = Split(images.flatten(0, 1), torch.from_numpy(np.tile(labels.astype(np.int64), len(files))))
    none = Split(torch.empty(0, 32, 32, 3, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    names = tuple(str(number) for number in range(100))
    corruptions = ", ".join(file.stem for file in files)
    return DataSet(
        name="cifar100c",
        train=none,
        test=test,
        classes=names,
        mean=_CIFAR100_MEAN,
        std=_CIFAR100_STD,
        named=False,
        notes=(f"CIFAR-100-C: {corruptions}",),
        parts=tuple(_severities([file.stem for file in files], len(labels))),
    )


_SEVERITIES = 5


def _severities(names: Sequence[str], rows: int) -> Iterator[Part]:
    """The parts of files of so many rows each; none where these are not five of one length."""
    size = rows // _SEVERITIES
    for place, name in enumerate(names if size * _SEVERITIES == rows else ()):
        for level in range(_SEVERITIES):
            start = place * rows + level * size
            yield Part(name, level + 1, start, start + size)


def _array(file: Path, axes: int) -> np.ndarray:
    if not is_file(file):
        raise UserError(f"no file {file}")
    found = read_array(file)
    if not isinstance(found, np.ndarray) or found.ndim != axes:
        raise UserError(f"{file} is no array with {axes} axes")
    return np.asarray(found)


def _find(root: Path, folder: str, file: str) -> Path | None:
    return next((place for place in (root, root / folder) if is_file(place / file)), None)


def _read_binary(files: list[Path], *, label_bytes: int, classes: int) -> Split:
    """Reads records of a label (CIFAR-100: a coarse one and the label), 1024 red, 1024 green and 1024 blue bytes."""
    record = label_bytes + _PIXELS
    parts = []
    for file in files:
        if not is_file(file):
            raise UserError(f"no file {file}")
        content = read_bytes(file)
        size = len(content)
        if size == 0 or size % record:
            raise UserError(f"{file} has {size:,} bytes, expected a multiple of {record:,} above 0: truncated?")
        part = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
        highest = int(part[:, label_bytes - 1].max())
        if highest >= classes:
            first = int((part[:, label_bytes - 1] >= classes).argmax())
            raise UserError(f"{file}: record {first} has label {highest}, expected 0 to {classes - 1}")
        parts.append(part)
    records = torch.from_numpy(np.concatenate(parts))
    images = records[:, label_bytes:].contiguous().view(-1, 3, 32, 32).permute(0, 2, 3, 1)
    return Split(images, records[:, label_bytes - 1].to(torch.int64))


def _read_python(root: Path, name: str) -> tuple[Split, Split, tuple[str, ...]]:
    # torchvision compares every file with its published MD5 before it unpickles anything.
    import torchvision.datasets

    try:
        train, test = (getattr(torchvision.datasets, name)(str(root), train=train) for train in (True, False))
    except RuntimeError as error:
        raise UserError(
            f"the Python version of {name} in {root} is incomplete or does not match its published checksum"
        ) from error
    splits = [Split(torch.from_numpy(part.data), torch.tensor(part.targets)) for part in (train, test)]
    return splits[0], splits[1], tuple(train.classes)


def _data_set(
    name: str, train: Split, test: Split, classes: tuple[str, ...] | int, statistics: tuple[Triple, Triple]
) -> DataSet:
    """classes: their names, or how many there are that nobody has named."""
    named = not isinstance(classes, int)
    names = classes if named else tuple(str(number) for number in range(classes))
    return DataSet(name=name, train=train, test=test, classes=names, mean=statistics[0], std=statistics[1], named=named)


def _class_names(file: Path, classes: int) -> tuple[str, ...]:
    """The names in a file; none where it is not there, or names another number of classes."""
    if is_file(file):
        names = tuple(line.strip() for line in read_text(file).splitlines() if line.strip())
        if len(set(names)) == len(names) == classes:
            return names
    return ()
