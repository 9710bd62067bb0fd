"""The tables of "Knowledge Distillation with the Reused Teacher Classifier" (Chen et al. 2022): SimKD.

Its WRNs are post-activation resnets of the same depth and width less two: WRN-40-2 is the table's resnet38x2.
All figures are of the best epoch on the test set, over four runs (one on ImageNet).
"""

from typing import Any

from fastkd.recipes.tables.entry import Entry, Omitted
from fastkd.recipes.tables.grid import Grid, figure, read_grid
from fastkd.recipes.tables.layout import of_entries

_METHODS = {
    "KD": "kd",
    "FitNet": "kd+fitnet",
    "AT": "kd+at",
    "SP": "kd+sp",
    "VID": "kd+vid",
    "CRD": "kd+crd",
    "SRRL": "kd+srrl",
    "SemCKD": "kd+semckd",
    "SimKD": "simkd",
}

# Here and below each pair has a column; `teacher` and `student` are its networks' own accuracies.
_TABLE_1 = read_grid("""
         resnet38x2/resnet38  resnet32x4/resnet8x4  resnet110x2/resnet110  resnet110x2/resnet116  resnet32x4/vgg8
teacher  76.31                79.42                 78.18                  78.18                  79.42
student  71.92±0.17           73.09±0.30            74.37±0.17             74.46±0.09             70.46±0.29
KD       74.12±0.29           74.42±0.05            76.25±0.34             76.14±0.32             72.73±0.15
FitNet   74.17±0.22           74.32±0.08            76.08±0.13             76.20±0.17             72.91±0.18
AT       74.67±0.18           75.07±0.03            76.67±0.28             76.84±0.25             71.90±0.13
SP       73.90±0.17           74.29±0.07            76.43±0.39             75.99±0.26             73.12±0.10
VID      74.59±0.17           74.55±0.10            76.17±0.22             76.53±0.24             73.19±0.23
CRD      74.80±0.33           75.59±0.07            76.86±0.09             76.83±0.13             73.54±0.19
SRRL     74.64±0.14           75.39±0.34            76.75±0.14             77.19±0.09             73.23±0.16
SemCKD   74.41±0.16           76.23±0.04            76.62±0.14             76.69±0.48             75.27±0.13
SimKD    75.56±0.27           78.08±0.15            77.82±0.15             77.90±0.11             75.76±0.12
""")
_TABLE_1_RIGHT = read_grid("""
         resnet38x2/resnet8x4  resnet32x4/ShuffleV2
teacher  76.31                 79.42
student  73.09±0.30            72.60±0.12
KD       75.28±0.18            75.60±0.21
FitNet   75.02±0.31            75.82±0.22
AT       75.74±0.09            75.41±0.10
SP       74.84±0.08            75.77±0.08
VID      75.56±0.13            75.22±0.07
CRD      75.78±0.27            77.04±0.61
SRRL     76.12±0.18            76.19±0.35
SemCKD   75.85±0.16            77.62±0.32
SimKD    76.75±0.23            78.39±0.27
""")

