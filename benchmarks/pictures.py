"""What the loaders are measured on: the real images beside the checkout, else ones that are made up."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fastkd.data import DataSet
from fastkd.data.cifar import cifar100

REAL = Path(__file__).parents[2] / "shared" / "data"


def photographs(place: Path, repeat: int) -> Path:
    """A folder train/CLASS/… of links to the JPEGs of imagenet-sample, each `repeat` times, and a small val."""
    root, real = place / "photographs", REAL / "imagenet-sample"
    if not real.is_dir():
        print(f"no real photographs ({real}): made ones are read instead")
        real = place / "made"
        for number in range(64):
            rng = np.random.default_rng(number)
            noise = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            (real / f"{number:03}").mkdir(parents=True)
            noise.resize((500, 375), Image.Resampling.BICUBIC).save(real / f"{number:03}" / "0.jpg", quality=95)
    for folder in sorted(path for path in real.iterdir() if path.is_dir()):
        (root / "val").mkdir(parents=True, exist_ok=True)
        (root / "val" / folder.name).symlink_to(folder)
        (root / "train" / folder.name).mkdir(parents=True)
        for number in range(repeat):
            (root / "train" / folder.name / str(number)).symlink_to(folder)
    return root


def re_encoded(root: Path, out: Path) -> Path:
    """The same pictures with a shorter side of 256 pixels, as many keep ImageNet."""
    for file in sorted((root / "val").glob("*/*")):
        (out / "val" / file.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            scale = 256 / min(image.size)
            size = (max(256, round(image.width * scale)), max(256, round(image.height * scale)))
            image.convert("RGB").resize(size).save(out / "val" / file.parent.name / file.name, "JPEG", quality=90)
    for folder in sorted((root / "train").iterdir()):
        (out / "train" / folder.name).mkdir(parents=True)
        for number in folder.iterdir():
            (out / "train" / folder.name / number.name).symlink_to(out / "val" / folder.name)
    return out


def cifar(place: Path, limit: int | None) -> DataSet:
    """CIFAR-100, or bytes of its shape: nothing here depends on what is to be seen."""
    unpack = REAL / "unpack_cifar100.py"
    if unpack.exists():
        few = [] if limit is None else ["--limit", str(limit)]
        subprocess.run([sys.executable, str(unpack), str(place / "cifar"), *few], check=True, capture_output=True)
    else:
        (place / "cifar").mkdir()
        for part, count in (("train", limit or 50_000), ("test", 100)):
            records = np.random.default_rng(0).integers(0, 100, (count, 3074), dtype=np.uint8)
            records.tofile(place / "cifar" / f"{part}.bin")
    return cifar100(str(place / "cifar"))
