"""CIFAR-100-C in small: every byte and label by the rule of the golden collection."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from helpers.filled import pseudo_random
from helpers.golden import GOLDEN


def write_toy(folder: Path) -> dict[str, Any]:
    """Writes the 19 files and the labels; returns what the collection says of them.

    {"files": names in order, "per_file": {name: …}, "toy_classifier": …}
    """
    told = json.loads((GOLDEN / "datafree" / "cifar100c_layout.json").read_text())
    images, rows = told["toy"]["P"], 5 * told["toy"]["P"]
    for place, name in enumerate(told["layout"]["files"]):
        values = np.floor(256 * pseudo_random(rows * 3072, 10_000 * (place + 1)).numpy())
        np.save(folder / name, values.astype(np.uint8).reshape(rows, 32, 32, 3))
    labels = np.floor(100 * pseudo_random(images, 901).numpy()).astype(np.int64)
    np.save(folder / "labels.npy", np.tile(labels, 5))
    return {"files": told["layout"]["files"], "per_file": told["files"], "toy_classifier": told["toy_classifier"]}
