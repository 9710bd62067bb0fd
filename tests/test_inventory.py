"""Everything that the papers train, measure or plot: each line has a command, or says in `--list` why it has none."""

import csv
import math
import re
from pathlib import Path

import pytest
from helpers.inventory import data_of, narrowed, tiny_options, write_every_set, write_real_cifar100, write_real_tiny
from helpers.real_data import REAL

from fastkd import reproduce
from fastkd.plan.cells import Plan, Seeds
from fastkd.recipes.tables import OMITTED, TABLES
from fastkd.recipes.tables.layout import key_of

INVENTORY = {
    "sftn": "Table 1, Table 2, Table 3, Table 4, Table 5, Table 6, Table 7, Table 8, Table 9, Table 11, Table 12, "
    "Table 13, Table 14, Table 15, Table 16, Table 17, Table 18, Table 19(a), Table 19(b), Table 19(c), Table 10, "
    "Table 20, Table 21, Table 22, Figure 1, Figure 2, Figure 3, Figure 4, Figure 5, Figure 6, Figure 7, Figure 8",
    "gtn": "Table 1, Table 2, Table 3, Figure 1, ImageNet-200, Section 4",
    "simkd": "Table 1, Table 2, Table 3, Table 4, Table 5, Table 6, Table 7, Table S.1, Table S.2, Table S.3, "
    "Table S.4, Table S.5, Table S.6, Table S.7, Table S.8, Table S.9, Table S.10, Figure 1, Figure 2, Figure 3, "
    "Figure 4, Figure 5, Figure 6, Figure 7, Figure S.1, Figure S.2",
    "tfkd": "Table 1, Table 2, Table 3, Table 4, Table 5, Table 6, Table 7, Table 8, Table 9, Table 10, Table 11, "
    "Table 12, Table 13, Table 14, Figure 1, Figure 2, Figure 3, Figure 4(a), Figure 4(b), Figure 5(a), Figure 5(b), "
    "Figure 6(a), Figure 6(b), Figure 7",
}
"""Every table and figure with a number in the papers at hand, and what GTN's supplement trains beside its tables."""
LINES = [(paper, name) for paper, names in INVENTORY.items() for name in names.split(", ")]
PAPER_OF = {"SFTN": "sftn", "SimKD": "simkd", "Tf-KD": "tfkd", "GTN (2024), supplement": "gtn"}
RUN = [(paper, key) for paper, tables in TABLES.items() for key in tables if paper not in ("digits", "modern")]
SHOWN = {
    ("sftn", "3"): "top1 top5",
    ("sftn", "7"): "probe",
    ("sftn", "8"): "kl cka",
    ("sftn", "11"): "top1 severity_1 severity_2 severity_3 severity_4 severity_5",
    ("sftn", "12"): "probe",
    ("sftn", "13"): "top1 entropy",
    ("sftn", "19a"): "kl",
    ("sftn", "19b"): "cka",
    ("sftn", "19c"): "agreement",
    ("sftn", "fig5"): "kl_term top1",
    ("gtn", "1"): "top1 parameters",
    ("gtn", "2"): "top1 parameters",
    ("gtn", "3"): "top1 parameters",
    ("gtn", "imagenet-200"): "top1 parameters",
    ("gtn", "fig1"): "top1 branch_0 branch_1 branch_2",
    ("simkd", "3"): "at_epoch best",
    ("simkd", "4"): "probe_best best",
    ("simkd", "5"): "alignment best",
    ("simkd", "S.4"): "best best_beside",
    ("simkd", "S.5"): "best best_beside",
    ("simkd", "S.6"): "probe_best",
    ("simkd", "S.8"): "best cost projector",
    ("simkd", "S.9"): "best cost projector",
    ("simkd", "S.10"): "top1 pruning_ratio_of_KD best pruning_ratio",
    ("simkd", "fig5"): "top1 nll",
    ("simkd", "fig6"): "best pruning_ratio",
    ("simkd", "fig7"): "best cost",
}
"""What is measured for a table, where it is more than one accuracy."""
AVERAGED = {("sftn", key): "AVG" for key in ("5", "6", "7", "8", "11", "12", "14", "15", "16", "19a", "19b", "19c")} | {
    ("sftn", "9"): "Average",
}
DRAWN = {
    "dots": "sftn fig3, sftn fig4, simkd fig5, tfkd fig4a, tfkd fig5a, tfkd fig6a",
    "curves": "sftn fig5, simkd figS.1, tfkd fig4b, tfkd fig5b, tfkd fig6b",
    "against": "tfkd fig2",
    "lines": "simkd fig4",
    "trade-off": "simkd fig6",
    "least costs": "simkd fig7",
    "t-SNE of ten classes": "simkd fig3",
    "t-SNE": "simkd figS.2",
    "virtual_teacher": "tfkd fig3",
    "soft_targets": "tfkd fig7",
}
"""How each figure that shows numbers is drawn; GTN's Figure 1 is its branches' curves in the report."""
REAL_LINES = (
    *("sftn 1", "sftn 7", "sftn 13", "sftn fig5", "sftn 19a", "gtn 1", "gtn fig1"),
    *("simkd 1", "simkd 5", "simkd 7", "simkd S.4", "simkd S.10", "simkd fig3", "simkd fig5", "tfkd 1", "tfkd 8"),
)
"""Lines whose numbers or pictures are of what the images show."""
RANGES = {"top1": 100, "best": 100, "top5": 100, "probe": 100, "agreement": 100, "entropy": math.log(100)}


