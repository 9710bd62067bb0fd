"""Data sets, batches and views: what they promise to whoever holds them."""

import numpy as np
import torch

from fastkd.data.base import channel_statistics


def test_statistics_are_those_of_all_pixels():
    images = torch.randint(256, (300, 5, 7, 3), dtype=torch.uint8) // torch.tensor([1, 2, 3], dtype=torch.uint8)
    values = images.double().reshape(-1, 3) / 255
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(0, correction=0), rtol=1e-12)
