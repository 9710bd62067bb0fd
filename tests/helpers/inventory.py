"""The papers' tables in a form that a laptop's core trains: the first and the last cell, a few images, an epoch."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from fastkd import reproduce
from fastkd.recipes.findings import Probed
from fastkd.recipes.tables.layout import Table
from helpers.corruptions import write_toy
from helpers.fingerprints import write_data

PATHS = {"cifar100": "cifar100", "cifar10": "cifar10", "tiny-imagenet": "tiny", "imagefolder": "folder"} | {
    "stl10": "stl10",
    "cifar100c": "cifar100c",
}
EPOCHS = {("sftn", "4"): 4, ("tfkd", "fig2"): 2, ("simkd", "3"): 4}
"""RCO has four points along a training, Figure 2 one before its end, Table 3 a quarter; for all others one will do."""
_SYNTHESIS = {"images": 8, "steps-per-epoch": 2, "generator-steps": 2, "channels": 4, "latent": 8, "every": 1}
SYNTHESIS = [word for name, value in {**_SYNTHESIS, "bank": 12}.items() for word in (f"--synthesis.{name}", str(value))]


def write_every_set(root: Path) -> None:
    """Noise in the layout of each data set that some table reads."""
    write_data(root)
    for name in ("stl10", "cifar100c"):
        (root / name).mkdir()
    write_toy(root / "cifar100c")
    rng = np.random.default_rng(1)
    for part in ("train", "test"):
        rng.integers(0, 256, (10, 3 * 96 * 96), dtype=np.uint8).tofile(root / "stl10" / f"{part}_X.bin")
        np.arange(1, 11, dtype=np.uint8).tofile(root / "stl10" / f"{part}_y.bin")


def write_real_cifar100(root: Path, images: Path, *, train: int, test: int) -> None:
    """The first images of each class of CIFAR-100, in the published binary layout; images: strips of a class each."""
    names = (images / "labels.txt").read_text()
    root.mkdir()
    (root / "fine_label_names.txt").write_text(names)
    for part, count in (("train", train), ("test", test)):
        records = np.concatenate([_records(images / part / f"{label:02d}.webp", label, count) for label in range(100)])
        np.random.default_rng(0).permutation(records).tofile(root / f"{part}.bin")


def _records(strip: Path, label: int, count: int) -> np.ndarray:
    """[count, 3074] uint8: coarse label (0 here), fine label, planes of red, green and blue."""
    pixels = np.asarray(Image.open(strip)).reshape(-1, 32, 32, 3)[:count].transpose(0, 3, 1, 2).reshape(count, -1)
    labels = np.array([[0, label]], np.uint8).repeat(count, 0)
    return np.concatenate([labels, pixels], 1)


def write_real_tiny(root: Path, images: Path, *, classes: int, train: int, test: int) -> None:
    """Some classes of Tiny-ImageNet in its published layout; images: folders train/CLASS and val/CLASS."""
    names = sorted(folder.name for folder in (images / "train").iterdir())[:classes]
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(names) + "\n")
    lines = []
    for name in names:
        (root / "train" / name / "images").mkdir(parents=True)
        for file in sorted((images / "train" / name).iterdir())[:train]:
            shutil.copy(file, root / "train" / name / "images")
        for file in sorted((images / "val" / name).iterdir())[:test]:
            shutil.copy(file, root / "val" / "images")
            lines.append(f"{file.name}\t{name}\t0\t0\t63\t63")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def narrowed(table: Table) -> Table:
    """The table with the places of its first and of its last cell."""
    entries = [place.entry for place in table.places]
    kept = tuple(place for place in table.places if place.entry in (entries[0], entries[-1])) if entries else ()
    return replace(table, places=kept)


def sets_of(table: Table) -> list[str]:
    """The data sets that a table reads."""
    trained = [reproduce.RECIPES[place.entry.recipe]().data.partition(":")[0] for place in table.places]
    measured = [place.finding.data for place in table.places if place.finding and place.finding.data]
    return list(dict.fromkeys(trained + measured))


def data_of(table: Table, root: Path) -> dict[str, str]:
    return {name: f"{name}:{root / PATHS[name]}" for name in sets_of(table)}


def tiny_options(paper: str, table: Table, *, images: int = 8, batch: int = 8) -> Iterator[str]:
    """The options of `fastkd.reproduce` that make every training of a table one of seconds."""
    if not table.places:
        return
    epochs = str(EPOCHS.get((paper, table.key), 1))
    yield from ("--limit-train", str(images), "--batch-size", str(batch), "--epochs", epochs)
    recipes = {place.entry.recipe for place in table.places}
    taught = {place.entry.recipe for place in table.places if place.entry.teacher}
    if any(stage.name == "teacher" for name in taught for stage in reproduce.RECIPES[name]().stages):
        yield from ("--teacher-epochs", epochs)
    sets = sets_of(table)
    if sets[0] == "imagefolder":
        yield from ("--loader", "torchvision", "--workers", "1", "--image-size", "64")
    if any(isinstance(place.finding, Probed) for place in table.places):
        yield from ("--probe-epochs", "1")
    if any(stage.synthesis for name in recipes for stage in reproduce.RECIPES[name]().stages):
        yield from SYNTHESIS
