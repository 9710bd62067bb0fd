"""The tables of "Learning Student-Friendly Teacher Networks for Knowledge Distillation" (Park et al. 2021).

A cell has two figures: the first belongs to a teacher trained in the standard way, the second to a student-friendly
one. Tables 1 to 9 are the paper's, 13 to 18 its supplement's.
"""

from dataclasses import replace
from typing import Any, Literal, cast

from fastkd.recipes.recipe import Published
from fastkd.recipes.tables.entry import Entry, Omitted
from fastkd.recipes.tables.grid import Grid, figure, read_grid
from fastkd.recipes.tables.layout import Place, Printed, Summary, Table, key_of, of_entries

_METHODS = {
    "KD": "kd",
    "FitNet": "kd+fitnet",
    "AT": "kd+at",
    "SP": "kd+sp",
    "VID": "kd+vid",
    "RKD": "kd+rkd",
    "PKT": "kd+pkt",
    "AB": "kd+ab",
    "FT": "kd+ft",
    "CRD": "crd",
    "SSKD": "kd+sskd",
    "OH": "kd+oh",
}

_TABLE_17 = read_grid("""
         wrn_40_2/wrn_16_2        wrn_40_2/wrn_40_1        resnet32x4/resnet8x4     vgg13/vgg8
teacher  76.30 78.20              76.30 77.62              79.25 79.41              75.38 76.76
student  73.41                    72.16                    72.38                    71.12
KD       75.46±0.23 76.25±0.14    73.73±0.21 75.09±0.05    73.39±0.15 76.09±0.32    73.41±0.10 74.52±0.34
FitNet   75.72±0.30 76.73±0.28    74.14±0.58 75.54±0.32    75.34±0.24 76.89±0.09    73.49±0.26 74.38±0.86
AT       75.85±0.27 76.82±0.24    74.56±0.11 75.86±0.27    74.98±0.12 76.91±0.15    73.78±0.33 73.86±0.15
SP       75.43±0.24 76.77±0.45    74.51±0.50 75.31±0.48    74.06±0.28 76.37±0.17    73.37±0.16 74.62±0.16
VID      75.63±0.28 76.79±0.12    74.21±0.05 75.76±0.20    74.86±0.37 77.00±0.22    73.81±0.12 74.73±0.45
RKD      75.48±0.45 76.49±0.18    73.86±0.23 75.11±0.14    74.12±0.31 76.62±0.26    73.52±0.20 74.48±0.23
PKT      75.71±0.38 76.57±0.22    74.43±0.30 75.49±0.12    74.7±0.33 76.57±0.08     73.60±0.07 74.51±0.13
AB       70.12±0.18 70.76±0.11    74.38±0.61 75.51±0.07    74.73±0.18 76.51±0.25    73.20±0.26 74.67±0.23
FT       75.6±0.22 76.51±0.35     74.49±0.41 75.11±0.19    74.89±0.17 77.02±0.15    73.64±0.61 74.30±0.14
CRD      75.91±0.25 77.23±0.09    74.93±0.30 76.09±0.47    75.54±0.57 76.95±0.41    74.26±0.37 74.86±0.46
SSKD     75.96±0.03 76.80±0.84    75.72±0.26 76.03±0.15    75.95±0.14 76.85±0.13    74.94±0.24 75.66±0.22
OH       76.00±0.07 76.39±0.14    74.79±0.19 75.62±0.27    75.04±0.21 76.65±0.11    73.94±0.24 74.72±0.17
Best     76.00±0.07 77.23±0.09    75.72±0.26 76.09±0.47    75.95±0.14 77.02±0.15    74.94±0.24 75.66±0.22
""")

# This is the one column that the supplement does not repeat with deviations.
_TABLE_1 = read_grid("""
         resnet32x4/resnet8x2
teacher  79.25 77.89
student  68.19
KD       67.43 69.17
FitNet   69.80 71.07
AT       68.79 70.90
SP       68.39 70.03
VID      69.53 71.08
RKD      68.54 70.91
PKT      69.29 70.75
AB       69.76 71.05
FT       69.70 71.11
CRD      70.34 71.34
SSKD     69.34 70.29
OH       68.10 69.69
Best     70.34 71.34
""")

