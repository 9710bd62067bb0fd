"""What a trained network says of images that nobody has labelled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastkd.data import DataSet, Feeding, FileSplit, evaluation_source
from fastkd.data.failures import Failures
from fastkd.data.found import look_at
from fastkd.data.index import scan
from fastkd.data.objects import Items
from fastkd.data.paths import Paths
from fastkd.data.records import Records
from fastkd.networks.base import Network
from fastkd.run.description import Description
from fastkd.support.environment import cores
from fastkd.support.errors import UserError
from fastkd.support.paths import is_folder, is_there

_UNKNOWN = "is not known: its file does not say it, as one of fastkd 0.1"


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image."""

    image: str
    """Its path, or `images[number]` for one that was given as an object."""
    classes: tuple[str, ...] = ()
    """The names of the likeliest classes, the likeliest first; their numbers where they have no names."""
    probabilities: tuple[float, ...] = ()
    """Those of the softmax, likewise."""
    error: str = ""
    """What is wrong with the image, where it cannot be used: "is empty (0 bytes)"."""


def images_at(places: Sequence[str | Path]) -> Records:
    """The image files of folders, with all below them, and single files, in that order. Raises UserError."""
    if not places:
        raise UserError("name the IMAGES: files, or folders with all below them")
    names: list[bytes] = []
    for place in map(Path, places):
        if not is_there(place):
            raise UserError(f"no folder and no file {place}")
        if is_folder(place):
            found = scan(place, (".",), threads=cores())
            names += [str(Path(path)).encode(errors="surrogateescape") for path in found.records]
        else:
            names.append(str(place).encode(errors="surrogateescape"))
    if not names:
        raise UserError(f"{', '.join(map(str, places))}: there are no images")
    return Paths.of("", names)


def images_of(images: Sequence[Any]) -> Records:
    """Images given as objects: PIL's, or uint8 [H,W,3] or [3,H,W]."""
    return Items([_Unlabelled(images)], "images")


class _Unlabelled:
    def __init__(self, images: Sequence[Any]):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        return self.images[place], 0


@torch.no_grad()
def predictions(
    network: Network,
    description: Description,
    records: Records,
    *,
    device: torch.device,
    top: int = 5,
    batch_size: int = 256,
    workers: int = 0,
) -> Iterator[Prediction]:
    """A prediction of each image, in order, made as the network was tested: resized, cropped in its centre, normalised.

    top: so many of the likeliest classes. batch_size: images computed at once. Raises UserError where the network's
    file does not say how its images were normalised.
    """
    if description.mean is None or description.std is None:
        raise UserError(f"the normalisation of the network {description.network} {_UNKNOWN}")
    heads, bad = look_at(records, threads=cores())
    usable = np.flatnonzero(heads.sizes[:, 0] > 0)
    split = FileSplit(records, torch.zeros(len(records), dtype=torch.int64), heads.sizes, heads.plain).take(usable)
    names = description.classes or tuple(map(str, range(description.num_classes)))
    failures = Failures(len(records))
    data = DataSet(
        name="images", train=split, test=split, classes=names, mean=description.mean, std=description.std,
        failures=failures,
    )  # fmt: skip
    feeding = Feeding(image_size=description.image_size, device=device, workers=workers)
    network = network.eval().to(device)
    known: dict[int, Prediction] = {place: Prediction(records[place], error=why) for place, why in bad.items()}
    told = 0
    if len(usable):
        source = evaluation_source(data, feeding, batch_size=batch_size, crop=description.crop or "resized")
        source.prepare.to(device)
        zero = torch.zeros((), dtype=torch.int64, device=device)
        for raw in source.loader.epoch(0):
            logits = network(source.prepare(raw.to(device), zero, zero).images[0]).logits
            for row, found in zip(raw.index.tolist(), _likeliest(logits, top), strict=True):
                known[int(usable[row])] = _named(records[int(usable[row])], found, names)
            last = int(usable[int(raw.index[-1])])
            yield from _through(known, told, last, records, failures)
            told = last + 1
    yield from _through(known, told, len(records) - 1, records, failures)


def _through(
    known: dict[int, Prediction], first: int, last: int, records: Records, failures: Failures
) -> Iterator[Prediction]:
    """The predictions of the images from first to last; one that was lost while it was read has its reason."""
    for place in range(first, last + 1):
        name = records[place]
        yield known.pop(place, None) or Prediction(name, error=failures.reasons.get(name, "cannot be read"))


def _likeliest(logits_BK: Tensor, top: int) -> list[list[tuple[int, float]]]:
    found = logits_BK.float().softmax(1).topk(min(top, logits_BK.shape[1]), dim=1)
    return [list(zip(*row, strict=True)) for row in zip(found.indices.tolist(), found.values.tolist(), strict=True)]


def _named(image: str, found: list[tuple[int, float]], names: Sequence[str]) -> Prediction:
    return Prediction(image, tuple(names[place] for place, _ in found), tuple(share for _, share in found))
