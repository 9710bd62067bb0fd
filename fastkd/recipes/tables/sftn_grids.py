"""What "Learning Student-Friendly Teacher Networks for Knowledge Distillation" (Park et al. 2021) prints in its tables.

A cell has two figures: the first belongs to a teacher trained in the standard way, the second to a student-friendly
one. Tables 1 to 9 are the paper's, 13 to 19 its supplement's.
"""

from typing import Any

from fastkd.recipes.tables.grid import Grid, read_grid

METHODS = {
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

TABLE_17 = read_grid("""
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
TABLE_1 = read_grid("""
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

TABLE_18 = read_grid("""
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

TABLE_3 = read_grid("""
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
TABLE_4 = read_grid("""
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
COLLABORATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "DML": ("dml", {}),
    "KDCL": ("kdcl", {}),
    "RCO-1": ("rco", {}),  # one training of the student that is divided among four points of the teacher's
    "RCO-4": ("rco", {"rco.restart": True}),  # one training of the student for each of them
    "Standard": ("kd", {}),
    "SFTN": ("kd", {}),
    "SFTN-4": ("kd", {"epochs": 960, "teacher-epochs": 240}),
}
OF_SFTN_4 = ("the paper does not print whose 960 epochs SFTN-4's are, nor their milestones: the student's, four times",)

# A cell has two figures: that of the student-friendly teacher, and that of its student by KD; AVG is printed of both.
SWEEPS: dict[str, tuple[tuple[Any, ...], Grid]] = {
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
TABLE_9 = {
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
TABLE_13 = read_grid("""
         ResNet18       ResNet34       ResNet50       ResNet101      ResNet152
student  65.71          65.71          65.71          65.71          65.71
KD       68.39 69.08    67.05 68.77    68.27 69.15    68.60 68.99    68.71 68.90
""")

TABLE_3_TOP5 = read_grid("""
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
SIMILARITY = {
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
TABLE_8 = {
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