_TABLE_18 = read_grid("""
         resnet32x4/ShuffleV1     resnet32x4/ShuffleV2     ResNet50/vgg8            wrn_40_2/ShuffleV2
teacher  79.25 80.03              79.25 79.58              78.7 82.52               76.30 78.21
student  71.95                    73.21                    71.12                    73.21
KD       74.26±0.16 77.93±0.11    75.25±0.05 78.07±0.30    73.82±0.38 74.92±0.35    76.68±0.36 78.06±0.16
FitNet   75.95±0.23 78.75±0.20    77.00±0.19 79.68±0.14    73.22±0.37 74.80±0.21    77.31±0.21 79.21±0.25
AT       76.12±0.08 78.63±0.27    76.57±0.19 78.79±0.11    73.56±0.25 74.05±0.31    77.41±0.38 78.29±0.14
SP       75.80±0.29 78.36±0.18    76.11±0.40 78.38±0.38    74.02±0.41 75.37±0.13    76.93±0.07 78.12±0.08
VID      75.16±0.30 78.03±0.25    75.70±0.40 78.49±0.19    73.59±0.12 74.76±0.37    77.27±0.19 78.78±0.2
RKD      74.84±0.23 77.72±0.60    75.48±0.05 77.77±0.39    73.54±0.09 74.70±0.34    76.69±0.23 78.11±0.11
PKT      75.05±0.38 77.46±0.14    75.79±0.05 78.28±0.12    73.79±0.06 75.17±0.14    76.86±0.15 78.28±0.13
AB       75.95±0.20 78.53±0.13    76.25±0.25 78.68±0.22    73.72±0.12 74.77±0.18    77.28±0.24 78.77±0.16
FT       75.58±0.10 77.84±0.11    76.42±0.45 78.37±0.16    73.34±0.29 74.77±0.42    76.80±0.41 77.65±0.14
CRD      75.60±0.09 78.20±0.33    76.35±0.46 78.43±0.06    74.52±0.21 75.41±0.32    77.52±0.39 78.81±0.23
SSKD     78.05±0.15 79.10±0.32    78.66±0.32 79.65±0.05    76.03±0.24 76.95±0.05    77.81±0.19 78.34±0.15
OH       77.51±0.27 79.56±0.12    78.08±0.18 79.98±0.27    74.55±0.16 75.95±0.12    77.82±0.16 79.14±0.23
Best     78.05±0.15 79.56±0.12    78.66±0.32 79.98±0.27    76.03±0.24 76.95±0.05    77.82±0.16 79.21±0.25
""")

_TABLE_3 = read_grid("""
         torchvision_resnet50/torchvision_resnet34
teacher  76.45 77.43
student  73.79
KD       73.55 74.14
FitNet   74.56 75.01
SP       74.95 75.53
CRD      75.01 75.39
OH       74.56 75.01
Best     75.01 75.53
""")

# The teacher is a standard one, or learns together with the student (DML, KDCL).
_TABLE_4 = read_grid("""
         wrn_40_2/wrn_16_2  wrn_40_2/wrn_40_1  resnet32x4/resnet8x4  resnet32x4/ShuffleV1  resnet32x4/ShuffleV2  ResNet50/vgg8
student  73.41              72.16              72.38                 71.95                 73.21                 71.12
DML      75.30              74.08              74.34                 73.37                 73.80                 73.01
KDCL     75.45              74.65              75.21                 73.98                 74.30                 73.48
RCO-1    75.36              74.29              74.06                 76.62                 77.40                 74.30
RCO-4    75.69              74.87              73.73                 76.97                 76.89                 74.24
Standard  75.46              73.73              73.39                 74.26                 75.25                 73.82
SFTN     76.25              75.09              76.09                 77.93                 78.07                 74.92
SFTN-4   76.96              76.31              76.67                 79.11                 78.95                 75.52
""")  # noqa: E501 - a table
_COLLABORATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "DML": ("dml", {}),
    "KDCL": ("kdcl", {}),
    "RCO-1": ("rco", {}),  # one training of the student that is divided among four points of the teacher's
    "RCO-4": ("rco", {"rco.restart": True}),  # one training of the student for each of them
    "Standard": ("kd", {}),
    "SFTN": ("kd", {}),
    "SFTN-4": ("kd", {"epochs": 960, "teacher-epochs": 240}),
}
_OF_SFTN_4 = (
    "the paper does not print whose 960 epochs SFTN-4's are, nor their milestones: the student's, four times",
)

