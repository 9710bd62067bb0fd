"""What fastkd sees of a data set: numbers, what is wrong with it, and a sheet of augmented training images."""

import io
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fastkd.data import Augmentation, DataSet, Feeding, FileSplit, Split, Views, training_source
from fastkd.data.debris import odd
from fastkd.data.decoding import BadImage
from fastkd.support.errors import UserError
from fastkd.support.files import make_folder, write_bytes

_COLUMNS, _GAP, _LINE = 8, 4, 14
_NAMED = 5
_LEAST = 96  # pixels of a picture on the sheet: smaller ones are enlarged


def describe(data: DataSet) -> dict[str, Any]:
    """Classes, counts, sizes, notes and bad files of a data set, in plain types that JSON can take."""
    about: dict[str, Any] = {"name": data.name, "classes": list(data.classes), "splits": {}}
    for name, split in (("train", data.train), ("test", data.test)):
        counts = np.bincount(split.labels.numpy(), minlength=len(data.classes))
        part: dict[str, Any] = {"images": len(split), "per_class": counts.tolist()}
        if isinstance(split, Split):
            part["sizes"] = {f"{split.images.shape[2]} x {split.images.shape[1]}": len(split)}
        else:
            sizes = Counter(f"{width} x {height}" for width, height in split.sizes.tolist())
            part |= {
                "sizes": dict(sizes.most_common(5)),
                "other_sizes": sum(sizes.values()) - sum(count for _, count in sizes.most_common(5)),
                "width": _quantiles(split.sizes[:, 0]),
                "height": _quantiles(split.sizes[:, 1]),
                "neither_jpeg_nor_8_bit_png": int((~split.plain).sum()),
            }
        about["splits"][name] = part
    about["bad"] = dict(data.failures.reasons)
    about["notes"] = [note for note in data.notes if not note.endswith(": left out")]
    if isinstance(data.train, FileSplit):
        about["notes"] += _odd_classes(data)
    return about


def _odd_classes(data: DataSet) -> list[str]:
    """What may be no class at all: those with one image to train on, and with names that tools give."""
    counts = np.bincount(data.train.labels.numpy(), minlength=len(data.classes))
    single, named = [data.classes[place] for place in np.flatnonzero(counts == 1)], odd(data.classes)
    told = [f"classes with one training image: {len(single)}, as {', '.join(single[:_NAMED])}"] if single else []
    return told + ([f"odd names of classes: {', '.join(map(repr, named[:_NAMED]))}"] if named else [])


def verify(data: DataSet, threads: int) -> dict[str, str]:
    """Decodes every file: {path: what is wrong}. What a decoder fills in silently stays unknown."""
    bad: dict[str, str] = {}
    for split in (data.train, data.test):
        if isinstance(split, FileSplit):
            with ThreadPoolExecutor(max_workers=threads) as pool:
                reasons = pool.map(lambda place, split=split: _broken(split, place), range(len(split)))
                bad |= {split.records[place]: reason for place, reason in enumerate(reasons) if reason}
    return bad


def contact_sheet(
    data: DataSet, file: Path, *, image_size: int, augmentation: Augmentation, views: Views, images: int, seed: int
) -> None:
    """Writes the first training images of epoch 0, each with its views and its class."""
    per_sample = views.count
    count = min(len(data.train), max(1, images // per_sample))
    feeding = Feeding(image_size=image_size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    source = training_source(data, feeding, batch_size=count, augmentation=augmentation, seed=seed, views=views)
    raw = next(iter(source.loader.epoch(0)))
    zero = torch.zeros((), dtype=torch.int64)
    batch = source.prepare(raw, zero, zero)
    pixels = (batch.images * 255).round().clamp(0, 255).to(torch.uint8)  # [V,B,3,H,W]
    scale = max(1, math.ceil(_LEAST / image_size))
    side = image_size * scale
    per_row = max(1, _COLUMNS // per_sample) * per_sample
    rows = math.ceil(count * per_sample / per_row)
    sheet = Image.new("RGB", (per_row * (side + _GAP) + _GAP, rows * (side + _LINE + _GAP) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for sample in range(count):
        for view in range(per_sample):
            row, column = divmod(sample * per_sample + view, per_row)
            left, top = _GAP + column * (side + _GAP), _GAP + row * (side + _LINE + _GAP)
            picture = Image.fromarray(pixels[view, sample].permute(1, 2, 0).contiguous().numpy())
            sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (left, top))
            name = data.classes[int(batch.labels[sample])] if view == 0 else f"view {view}"
            draw.text((left, top + side), _fitting(name, draw, font, side), fill="black", font=font)
    make_folder(file.parent)
    encoded = io.BytesIO()
    sheet.save(encoded, picture_format(file))
    write_bytes(file, encoded.getvalue())


def picture_format(file: Path) -> str:
    """Pillow's name of the format that the file's ending means; raises UserError where it means none."""
    known = Image.registered_extensions()
    if known.get(file.suffix.lower()) not in Image.SAVE:
        raise UserError(f"cannot write {file}: its name does not end as a picture's does, such as .png")
    return known[file.suffix.lower()]


def _broken(split: FileSplit, place: int) -> str:
    try:
        pixels = split.records.pixels(place)
    except BadImage as error:
        return str(error)
    width, height = split.sizes[place].tolist()
    if tuple(pixels.shape[:2]) != (height, width):
        return f"has {pixels.shape[1]} x {pixels.shape[0]} pixels, its head says {width} x {height}"
    return ""


def _quantiles(values: np.ndarray) -> dict[str, int]:
    if not len(values):
        return {}
    return {"least": int(values.min()), "median": int(np.median(values)), "most": int(values.max())}


def _fitting(name: str, draw: ImageDraw.ImageDraw, font: Any, width: int) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in name)  # a line break is a second line
    while name and draw.textlength(name, font=font) > width:
        name = name[:-1]
    return name
