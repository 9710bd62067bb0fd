"""The tables of "Revisit Knowledge Distillation: a Teacher-free Framework" (Yuan et al. 2020): Tf-KD.

All figures are of the best epoch on the test set, over three runs where a deviation is printed. Figures 4(a), 5(a) and
6(a) are tables too.
"""

from typing import Any

from fastkd.recipes.tables.entry import Entry, Omitted
from fastkd.recipes.tables.grid import Grid, figure, read_grid
from fastkd.recipes.tables.layout import Chart, Place, Printed, Table, of_entries

NETWORKS = {
    "Plain CNN": "tf_cnn",
    "MobileNetV2": "tf_mobilenet_v2",
    "ShuffleNetV2": "tf_shufflenet_v2",
    "ResNet18": "ResNet18",
    "ResNet50": "ResNet50",
    "DenseNet121": "tf_densenet121",
    "ResNeXt29": "tf_resnext29_8x64d",
    "ResNeXt101": "tf_resnext101_32x8d",
    "GoogLeNet": "tf_googlenet",
}
IMAGENET_NETWORKS = {
    "ResNet18": "torchvision_resnet18",
    "ResNet50": "torchvision_resnet50",
    "DenseNet121": "torchvision_densenet121",
    "ResNeXt101": "torchvision_resnext101_32x8d",
}

# Tables 1 to 3 have the networks' own accuracies, KD from the first to the second, and Re-KD, the other way round.
_TABLES_1_TO_3 = {
    ("Table 1", "cifar100-tfkd"): read_grid("""
                                teacher  student  KD          Re-KD
        ResNet18/MobileNetV2      75.87    68.38  71.05±0.16  77.28±0.28
        ResNet18/ShuffleNetV2     75.87    70.34  72.05±0.13  77.35±0.32
        ResNet50/MobileNetV2      78.16    68.38  71.04±0.20  79.30±0.11
        ResNet50/ShuffleNetV2     78.16    70.34  72.15±0.18  79.43±0.39
        DenseNet121/MobileNetV2   79.04    68.38  71.29±0.23  79.55±0.11
        DenseNet121/ShuffleNetV2  79.04    70.34  72.32±0.25  79.83±0.05
        ResNeXt29/MobileNetV2     81.03    68.38  71.65±0.41  81.53±0.14
        ResNeXt29/ResNet18        81.03    75.87  77.84±0.15  81.62±0.22
    """),
    ("Table 2", "cifar10-tfkd"): read_grid("""
                               teacher  student  KD          Re-KD
        ResNet18/Plain CNN       95.12    87.14  87.67±0.17  95.33±0.12
        ResNet18/MobileNetV2     95.12    90.98  91.69±0.14  95.71±0.11
        MobileNetV2/Plain CNN    90.98    87.14  87.45±0.18  91.81±0.23
        ResNeXt29/ResNet18       95.76    95.12  95.80±0.13  96.49±0.15
    """),
    ("Table 3", "tiny-tfkd"): read_grid("""
                               teacher  student  KD          Re-KD
        ResNet18/MobileNetV2     63.44    55.06  56.70       64.12
        ResNet18/ShuffleNetV2    63.44    60.51  61.19       64.35
        ResNet50/MobileNetV2     67.47    55.06  56.02       67.68
        ResNet50/ShuffleNetV2    67.47    60.51  60.79       67.62
        ResNet50/ResNet18        67.47    63.44  64.23       67.89
    """),
}

# The teacher is the first network after one epoch (ResNet18), or after 50 of 200. The cell of ResNeXt29 and MobileNetV2
# is the text's: 3.14 above the baseline. That of ResNet50 and ResNet18 cannot be read in the copy at hand.
TABLE_4 = {
    "cifar100-dekd": read_grid("""
                               teacher  student  De-KD
        ResNet18/MobileNetV2     15.48    68.38  70.65±0.35
        ResNet18/ShuffleNetV2    15.48    70.34  71.82±0.11
        ResNet50/MobileNetV2     45.82    68.38  71.45±0.23
        ResNet50/ShuffleNetV2    45.82    70.34  72.11±0.09
        ResNet50/ResNet18        45.82    75.87    -
        ResNeXt29/MobileNetV2    51.94    68.38    71.52
        ResNeXt29/ShuffleNetV2   51.94    70.34  72.26±0.36
        ResNeXt29/ResNet18       51.94    75.87  77.28±0.17
    """),
    "tiny-dekd": read_grid("""
                               teacher  student  De-KD
        ResNet18/MobileNetV2      9.41    55.06  56.22
        ResNet18/ShuffleNetV2     9.41    60.51  60.66
        ResNet50/MobileNetV2     31.01    55.06  56.02
        ResNet50/ShuffleNetV2    31.01    60.51  61.09
    """),
}