# A cell has two figures: that of the student-friendly teacher, and that of its student by KD; AVG is printed of both.
_SWEEPS = {
    "Table 5": (
        ("sftn.kl-weight", 1.0, "sftn.temperature"),
        read_grid("""
            resnet32x4/ShuffleV1    resnet32x4/ShuffleV2    wrn_40_2/wrn_16_2    wrn_40_2/wrn_40_1    AVG
        1   81.19 76.05             80.26 77.18             78.23 76.30          78.14 74.75          78.85 75.58
        5   81.23 75.36             81.56 75.59             79.22 76.31          78.31 73.64          79.54 75.10
        10  81.27 74.47             81.98 75.93             78.81 75.85          78.38 73.62          79.58 74.76
        15  81.89 74.78             81.74 75.65             79.27 75.79          78.63 73.49          79.74 74.81
        20  81.60 74.62             81.70 75.88             78.84 75.82          78.45 74.03          79.59 74.95
        standard  79.25 74.31    79.25 75.25    76.30 75.28    76.30 73.56    77.78 74.60
        """),
    ),
    "Table 6": (
        ("sftn.kl-weight",),
        read_grid("""
            resnet32x4/ShuffleV1    resnet32x4/ShuffleV2    wrn_40_2/wrn_16_2    wrn_40_2/wrn_40_1    AVG
        1   81.19 76.05             80.26 77.18             78.23 76.30          78.14 74.75          79.46 76.07
        3   78.70 77.36             79.80 78.56             77.83 76.20          77.57 74.71          78.48 76.71
        6   78.29 77.33             78.29 77.70             77.28 76.02          76.05 74.67          77.48 76.43
        10  73.02 75.57             75.01 76.62             75.03 74.19          73.51 73.08          74.14 74.87
        standard  79.25 74.31    79.25 75.25    76.30 75.28    76.30 73.56    77.78 74.60
        """),
    ),
    # The headings of the next two name other students; the figures of their first rows are those of Table 6's λ_KL = 3.
    "Table 15": (
        ("sftn.ce-weight",),
        read_grid("""
           resnet32x4/ShuffleV1    resnet32x4/ShuffleV2    wrn_40_2/wrn_16_2    wrn_40_2/wrn_40_1    AVG
        1  78.70 77.36             79.80 78.56             77.83 76.20          77.57 74.71          78.48 76.71
        3  79.71 77.74             79.98 78.11             78.41 76.55          77.94 75.04          79.01 76.86
        5  79.03 77.73             79.90 78.05             77.85 76.45          78.24 75.40          78.76 76.91
        standard  79.25 74.31    79.25 75.25    76.30 75.28    76.30 73.56    77.78 74.60
        """),
    ),
    "Table 16": (
        ("sftn.teacher-weight",),
        read_grid("""
           resnet32x4/ShuffleV1    resnet32x4/ShuffleV2    wrn_40_2/wrn_16_2    wrn_40_2/wrn_40_1    AVG
        1  78.70 77.36             79.80 78.56             77.83 76.20          77.57 74.71          78.48 76.71
        3  80.37 77.66             81.04 78.33             78.41 76.68          78.65 75.22          79.62 76.97
        5  80.59 76.45             81.23 77.14             78.41 76.19          78.46 74.75          79.67 76.13
        standard  79.25 74.31    79.25 75.25    76.30 75.28    76.30 73.56    77.78 74.60
        """),
    ),
    "Table 14": (
        ("branch-blocks",),
        read_grid("""
           resnet32x4/resnet8x2    resnet32x4/ShuffleV2    wrn_40_2/wrn_16_2    wrn_40_2/ShuffleV2    AVG
        1  74.61 69.46             78.06 78.11             77.19 75.66          77.34 77.23          76.80 75.12
        2  75.58 69.71             76.57 76.74             75.94 75.86          75.79 77.52          75.97 74.96
        1+2  77.89 69.17    79.58 78.07    78.20 76.25    78.21 78.06    78.47 75.39
        standard  79.25 67.43    79.25 75.25    76.30 75.46    76.30 76.68    77.78 73.71
        """),
    ),
}

