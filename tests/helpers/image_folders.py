"""Small image folders, written anew for every test."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

DALI = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
needs_dali = pytest.mark.skipif(not DALI, reason="DALI is not installed")
LOADERS = ("torchvision", pytest.param("dali", marks=needs_dali))


def picture(rng, width, height):
    """Smooth, as photographs are: JPEG keeps noise badly."""
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write_folder(root, size=(8, 8), per_class=5, classes=("ant", "bee"), ending="png", tests=2):
    """size: (width, height), or None for photographs of all shapes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", per_class), ("val", tests)):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = size or rng.integers(20, 90, 2).tolist()
                if ending == "png":
                    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number}.png")
                else:
                    picture(rng, width, height).save(folder / f"{number}.{ending}", quality=92)
    return root
