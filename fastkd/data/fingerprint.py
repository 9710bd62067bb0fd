"""A digest of a training set: whether two runs number the same images in the same way."""

import hashlib

import numpy as np

from fastkd.data.base import DataSet, Split


def fingerprint(data: DataSet) -> str:
    """A digest of the training images and labels in their order, and of the classes' names.

    Images that are held as bytes are read whole. Of image files the names below the data set's folder and the sizes in
    pixels count: reading every file would take as long as training on it.
    """
    found = hashlib.sha256("\n".join(data.classes).encode(errors="surrogateescape"))
    found.update(data.train.labels.numpy().tobytes())
    if isinstance(data.train, Split):
        found.update(f"{tuple(data.train.images.shape)}".encode())
        found.update(np.ascontiguousarray(data.train.images.numpy()).data)
    else:
        for place in range(len(data.train)):
            found.update(data.train.records.name(place) + b"\0")
        found.update(np.ascontiguousarray(data.train.sizes).data)
    return found.hexdigest()