# Students of one network from teachers that were trained with branches of another; the heading names the branches'.
_TABLE_9 = {
    "wrn_40_2/resnet8x4": read_grid("""
             resnet8x2    resnet8x4    resnet32x4
    teacher  76.22        78.18        78.82
    KD       74.08        75.46        74.84
    SP       74.01        75.58        75.24
    FT       74.55        75.83        76.03
    CRD      75.8         76.94        76.52
    SSKD     73.67        75.85        75.93
    OH       74.79        75.98        76.09
    Average  74.48        75.94        75.78
    Best     75.8         76.94        76.52
    """),
    "resnet32x4/resnet8x4": read_grid("""
             resnet8x2    resnet8x4    resnet32x4
    teacher  77.89        79.41        80.85
    KD       75.19        76.09        75.19
    SP       75.76        76.37        75.62
    FT       76.54        77.02        76.48
    CRD      76.72        76.95        76.54
    SSKD     75.77        76.85        76.67
    OH       75.69        76.65        76.38
    Average  75.94        76.66        76.15
    Best     76.72        77.02        76.67
    """),
    "resnet32x4/wrn_16_2": read_grid("""
             wrn_16_1    wrn_16_2    wrn_40_2
    teacher  76.53       79.04       80.3
    KD       75.14       76.33       76.37
    SP       75.61       76.91       76.34
    FT       76.26       77.07       76.81
    CRD      76.55       77.39       77.27
    SSKD     75.27       77.14       77.35
    OH       75.85       76.87       77.00
    Average  75.78       76.95       76.86
    Best     76.55       77.39       77.35
    """),
}

# A cell has the figures of two students by KD: from the standard teacher and from the student-friendly one.
_TABLE_13 = read_grid("""
         ResNet18       ResNet34       ResNet50       ResNet101      ResNet152
student  65.71          65.71          65.71          65.71          65.71
KD       68.39 69.08    67.05 68.77    68.27 69.15    68.60 68.99    68.71 68.90
""")

_TABLE_3_TOP5 = read_grid("""
         torchvision_resnet50/torchvision_resnet34
teacher  93.15 93.75
student  91.74
KD       91.81 92.21
FitNet   92.31 92.51
SP       92.54 92.69
CRD      92.56 92.67
OH       92.36 92.56
Best     92.56 92.69
""")