def omitted(paper: str) -> set[str]:
    """The names in the `--list` of what is not run, or not printed: `Tables 10 to 12, Figures 1, 2` are five."""
    found = set()
    for one in OMITTED:
        if PAPER_OF.get(one.paper) == paper:
            for kind, rest in re.findall(r"(Table|Figure|Section)s? ([^TF]+)", one.table):
                for part in re.split(r", | and ", rest.strip(" ,")):
                    first, _, last = part.strip(" ,").partition(" to ")
                    numbers = range(int(first), int(last) + 1) if last else [first]
                    found |= {f"{kind} {number}" for number in numbers}
    return found


@pytest.mark.parametrize("paper, name", LINES)
def test_each_line_is_run_or_says_why_not(paper, name):
    assert key_of(name) in TABLES[paper] or name in omitted(paper), f"no command of {paper} {name}, and no reason"


@pytest.mark.parametrize("paper, key", RUN)
def test_each_table_plans(paper, key, tmp_path):
    """The first and the last cell: their commands are read, and become trainings."""
    check_plan(narrowed(TABLES[paper][key]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("paper, key", RUN)
def test_every_cell_plans(paper, key, tmp_path):
    check_plan(TABLES[paper][key], tmp_path)


def check_plan(table, tmp_path):
    cells = reproduce.cells_of(table, Seeds(), data_of(table, tmp_path), [])
    assert bool(Plan(tmp_path, list(cells.values())).nodes) == bool(table.places)
    assert table.places or table.computed
    for cell in cells.values():
        told = [words for words in cell.recipe.deviations if "instead of" in words]
        assert all("begins with random weights" in words for words in told), told  # the file is the user's


@pytest.mark.parametrize("paper, key", SHOWN)
def test_each_number_that_a_table_prints_is_measured(paper, key):
    """In every column that prints it: a place without a printed figure is one whose number cannot be read."""
    table = TABLES[paper][key]
    assert {place.measure.replace(" ", "_") for place in table.places} == {*SHOWN[paper, key].split()}


@pytest.mark.parametrize("paper, key", AVERAGED)
def test_averages_are_rows_of_their_own(paper, key):
    assert AVERAGED[paper, key] in {summary.name for summary in TABLES[paper][key].summaries}


def test_each_figure_that_shows_numbers_is_drawn():
    found: dict[str, list[str]] = {}
    for paper, key in RUN:
        table = TABLES[paper][key]
        if key.startswith("fig") and (paper, key) != ("gtn", "fig1"):
            kinds = [*table.pictures, *([table.chart.kind] if table.chart else []), *filter(None, [table.computed])]
            assert kinds, f"{paper} {key} has no picture"
            for kind in kinds:
                found.setdefault(kind, []).append(f"{paper} {key}")
    assert {kind: ", ".join(sorted(names)) for kind, names in found.items()} == {
        kind: ", ".join(sorted(names.split(", "))) for kind, names in DRAWN.items()
    }


@pytest.mark.parametrize("key", ("1", "2", "3", "imagenet-200"))
def test_gtns_students_learn_from_each_kind_of_teacher_by_each_method(key):
    """Lines 24 to 31 of the inventory: the supernet's teachers, SFTN's and plain ones; KD, DKD and SCKD."""
    entries = [place.entry for place in TABLES["gtn"][key].places]
    assert {entry.teacher_training for entry in entries} == {"standard", "sftn", "gtn"}
    assert {entry.method for entry in entries} == {"kd", "dkd", "sckd"}
    on_cifar = {"resnet32", "resnet32x4", "wrn_40_2"}
    assert {entry.teacher for entry in entries} == ({"torchvision_efficientnet_b0"} if "-" in key else on_cifar)


@pytest.fixture(scope="session")
def noise(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("inventory")
    write_every_set(root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("paper, key", RUN)
def test_each_table_is_trained_in_a_tiny_form(paper, key, noise, tmp_path, monkeypatch, capsys):
    check_whole(paper, key, noise, tmp_path, monkeypatch, capsys)


def check_whole(paper, key, data, out, monkeypatch, capsys, **sizes) -> list[dict[str, str]]:
    """Runs the table's first and last cell to the end; returns its rows: each place that is run has its figure, each
    picture is drawn."""
    table = narrowed(TABLES[paper][key])
    if any("t-SNE" in picture for picture in table.pictures):
        pytest.importorskip("sklearn", reason="t-SNE is scikit-learn's, which is not installed")
    monkeypatch.setitem(TABLES[paper], key, table)
    names = [word for name, where in data_of(table, data).items() for word in ("--data", where.replace(":", "=", 1))]
    words = [*names, *tiny_options(paper, table, **sizes), "--out", str(out), "--device", "cpu"]
    status = reproduce.main([paper, "--table", key, *words])
    told = capsys.readouterr()
    assert status == 0, told.err
    assert "no picture" not in told.err, told.err
    file = min((out / "tables").glob("*.csv"), key=lambda file: len(file.name))  # others have longer names
    rows = list(csv.DictReader(file.read_text().splitlines()))
    if table.places:
        empty = [f"{row['row']}, {row['column']}" for row in rows if not row["ours"]]
        assert not empty, f"without a figure: {empty}"
    if table.chart is not None:
        (picture,) = (out / "tables").glob("*.svg")
        assert picture.read_text().startswith("<svg xmlns")
    if table.pictures or table.computed:
        assert any("<svg" in page.read_text() or "<table" in page.read_text() for page in out.rglob("*.html"))
    return rows


@pytest.fixture(scope="session")
def real(tmp_path_factory) -> Path:
    """Four training and two test images of each class of CIFAR-100; some of Tiny-ImageNet's classes."""
    if not (REAL / "cifar100" / "labels.txt").is_file():
        pytest.skip(f"no real CIFAR-100: there is no {REAL / 'cifar100' / 'labels.txt'}")
    root = tmp_path_factory.mktemp("real")
    write_every_set(root / "noise")
    write_real_cifar100(root / "cifar100", REAL / "cifar100", train=4, test=2)
    (root / "stl10").symlink_to(root / "noise" / "stl10")
    write_real_tiny(root / "tiny", REAL / "tiny-imagenet-20", classes=4, train=4, test=2)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("line", REAL_LINES)
def test_lines_on_real_images(line, real, tmp_path, monkeypatch, capsys):
    """400 images of CIFAR-100 for an epoch: every figure is there and possible, and pictures name the classes."""
    paper, key = line.split()
    rows = check_whole(paper, key, real, tmp_path, monkeypatch, capsys, images=400, batch=50)
    for row in rows:
        ours = float(row["ours"])
        assert math.isfinite(ours) and 0 <= ours <= RANGES.get(row["measure"], math.inf), row
    if line == "simkd fig3":
        assert "t-SNE of 10 classes" in (tmp_path / "report.html").read_text(), "those of the figure, by their names"
