"""Which part of an image a crop takes: computed for whole batches at once, and the same for every decoder."""

import math

import numpy as np
import torch
from torch import Tensor

from fastkd.data.augment import Augmentation
from fastkd.data.base import Views
from fastkd.ops.philox import philox, split_seed

_STREAM = 1  # the fourth counter word: `fastkd.ops.augment` draws other numbers for the same image
_TRIES = 10


def crop_boxes(
    sizes_B2: np.ndarray, index_B: Tensor, epoch: int, seed: int, augmentation: Augmentation, view: int = 0
) -> np.ndarray:
    """[B,4] int32 (left, top, width, height): a random area and aspect ratio, as in "Going deeper with convolutions"
    (Szegedy et al. 2015), inside images of size [B,2] (width, height), by the rules of torchvision's RandomResizedCrop.

    The first of ten draws that fits is taken; else the largest centred box with an aspect ratio within the bounds.
    """
    attempt = torch.arange(_TRIES)[:, None]
    words = philox(split_seed(seed), (index_B, epoch, view, _STREAM + (attempt << 8)))
    u_area, u_aspect, u_left, u_top = (word.numpy() / 2**32 for word in words)
    image_width, image_height = sizes_B2.astype(np.float64).T
    low, high = augmentation.area
    area = (low + (high - low) * u_area) * image_width * image_height
    narrow, wide = augmentation.aspect
    aspect = np.exp(math.log(narrow) + (math.log(wide) - math.log(narrow)) * u_aspect)
    widths, heights = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (widths > 0) & (widths <= image_width) & (heights > 0) & (heights <= image_height)
    chosen, each = fits.argmax(0), np.arange(len(index_B))
    width, height = widths[chosen, each], heights[chosen, each]
    left = np.floor(u_left[chosen, each] * (image_width - width + 1))
    top = np.floor(u_top[chosen, each] * (image_height - height + 1))

    none = ~fits.any(0)
    if none.any():
        ratio = image_width / image_height
        width = np.where(none, np.where(ratio > wide, np.rint(image_height * wide), image_width), width)
        height = np.where(none, np.where(ratio < narrow, np.rint(image_width / narrow), image_height), height)
        left = np.where(none, (image_width - width) // 2, left)
        top = np.where(none, (image_height - height) // 2, top)
    return np.stack([left, top, width, height], axis=1).astype(np.int32)


def view_boxes(
    sizes_B2: np.ndarray, index_B: Tensor, epoch: int, seed: int, augmentation: Augmentation, views: Views
) -> np.ndarray:
    """[V,B,4] int32: a box for each view; views that share their flip have boxes of their own, too."""
    boxes = [crop_boxes(sizes_B2, index_B, epoch, seed, augmentation, view) for view in range(views.count)]
    return np.stack(boxes)


def centres(
    sizes_B2: np.ndarray, resize_to: int, crop_to: int, *, squeeze: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The centre crops of images whose shorter side is resized to `resize_to`, as torchvision computes them.

    squeeze: both sides are. Returns the sizes [B,2] after resizing (width, height) and the corners [B,2] of the crops
    (left, top).
    """
    if squeeze:
        resized = np.full(sizes_B2.shape, resize_to, np.int32)
        return resized, np.rint((resized - crop_to) / 2).astype(np.int32)
    shorter = sizes_B2.min(1, keepdims=True)
    resized = (sizes_B2.astype(np.float64) * resize_to / shorter).astype(np.int32)  # torchvision truncates, too
    return resized, np.rint((resized - crop_to) / 2).astype(np.int32)


def evaluation_size(crop: str, image_size: int) -> int:
    """The length that an evaluation resizes the shorter side to: 256 for 224 after random-resized crops."""
    return image_size if crop == "pad" else round(image_size * 8 / 7)