# The first column of the first two is Table 8, too, which has VID beside it; SP's 0.07 is as it is printed.
_SIMILARITY = {
    "Table 19(a)": (
        "kl",
        read_grid("""
        resnet32x4/ShuffleV2    resnet32x4/ShuffleV1    wrn_40_2/wrn_16_2    wrn_40_2/wrn_40_1
KD      1.10 0.47               1.08 0.43               0.72 0.26            0.91 0.35
FitNet  0.79 0.38               0.83 0.35               0.70 0.29            0.81 0.36
SP      0.95 0.45               0.90 0.37               0.07 0.26            0.80 0.32
CRD     0.81 0.43               0.85 0.40               0.65 0.26            0.77 0.31
SSKD    0.54 0.26               0.57 0.23               0.51 0.19            0.55 0.21
OH      0.85 0.37               0.78 0.30               0.69 0.23            0.75 0.27
AVG     0.84 0.39               0.84 0.35               0.66 0.25            0.77 0.30
"""),
    ),
    "Table 19(b)": (
        "cka",
        read_grid("""
        resnet32x4/ShuffleV2    resnet32x4/ShuffleV1    wrn_40_2/wrn_16_2    wrn_40_2/wrn_40_1
KD      0.88 0.95               0.90 0.94               0.83 0.93            0.86 0.93
FitNet  0.89 0.95               0.91 0.95               0.84 0.92            0.86 0.93
SP      0.89 0.95               0.92 0.97               0.92 0.96            0.92 0.96
CRD     0.88 0.95               0.91 0.96               0.84 0.94            0.85 0.92
SSKD    0.92 0.97               0.92 0.96               0.83 0.93            0.87 0.94
OH      0.90 0.96               0.92 0.97               0.84 0.95            0.88 0.94
AVG     0.89 0.96               0.91 0.96               0.85 0.94            0.87 0.94
"""),
    ),
    "Table 19(c)": (
        "agreement",
        read_grid("""
        resnet32x4/ShuffleV2    resnet32x4/ShuffleV1    wrn_40_2/wrn_16_2    wrn_40_2/wrn_40_1
KD      76.48 82.15             75.87 82.55             77.57 83.27          76.09 82.27
FitNet  78.77 83.53             77.48 83.80             77.77 82.76          76.09 82.04
SP      77.76 82.26             77.86 83.04             77.92 83.32          76.85 82.03
CRD     78.19 82.37             76.99 82.63             78.39 83.48          77.40 82.75
SSKD    82.14 85.90             82.10 86.25             79.88 85.35          79.67 85.24
OH      80.33 84.52             80.34 85.48             78.50 84.64          77.59 83.66
AVG     78.95 83.46             78.44 83.96             78.34 83.80          77.28 83.00
"""),
    ),
}
_TABLE_8 = {
    "kl": read_grid("""
        resnet32x4/ShuffleV2
KD      1.10 0.47
FitNet  0.79 0.38
SP      0.95 0.45
VID     0.88 0.45
CRD     0.81 0.43
SSKD    0.54 0.26
OH      0.85 0.37
AVG     0.84 0.39
"""),
    "cka": read_grid("""
        resnet32x4/ShuffleV2
KD      0.88 0.95
FitNet  0.89 0.95
SP      0.89 0.95
VID     0.88 0.95
CRD     0.88 0.95
SSKD    0.92 0.97
OH      0.90 0.96
AVG     0.89 0.96
"""),
}

OMITTED = (
    Omitted(
        paper="SFTN",
        table="Figures 3, 4",
        what="teachers' accuracies of Figure 4",
        why="the paper draws them without numbers; they are measured",
    ),
    Omitted(
        paper="SFTN",
        table="Tables 10 to 12, 20 to 22, Figures 1, 2, 6 to 8",
        what="diagrams and the architectures of VGG13 and VGG8",
        why="nothing is trained for them: the networks and their branches are built so",
    ),
)

_Kind = Literal["standard", "sftn"]


def _entry(table: str, pair: str, method: str, kind: _Kind, **more: Any) -> Entry:
    teacher, _, student = pair.partition("/")
    recipe = "imagenet-sftn" if table == "Table 3" else "cifar100-sftn"
    return Entry(
        paper="SFTN",
        table=table,
        recipe=recipe,
        teacher=teacher,
        student=student,
        method=method,
        teacher_training=kind,
        **more,
    )


def _main(table: str, grid: Grid) -> list[Entry]:
    """The entries of a table that compares both teachers for all methods."""
    source, found = f"SFTN, {table}", []
    for number, pair in enumerate(grid.columns):
        for row, method in _METHODS.items():
            if row not in grid.rows:
                continue
            for place, kind in enumerate(("standard", "sftn")):
                figures = {
                    "teacher": figure(grid.rows["teacher"][number].split()[place], source),
                    "student": figure(grid.rows[row][number].split()[place], source),
                    "control": figure(grid.rows["student"][number], source),
                }
                found.append(_entry(table, pair, method, kind, row=row, figures=figures))
    return found