_TABLE_2 = read_grid("""
         resnet32x4/ShuffleV1  resnet32x4/resnet14x2  resnet110x2/ShuffleV2  resnet38x2/MobileNetV2
teacher  79.42                 79.42                  78.18                  76.31
student  71.36±0.25            73.51±0.32             72.60±0.12             65.43±0.29
KD       74.30±0.16            74.90±0.29             76.05±0.34             69.07±0.47
FitNet   74.52±0.03            74.70±0.35             76.02±0.21             68.64±0.27
AT       75.55±0.19            75.38±0.18             76.84±0.19             68.62±0.31
SP       74.69±0.32            75.16±0.32             76.60±0.22             68.73±0.17
VID      74.76±0.22            74.85±0.35             76.44±0.32             68.91±0.33
CRD      75.34±0.24            75.65±0.08             76.67±0.27             70.28±0.24
SRRL     75.18±0.39            75.46±0.13             76.71±0.27             69.34±0.16
SemCKD   76.31±0.20            75.65±0.23             77.67±0.30             69.88±0.30
SimKD    77.18±0.26            77.17±0.32             78.25±0.24             70.71±0.41
""")
# The teacher of the second column is ResNet-110x4, as Table S.9 and its pruning ratios say; Table 2 prints ResNet-32x4.
_TABLE_2_RIGHT = read_grid("""
         resnet32x4/MobileNetV2x2  resnet110x4/resnet38x2  resnet32x4/ShuffleV2_1_5
teacher  79.42                     80.20                   79.42
student  69.06±0.10                76.35±0.18              74.15±0.22
KD       72.43±0.32                77.70±0.13              76.82±0.23
FitNet   73.09±0.46                77.69±0.23              77.12±0.24
AT       73.08±0.14                78.45±0.24              77.51±0.31
SP       72.99±0.27                78.34±0.08              77.18±0.19
VID      72.70±0.22                77.96±0.33              77.11±0.35
CRD      73.67±0.26                78.15±0.14              77.66±0.22
SRRL     73.48±0.36                78.39±0.19              77.55±0.26
SemCKD   73.98±0.32                78.74±0.17              79.13±0.41
SimKD    75.43±0.26                79.29±0.11              79.54±0.26
""")

_TABLE_S2 = read_grid("""
         vgg13/vgg8  resnet38x2/resnet14x2  resnet38x4/resnet14x4
teacher  74.64       76.31                  79.51
student  70.46±0.29  73.51±0.32             77.26±0.24
KD       73.38±0.05  75.40±0.34             79.24±0.23
FitNet   73.63±0.11  75.44±0.22             79.06±0.16
AT       73.51±0.08  75.76±0.29             79.38±0.20
SP       73.53±0.23  75.61±0.34             79.53±0.20
VID      73.63±0.07  75.44±0.24             79.40±0.08
CRD      74.31±0.17  75.86±0.17             79.46±0.19
SRRL     74.25±0.35  75.89±0.12             79.67±0.17
SemCKD   74.43±0.25  75.77±0.11             80.05±0.27
SimKD    74.93±0.21  76.23±0.14             80.36±0.04
""")

_TABLE_3 = read_grid("""
         torchvision_resnet50/torchvision_resnet18
teacher  76.26
student  70.58
KD       71.29
AT       71.18
SP       71.08
VID      71.11
CRD      71.25
SRRL     71.46
SemCKD   71.41
SimKD    71.66
""")
_TABLE_S3 = read_grid("""
         torchvision_resnet50/torchvision_resnet34  torchvision_resnet101/torchvision_resnet50
teacher  76.26                                      77.80
student  74.01                                      76.26
SimKD    74.64                                      77.60
""")

# Each student has three teachers; the first row of figures is theirs.
_TABLE_6 = read_grid("""
          resnet32x4+resnet32x4+resnet32x4/ShuffleV2  resnet32x4+resnet32x4+resnet110x2/ShuffleV2
teachers  79.32 79.43 79.45                           79.43 79.45 78.18
student   72.60±0.12                                  72.60±0.12
AVEG      75.94±0.20                                  76.33±0.14
AEKD      75.99±0.18                                  76.17±0.43
AEKD-F    77.24±0.32                                  77.08±0.28
SimKD_v   77.43±0.21                                  77.60±0.23
SimKD     78.59±0.31                                  78.59±0.05
""")
_SEVERAL: dict[str, tuple[str, dict[str, Any]]] = {
    "AVEG": ("aveg", {}),
    "AEKD": ("aekd", {}),
    "AEKD-F": ("aekd+aekd_f", {}),
    "SimKD_v": ("simkd", {"simkd.projector": "vector"}),
    "SimKD": ("simkd", {}),
}

# The printed WRN-40-2, WRN-40-1 and WRN-16-2 have the accuracies of Table 1's and 2's networks: the teacher is theirs.
_TABLE_7 = read_grid("""
           resnet38x2/resnet38  resnet38x2/resnet14x2
teacher    76.31                76.31
student    71.92±0.17           73.51±0.32
ZSKT       33.60±3.88           45.03±1.73
DAFL       45.32±1.46           45.94±1.66
CMI        64.80±0.35           65.11±0.43
CMI+SimKD  66.78±0.29           67.31±0.89
""")
_DATA_FREE = {
    "ZSKT": ("cifar100-zskt", "kd"),
    "DAFL": ("cifar100-dafl", "kd"),
    "CMI": ("cifar100-cmi", "kd"),
    "CMI+SimKD": ("cifar100-cmi", "simkd"),
}

