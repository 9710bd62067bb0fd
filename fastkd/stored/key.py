"""What the rows of a store mean, and what their last bits depend on beside it.

Order and batch size are in neither: which images make up a batch changes no row's meaning, unless they are mixed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastkd.support.plain import differences, to_plain
from fastkd.support.ranges import Images, Pixels


@dataclass(frozen=True, kw_only=True)
class Key:
    """What rows mean. Rows with another key are other rows."""

    network: str
    """The teacher's network."""
    weights: str
    """Digest of the teacher's weights and buffers, as they were trained."""
    mode: str = "evaluation, running statistics"
    """What the teacher's layers do that know training and evaluation."""
    folded: bool
    """Whether its BatchNorms were folded into its convolutions."""
    precision: str
    """Type of its convolutions and matrix products."""
    layout: str
    """Memory layout of images and weights."""
    data: str
    """Fingerprint of the training images and their labels."""
    samples: Images
    image_size: Pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    decoder: str
    """Who decodes image files; empty for data that are held as bytes."""
    augmentation: dict[str, Any]
    """What happens to the images."""
    augmentation_version: int
    mixing: str = ""
    """The batches in which images are mixed with others (how is part of `augmentation`); empty: they are not mixed."""
    data_seed: int
    """Seed of crops and flips."""


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What the last bits of rows may depend on, on machines as they are."""

    device: str
    torch: str
    instruction_set: str
    threads: int
    rows_per_forward: int
    """Images of one forward pass of one process."""
    tf32: bool
    compile: str


def first_difference(then: Any, today: Any) -> tuple[str, Any, Any] | None:
    """(field, then, today) of the first field in which two keys, or two circumstances, differ."""
    found = differences(to_plain(then), to_plain(today))
    return found[0] if found else None


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """A digest of a network's parameters and buffers: their names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(bytes_of(value))
    return found.hexdigest()


def bytes_of(value: Tensor) -> bytes:
    """The bytes of a tensor, row by row."""
    flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
    return flat.numpy().tobytes()


def words_for(field: str) -> str:
    """The name of a field in a sentence: `crop padding` for `augmentation.crop_padding`, `mean` for `mean[2]`."""
    return field.rpartition(".")[2].partition("[")[0].replace("_", " ")
