"""python -m fastkd.data inspect DATA: what fastkd sees of a data set, and a sheet of augmented training images.

python -m fastkd.data pack PARQUET FOLDER: parquet files, turned once into tar shards.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from fastkd.data import (
    DATASETS,
    FOUR_ROTATIONS,
    Augmentation,
    DataSet,
    FileSplit,
    Reading,
    Split,
    Views,
    is_import_path,
    open_dataset,
    stays_in_files,
    with_absolute_path,
)
from fastkd.data.folder import class_folder_tree
from fastkd.data.inspect import contact_sheet, describe, picture_format, verify
from fastkd.data.pack import pack
from fastkd.support import environment
from fastkd.support.command_line import command, read_options
from fastkd.support.console import new_table, table_console
from fastkd.support.errors import UserError
from fastkd.support.paths import free_path, is_folder
from fastkd.support.ranges import BETWEEN_0_AND_1, Pixels, Seed, between, whole

_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Prints classes, counts, sizes and bad files of a data set; writes a sheet of augmented training images."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """NAME, NAME:PATH, or the PATH of an image folder or of any folder of class folders."""
    out: Path | None = None
    """The file that the sheet is written to (default: contact-sheet.png, with a number where one stands already)."""
    verify: bool = False
    """Decode every file: slow, but finds what the scan cannot."""
    image_size: Pixels | None = None
    """Side of the pictures in pixels (default: the images' own, or 224 for image files)."""
    crop: Literal["pad", "resized"] | None = None
    """How training images are cropped (default: resized for image files, else pad)."""
    crop_padding: Annotated[int, whole(0, 16_384)] = 4
    """Pixels of padding on each side, with --crop pad."""
    flip: bool = True
    """Flip an image horizontally, with probability 1/2."""
    rotation: Annotated[float, between(0, 180)] = 0.0
    """Rotate by up to ± so many degrees."""
    views: Annotated[int, whole(1, 64)] = 1
    """Independent augmentations of each image."""
    rotations: bool = False
    """Show the four quarter turns of each image instead."""
    images: Annotated[int, whole(1, 10_000)] = 48
    """Pictures on the sheet."""
    seed: Seed = 0
    """What the choice and the augmentation of the images follow from."""
    class_list: Path | None = None
    """File of lines FOLDER [NAME]: the classes in the order of their labels."""
    split: Annotated[float, BETWEEN_0_AND_1] | None = None
    """Keep this share of the images of every class to test on, where the data are in one piece."""
    label_column: str | None = None
    """Column, or key of a .json beside the image, that holds the labels (csv, hf, tar)."""
    index_cache: Path | None = None
    """Folder for what the scan and --verify find: a training with the same folder leaves those files out, too."""
    json: bool = False
    """Print JSON."""


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["pack"]:
        return _pack(read_options(Packing, arguments[1:], program="python -m fastkd.data pack"))
    if arguments[:1] != ["inspect"]:
        wanted = arguments in (["-h"], ["--help"])
        print("usage: python -m fastkd.data inspect DATA [options]   (inspect --help shows them)")
        print("       python -m fastkd.data pack PARQUET FOLDER [options]   (pack --help shows them)")
        return 0 if wanted else 2
    options = read_options(Options, arguments[1:], program="python -m fastkd.data inspect")
    data = _opened(options)
    _refuse_idle(options, data)
    out = options.out or free_path(Path("contact-sheet.png"))
    picture_format(out)
    about = describe(data)
    if options.verify:
        found = verify(data, environment.cores())
        about["bad"] |= found
        data.failures.add(found)
        if options.index_cache:
            for scan in data.scans:
                scan.without(found).keep(options.index_cache)
    streamed = isinstance(data.train, FileSplit)
    if len(data.train):
        size = options.image_size or (data.train.images.shape[1] if isinstance(data.train, Split) else 224)
        augmentation = Augmentation(
            crop=options.crop or ("resized" if streamed else "pad"),
            crop_padding=options.crop_padding,
            flip=options.flip,
            rotation=options.rotation,
        )
        augmentation.check_size(size)
        views = FOUR_ROTATIONS if options.rotations else Views(options.views)
        torch.set_num_threads(environment.cores())
        contact_sheet(
            data, out, image_size=size, augmentation=augmentation, views=views, images=options.images,
            seed=options.seed,
        )  # fmt: skip
        about["sheet"] = str(out)
    if options.json:
        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        _print(about, streamed=streamed, verified=options.verify)
    return 1 if about["bad"] else 0


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Turns parquet files into tar shards, which are read by place. Killed, the same command goes on."""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PARQUET")]
    """A parquet file, or a folder of them."""
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Where the shards go: --data "tar:FOLDER/*.tar" reads them."""
    part: Literal["train", "test"] = "train"
    """What the images are for."""
    label_column: str | None = None
    """Column that holds the labels (default: the one that the file says is one)."""


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _pack(options: Packing) -> int:
    images = pack(options.source, options.folder, options.part, _tell, options.label_column)
    print(f'{images:,} images: --data "tar:{options.folder}/*.tar"')
    return 0


def _refuse_idle(options: Options, data: DataSet) -> None:
    """An option that would change nothing is an error, so that nobody believes it did."""
    changed = {name for name, value in vars(options).items() if value != getattr(Options, name, None)}
    sheet = ("out", "image_size", "crop", "crop_padding", "flip", "rotation", "views", "rotations", "images", "seed")
    idle: dict[str, str] = (
        dict.fromkeys(sheet, f"{data.name} has no training images to show") if not len(data.train) else {}
    )
    streamed = isinstance(data.train, FileSplit)
    if (options.crop or ("resized" if streamed else "pad")) == "resized":
        idle["crop_padding"] = "it goes with --crop pad"
    if options.rotations:
        idle["views"] = "--rotations shows four of each image"
    for name in sorted(changed & idle.keys()):
        raise UserError(f"--{name.replace('_', '-')} changes nothing: {idle[name]}")


def _opened(options: Options) -> DataSet:
    name = options.data.partition(":")[0]
    if name in DATASETS and not stays_in_files(options.data):
        idle = [option for option in ("verify", "class_list", "index_cache") if getattr(options, option)]
        if idle:
            raise UserError(f"--{idle[0].replace('_', '-')} changes nothing: {name} has no image files")
    reading = Reading(
        max_bad_images=sys.maxsize,  # an error about bad files would hide them
        class_list=options.class_list,
        split=options.split,
        label_column=options.label_column,
        index_cache=options.index_cache,
    )
    if (
        name not in DATASETS
        and options.split is None
        and is_folder(Path(options.data))
        and not is_folder(Path(options.data) / "train")
    ):
        return class_folder_tree(options.data, reading, options.index_cache)
    known = name in DATASETS or is_import_path(options.data)
    return open_dataset(
        with_absolute_path(options.data) if known else f"imagefolder:{options.data}", image_size=options.image_size,
        resident=False, limit_train=None, threads=environment.cores(), reading=reading,
    )  # fmt: skip


def _print(about: dict[str, Any], *, streamed: bool, verified: bool) -> None:
    console = table_console()
    console.soft_wrap = True
    console.print(f"{about['name']}: {len(about['classes'])} classes")
    table = new_table("", "images", "a class has", "width", "height", "most frequent sizes")
    for name, part in about["splits"].items():
        counts, widths, heights = part["per_class"], part.get("width"), part.get("height")
        table.add_row(
            name,
            f"{part['images']:,}",
            f"{min(counts):,} to {max(counts):,}" if counts else "",
            f"{widths['least']}–{widths['median']}–{widths['most']}" if widths else "",
            f"{heights['least']}–{heights['median']}–{heights['most']}" if heights else "",
            ", ".join(f"{size} ({count:,})" for size, count in list(part["sizes"].items())[:3]),
        )
    console.print(table)
    for name, part in about["splits"].items():
        if part.get("neither_jpeg_nor_8_bit_png"):
            console.print(f"{name}: {part['neither_jpeg_nor_8_bit_png']:,} files are neither JPEG nor PNG of 8 bits")
    classes = [
        f"{name} ({train:,} + {test:,})"
        for name, train, test in zip(
            about["classes"], *(about["splits"][part]["per_class"] for part in ("train", "test")), strict=True
        )
    ]
    more = f" … and {len(classes) - _SHOWN:,} more" if len(classes) > _SHOWN else ""
    console.print(f"classes (train + test): {'; '.join(classes[:_SHOWN])}{more}", markup=False)
    for note in about["notes"]:
        console.print(note, markup=False)
    if streamed:
        how = "decoding all of them" if verified else "a look at head, tail and size (--verify decodes all of them)"
        console.print(f"{len(about['bad'])} bad files, by {how}")
    for path, reason in list(about["bad"].items()):
        console.print(f"  {path} {reason}", markup=False)
    if "sheet" in about:
        console.print(f"augmented training images: {about['sheet']}", markup=False)


if __name__ == "__main__":
    sys.exit(command(main))