# Figures are those of the reused classifier; α is SimKD's weight, 1 - α that of the student's own CE and KL.
_JOINT = {
    "Table S.4": read_grid("""
               resnet32x4/resnet8x4  resnet38x2/resnet8x4
        0.2    73.91±0.12            73.45±0.31
        0.4    73.83±0.13            73.65±0.27
        0.6    73.89±0.26            73.81±0.25
        0.8    74.13±0.24            74.19±0.22
        0.9    74.42±0.26            74.73±0.13
        0.99   77.66±0.22            76.68±0.13
        0.999  77.98±0.19            76.84±0.28
    """),
    "Table S.5": read_grid("""
               resnet38x2/resnet38  resnet32x4/MobileNetV2x2
        0.2    73.92±0.31           72.04±0.23
        0.4    74.17±0.19           72.13±0.25
        0.6    74.39±0.20           72.64±0.29
        0.8    74.88±0.22           72.95±0.06
        0.9    75.17±0.17           73.40±0.27
        0.99   75.35±0.15           75.31±0.16
        0.999  75.33±0.08           75.43±0.22
    """),
}

# Rows are r, the factor by which the projector is narrower than the teacher.
_FACTORS = (
    (
        "Table S.8",
        read_grid("""
           resnet38x2/resnet38  resnet32x4/resnet8x4  resnet110x2/resnet110  resnet110x2/resnet116  resnet32x4/vgg8
        8  67.20±0.35           76.73±0.20            71.71±1.00             71.96±1.09             74.74±0.15
        4  74.29±0.03           77.88±0.41            77.14±0.22             77.18±0.21             75.62±0.28
        2  75.56±0.27           78.08±0.15            77.82±0.15             77.90±0.11             75.76±0.12
        1  75.95±0.30           78.80±0.13            78.00±0.26             78.15±0.30             75.98±0.21
    """),
    ),
    (
        "Table S.8",
        read_grid("""
           resnet38x2/resnet8x4  resnet32x4/ShuffleV2
        8  66.26±0.98            77.49±0.31
        4  75.57±0.03            78.21±0.20
        2  76.75±0.23            78.39±0.27
        1  76.96±0.07            78.66±0.08
    """),
    ),
    (
        "Table S.9",
        read_grid("""
           resnet32x4/ShuffleV1  resnet32x4/resnet14x2  resnet110x2/ShuffleV2  resnet38x2/MobileNetV2
        8  76.68±0.20            75.41±0.17             73.50±0.77             61.78±1.21
        4  77.22±0.22            76.69±0.23             77.35±0.18             69.43±0.21
        2  77.18±0.26            77.17±0.32             78.25±0.24             70.71±0.41
        1  77.58±0.36            77.65±0.24             78.58±0.22             70.90±0.17
    """),
    ),
    (
        "Table S.9",
        read_grid("""
           resnet32x4/MobileNetV2x2  resnet110x4/resnet38x2  resnet32x4/ShuffleV2_1_5
        8  74.97±0.14                78.55±0.33              78.96±0.15
        4  75.56±0.34                79.23±0.06              79.48±0.12
        2  75.43±0.26                79.29±0.11              79.54±0.26
        1  75.71±0.20                79.26±0.17              79.72±0.24
    """),
    ),
)

OMITTED = tuple(
    Omitted(paper="SimKD", table=table, what=what, why=why)
    for table, what, why in (
        ("Figures 1, 2, Table S.1", "diagrams, and the projector's structure", "nothing is trained for them"),
    )
)


def _entry(table: str, pair: str, method: str, **more: Any) -> Entry:
    teacher, _, student = pair.partition("/")
    recipe = "imagenet-simkd" if pair.startswith("torchvision") else "cifar100-simkd"
    return Entry(paper="SimKD", table=table, recipe=recipe, teacher=teacher, student=student, method=method, **more)