_SELF = {
    ("Figure 4(a)", "cifar100-tfkd"): read_grid("""
                     baseline  self
        MobileNetV2     68.38  70.96
        ShuffleNetV2    70.34  72.23
        ResNet18        75.87  77.10
        GoogLeNet       78.72  80.17
        DenseNet121     79.04  80.26
        ResNeXt29       81.03  82.08
    """),
    ("Table 5", "tiny-tfkd"): read_grid("""
                     baseline  self
        MobileNetV2     55.06  56.77
        ShuffleNetV2    60.51  61.36
        ResNet50        67.47  68.18
        DenseNet121     68.15  68.29
    """),
    ("Table 6", "imagenet-tfkd"): read_grid("""
                     baseline  self
        ResNet18        69.84  70.42
        ResNet50        75.77  76.41
        DenseNet121     75.28  75.72
        ResNeXt101      79.28  79.56
    """),
}

_REG = {
    ("Table 8", "cifar100-tfkd"): read_grid("""
                     baseline  reg    LSR
        MobileNetV2     68.38  70.88  69.32
        ShuffleNetV2    70.34  72.09  70.83
        ResNet18        75.87  77.36  77.26
        GoogLeNet       78.15  79.22  79.07
    """),
    ("Table 9", "tiny-tfkd"): read_grid("""
                     baseline  reg    LSR
        MobileNetV2     55.06  56.47  56.24
        ShuffleNetV2    60.51  60.93  60.66
        ResNet50        67.47  67.92  67.63
        DenseNet121     68.15  68.37  68.19
    """),
    ("Figure 6(a)", "imagenet-tfkd"): read_grid("""
                     baseline  reg    LSR
        ResNet18        69.84  70.24  70.02
        ResNet50        75.77  76.42  76.38
        DenseNet121     75.28  75.62  75.24
        ResNeXt101      79.28  79.76  79.67
    """),
}

# Students by a teacher, as these tables print them beside Tf-KD. Figure 5(a) has the improvements alone, here added to
# the baselines of Figure 4(a).
_NORMAL = {
    ("Figure 5(a)", "cifar100-tfkd"): read_grid("""
                                teacher     KD
        MobileNetV2             ResNet18    71.05
        ShuffleNetV2            ResNet18    72.05
        ResNet18                ResNet50    77.06
        GoogLeNet               ResNeXt29   80.11
        DenseNet121             ResNeXt29   80.19
        ResNeXt29               ResNeXt101  82.15
    """),
    ("Table 5", "tiny-tfkd"): read_grid("""
                                teacher      KD
        MobileNetV2             ResNet18     56.70
        ShuffleNetV2            ResNet18     61.19
        ResNet50                DenseNet121  68.23
        DenseNet121             ResNeXt29    68.31
    """),
    ("Table 8", "cifar100-tfkd"): read_grid("""
                                teacher    KD
        MobileNetV2             ResNet18   71.05
        ShuffleNetV2            ResNet18   72.05
        ResNet18                ResNet50   77.19
        GoogLeNet               ResNeXt29  78.84
    """),
    ("Table 9", "tiny-tfkd"): read_grid("""
                                teacher    KD
        MobileNetV2             ResNet18   56.53
        ShuffleNetV2            ResNet18   61.19
        ResNet50                ResNeXt29  68.15
        DenseNet121             ResNeXt29  68.44
    """),
}

