"""The UCI handwritten digits that come with the package (see DIGITS.md), so that a first run needs no download."""

from importlib.resources import files

import numpy as np
import torch

from fastkd.data.base import DataSet, Split, channel_statistics

TRAIN_SAMPLES = 898  # the first half; the second half was written by other people


def digits() -> DataSet:
    """1,797 real 8x8 images of 10 classes, grey repeated in three channels: 898 to train on, 899 to test on."""
    with files("fastkd.data").joinpath("digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        grey = torch.from_numpy(arrays["images"]).to(torch.float32)
        labels = torch.from_numpy(arrays["labels"]).to(torch.int64)
    images = (grey * (255 / 16)).round().to(torch.uint8)[..., None].expand(-1, -1, -1, 3).contiguous()
    train = Split(images[:TRAIN_SAMPLES], labels[:TRAIN_SAMPLES])
    test = Split(images[TRAIN_SAMPLES:], labels[TRAIN_SAMPLES:])
    mean, std = channel_statistics(train.images)
    return DataSet(
        name="digits", train=train, test=test, classes=tuple(str(digit) for digit in range(10)), mean=mean, std=std
    )
