"""Image folders: TRAIN/CLASS/*.jpg and VAL/CLASS/*.jpg, and Tiny-ImageNet's own arrangement."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from fastkd.data.base import DataSet, FileSplit, Reading, Split
from fastkd.data.boxes import centres
from fastkd.data.decoding import EXTENSIONS, BadImage
from fastkd.data.failures import Failures
from fastkd.data.found import Found
from fastkd.data.index import class_folders, scan
from fastkd.support.environment import free_memory
from fastkd.support.errors import UserError
from fastkd.support.files import read_text
from fastkd.support.paths import expanded, is_file, is_folder, is_there
from fastkd.support.words import counted

_TEST_FOLDERS = ("val", "validation", "valid", "test")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Over all pixels of the training images. Some code, Tf-KD's among it, divides by 0.2302, 0.2265, 0.2262 instead: the
# mean of each image's own deviation.
_TINY_MEAN, _TINY_STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
_SHOWN = 3
_LARGE = 1 << 24  # pixels, from which on a picture's memory is looked at
_BYTES_OF_A_PIXEL = 8  # while it is decoded: four in Pillow, three in the tensor


def imagefolder(path: str, reading: Reading, cache: Path | None = None) -> DataSet:
    """The files of path/train/CLASS and of path/val/CLASS (or path/test/CLASS); nothing is decoded yet.

    Classes are the folders of path/train in the order of their names, unless reading.class_list (else
    path/classes.txt) chooses and orders them by lines: a FOLDER, or a FOLDER and a name to show.
    """
    root = existing_folder(path, "imagefolder")
    test_root = next((root / name for name in _TEST_FOLDERS if is_folder(root / name)), None)
    if not is_folder(root / "train") or test_root is None:
        raise UserError(
            f"{path} has no folders 'train' and 'val' (or {', '.join(map(repr, _TEST_FOLDERS[1:]))}) with one folder a "
            f"class in each{_what_there_is(root)}"
        )
    folders, names, notes = _classes(root / "train", root, reading.class_list)
    tested, _ = class_folders(test_root)
    if not tested:
        raise UserError(f"{test_root} has no class folders{_where_images_lie(test_root)}")
    strangers = sorted(set(tested) - set(class_folders(root / "train")[0]))
    if strangers:
        raise UserError(f"{test_root} has a class {strangers[0]!r} that {root / 'train'} lacks")
    threads = max(1, reading.decoders())
    parts = (root / "train", test_root)
    train, test = (_scanned(part, folders, threads=threads, cache=cache) for part in parts)
    data = _data_set("imagefolder", train, test, names, (_IMAGENET_MEAN, _IMAGENET_STD), reading, notes)
    for split, part in zip((train, test), parts, strict=True):
        _check_classes(split.labels[split.usable], part, folders)
    return data


def _scanned(part: Path, folders: tuple[str, ...], *, threads: int, cache: Path | None) -> Found:
    found = scan(part, folders, threads=threads, cache=cache, name=part.name)
    _check_classes(found.labels, part, folders)
    return found


def class_folder_tree(path: str, reading: Reading, cache: Path | None = None) -> DataSet:
    """The files of path/CLASS, all of them for training: no set to train with, but one to look at."""
    root = existing_folder(path, "imagefolder")
    folders, names, notes = _classes(root, root, reading.class_list)
    threads = max(1, reading.decoders())
    every, none = (scan(root, part, threads=threads, cache=cache, name=root.name) for part in (folders, ()))
    return _data_set("class folders", every, none, names, (_IMAGENET_MEAN, _IMAGENET_STD), reading, notes)


def tiny_imagenet(path: str, reading: Reading, cache: Path | None = None) -> DataSet:
    """The folder tiny-imagenet-200: train/WNID/images, and val/images with val/val_annotations.txt."""
    root = existing_folder(path, "tiny-imagenet")
    if reading.class_list is not None:
        raise UserError("--class-list changes nothing: the classes of tiny-imagenet are those of its wnids.txt")
    annotations = root / "val" / "val_annotations.txt"
    folders = tuple(line.split()[0] for line in _lines(root / "wnids.txt"))
    if not folders or len(set(folders)) != len(folders):
        raise UserError(f"{root / 'wnids.txt'} names no classes, or one twice")
    folders = tuple(sorted(folders))  # wnids.txt is in no order; torchvision's ImageFolder sorts
    words = dict(line.split("\t", 1) for line in _lines(root / "words.txt")) if is_there(root / "words.txt") else {}
    label_of = {}
    for number, line in enumerate(_lines(annotations), 1):
        name, _, rest = line.partition("\t")
        folder = rest.split("\t")[0]
        if folder not in folders:
            raise UserError(f"{annotations}, line {number}: expected FILE and one of the classes of wnids.txt")
        label_of[f"images/{name}".encode()] = folders.index(folder)
    threads = max(1, reading.decoders())
    train = scan(root / "train", folders, threads=threads, cache=cache, name="train")
    test = scan(root / "val", ("images",), threads=threads, cache=cache, name="val")
    names = [test.records.name(place) for place in range(len(test.records))]
    unknown = next((name for name in names if name not in label_of), None)
    if unknown is not None:
        raise UserError(f"{annotations} does not name {unknown.decode(errors='replace')}")
    if missing := sorted(set(label_of) - set(names)):
        raise UserError(f"no file {root / 'val' / missing[0].decode()}, which {annotations} names")
    test = replace(test, labels=np.array([label_of[name] for name in names]))
    shown = tuple(words.get(folder, folder) for folder in folders)
    return _data_set("tiny-imagenet", train, test, shown, (_TINY_MEAN, _TINY_STD), reading, [])


def existing_folder(path: str, name: str) -> Path:
    if not path:
        raise UserError(f"{name} needs a folder: --data {name}:PATH")
    folder = expanded(path)
    if not is_folder(folder):
        raise UserError(f"no folder {path} (from --data {name}:{path})")
    return folder


def load_resident(split: FileSplit, image_size: int, threads: int, failures: Failures) -> Split:
    """Decodes every image; one that is not image_size x image_size is resized (shorter side) and cropped (centre)."""
    need, free = len(split) * image_size**2 * 3, free_memory()
    if free is not None and need > free:
        raise UserError(
            f"{len(split):,} images of {image_size} pixels take {need / 2**30:,.1f} GiB, {free / 2**30:,.1f} are free: "
            "leave them in their files with --resident off"
        )
    planes = torch.empty(len(split), 3, image_size, image_size, dtype=torch.uint8)
    resized, corners = centres(split.sizes, image_size, image_size)
    failed: dict[int, str] = {}

    def load(number: int) -> None:
        try:
            pixels = split.records.pixels(number)
            size = (pixels.shape[1], pixels.shape[0])
            if size != tuple(split.sizes[number]):
                raise BadImage(f"has {size[0]} x {size[1]} pixels, its head says otherwise")
            planes[number] = centre_crop(pixels, resized[number], corners[number], image_size).permute(2, 0, 1)
        except BadImage as error:
            failed[number] = str(error)

    with ThreadPoolExecutor(max_workers=threads) as pool:
        for _ in pool.map(load, range(len(split))):
            pass
    whole = Split(planes.movedim(1, -1), split.labels)
    if not failed:
        return whole
    failures.add({split.records[number]: failed[number] for number in sorted(failed)})
    return whole.take(np.setdiff1d(np.arange(len(split)), list(failed)))


def centre_crop(pixels_HWC: Tensor, resized: np.ndarray, corner: np.ndarray, crop_to: int) -> Tensor:
    """The image resized to (width, height), then crop_to x crop_to from (left, top) on; black outside of the image."""
    (width, height), (left, top) = resized.tolist(), corner.tolist()
    pixels = resized_to(pixels_HWC, width, height)
    if left >= 0 and top >= 0:
        return pixels[top : top + crop_to, left : left + crop_to]
    out = pixels.new_zeros(crop_to, crop_to, 3)
    part = pixels[max(top, 0) : top + crop_to, max(left, 0) : left + crop_to]
    out[max(-top, 0) : max(-top, 0) + part.shape[0], max(-left, 0) : max(-left, 0) + part.shape[1]] = part
    return out


def resized_to(pixels_HWC: Tensor, width: int, height: int) -> Tensor:
    """[height,width,3] uint8, as torchvision resizes bytes: bilinear, antialiased."""
    if pixels_HWC.shape[:2] == (height, width):
        return pixels_HWC
    return resize(pixels_HWC.permute(2, 0, 1), [height, width], antialias=True).permute(1, 2, 0)


def _data_set(
    name: str,
    train: Found,
    test: Found,
    classes: tuple[str, ...],
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]],
    reading: Reading,
    notes: Iterable[str],
) -> DataSet:
    failures = Failures(reading.max_bad_images)
    failures.add(train.bad | test.bad)
    told = list(notes)
    for path, reason in failures.reasons.items():
        told.append(f"{path} {reason}: left out")
    if ignored := train.ignored + test.ignored:
        told.append(f"files that do not end as images do, passed over: {len(ignored)}, as {_some(ignored)}")
    if debris := train.debris + test.debris:
        told.append(f"files and folders that tools left, passed over: {len(debris)}, as {_some(debris)}")
    if again := train.doubles + test.doubles:
        told.append(f"files that may be copies of others, but are taken: {len(again)}, as {_some(again)}")
    _refuse_what_no_memory_takes(train, test, reading)
    if scaled := train.scaled + test.scaled:
        told.append(f"images with 16 bits a channel, of which the upper 8 are used: {scaled}")
    return DataSet(
        name=name,
        train=_usable(train),
        test=_usable(test),
        classes=classes,
        mean=statistics[0],
        std=statistics[1],
        failures=failures,
        scans=(train, test),
        notes=tuple(told),
    )


def _refuse_what_no_memory_takes(train: Found, test: Found, reading: Reading) -> None:
    """A picture of a few kilobytes can take gigabytes when it is decoded, in every worker at once."""
    largest = max((found for found in (train, test)), key=_most_pixels)
    if _most_pixels(largest) < _LARGE:
        return
    need, free = _most_pixels(largest) * _BYTES_OF_A_PIXEL * max(1, reading.decoders()), free_memory()
    if free is not None and need > free:
        place = int(largest.sizes.astype(np.int64).prod(1).argmax())
        width, height = largest.sizes[place].tolist()
        taken = f"decoded by {counted(max(1, reading.decoders()), 'worker')} it takes {need / 2**30:,.1f} GiB"
        raise UserError(
            f"{largest.records[place]} has {width} x {height} pixels: {taken}, {free / 2**30:,.1f} are free: "
            "make it smaller, or lower --workers"
        )


def _most_pixels(found: Found) -> int:
    return int(found.sizes.astype(np.int64).prod(1).max(initial=0))


def _usable(found: Found) -> FileSplit:
    kept = found.usable
    return FileSplit(
        found.records.take(kept), torch.from_numpy(found.labels[kept]), found.sizes[kept], found.plain[kept]
    )


def _check_classes(labels: np.ndarray, root: Path, folders: tuple[str, ...]) -> None:
    counts = np.bincount(labels, minlength=len(folders))
    if counts.all():
        return
    empty = root / folders[int(counts.argmin())]
    if not is_folder(empty):
        raise UserError(f"no class folder {empty}: every class has images to train on and images to test on")
    raise UserError(f"the class folder {empty} has no images: files that end in {', '.join(EXTENSIONS)}")


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")


def _what_there_is(root: Path) -> str:
    """The end of a message that looks for other folders."""
    there, _ = class_folders(root)
    return f"; it has {_some(there)}" if there else ""


def _where_images_lie(root: Path) -> str:
    """The end of a message that looks for folders of classes."""
    with os.scandir(root) as entries:
        flat = next((entry.name for entry in entries if entry.name.lower().endswith(EXTENSIONS)), None)
    return "" if flat is None else f", but images, as {flat}: put each into a folder with the name of its class"


def _classes(train: Path, root: Path, class_list: Path | None) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """The folders in `train`, the names to show, and notes for the user. root: where a classes.txt may lie."""
    there, debris = class_folders(train)
    if not there:
        raise UserError(f"{train} has no class folders{_where_images_lie(train)}")
    passed_over = [f"folders that tools left, no classes: {len(debris)}, as {_some(debris)}"] if debris else []
    file = Path(class_list) if class_list is not None else root / "classes.txt"
    if class_list is None and not is_file(file):
        return there, there, passed_over
    known = {*there, *debris}
    listed = [[line] if line in known else line.split("\t" if "\t" in line else None, 1) for line in _lines(file)]
    folders = tuple(line[0] for line in listed)
    if class_list is None and sorted(folders) != sorted(there):
        notes = [f"{file} does not name the folders of {root / 'train'}: it is passed over"]
        return there, there, notes + passed_over
    if not folders:
        raise UserError(f"{file} names no classes")
    if twice := next((folder for folder, count in Counter(folders).items() if count > 1), None):
        raise UserError(f"{file} names the class {twice!r} twice")
    if missing := next((folder for folder in folders if folder not in known), None):
        raise UserError(f"{file} names a class {missing!r} that has no folder in {root / 'train'}")
    left = len(there) - len(folders)
    notes = [f"{file} names {len(folders)} of the {len(there)} classes in {root / 'train'}"] if left else passed_over
    return folders, tuple(line[1].strip() if len(line) > 1 else line[0] for line in listed), notes


def _lines(file: Path) -> list[str]:
    return [line for line in read_text(file).splitlines() if line.strip()]
