"""Image folders: TRAIN/CLASS/*.jpg and VAL/CLASS/*.jpg, and Tiny-ImageNet's own arrangement."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from fastkd.data.assembled import assembled, check_classes, some, stratified
from fastkd.data.base import DataSet, FileSplit, Reading, Split
from fastkd.data.boxes import centres
from fastkd.data.classes import chosen_classes, class_lines
from fastkd.data.decoding import EXTENSIONS, BadImage
from fastkd.data.failures import Failures
from fastkd.data.found import Found
from fastkd.data.index import class_folders, scan
from fastkd.support.environment import free_memory
from fastkd.support.errors import UserError
from fastkd.support.paths import expanded, is_folder, is_there

_TEST_FOLDERS = ("val", "validation", "valid", "test")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Over all pixels of the training images. Some code, Tf-KD's among it, divides by 0.2302, 0.2265, 0.2262 instead: the
# mean of each image's own deviation.
_TINY_MEAN, _TINY_STD = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)


def imagefolder(path: str, reading: Reading, cache: Path | None = None) -> DataSet:
    """The files of path/train/CLASS and of path/val/CLASS (or path/test/CLASS); nothing is decoded yet.

    Classes are the folders of path/train in the order of their names, unless reading.class_list (else
    path/classes.txt) chooses and orders them by lines: a FOLDER, or a FOLDER and a name to show. With reading.split, a
    share of the files of every class of path/train, or else of path/CLASS, is to be tested on.
    """
    root = existing_folder(path, "imagefolder")
    test_root = _tested(root)
    if reading.split is not None:
        if test_root is not None:
            raise UserError(f"--split changes nothing: {test_root} is what is tested on")
        return _in_one_piece(root, reading, cache)
    if not is_folder(root / "train") or test_root is None:
        raise UserError(
            f"{path} has no folders 'train' and 'val' (or {', '.join(map(repr, _TEST_FOLDERS[1:]))}) with one folder a "
            f"class in each{_what_there_is(root)}: with --split .1 a tenth of one folder of classes is tested on"
        )
    folders, names, notes = _classes(root / "train", root, reading.class_list)
    tested, _ = class_folders(test_root)
    if not tested:
        raise UserError(f"{test_root} has no class folders{_where_images_lie(test_root)}")
    strangers = sorted(set(tested) - set(class_folders(root / "train")[0]))
    if strangers:
        raise UserError(f"{test_root} has a class {strangers[0]!r} that {root / 'train'} lacks")
    threads = reading.lookers
    parts = (root / "train", test_root)
    train, test = (_scanned(part, folders, threads=threads, cache=cache) for part in parts)
    beside = _validation_beside(root, test_root)
    watched = None if beside is None else scan(beside, folders, threads=threads, cache=cache, name=beside.name)
    how = (names, (_IMAGENET_MEAN, _IMAGENET_STD), reading, notes)
    data = assembled("imagefolder", train, test, *how, validation=watched)
    for split, part in zip((train, test), parts, strict=True):
        check_classes(split.labels[split.usable], part, folders)
    return data


def _tested(root: Path) -> Path | None:
    """The folder of what is tested on: `test`, where it has folders of classes, else `val` and its like."""
    there = [root / name for name in _TEST_FOLDERS if is_folder(root / name)]
    last = there[-1] if there and there[-1].name == "test" else None
    if last is not None and (len(there) == 1 or class_folders(last)[0]):
        return last
    return there[0] if there else None


def _validation_beside(root: Path, tested: Path) -> Path | None:
    """The folder of what the training is watched by, where there is one beside what is tested on."""
    others = (root / name for name in _TEST_FOLDERS if root / name != tested and tested.name == "test")
    return next((folder for folder in others if is_folder(folder)), None)


def _in_one_piece(root: Path, reading: Reading, cache: Path | None) -> DataSet:
    part = root / "train" if is_folder(root / "train") else root
    folders, names, notes = _classes(part, root, reading.class_list)
    found = _scanned(part, folders, threads=reading.lookers, cache=cache)
    assert reading.split is not None
    train, test = (found.take(places) for places in stratified(found.labels, reading.split, folders))
    data = assembled("imagefolder", train, test, names, (_IMAGENET_MEAN, _IMAGENET_STD), reading, notes)
    return replace(data, scans=(found,))


def _scanned(part: Path, folders: tuple[str, ...], *, threads: int, cache: Path | None) -> Found:
    found = scan(part, folders, threads=threads, cache=cache, name=part.name)
    check_classes(found.labels, part, folders)
    return found


def class_folder_tree(path: str, reading: Reading, cache: Path | None = None) -> DataSet:
    """The files of path/CLASS, all of them for training: no set to train with, but one to look at."""
    root = existing_folder(path, "imagefolder")
    folders, names, notes = _classes(root, root, reading.class_list)
    threads = reading.lookers
    every, none = (scan(root, part, threads=threads, cache=cache, name=root.name) for part in (folders, ()))
    return assembled("class folders", every, none, names, (_IMAGENET_MEAN, _IMAGENET_STD), reading, notes)


def tiny_imagenet(path: str, reading: Reading, cache: Path | None = None) -> DataSet:
    """The folder tiny-imagenet-200: train/WNID/images, and val/images with val/val_annotations.txt."""
    root = existing_folder(path, "tiny-imagenet")
    if reading.split is not None:
        raise UserError("--split changes nothing: tiny-imagenet has images to test on")
    if reading.class_list is not None:
        raise UserError("--class-list changes nothing: the classes of tiny-imagenet are those of its wnids.txt")
    annotations = root / "val" / "val_annotations.txt"
    folders = tuple(line.split()[0] for line in class_lines(root / "wnids.txt"))
    if not folders or len(set(folders)) != len(folders):
        raise UserError(f"{root / 'wnids.txt'} names no classes, or one twice")
    folders = tuple(sorted(folders))  # wnids.txt is in no order; torchvision's ImageFolder sorts
    words = (
        dict(line.split("\t", 1) for line in class_lines(root / "words.txt")) if is_there(root / "words.txt") else {}
    )
    label_of = {}
    for number, line in enumerate(class_lines(annotations), 1):
        name, _, rest = line.partition("\t")
        folder = rest.split("\t")[0]
        if folder not in folders:
            raise UserError(f"{annotations}, line {number}: expected FILE and one of the classes of wnids.txt")
        label_of[f"images/{name}".encode()] = folders.index(folder)
    threads = reading.lookers
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
    return assembled("tiny-imagenet", train, test, shown, (_TINY_MEAN, _TINY_STD), reading, [])


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


def _what_there_is(root: Path) -> str:
    """The end of a message that looks for other folders."""
    there, _ = class_folders(root)
    return f"; it has {some(there)}" if there else ""


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
    chosen = chosen_classes(there, debris, class_list, beside=root, where=str(root / "train"), what="folder")
    left = [f"folders that tools left, no classes: {len(debris)}, as {some(debris)}"] if debris else []
    return chosen.keys, chosen.names, chosen.notes + ([] if chosen.leaves_out else left)
