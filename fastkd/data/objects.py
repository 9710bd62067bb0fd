"""Data out of a program: what `package.module:function` returns, a torch Dataset or arrays."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastkd.data.assembled import stratified
from fastkd.data.base import DataSet, Reading, Split, channel_statistics
from fastkd.data.decoding import BadImage, Head, to_tensor
from fastkd.data.listing import TEST, TRAIN, UNTOLD, Listing, data_set_of
from fastkd.support.errors import UserError

_WHAT = (
    "a fastkd.data.DataSet, a map-style torch Dataset of (image, label), a pair (train, test) of such, or a pair of "
    "pairs (uint8 [n,H,W,3], labels [n])"
)
_IMPORTED: dict[str, Callable[[], Any]] = {}
_GIVEN: dict[str, Any] = {}


def import_data(name: str) -> None:
    """Imports the function at `package.module:function`, which runs its module's code, for `data_of_object` to find.

    Only for a name that a person has given, on the command line or in a program. Raises UserError.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot import the data set {name!r}: {error}") from error
    if not callable(found):
        raise UserError(f"{name!r} is no function that returns {_WHAT}")
    _IMPORTED[name] = found


def give_data(data: Any) -> str:
    """Keeps an object, see `data_set_from`, for this program; returns the name that a recipe calls it by."""
    name = next((name for name, kept in _GIVEN.items() if kept is data), f"given:data{len(_GIVEN) + 1}")
    _GIVEN[name] = data
    _IMPORTED[name] = lambda: data
    return name


def is_given(name: str) -> bool:
    """Whether the name stands for an object of this program, see `give_data`."""
    return name in _GIVEN


def is_imported(name: str) -> bool:
    return name in _IMPORTED


def data_of_object(name: str, reading: Reading) -> DataSet:
    """The data set that the imported function returns. Raises UserError where it returns something else."""
    return data_set_from(_IMPORTED[name](), name, reading)


def data_set_from(given: Any, name: str, reading: Reading) -> DataSet:
    """A data set of an object: a `DataSet` as it is; a torch Dataset, a pair of them, or arrays.

    Images are PIL's, or uint8 [H,W,3] or [3,H,W]: as they are stored, since fastkd crops, flips and normalises itself.
    Raises UserError.
    """
    if isinstance(given, DataSet):
        return given
    parts = given if isinstance(given, tuple | list) and len(given) == 2 and not _is_arrays(given) else (given,)
    if all(_is_arrays(part) for part in parts):
        return _of_arrays([(_images(part[0], name), _labels(part[1], name)) for part in parts], name, reading)
    if all(hasattr(part, "__getitem__") and hasattr(part, "__len__") for part in parts):
        return _of_items(parts, name, reading)
    raise UserError(f"{name} returned a {type(given).__name__}: expected {_WHAT}")


class Items:
    """The items of one or two map-style Datasets by row number."""

    def __init__(self, parts: Sequence[Any], name: str, places: np.ndarray | None = None):
        self._parts, self._name = parts, name
        self._begins = np.cumsum([0, *(len(part) for part in parts)])
        self._places = np.arange(self._begins[-1]) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> str:
        return f"{self._name}[{int(self._places[place])}]"

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def name(self, place: int) -> bytes:
        return str(int(self._places[place])).encode()

    def item(self, place: int) -> tuple[Any, Any]:
        """Image and label, as the Dataset gives them."""
        row = int(self._places[place])
        part = int(np.searchsorted(self._begins, row, side="right")) - 1
        try:
            image, label, *_ = self._parts[part][row - int(self._begins[part])]
        except (TypeError, ValueError) as error:
            raise UserError(f"{self[place]} is no pair of image and label: {error}") from error
        return image, label

    def head(self, place: int) -> Head:
        image = self.item(place)[0]
        if isinstance(image, Image.Image):
            return Head(*image.size, True)
        height, width = _as_rows(image, self[place]).shape[:2]
        return Head(width, height, True)

    def encoded(self, place: int) -> np.ndarray:
        pixels = self.pixels(place)
        head = b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0])
        return np.concatenate((np.frombuffer(head, np.uint8), pixels.numpy().reshape(-1)))

    def pixels(self, place: int) -> Tensor:
        image = self.item(place)[0]
        if isinstance(image, Image.Image):
            return to_tensor(image if image.mode == "RGB" else image.convert("RGB"))
        return _as_rows(image, self[place])

    def take(self, places: np.ndarray) -> Self:
        return type(self)(self._parts, self._name, self._places[places])