# Tables 10 and 11 have τ and α of KD and Re-KD, and of De-KD, whose τ is always 20.
TABLE_10 = {
    "cifar10-tfkd": read_grid("""
                               KD       Re-KD
        ResNet18/Plain CNN     20 0.90  20 0.01
        ResNet18/MobileNetV2   20 0.90  20 0.05
        MobileNetV2/Plain CNN  20 0.40  20 0.10
        ResNeXt29/ResNet18     6 0.95   20 0.10
    """),
    "cifar100-tfkd": read_grid("""
                                  KD       Re-KD
        ResNet18/MobileNetV2      20 0.95  20 0.60
        ResNet18/ShuffleNetV2     20 0.95  20 0.60
        ResNet50/MobileNetV2      20 0.95  20 0.60
        ResNet50/ShuffleNetV2     20 0.95  20 0.60
        DenseNet121/MobileNetV2   20 0.95  20 0.60
        DenseNet121/ShuffleNetV2  20 0.95  20 0.60
        ResNeXt29/MobileNetV2     20 0.60  20 0.60
        ResNeXt29/ResNet18        20 0.60  20 0.60
    """),
    "tiny-tfkd": read_grid("""
                               KD       Re-KD
        ResNet18/MobileNetV2   20 0.10  20 0.60
        ResNet18/ShuffleNetV2  20 0.10  20 0.60
        ResNet50/MobileNetV2   20 0.10  20 0.10
        ResNet50/ShuffleNetV2  20 0.10  20 0.50
        ResNet50/ResNet18      20 0.50  20 0.10
    """),
}


OMITTED = tuple(
    Omitted(paper="Tf-KD", table=table, what=what, why=why)
    for table, what, why in (
        ("Table 4", "the figure of ResNet50 to ResNet18", "it cannot be read in the copy at hand; the cell is run"),
        ("Figures 2, 4(b), 5(b), 6(b), 7", "the numbers", "the paper draws them; they are measured"),
        ("Figure 1", "the diagrams", "nothing is trained for them"),
        (
            "Tables 10, 11, 13, 14",
            "the weights of losses",
            "those of the recipes: nothing is trained for them",
        ),
    )
)


def _entry(
    table: str, recipe: str, student: str, method: str, figures: dict[str, str], teacher: str = "", **printed: Any
) -> Entry:
    source = f"Tf-KD, {table}, best epoch"
    return Entry(
        paper="Tf-KD",
        table=table,
        recipe=recipe,
        teacher=teacher,
        student=student,
        method=method,
        figures={stage: figure(cell, source) for stage, cell in figures.items()},
        **printed,
    )


def _rows(grid: Grid) -> list[tuple[str, dict[str, str]]]:
    return [(name, dict(zip(grid.columns, cells, strict=True))) for name, cells in grid.rows.items()]


def _pairs() -> list[Entry]:
    found = []
    for (table, recipe), grid in _TABLES_1_TO_3.items():
        for name, cells in _rows(grid):
            large, small = (NETWORKS[part] for part in name.split("/"))
            ways: tuple[tuple[str, str, str, Any, Any], ...] = (
                (large, small, cells["KD"], cells["teacher"], cells["student"]),
                (small, large, cells["Re-KD"], cells["student"], cells["teacher"]),
            )
            for row, (teacher, student, result, of_teacher, of_student) in zip(("KD", "Re-KD"), ways, strict=True):
                figures = {"teacher": of_teacher, "student": result, "control": of_student}
                found.append(_entry(table, recipe, student, "kd", figures, teacher, row=row, column=name))
    for recipe, grid in TABLE_4.items():
        for name, cells in _rows(grid):
            teacher, student = (NETWORKS[part] for part in name.split("/"))
            figures = {"teacher": cells["teacher"], "student": cells["De-KD"], "control": cells["student"]}
            figures = {stage: cell for stage, cell in figures.items() if cell != "-"}
            column = f"{name}, {recipe.partition('-')[0]}"
            found.append(_entry("Table 4", recipe, student, "kd", figures, teacher, row="De-KD", column=column))
    figures = {"teacher": "75.28", "student": "70.40", "control": "69.84"}
    networks = (IMAGENET_NETWORKS["ResNet18"], "kd", figures, IMAGENET_NETWORKS["DenseNet121"])
    found.append(_entry("Table 7", "imagenet-tfkd", *networks))
    return found


