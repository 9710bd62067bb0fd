"""The digits that come with the package."""

import numpy as np
import pytest
import torch

from fastkd.data import open_dataset
from fastkd.support.errors import UserError

OPTIONS = {"image_size": 8, "resident": True, "limit_train": None, "threads": 1}


def test_halves_and_values():
    data = open_dataset("digits", **OPTIONS)
    assert (len(data.train), len(data.test), len(data.classes)) == (898, 899, 10)
    assert data.train.images.shape == (898, 8, 8, 3)
    assert data.train.images.unique().numel() == 17
    assert data.train.images.max() == 255
    values = data.train.images.double() / 255
    np.testing.assert_allclose(data.mean, values.mean((0, 1, 2)))
    np.testing.assert_allclose(data.std, values.std((0, 1, 2), correction=0))


def test_equal_to_scikit_learn():
    load_digits = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits
    bundled, data = load_digits(), open_dataset("digits", **OPTIONS)
    images, labels = torch.cat([data.train.images, data.test.images]), torch.cat([data.train.labels, data.test.labels])
    np.testing.assert_array_equal((images[..., 0].double() * 16 / 255).round(), bundled.images)
    np.testing.assert_array_equal(labels, bundled.target)


def test_takes_no_path():
    with pytest.raises(UserError, match="digits takes no path"):
        open_dataset("digits:/somewhere", **OPTIONS)