def _of_items(parts: Sequence[Any], name: str, reading: Reading) -> DataSet:
    records = Items(parts, name)
    told = getattr(parts[0], "classes", None)
    labels = np.concatenate([_labels_of(part, Items([part], name)).numpy() for part in parts])
    keys = sorted(set(labels.tolist()))
    if keys and keys[0] < 0:
        raise UserError(f"{name} has a label {keys[0]}: labels are whole numbers from 0 on")
    names = tuple(map(str, told)) if isinstance(told, list | tuple) else ()
    if names and keys and keys[-1] >= len(names):
        raise UserError(f"{name} has a label {keys[-1]}, and the names of {len(names)} classes")
    known = names or tuple(map(str, keys))
    of_parts = (TRAIN, TEST) if len(parts) == 2 else (UNTOLD,)
    listing = Listing(
        origin=name,
        root=Path(name),
        records=records,
        keys=known,
        names=names,
        labels=labels if names else np.searchsorted(keys, labels),
        parts=np.concatenate([np.full(len(part), told, np.int8) for part, told in zip(parts, of_parts, strict=True)]),
        state=b"",
        in_order=True,
    )
    return data_set_of(listing, reading, None)  # an object has no time at which it changed last


def _labels_of(part: Any, items: Items) -> Tensor:
    """[n] int64: the Dataset's `targets`, where it has them, else what each item says."""
    targets = getattr(part, "targets", None)
    if targets is not None and len(targets) == len(part):
        return _labels(targets, items[0] if len(items) else "")
    return _labels([items.item(place)[1] for place in range(len(items))], items[0] if len(items) else "")


def _of_arrays(parts: list[tuple[Tensor, Tensor]], name: str, reading: Reading) -> DataSet:
    for images, labels in parts:
        if len(images) != len(labels) or not len(images):
            raise UserError(f"{name}: {len(images)} images and {len(labels)} labels: expected as many, at least one")
    known = max(int(labels.max()) for _, labels in parts) + 1
    classes = tuple(map(str, range(known)))
    if len(parts) == 2:
        if reading.split is not None:
            raise UserError(f"--split changes nothing: {name} says itself what is to be tested on")
        train, test = (Split(images, labels) for images, labels in parts)
    elif reading.split is None:
        raise UserError(f"{name} is in one piece: --split .1 keeps a tenth of every class to test on")
    else:
        whole = Split(*parts[0])
        train, test = map(whole.take, stratified(whole.labels.numpy(), reading.split, classes))
    mean, std = channel_statistics(train.images)
    return DataSet(name=name, train=train, test=test, classes=classes, mean=mean, std=std, named=False)


def _is_arrays(part: Any) -> bool:
    arrays = (np.ndarray, Tensor)
    return (
        isinstance(part, tuple | list)
        and len(part) == 2
        and isinstance(part[0], arrays)
        and getattr(part[0], "ndim", 0) == 4
        and isinstance(part[1], (*arrays, list, tuple))
    )


def _images(images: Any, name: str) -> Tensor:
    pixels = torch.as_tensor(images)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or 3 not in (pixels.shape[1], pixels.shape[3]):
        raise UserError(f"{name}: images are uint8 [n,H,W,3], got {pixels.dtype} {list(pixels.shape)}")
    pixels = pixels if pixels.shape[3] == 3 else pixels.permute(0, 2, 3, 1)
    if pixels.shape[1] != pixels.shape[2]:
        raise UserError(f"{name}: arrays hold square images, got {pixels.shape[2]} x {pixels.shape[1]} pixels")
    return pixels.movedim(-1, 1).contiguous().movedim(1, -1)


def _labels(labels: Any, name: str) -> Tensor:
    found = torch.as_tensor(np.asarray(labels))
    if found.ndim != 1 or found.dtype.is_floating_point or found.dtype == torch.bool or (found < 0).any():
        raise UserError(f"{name}: labels are whole numbers from 0 on, [n], got {found.dtype} {list(found.shape)}")
    return found.long()


def _as_rows(image: Any, name: str) -> Tensor:
    """[H,W,3] uint8 of an array of bytes."""
    if not isinstance(image, np.ndarray | Tensor):
        raise BadImage(f"is a {type(image).__name__}: expected an image of PIL's, or uint8 [H,W,3] or [3,H,W]")
    if isinstance(image, np.ndarray) and not image.flags.writeable:
        image = image.copy()  # torch warns of memory that it could write to, but must not
    pixels = torch.as_tensor(image)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or 3 not in (pixels.shape[0], pixels.shape[2]):
        raise BadImage(
            f"is {str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}: expected uint8 [H,W,3] or [3,H,W], "
            "as it is stored: fastkd crops, flips and normalises itself"
        )
    return pixels.contiguous() if pixels.shape[2] == 3 else pixels.permute(1, 2, 0).contiguous()