def _alone() -> list[Entry]:
    """The entries of students that have no other network for a teacher."""
    found = []
    for (table, recipe), grid in _SELF.items():
        names = IMAGENET_NETWORKS if recipe == "imagenet-tfkd" else NETWORKS
        for name, cells in _rows(grid):
            figures = {"teacher": cells["baseline"], "student": cells["self"]}
            found.append(
                _entry(table, recipe, names[name], "tfkd_self", figures, names[name], row="Tf-KD_self", column=name)
            )
    for (table, recipe), grid in _REG.items():
        names = IMAGENET_NETWORKS if recipe == "imagenet-tfkd" else NETWORKS
        for name, cells in _rows(grid):
            for method, column, row in (("tfkd_reg", "reg", "Tf-KD_reg"), ("ls", "LSR", "LSR")):
                figures = {"student": cells[column], "control": cells["baseline"]}
                found.append(_entry(table, recipe, names[name], method, figures, row=row, column=name))
    for (table, recipe), grid in _NORMAL.items():
        for name, cells in _rows(grid):
            teacher, student = NETWORKS[cells["teacher"]], NETWORKS[name]
            in_table = {"row": "Normal KD", "column": name}
            found.append(_entry(table, recipe, student, "kd", {"student": cells["KD"]}, teacher, **in_table))
    return found


ENTRIES = (*_pairs(), *_alone())
"""All entries of the paper. For a run that two tables have a figure for, the first entry counts."""

_CHECKPOINTS = (1, 25, 50, 75, 100, 125, 150, 175, 200)
_OF_FIGURE_2 = (f"the paper does not print the epochs of its nine checkpoints: {', '.join(map(str, _CHECKPOINTS))}",)


def _figure_2() -> Table:
    """MobileNetV2 from nine points along the trainings of two teachers; the last is the finished one."""
    places = []
    for teacher in ("ResNet18", "ResNeXt29"):
        for epoch in _CHECKPOINTS:
            entry = Entry(
                paper="Tf-KD",
                table="Figure 2",
                recipe="cifar100-tfkd",
                teacher=NETWORKS[teacher],
                student=NETWORKS["MobileNetV2"],
                method="kd",
                teacher_share=epoch / _CHECKPOINTS[-1],
                choices=_OF_FIGURE_2,
                figures={},
            )
            column = f"epoch {epoch}"
            places.append(Place(f"{teacher}: teacher", column, entry, "teacher"))
            places.append(Place(teacher, column, entry, "student", "best"))
            if (teacher, epoch) == ("ResNet18", _CHECKPOINTS[-1]):
                places.append(Place("without a teacher", column, entry, "control", "best", Printed(68.38)))
    return Table("Tf-KD", "Figure 2", tuple(places), chart=Chart("against"))


def _figure_7() -> Table:
    """The teacher whose soft targets are drawn."""
    entry = _entry("Figure 7", "cifar10-tfkd", NETWORKS["MobileNetV2"], "kd", {}, NETWORKS["ResNet18"])
    place = Place("ResNet18", "CIFAR-10", entry, "teacher", "best", Printed(95.12))
    return Table("Tf-KD", "Figure 7", (place,), computed="soft_targets")


def _curves(name: str, table: Table, row: str) -> Table:
    """The curves of a row's networks, along the epochs."""
    places = tuple(place for place in table.places if place.row == row)
    return Table("Tf-KD", name, places, chart=Chart("curves"))


TABLES = of_entries(
    "Tf-KD",
    ENTRIES,
    also={"Figure 5(a)": ("Figure 4(a)",), "Table 7": ("Table 6",)},
    charts=dict.fromkeys(("Figure 4(a)", "Figure 5(a)", "Figure 6(a)"), Chart("dots")),
    transposed=True,
)
"""Every table, as it is printed: a row for each pair of networks."""
for _table in (
    _figure_2(),
    Table("Tf-KD", "Figure 3", (), computed="virtual_teacher"),
    _curves("Figure 4(b)", TABLES["fig4a"], "ResNeXt29"),
    _curves("Figure 5(b)", TABLES["fig5a"], "MobileNetV2"),
    _curves("Figure 6(b)", TABLES["fig6a"], "ResNet50"),
    _figure_7(),
    Table("Tf-KD", "Table 12", (), computed="model_complexity"),
):
    TABLES[_table.key] = _table