_SWEPT = {
    "sftn.temperature": "τ = ",
    "sftn.kl-weight": "λ_KL = ",
    "sftn.ce-weight": "λ_CE = ",
    "sftn.teacher-weight": "λ_T = ",
    "branch-blocks": "branch ",
}


def _swept() -> list[Entry]:
    found = []
    for table, (options, grid) in _SWEEPS.items():
        for row, cells in grid.rows.items():
            for pair, cell in zip(grid.columns[:-1], cells[:-1], strict=True):
                teacher, student = (figure(part, f"SFTN, {table}") for part in cell.split())
                figures = {"teacher": teacher, "student": student}
                name = row if row == "standard" else f"{_SWEPT[options[-1]]}{row}"
                in_table = {"row": name, "column": pair, "teacher_row": f"{name}: teacher"}
                kind, given = ("standard", {}) if row == "standard" else ("sftn", _swept_options(options, row))
                found.append(_entry(table, pair, "kd", kind, options=given, **in_table, figures=figures))
    return found


def _swept_options(options: tuple[Any, ...], row: str) -> dict[str, Any]:
    """options: (name of what is swept), or (name, value of what is fixed, name of what is swept)."""
    fixed = {options[0]: options[1]} if len(options) > 1 else {}
    if options[-1] == "branch-blocks":
        return {} if row == "1+2" else {"branch-blocks": (int(row),)}
    return fixed | {options[-1]: float(row)}


def _averages() -> dict[str, tuple[Summary, ...]]:
    """The printed AVG of every row of the sweeps, and of every row of their teachers."""
    found = {}
    for table, (options, grid) in _SWEEPS.items():
        printed: dict[str, float] = {}
        for row, cells in grid.rows.items():
            name = row if row == "standard" else f"{_SWEPT[options[-1]]}{row}"
            printed[f"{name}: teacher"], printed[name] = map(float, cells[-1].split())
        found[table] = (Summary("AVG", "row", printed=printed),)
    return found


def _collaborative() -> list[Entry]:
    found, source = [], "SFTN, Table 4"
    for row, (method, options) in _COLLABORATIVE.items():
        cells = zip(_TABLE_4.columns, _TABLE_4.rows[row], _TABLE_4.rows["student"], strict=True)
        for pair, student, control in cells:
            figures = {"student": figure(student, source), "control": figure(control, source)}
            kind, choices = ("sftn" if row.startswith("SFTN") else "standard"), _OF_SFTN_4 * (row == "SFTN-4")
            of_row = {"options": options, "row": row, "column": pair, "choices": choices}
            found.append(_entry("Table 4", pair, method, kind, **of_row, figures=figures))
    return found


def _branch_sizes() -> list[Entry]:
    found, source = [], "SFTN, Table 9"
    for pair, grid in _TABLE_9.items():
        for number, branch in enumerate(grid.columns):
            for row, method in _METHODS.items():
                if row in grid.rows:
                    figures = {
                        name: figure(grid.rows[line][number], source)
                        for name, line in (("teacher", "teacher"), ("student", row))
                    }
                    of_column = {"options": {"branch": branch}, "column": f"{pair}, branches {branch}", "row": row}
                    found.append(_entry("Table 9", pair, method, "sftn", **of_column, figures=figures))
    return found


def _mobile() -> list[Entry]:
    found: list[Entry] = []
    for teacher, cell in zip(_TABLE_13.columns, _TABLE_13.rows["KD"], strict=True):
        for kind, part in zip(("standard", "sftn"), cell.split(), strict=True):
            figures: dict[str, Published] = {
                "student": figure(part, "SFTN, Table 13"),
                "control": figure(_TABLE_13.rows["student"][0], "SFTN, Table 13"),
            }
            found.append(_entry("Table 13", f"{teacher}/MobileNetV2", "kd", kind, figures=figures))
    return found


