"""What SFTN's papers measure of trained students: transfer, corruptions, entropies, curves (Tables 7, 11 to 13, Figure
5; Table 12 of the supplement is Table 7)."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from fastkd.recipes.findings import Corrupted, Logged, Probed, ProbeSettings, Said
from fastkd.recipes.tables import sftn
from fastkd.recipes.tables.entry import Entry
from fastkd.recipes.tables.grid import read_grid
from fastkd.recipes.tables.layout import Place, Printed, Summary, Table
from fastkd.recipes.tables.sftn_grids import METHODS

Kind = Literal["standard", "sftn"]
KINDS: tuple[Kind, Kind] = ("standard", "sftn")

# A cell has the figures of the standard and of the student-friendly teacher.
_TRANSFER = read_grid("""
         stl10         tiny-imagenet
teacher  69.81 76.84   31.25 40.16
student  70.18         33.81
KD       67.49 73.81   30.45 37.81
SP       69.56 75.01   31.16 38.28
CRD      71.70 75.80   35.50 40.87
SSKD     74.43 77.45   38.35 42.41
OH       72.09 76.76   33.52 39.95
AVG      71.05 75.77   33.80 39.86
""")

# A cell has the figures of two students by KD; AVG is over the pairs.
_CORRUPTIONS = read_grid("""
                 resnet32x4/ShuffleV2  resnet32x4/ShuffleV1  wrn_40_2/wrn_16_2  wrn_40_2/wrn_40_1  AVG
w/o distortion   75.30 77.52           74.10 77.83           75.69 76.13        73.69 75.11        74.70 76.65
intensity = 1    63.84 66.01           63.84 65.15           61.83 62.35        61.29 61.60        62.70 63.78
intensity = 2    55.49 57.68           56.16 56.20           52.49 53.30        52.88 52.63        54.26 54.95
intensity = 3    50.34 52.26           51.08 50.82           46.91 47.79        47.50 47.31        48.96 49.55
intensity = 4    44.02 46.71           44.35 44.31           40.45 41.28        41.10 41.03        42.48 43.33
intensity = 5    34.29 35.37           35.28 34.08           30.66 31.39        31.66 31.74        32.97 33.15
""")

_ENTROPIES = read_grid("""
         ResNet18       ResNet34       ResNet50       ResNet101      ResNet152
teacher  0.0004 0.0053  0.0002 0.0041  0.0002 0.0044  0.0002 0.0048  0.0002 0.0042
""")
_GARBLED = "differs: the student's printed entropy is .0041 or .00412, and a second row of others: the copy is garbled"

_HOW_PROBED = (
    "how the classifier is trained: 120 epochs of SGD on features of plain images, resized to 32 pixels and normalised "
    "as CIFAR-100; rate and milestones as `fastkd.probe` has them"
)
_HOW_ENTROPY = "how the entropy is taken: eval mode, plain training images, nats"


def entry(table: str, pair: str, method: str, kind: Kind) -> Entry:
    teacher, _, student = pair.partition("/")
    how = {"method": method, "teacher_training": kind, "figures": {}}
    return Entry(paper="SFTN", table=table, recipe="cifar100-sftn", teacher=teacher, student=student, **how)


def _transfer() -> Table:
    places: list[Place] = []
    average = {}
    for number, data in enumerate(_TRANSFER.columns):
        finding = Probed(data=data, settings=ProbeSettings(), choice=_HOW_PROBED)
        for row, cells in _TRANSFER.rows.items():
            parts = cells[number].split()
            for kind, value in zip(KINDS, parts * (3 - len(parts)), strict=True):
                column = f"CIFAR-100 to {data}, {kind}"
                if row == "AVG":
                    average[column] = float(value)
                    continue
                stage = {"teacher": "teacher", "student": "control"}.get(row, "student")
                made = entry("Table 7", "resnet32x4/ShuffleV2", METHODS.get(row, "kd"), kind)
                name = {"teacher": "teacher", "control": "student without a teacher"}.get(stage, row)
                places.append(Place(name, column, made, stage, "probe", Printed(float(value)), finding))
    return Table("SFTN", "Table 7", tuple(places), (Summary("AVG", "column", printed=average),))


def _corruptions() -> Table:
    places: list[Place] = []
    average = {}
    for level, (row, cells) in enumerate(_CORRUPTIONS.rows.items()):
        for pair, cell in zip(_CORRUPTIONS.columns, cells, strict=True):
            for kind, value in zip(KINDS, cell.split(), strict=True):
                name = f"{row}, {kind}"
                if pair == "AVG":
                    average[name] = float(value)
                    continue
                measure, finding = ("top1", None) if level == 0 else (f"severity {level}", Corrupted())
                made = entry("Table 11", pair, "kd", kind)
                places.append(Place(name, pair, made, "student", measure, Printed(float(value)), finding))
    by_kind = sorted(places, key=lambda place: not place.row.endswith("standard"))
    return Table("SFTN", "Table 11", tuple(by_kind), (Summary("AVG", "row", printed=average),))


def _with_entropies(table: Table) -> Table:
    """Table 13, whose other rows are entropies of what was trained on."""
    finding = Said(split="train", choice=_HOW_ENTROPY)
    places: list[Place] = []
    for teacher, cell in zip(_ENTROPIES.columns, _ENTROPIES.rows["teacher"], strict=True):
        for kind, value in zip(KINDS, cell.split(), strict=True):
            made, column = entry("Table 13", f"{teacher}/MobileNetV2", "kd", kind), f"{teacher}/MobileNetV2, {kind}"
            own = ("entropy", Printed(float(value)), finding)
            places.append(Place("teacher: entropy of its training images", column, made, "teacher", *own))
            alone = ("student without a teacher: entropy of its training images", column, made, "control")
            places.append(Place(*alone, "entropy", None, finding))
    return replace(table, places=(*table.places, *places), notes=(*table.notes, _GARBLED))


def _figure_5() -> Table:
    def places() -> Iterator[Place]:
        for kind in KINDS:
            made = entry("Figure 5", "resnet32x4/ShuffleV2", "kd", kind)
            yield Place("(a) KL of the last epoch", kind, made, "student", "kl term", finding=Logged())
            yield Place("(b) test accuracy", kind, made, "student")

    return Table("SFTN", "Figure 5", tuple(places()), pictures=("curves",))


def _all() -> dict[str, Table]:
    made = [_transfer(), _corruptions(), _with_entropies(sftn.TABLES["13"]), _figure_5()]
    made.append(replace(made[0], name="Table 12"))
    return {table.key: table for table in made}


TABLES = _all()
"""Further tables, and Table 13 with its entropies."""
