"""What the methods of 2022 to 2025 report for resnet32x4 → resnet8x4 on CIFAR-100 and ResNet34 → ResNet18 on ImageNet.

The figures are those of the authors' READMEs, and of the README of logit standardisation for those that it compares
with. The trainers of all of the CIFAR-100 codes write the best epoch on the test set.
"""

from typing import Any

from fastkd.recipes.tables.entry import Entry, Omitted
from fastkd.recipes.tables.grid import figure, read_grid
from fastkd.recipes.tables.layout import of_entries

_STANDARDISED_KD = {"kd.standardise": True, "kd.temperature": 2.0, "kd.kl-weight": 9.0}
_STANDARDISED_DKD = {"dkd.standardise": True, "dkd.temperature": 2.0, "dkd.alpha": 9.0, "dkd.beta": 72.0}
_STANDARDISED_MLLD = {"mlld.standardise": True, "mlld.temperature": 2.0, "mlld.kd-weight": 9.0}
_METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "KD": ("mdistiller's README", "kd", {}),
    "DKD": ("mdistiller's README", "dkd", {}),
    "DIST": ("DIST's README", "dist", {}),
    "KD, standardised": ("logit standardisation's README", "kd", _STANDARDISED_KD),
    "DKD, standardised": ("logit standardisation's README", "dkd", _STANDARDISED_DKD),
    "MLLD": ("logit standardisation's README", "mlld", {}),
    "MLLD, standardised": ("logit standardisation's README", "mlld", _STANDARDISED_MLLD),
    "CTKD": ("CTKD's README", "ctkd", {}),
    "TTM": ("TTM's README", "ttm", {}),
    "WTTM": ("TTM's README", "wttm", {}),
    "NKD": ("NKD's README", "nkd", {}),
    "SRD": ("SRD's README", "kd+srd", {}),
}

_CIFAR = read_grid("""
                    resnet32x4/resnet8x4
KD                  73.33
DKD                 76.32
DIST                76.31±0.19
KD, standardised    76.62
DKD, standardised   77.01
MLLD                77.08
MLLD, standardised  78.28
CTKD                73.39
TTM                 76.17
WTTM                76.06
""")
_IMAGENET = read_grid("""
      torchvision_resnet34/torchvision_resnet18
DKD   71.70
DIST  72.07
CTKD  71.32
NKD   71.96
WTTM  72.19
SRD   71.87
""")

OMITTED = (
    Omitted(
        paper="Methods of 2022 to 2025",
        table="VanillaKD",
        what="ResNet50 83.08",
        why="its teacher is BEiTv2-B: the recipe imagenet-vanillakd has the rest of the training",
    ),
)


def _entries(table: str, recipe: str, cells: dict[str, tuple[str, ...]], pair: str, note: str) -> list[Entry]:
    teacher, _, student = pair.partition("/")
    found = []
    for name, (cell,) in cells.items():
        source, method, options = _METHODS[name]
        found.append(
            Entry(
                paper="Methods of 2022 to 2025",
                table=table,
                recipe=recipe,
                teacher=teacher,
                student=student,
                method=method,
                options=options,
                row=name,
                figures={"student": figure(cell, source + note)},
            )
        )
    return found


ENTRIES = (
    *_entries("CIFAR-100", "cifar100-modern", _CIFAR.rows, _CIFAR.columns[0], ", best epoch"),
    *_entries("ImageNet", "imagenet-modern", _IMAGENET.rows, _IMAGENET.columns[0], ""),
)

TABLES = of_entries("Methods of 2022 to 2025", ENTRIES)
"""Every table, by its data set."""