ENTRIES = (
    *_main("Table 17", _TABLE_17),
    *_main("Table 18", _TABLE_18),
    *_main("Table 1", _TABLE_1),
    *_main("Table 3", _TABLE_3),
    *_collaborative(),
    *_branch_sizes(),
    *_swept(),
    *_mobile(),
)
"""All entries of the paper. For a run that two tables have a figure for, the first entry counts."""


def _best(*grids: Grid) -> tuple[Summary, ...]:
    """The printed best of every column of tables with both kinds of teacher."""
    printed = {}
    for grid in grids:
        for pair, cell in zip(grid.columns, grid.rows["Best"], strict=True):
            for kind, part in zip(("standard", "sftn"), cell.split(), strict=True):
                printed[f"{pair}, {kind}"] = figure(part, "").top1
    return (Summary("Best", "column", "best", printed),)


def _of_branch_sizes(row: str, how: Literal["mean", "best"]) -> Summary:
    printed = {
        f"{pair}, branches {branch}": float(grid.rows[row][number])
        for pair, grid in _TABLE_9.items()
        for number, branch in enumerate(grid.columns)
    }
    return Summary(row, "column", how, printed)


def _measured(name: str, measure: str, grid: Grid, title: str) -> Table:
    """A table of the same runs' similarity to their teachers."""
    places, averages = [], {}
    for number, pair in enumerate(grid.columns):
        for row, cells in grid.rows.items():
            for kind, part in zip(("standard", "sftn"), cells[number].split(), strict=True):
                column = f"{pair}, {kind}{title}"
                if row == "AVG":
                    averages[column] = float(part)
                else:
                    entry = _entry(name, pair, _METHODS[row], cast(_Kind, kind), row=row, figures={})
                    places.append(Place(row, column, entry, "student", measure, Printed(float(part))))
    return Table("SFTN", name, tuple(places), (Summary("AVG", "column", printed=averages),))


def _with_top5(table: Table) -> Table:
    """Table 3, whose other half are hits among the first five."""
    printed = {}
    for row, cells in _TABLE_3_TOP5.rows.items():
        parts = cells[0].split()
        printed[row] = parts if len(parts) > 1 else parts * 2
    places, best = [], {}
    for place in table.places:
        row = {"teacher": "teacher", "control": "student"}.get(place.stage, place.row)
        value = float(printed[row][place.entry.teacher_training == "sftn"])
        own = replace(place, column=f"{place.column}: top-5", measure="top5", printed=Printed(value))
        places.append(own)
        best[own.column] = float(printed["Best"][place.entry.teacher_training == "sftn"])
    (first,) = table.summaries
    summaries = (replace(first, printed={**first.printed, **best}),)
    return replace(table, places=(*table.places, *places), summaries=summaries)


_BOTH = {**_best(_TABLE_17, _TABLE_1)[0].printed, **_best(_TABLE_18)[0].printed}
_ALL_BEST = (Summary("Best", "column", "best", _BOTH),)
TABLES = of_entries(
    "SFTN",
    ENTRIES,
    also={"Table 1": ("Table 17",), "Table 2": ("Table 18",), "Figure 3": ("Table 17", "Table 1", "Table 18")},
    summaries={
        **dict.fromkeys(("Table 1", "Table 2", "Table 17", "Table 18", "Figure 3"), _ALL_BEST),
        "Table 3": _best(_TABLE_3),
        **_averages(),
        "Table 9": (_of_branch_sizes("Average", "mean"), _of_branch_sizes("Best", "best")),
    },
)
"""Every table, as it is printed."""
TABLES["3"] = _with_top5(TABLES["3"])
for _name, (_measure, _grid) in _SIMILARITY.items():
    TABLES[key_of(_name)] = _measured(_name, _measure, _grid, "")
_EIGHT = [_measured("Table 8", measure, grid, f": {measure.upper()}") for measure, grid in _TABLE_8.items()]
TABLES["8"] = Table(
    "SFTN",
    "Table 8",
    tuple(place for table in _EIGHT for place in table.places),
    (Summary("AVG", "column", printed={**_EIGHT[0].summaries[0].printed, **_EIGHT[1].summaries[0].printed}),),
)