def _main(table: str, grid: Grid) -> list[Entry]:
    found, source = [], f"SimKD, {table}, best epoch"
    for number, pair in enumerate(grid.columns):
        for row, method in _METHODS.items():
            if row in grid.rows:
                rows = {"teacher": "teacher", "student": row, "control": "student"}
                figures = {stage: figure(grid.rows[name][number], source) for stage, name in rows.items()}
                found.append(_entry(table, pair, method, row=row, figures=figures))
    return found


def _data_free() -> list[Entry]:
    found, source = [], "SimKD, Table 7, best epoch"
    for row, (recipe, method) in _DATA_FREE.items():
        for number, pair in enumerate(_TABLE_7.columns):
            teacher, _, student = pair.partition("/")
            rows = {"teacher": "teacher", "student": row, "control": "student"}
            figures = {stage: figure(_TABLE_7.rows[name][number], source) for stage, name in rows.items()}
            how = {"paper": "SimKD", "table": "Table 7", "recipe": recipe, "row": row, "figures": figures}
            found.append(Entry(**how, teacher=teacher, student=student, method=method))
    return found


def _several() -> list[Entry]:
    found, source = [], "SimKD, Table 6, best epoch"
    for row, (method, options) in _SEVERAL.items():
        for number, pair in enumerate(_TABLE_6.columns):
            names = ("teacher", "teacher-2", "teacher-3")
            figures = dict(zip(names, _TABLE_6.rows["teachers"][number].split(), strict=True))
            figures |= {"student": _TABLE_6.rows[row][number], "control": _TABLE_6.rows["student"][number]}
            shown = {stage: figure(cell, source) for stage, cell in figures.items()}
            found.append(_entry("Table 6", pair, method, options=options, row=row, figures=shown))
    return found


def _variant(table: str, pair: str, row: str, options: dict[str, Any], cell: str) -> Entry:
    figures = {"student": figure(cell, f"SimKD, {table}, best epoch")}
    return _entry(table, pair, "simkd", options=options, row=row, figures=figures)


def _variants() -> list[Entry]:
    found = []
    for table, grid in _JOINT.items():
        for row, cells in grid.rows.items():
            weight = float(row)
            rest = round(1 - weight, 6)
            options = {"simkd.weight": weight, "simkd.ce-weight": rest, "simkd.kl-weight": rest}
            found += [
                _variant(table, pair, f"α = {row}", options, cell)
                for pair, cell in zip(grid.columns, cells, strict=True)
            ]
    for table, grid in _FACTORS:
        for row, cells in grid.rows.items():
            options = {} if row == "2" else {"simkd.factor": int(row)}  # 2 is the recipe's default
            pairs = zip(grid.columns, cells, strict=True)
            found += [_variant(table, pair, f"r = {row}", options, cell) for pair, cell in pairs]
    pair = "resnet32x4/resnet8x4"
    found.append(_variant("Table 5", pair, "1x1Conv-DW3x3Conv-1x1Conv", {"simkd.projector": "depthwise"}, "77.76±0.12"))
    found.append(_variant("Table S.10", pair, "SimKD+", {"simkd.reused-blocks": 1}, "78.47±0.08"))
    found.append(_variant("Table S.10", pair, "SimKD++", {"simkd.reused-blocks": 2}, "78.88±0.05"))
    return found


ENTRIES = (
    *_main("Table 1", _TABLE_1),
    *_main("Table 1", _TABLE_1_RIGHT),
    *_main("Table 2", _TABLE_2),
    *_main("Table 2", _TABLE_2_RIGHT),
    *_main("Table S.2", _TABLE_S2),
    *_main("Table 3", _TABLE_3),
    *_main("Table S.3", _TABLE_S3),
    *_several(),
    *_variants(),
    *_data_free(),
)
"""All entries of the paper. For a run that two tables have a figure for, the first entry counts."""

TABLES = of_entries("SimKD", ENTRIES)
"""Every table, as it is printed."""
