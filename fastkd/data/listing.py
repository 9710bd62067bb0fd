"""Images that a list of some kind names, one by one, with their classes: how a data set is made of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastkd.data.assembled import assembled, stratified, usable
from fastkd.data.base import DataSet, FileSplit, Reading
from fastkd.data.classes import chosen_classes
from fastkd.data.decoding import BadImage
from fastkd.data.found import Found, digest, index_file, look
from fastkd.data.records import Records
from fastkd.support.errors import UserError
from fastkd.support.words import counted

UNTOLD, TRAIN, TEST, VALIDATION = -1, 0, 1, 2
_PARTS = {
    "train": TRAIN,
    "training": TRAIN,
    "test": TEST,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
}
_MEASURED = 1000
"""Images whose pixels give mean and deviation, where nobody says what they are."""


@dataclass(frozen=True)
class Listing:
    """Images, with what is told of each."""

    origin: str
    """`csv`, `tar` …: the data set's name."""
    root: Path
    """Where they lie; a classes.txt there may name the classes."""
    records: Records
    keys: tuple[str, ...]
    """The classes there are, by what they are called there, in any order."""
    labels: np.ndarray
    """[n] int64: the place of each image's class in `keys`."""
    parts: np.ndarray
    """[n] int8: TRAIN, TEST, VALIDATION, which is what is tested on where there is no TEST, or UNTOLD."""
    state: bytes
    """What has to be the same for what an earlier look found to hold: sizes and times."""
    names: tuple[str, ...] = ()
    """The names of `keys` to show, where they are others."""
    in_order: bool = False
    """Whether the images have an order of their own, which is kept; else they are taken class by class, by name."""
    notes: list[str] = field(default_factory=list)


def part_of(word: str) -> int | None:
    """The part that a word means; None where it means none."""
    return _PARTS.get(word.lower())


def data_set_of(listing: Listing, reading: Reading, cache: Path | None) -> DataSet:
    """The data set, with the classes in the order of their names, or that of their numbers where they have no names.

    Raises UserError where a class has no images to train or to test on.
    """
    if not len(listing.labels):
        raise UserError(f"{listing.root} holds no images")
    keys, shown = _ordered(listing)
    chosen = chosen_classes(keys, (), reading.class_list, beside=listing.root, where=str(listing.root), what="image")
    names = tuple(shown.get(name, name) for name in chosen.names)
    labels = _relabelled(listing, chosen.keys)
    places = _in_parts(listing, labels, chosen.keys, reading)
    with ThreadPoolExecutor(max_workers=reading.lookers) as pool:
        kept = reading.index_cache or cache
        train, test, validation = (
            _found(listing, labels, own, name, pool, kept)
            for name, own in zip(("train", "test", "validation"), places, strict=True)
        )
    both = ((train, "train on"), (test, "test on"))
    for part, words in both:
        _check_classes(part.labels, chosen.keys, words, listing)
    statistics, note = _statistics(usable(train))
    notes = [*listing.notes, *chosen.notes, note]
    apart = validation if len(validation.labels) else None
    data = assembled(listing.origin, train, test, names, statistics, reading, notes, validation=apart)
    for part, words in both:
        _check_classes(part.labels[part.usable], chosen.keys, words, listing)
    return data


def _ordered(listing: Listing) -> tuple[list[str], dict[str, str]]:
    """The classes in the order of their labels, and the names of those that are called something else."""
    shown = dict(zip(listing.keys, listing.names or listing.keys, strict=True))
    if listing.names:
        return list(listing.keys), shown
    if all(key.isascii() and key.isdigit() for key in listing.keys):
        return sorted(listing.keys, key=lambda key: (int(key), key)), shown
    return sorted(listing.keys), shown


def _relabelled(listing: Listing, keys: Sequence[str]) -> np.ndarray:
    """[n] int64: the label of each image; -1 where its class was not chosen."""
    label_of = {key: label for label, key in enumerate(keys)}
    table = np.array([label_of.get(key, -1) for key in listing.keys], dtype=np.int64)
    return table[listing.labels]


def _in_parts(
    listing: Listing, labels: np.ndarray, keys: Sequence[str], reading: Reading
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers to train on, to test on, and to watch the training by, in the order that they are taken in."""
    parts = (
        listing.parts if (listing.parts == TEST).any() else np.where(listing.parts == VALIDATION, TEST, listing.parts)
    )
    told = {part: bool((parts == part).any()) for part in (TRAIN, TEST)}
    validation = np.flatnonzero((parts == VALIDATION) & (labels >= 0))
    if reading.split is not None:
        if all(told.values()):
            raise UserError(f"--split changes nothing: {listing.root} says itself what is to be tested on")
        train, test = stratified(labels, reading.split, keys)
    elif not all(told.values()):
        raise UserError(
            f"{listing.origin}: {listing.root} is in one piece, with no images to {'train' if told[TEST] else 'test'} "
            "on: --split .1 keeps a tenth of every class to test on"
        )
    else:
        train, test = (np.flatnonzero((parts == part) & (labels >= 0)) for part in (TRAIN, TEST))
    train, test, validation = (_sorted(listing, labels, own) for own in (train, test, validation))
    return train, test, validation


def _sorted(listing: Listing, labels: np.ndarray, places: np.ndarray) -> np.ndarray:
    if listing.in_order:
        return places
    return np.array(sorted(places.tolist(), key=lambda place: (labels[place], listing.records.name(place))), np.int64)


def _found(
    listing: Listing, labels: np.ndarray, places: np.ndarray, name: str, pool: ThreadPoolExecutor, cache: Path | None
) -> Found:
    records, labels = listing.records.take(places), labels[places]
    key = digest(places, labels, listing.state)
    root = str(listing.root)
    heads = look(records, key, pool, None if cache is None else index_file(cache, f"{listing.origin}-{name}", root))
    bad = {records[place]: reason for place, reason in heads.bad.items()}
    named = ((), (), ())
    kept_as = f"{listing.origin}-{name}"
    return Found(records, labels, heads.sizes, heads.plain, bad, *named, heads.scaled, root, kept_as, key, heads.bad)


def _check_classes(labels: np.ndarray, keys: Sequence[str], words: str, listing: Listing) -> None:
    counts = np.bincount(labels, minlength=len(keys))
    if not counts.all():
        raise UserError(f"{listing.root}: the class {keys[int(counts.argmin())]!r} has no images to {words}")


def _statistics(
    split: FileSplit,
) -> tuple[tuple[tuple[float, float, float], tuple[float, float, float]], str]:
    """Mean and standard deviation of the channels over some of the images, by a fixed choice, each counting alike."""
    chosen = np.random.Generator(np.random.Philox(3)).permutation(len(split))[:_MEASURED]
    moments = [moment for place in sorted(chosen.tolist()) if (moment := _moments(split, place)) is not None]
    first, second = np.mean(moments, axis=0) if moments else (np.full(3, 0.5), np.full(3, 0.5))
    deviation = np.sqrt(np.maximum(second - first**2, 1e-6))
    mean, std = _three(first), _three(deviation)
    note = f"mean {mean} and deviation {std} of the channels are those of {counted(len(moments), 'training image')}"
    return (mean, std), note


def _moments(split: FileSplit, place: int) -> np.ndarray | None:
    """[2,3]: the means of an image's channels and of their squares, where white is 1; None: it cannot be read."""
    try:
        pixels = split.records.pixels(place).numpy().reshape(-1, 3).astype(np.float64) / 255
    except BadImage:
        return None
    return np.stack((pixels.mean(0), (pixels**2).mean(0)))


def _three(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue
