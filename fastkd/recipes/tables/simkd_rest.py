"""What SimKD's paper measures beyond its main tables: sequential and joint training, projectors, places of the loss,
pruning ratios, likelihoods, pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from fastkd.recipes.findings import Aligned, Logged, Probed, ProbeSettings, Pruned, Said
from fastkd.recipes.tables import simkd
from fastkd.recipes.tables.entry import Entry
from fastkd.recipes.tables.grid import figure, read_grid
from fastkd.recipes.tables.layout import Place, Printed, Table

_MAIN = "resnet32x4/resnet8x4"
"""The pair of the paper's ablations."""

# Rows are Table 3's, columns the shares of the epochs.
_EARLY = read_grid("""
         1/4    1/2
student  49.34  64.98
KD       52.75  66.69
AT       52.85  66.69
SP       53.57  66.36
VID      53.22  66.64
CRD      55.44  67.25
SRRL     55.14  67.36
SemCKD   53.14  66.89
SimKD    61.73  69.26
teacher  54.50  70.55
""")
_SHARES = {"1/4": 0.25, "1/2": 0.5}

_TABLE_4 = read_grid("""
                       Sequential  SimKD
resnet38x2/resnet38    74.48±0.04  75.56±0.27
resnet32x4/resnet8x4   51.97±0.19  78.08±0.15
resnet110x2/resnet110  77.63±0.05  77.82±0.15
resnet110x2/resnet116  77.75±0.03  77.90±0.11
resnet32x4/vgg8        35.72±1.33  75.76±0.12
resnet38x2/resnet8x4   45.03±0.44  76.75±0.23
resnet32x4/ShuffleV2   21.56±0.31  78.39±0.27
""")
_TABLE_S6 = {0.01: "52.03±0.15", 0.05: "51.97±0.19", 0.1: "52.01±0.17", 0.5: "51.93±0.20"}

_TABLE_5 = read_grid("""
                           loss         accuracy
1x1Conv                    0.345±0.001  75.15±0.27
1x1Conv-1x1Conv            0.343±0.001  75.71±0.33
1x1Conv-DW3x3Conv-1x1Conv  0.306±0.001  77.76±0.12
1x1Conv-3x3Conv-1x1Conv    0.301±0.001  78.08±0.15
""")
_PROJECTORS = ("1x1", "1x1-1x1", "depthwise", "full")
_VECTORS = "three layers between vectors (section 4.3)"

# The student's own classifier; the columns beside it are the reused one's.
_JOINT = {
    "Table S.4": read_grid("""
           resnet32x4/resnet8x4  resnet38x2/resnet8x4
    0      74.42±0.05            75.28±0.18
    0.2    74.42±0.10            74.83±0.29
    0.4    73.99±0.03            74.72±0.17
    0.6    73.93±0.08            74.59±0.23
    0.8    73.76±0.26            74.29±0.24
    0.9    73.52±0.33            73.98±0.06
    0.99   30.77±0.92            23.46±0.81
    0.999  5.59±0.60             4.55±0.68
    """),
    "Table S.5": read_grid("""
           resnet38x2/resnet38  resnet32x4/MobileNetV2x2
    0      74.12±0.29           72.43±0.32
    0.2    74.33±0.32           72.50±0.26
    0.4    74.49±0.30           72.48±0.38
    0.6    74.53±0.11           72.83±0.34
    0.8    74.93±0.25           73.13±0.15
    0.9    75.18±0.20           73.44±0.26
    0.99   74.17±0.06           74.91±0.30
    0.999  18.39±1.45           13.49±1.80
    """),
}

_TABLE_S7 = {"Input": ("input", "78.08±0.15"), "Output": ("output", "77.09±0.09"), "Both": ("both", "77.88±0.30")}

# Cost of the pruning ratio, and the projector beside the student, in percent; rows are r.
_COSTS = {
    "Table S.8": (
        read_grid("""
           resnet38x2/resnet38  resnet32x4/resnet8x4  resnet110x2/resnet110  resnet110x2/resnet116
        8  0.55 1.05            0.35 2.11             0.18 0.35              0.18 0.33
        4  0.99 2.81            0.94 5.67             0.32 0.92              0.32 0.87
        2  2.50 8.77            2.88 17.34            0.82 2.88              0.82 2.73
        1  7.95 30.35           9.71 58.51            2.60 9.96              2.60 9.43
        """),
        read_grid("""
           resnet32x4/vgg8  resnet38x2/resnet8x4  resnet32x4/ShuffleV2
        8  0.90 0.86        -0.17 0.73            -0.35 3.76
        4  1.62 2.19        0.41 1.78             0.58 8.85
        2  2.98 6.23        2.18 5.02             3.16 23.01
        1  11.05 19.87      8.16 15.96            11.33 67.77
        """),
    ),
    "Table S.9": (
        read_grid("""
           resnet32x4/ShuffleV1  resnet32x4/resnet14x2  resnet110x2/ShuffleV2  resnet38x2/MobileNetV2
        8  -0.29 5.16            0.47 3.13              -0.99 1.55             -4.00 3.08
        4  0.60 12.12            1.01 8.81              -0.63 3.39             -2.67 6.77
        2  3.14 32.03            2.84 28.13             0.31 8.19              0.52 15.62
        1  11.20 95.15           9.45 98.01             2.99 21.83             9.43 40.34
        """),
        read_grid("""
           resnet32x4/MobileNetV2x2  resnet110x4/resnet38x2  resnet32x4/ShuffleV2_1_5
        8  -0.58 2.51                0.13 0.98               -0.35 1.98
        4  0.45 5.78                 0.27 2.75               0.58 4.65
        2  3.26 14.66                0.76 8.78               3.16 12.09
        1  11.87 41.86               2.55 30.59              11.33 35.61
        """),
    ),
}
_RATIOS = {"student": 83.40, "SimKD": 80.52, "SimKD+": 19.21, "SimKD++": 15.97}
_REUSED: dict[str, dict[str, Any]] = {
    "SimKD": {},
    "SimKD+": {"simkd.reused-blocks": 1},
    "SimKD++": {"simkd.reused-blocks": 2},
}

_KEPT = (
    "differs: 19.21 is what SimKD+ keeps of the teacher, within .06 points, where the others are what is saved; 15.97 "
    "follows from no count of parameters"
)
_OPEN_TSNE = (
    "the paper does not print how t-SNE is run: both networks' test images in one plane, perplexity 30, begun at their "
    "principal components"
)
_OPEN_SEQUENTIAL = (
    "which features are frozen, and how: the student's own, pooled in front of the projector, in eval mode, of images "
    "augmented as usual"
)
_OPEN_LOSS = "how its test loss is summed: the mean over all elements, as in training"
_OPEN_WIDTH = "the paper does not print the inner width of 1x1Conv-1x1Conv and of the three layers: the teacher's half"
_OPEN_PLACE = "the paper does not print how the loss of the output is summed: the mean over all classes"


def sequential(student: str, lr: float | None = None) -> Probed:
    """Training of a new classifier on a frozen student (appendix B.3); lr: by default the family's."""
    rate = 0.01 if student.startswith(("Mobile", "Shuffle")) else 0.05
    settings = ProbeSettings(
        epochs=240,
        lr=lr or rate,
        nesterov=True,
        weight_decay=5e-4,
        milestones=(150, 180, 210),
        augment="crop",
        features="encoder",
    )
    return Probed(settings=settings, choice=_OPEN_SEQUENTIAL)


def _entry(table: str, pair: str, method: str = "simkd", *, row: str = "", **options: Any) -> Entry:
    spelled = {f"simkd.{name.replace('_', '-')}": value for name, value in options.items()}
    return simkd._entry(table, pair, method, options=spelled, row=row, figures={})


def _printed(cell: str) -> Printed:
    read = _split(cell)
    return Printed(read[0], read[1] if len(read) > 1 else None)


def _split(cell: str) -> list[float]:
    return [float(part) for part in cell.split("±")]


def _early(table: Table) -> Table:
    """Table 3 after a quarter and a half of the epochs, too; the last epochs' figures are printed once for both."""
    places: list[Place] = []
    for whole in table.places:
        row = {"teacher": "teacher", "control": "student"}.get(whole.stage, whole.row)
        for number, (name, share) in enumerate(_SHARES.items()):
            own = {"column": f"{name} of the epochs", "measure": "at epoch", "finding": Logged(share=share)}
            places.append(replace(whole, **own, printed=_printed(_EARLY.rows[row][number])))
    return replace(table, places=(*places, *table.places))


def _table_4() -> Table:
    places: list[Place] = []
    for pair, (one, other) in _TABLE_4.rows.items():
        made, student = _entry("Table 4", pair), pair.partition("/")[2]
        places.append(Place(pair, "Sequential", made, "student", "probe best", _printed(one), sequential(student)))
        places.append(Place(pair, "SimKD", made, "student", "best", _printed(other)))
    return Table("SimKD", "Table 4", tuple(places))


def _table_s6() -> Table:
    made = _entry("Table S.6", _MAIN)
    places = [
        Place(f"learning rate {lr:g}", "Sequential", made, "student", "probe best", _printed(cell), sequential("", lr))
        for lr, cell in _TABLE_S6.items()
    ]
    return Table("SimKD", "Table S.6", tuple(places))


def _table_5() -> Table:
    finding, places = Aligned(choice=_OPEN_LOSS), []
    for kind, (row, (loss, accuracy)) in zip(_PROJECTORS, _TABLE_5.rows.items(), strict=True):
        made = _entry("Table 5", _MAIN, row=row, **({} if kind == "full" else {"projector": kind}))
        places.append(Place(row, "test loss", made, "student", "alignment", _printed(loss), finding))
        places.append(Place(row, "accuracy", made, "student", "best", _printed(accuracy)))
    of_vectors = _entry("Table 5", _MAIN, row=_VECTORS, projector="vector-full")
    places.append(Place(_VECTORS, "test loss", of_vectors, "student", "alignment", None, finding))
    places.append(Place(_VECTORS, "accuracy", of_vectors, "student", "best", _printed("76.03±0.40")))
    return Table("SimKD", "Table 5", tuple(places), notes=(f"choice: {_OPEN_WIDTH}",))


def _joint(table: Table) -> Table:
    """Table S.4 or S.5 with the student's own classifier, and the rows α = 0 and α = 1, KD and SimKD alone."""
    by_row = {(place.row, place.column): place for place in table.places}
    grid, places = _JOINT[table.name], []
    for number, pair in enumerate(grid.columns):
        own, reused = f"{pair}: student classifier", f"{pair}: teacher classifier"
        for row, cells in grid.rows.items():
            printed = _printed(cells[number])
            if row == "0":
                made = _entry(table.name, pair, "kd")
                places.append(Place("α = 0 (KD)", own, made, "student", "best", printed))
                continue
            beside = by_row[f"α = {row}", pair]
            finding = Logged(network="own classifier")
            places.append(replace(beside, column=own, measure="best beside", printed=printed, finding=finding))
            places.append(replace(beside, column=reused))
        main = _main_figure(pair)
        places.append(Place("α = 1 (SimKD)", reused, _entry(table.name, pair), "student", "best", main))
    return replace(table, places=tuple(places))


def _figure_4(tables: Sequence[Table]) -> Table:
    kept = [
        place
        for table in tables
        for place in table.places
        if place.row in ("α = 0.2", "α = 0.4", "α = 0.6", "α = 0.8", "α = 1 (SimKD)")
    ]
    return Table("SimKD", "Figure 4", tuple(kept), pictures=("lines",))


def _main_figure(pair: str) -> Printed:
    """What the main tables print of SimKD on a pair."""
    for own in simkd.ENTRIES:
        if own.method == "simkd" and not own.options and f"{own.teacher}/{own.student}" == pair:
            return Printed(own.figures["student"].top1, own.figures["student"].std)
    raise KeyError(pair)


def _table_s7() -> Table:
    places = []
    for row, (where, cell) in _TABLE_S7.items():
        made = _entry("Table S.7", _MAIN, row=row, **({} if where == "input" else {"loss": where}))
        places.append(Place("SimKD", row, made, "student", "best", _printed(cell)))
    return Table("SimKD", "Table S.7", tuple(places), notes=(f"choice: {_OPEN_PLACE}",))


def _with_costs(table: Table) -> Table:
    """Table S.8 or S.9 with both percentages."""
    printed = {
        (f"r = {row}", pair): [float(part) for part in cell.split()]
        for grid in _COSTS[table.name]
        for row, cells in grid.rows.items()
        for pair, cell in zip(grid.columns, cells, strict=True)
    }
    places: list[Place] = []
    for place in table.places:
        places.append(place)
        names = ("cost", "projector")
        titles = ("cost of the pruning ratio %", "projector / student %")
        for name, title, value in zip(names, titles, printed[place.row, place.column], strict=True):
            how = {"column": f"{place.column}: {title}", "measure": name, "printed": Printed(value)}
            places.append(replace(place, **how, finding=Pruned()))
    return replace(table, places=tuple(places))


