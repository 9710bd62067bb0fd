"""A data set, made of what was found of its two splits."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from fastkd.data.base import DataSet, FileSplit, Reading
from fastkd.data.decoding import EXTENSIONS
from fastkd.data.failures import Failures
from fastkd.data.found import Found
from fastkd.support.environment import free_memory
from fastkd.support.errors import UserError
from fastkd.support.paths import is_folder
from fastkd.support.words import counted

_SHOWN = 3
_LARGE = 1 << 24  # pixels, from which on a picture's memory is looked at
_BYTES_OF_A_PIXEL = 8  # while it is decoded: four in Pillow, three in the tensor


def assembled(
    name: str,
    train: Found,
    test: Found,
    classes: tuple[str, ...],
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]],
    reading: Reading,
    notes: Iterable[str],
    *,
    validation: Found | None = None,
) -> DataSet:
    """The data set; validation: images to watch the training by, where there are some beside those of the test."""
    failures = Failures(reading.max_bad_images)
    failures.add(train.bad | test.bad | (validation.bad if validation else {}))
    told = list(notes)
    for path, reason in failures.reasons.items():
        told.append(f"{path} {reason}: left out")
    if ignored := train.ignored + test.ignored:
        told.append(f"files that do not end as images do, passed over: {len(ignored)}, as {some(ignored)}")
    if debris := train.debris + test.debris:
        told.append(f"files and folders that tools left, passed over: {len(debris)}, as {some(debris)}")
    if again := train.doubles + test.doubles:
        told.append(f"files that may be copies of others, but are taken: {len(again)}, as {some(again)}")
    _refuse_what_no_memory_takes(train, test, reading)
    if scaled := train.scaled + test.scaled:
        told.append(f"images with 16 bits a channel, of which the upper 8 are used: {scaled}")
    return DataSet(
        name=name,
        train=usable(train),
        test=usable(test),
        validation=usable(validation) if validation else None,
        classes=classes,
        mean=statistics[0],
        std=statistics[1],
        failures=failures,
        scans=(train, test, validation) if validation else (train, test),
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


def usable(found: Found) -> FileSplit:
    kept = found.usable
    return FileSplit(
        found.records.take(kept), torch.from_numpy(found.labels[kept]), found.sizes[kept], found.plain[kept]
    )


def check_classes(labels: np.ndarray, root: Path, folders: tuple[str, ...]) -> None:
    counts = np.bincount(labels, minlength=len(folders))
    if counts.all():
        return
    empty = root / folders[int(counts.argmin())]
    if not is_folder(empty):
        raise UserError(f"no class folder {empty}: every class has images to train on and images to test on")
    raise UserError(f"the class folder {empty} has no images: files that end in {', '.join(EXTENSIONS)}")


def some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")


def stratified(
    labels: np.ndarray, share: float, names: Sequence[str], option: str = "--split"
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to keep: of every class the same share, at least one image, by a fixed choice."""
    generator, tested = np.random.Generator(np.random.Philox(2)), []
    for label, name in enumerate(names):
        places = np.flatnonzero(labels == label)
        if len(places) < 2:
            raise UserError(f"{option} {share:g} divides every class: {name!r} has {counted(len(places), 'image')}")
        count = min(max(1, round(share * len(places))), len(places) - 1)
        tested.append(generator.permutation(places)[:count])
    test = np.sort(np.concatenate(tested)) if tested else np.empty(0, np.int64)
    return np.setdiff1d(np.flatnonzero(labels >= 0), test), test
