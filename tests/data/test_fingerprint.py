from dataclasses import replace

import numpy as np
import torch

from fastkd.data import FileSplit, Split, fingerprint, open_dataset
from fastkd.data.paths import Paths


def digits(limit=None):
    return open_dataset("digits", image_size=8, resident=True, limit_train=limit, threads=1)


def test_a_pixel_a_label_a_class_and_the_order_count():
    data = digits(32)
    images, labels = data.train.images, data.train.labels
    changed = images.clone()
    changed[3, 4, 5, 1] ^= 1
    turned = torch.arange(31, -1, -1)
    others = [
        replace(data, train=Split(changed, labels)),
        replace(data, train=Split(images, labels.roll(1))),
        replace(data, train=Split(images[turned], labels[turned])),
        replace(data, classes=(*data.classes[:-1], "nine")),
        digits(31),
        digits(),
    ]
    found = {fingerprint(other) for other in others}
    assert len(found) == len(others) and fingerprint(data) not in found


def test_how_the_bytes_lie_in_memory_does_not_count():
    data = digits(32)
    planes = data.train.images.movedim(-1, 1).contiguous().movedim(1, -1)
    assert fingerprint(replace(data, train=Split(planes, data.train.labels))) == fingerprint(data)


def test_files_count_by_name_and_size_wherever_their_folder_lies():
    def files(*names, root="/here", width=8):
        sizes = np.full((len(names), 2), width, np.int32)
        return FileSplit(Paths.of(root, names), torch.zeros(len(names)).long(), sizes, np.ones(len(names), bool))

    data = digits(32)
    known = fingerprint(replace(data, train=files(b"a/1.png", b"b/2.png")))
    assert fingerprint(replace(data, train=files(b"a/1.png", b"b/2.png", root="/there"))) == known
    more = files(b"a/0.png", b"a/1.png", b"b/2.png").take(np.array([1, 2]))
    assert fingerprint(replace(data, train=more)) == known
    for other in (files(b"a/1.png", b"b/3.png"), files(b"a/1.png", b"b/2.png", width=9), files(b"a/1.pn", b"gb/2.png")):
        assert fingerprint(replace(data, train=other)) != known