def _reused() -> Iterator[tuple[str, Entry]]:
    for row, options in _REUSED.items():
        yield row, simkd._entry("Table S.10", _MAIN, "simkd", options=options, row=row, figures={})


def _table_s10(table: Table) -> Table:
    own = {place.row: place.printed for place in table.places}
    places = []
    for row, made in _reused():
        printed = own.get(row) or _main_figure(_MAIN)
        if row == "SimKD":
            alone = Place("student", "accuracy", made, "control", "top1", Printed(73.09, 0.30))
            ratio = ("pruning ratio of KD", Printed(_RATIOS["student"]), Pruned())
            places += [alone, Place("student", "pruning ratio %", made, "control", *ratio)]
        places.append(Place(row, "accuracy", made, "student", "best", printed))
        ratio = ("pruning ratio", Printed(_RATIOS[row]), Pruned())
        places.append(Place(row, "pruning ratio %", made, "student", *ratio))
    return replace(table, places=tuple(places), notes=(*table.notes, _KEPT))


def _figure_5() -> Table:
    """Likelihoods are drawn and not printed."""
    places = []
    for row, made in _reused():
        stages = {"student": row} | ({"control": "student alone", "teacher": "teacher"} if row == "SimKD" else {})
        for stage, name in stages.items():
            places.append(Place(name, "accuracy", made, stage))
            places.append(Place(name, "negative log-likelihood", made, stage, "nll", finding=Said()))
    return Table("SimKD", "Figure 5", tuple(places), pictures=("dots",))


def _figure_6(table: Table) -> Table:
    """The pairs of Table S.8: which the figure has cannot be read."""
    places: list[Place] = []
    for place in table.places:
        if place.finding is None:
            column = f"{place.column}: pruning ratio"
            places += [place, replace(place, column=column, measure="pruning ratio", printed=None, finding=Pruned())]
    return Table("SimKD", "Figure 6", tuple(places), pictures=("trade-off",))


def _figure_7(tables: Sequence[Table]) -> Table:
    """All of Tables 1 and 2, and SimKD with every factor."""
    kept = [place for table in tables[:2] for place in table.places if place.stage == "student"]
    kept += [place for table in tables[2:] for place in table.places if place.measure != "projector"]
    return Table("SimKD", "Figure 7", tuple(kept), pictures=("least costs",))


def _of_pair(name: str, pair: str, *pictures: str) -> Table:
    made = _entry(name, pair)
    stages = {"teacher": "teacher", "student": "SimKD"}
    places = [Place(row, pair, made, stage) for stage, row in stages.items()]
    notes = (f"choice: {_OPEN_TSNE}",) * name.endswith(("Figure 3", "S.2"))
    return Table("SimKD", name, tuple(places), pictures=pictures, notes=notes)


def _all() -> dict[str, Table]:
    own = simkd.TABLES
    joint = [_joint(own[key]) for key in ("S.4", "S.5")]
    costs = [_with_costs(own[key]) for key in ("S.8", "S.9")]
    ten = _table_s10(own["S.10"])
    made = [_early(own["3"]), _table_4(), _table_5(), *joint, _table_s6(), _table_s7(), *costs, ten]
    made += [_figure_4(joint), _figure_5(), _figure_6(costs[0]), _figure_7([own["1"], own["2"], *costs])]
    made += [_of_pair("Figure 3", _MAIN, "t-SNE of ten classes"), _of_pair("Figure S.2", _MAIN, "t-SNE")]
    made.append(_of_pair("Figure S.1", "torchvision_resnet101/torchvision_resnet50", "curves"))
    return {table.key: table for table in made}


TABLES = _all()
"""Further tables, and those of `simkd` with what they print beside accuracies."""


def _runs() -> Iterator[Entry]:
    """The runs that no other table has."""
    for table in ("5", "S.7"):
        for place in TABLES[table].places:
            known = {"simkd.projector": "depthwise"}
            if place.measure == "best" and place.entry.options and place.entry.options != known:
                assert place.printed is not None
                cell = figure(f"{place.printed.value}±{place.printed.std}", f"SimKD, Table {table}, best epoch")
                yield replace(place.entry, figures={"student": cell})


ENTRIES = tuple(_runs())
