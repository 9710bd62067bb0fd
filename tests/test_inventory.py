"""Everything that the papers train, measure or plot: each line has a command, or says in `--list` why it has none."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.fingerprints import write_data

from fastkd import reproduce
from fastkd.plan.cells import Plan, Seeds
from fastkd.recipes.tables import OMITTED, TABLES
from fastkd.recipes.tables.layout import Table, key_of

INVENTORY = {
    "sftn": "Table 1, Table 2, Table 3, Table 4, Table 5, Table 6, Table 7, Table 8, Table 9, Table 11, Table 12, "
    "Table 13, Table 14, Table 15, Table 16, Table 17, Table 18, Table 19(a), Table 19(b), Table 19(c), Table 10, "
    "Table 20, Table 21, Table 22, Figure 1, Figure 2, Figure 3, Figure 4, Figure 5, Figure 6, Figure 7, Figure 8",
    "simkd": "Table 1, Table 2, Table 3, Table 4, Table 5, Table 6, Table 7, Table S.1, Table S.2, Table S.3, "
    "Table S.4, Table S.5, Table S.6, Table S.7, Table S.8, Table S.9, Table S.10, Figure 1, Figure 2, Figure 3, "
    "Figure 4, Figure 5, Figure 6, Figure 7, Figure S.1, Figure S.2",
    "tfkd": "Table 1, Table 2, Table 3, Table 4, Table 5, Table 6, Table 7, Table 8, Table 9, Table 10, Table 11, "
    "Table 12, Table 13, Table 14, Figure 1, Figure 2, Figure 3, Figure 4(a), Figure 4(b), Figure 5(a), Figure 5(b), "
    "Figure 6(a), Figure 6(b), Figure 7",
}
"""Every table and figure with a number in the papers at hand; those of GTN's supplement print no figure of a run."""
LINES = [(paper, name) for paper, names in INVENTORY.items() for name in names.split(", ")]
PAPER_OF = {"SFTN": "sftn", "SimKD": "simkd", "Tf-KD": "tfkd"}
RUN = [(paper, key) for paper, tables in TABLES.items() for key in tables if paper not in ("digits", "modern")]
TINY = ["--limit-train", "8", "--batch-size", "8"]
EPOCHS = {("sftn", "4"): 4, ("tfkd", "fig2"): 2}
"""RCO has four points along a training, and Figure 2 one before its end; for all others an epoch will do."""
PATHS = {"cifar100": "cifar100", "cifar10": "cifar10", "tiny-imagenet": "tiny", "imagefolder": "folder"}


def omitted(paper: str) -> set[str]:
    """The names in the `--list` of what is not run, or not printed: `Tables 10 to 12, Figures 1, 2` are five."""
    found = set()
    for one in OMITTED:
        if PAPER_OF.get(one.paper) == paper:
            for kind, rest in re.findall(r"(Table|Figure)s? ([^TF]+)", one.table):
                for part in re.split(r", | and ", rest.strip(" ,")):
                    first, _, last = part.strip(" ,").partition(" to ")
                    numbers = range(int(first), int(last) + 1) if last else [first]
                    found |= {f"{kind} {number}" for number in numbers}
    return found


def narrowed(table: Table) -> Table:
    """The table with its first and its last cell."""
    entries = [place.entry for place in table.places]
    kept = tuple(place for place in table.places if place.entry in (entries[0], entries[-1])) if entries else ()
    return replace(table, places=kept)


def data_of(table: Table, root: Path) -> dict[str, str]:
    names = {reproduce.RECIPES[place.entry.recipe]().data.partition(":")[0] for place in table.places}
    return {name: f"{name}:{root / PATHS[name]}" for name in names}


@pytest.mark.parametrize("paper, name", LINES)
def test_each_line_is_run_or_says_why_not(paper, name):
    assert key_of(name) in TABLES[paper] or name in omitted(paper), f"no command of {paper} {name}, and no reason"


@pytest.mark.parametrize("paper, key", RUN)
def test_each_table_plans(paper, key, tmp_path):
    """The first and the last cell: their commands are read, and become trainings."""
    table = narrowed(TABLES[paper][key])
    cells = reproduce.cells_of(table, Seeds(), data_of(table, tmp_path), [])
    assert bool(Plan(tmp_path, list(cells.values())).nodes) == bool(table.places)
    assert table.places or table.computed
    for cell in cells.values():
        told = [words for words in cell.recipe.deviations if "instead of" in words]
        assert all("begins with random weights" in words for words in told), told  # the file is the user's


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("inventory")
    write_data(root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("paper, key", RUN)
def test_each_table_is_trained_in_a_tiny_form(paper, key, data, tmp_path, monkeypatch, capsys):
    table = narrowed(TABLES[paper][key])
    monkeypatch.setitem(TABLES[paper], key, table)
    names = [word for name, where in data_of(table, data).items() for word in ("--data", where.replace(":", "=", 1))]
    epochs = str(EPOCHS.get((paper, key), 1))
    short = [*TINY, "--epochs", epochs, "--teacher-epochs", epochs] if table.places else []
    if any("imagefolder" in name or "tiny" in name for name in names):
        short += ["--loader", "torchvision", "--workers", "1"]
    if "imagefolder" in " ".join(names):
        short += ["--image-size", "64"]
    status = reproduce.main([paper, "--table", key, *names, *short, "--out", str(tmp_path), "--device", "cpu"])
    told = capsys.readouterr()
    assert status == 0, told.err
    lines = next((tmp_path / "tables").glob("*.csv")).read_text().splitlines()
    heads = lines[0].split(",")
    if table.places:
        ours = [line.split(",")[heads.index("ours")] for line in lines[1:] if '"' not in line]
        assert all(ours), "each cell that is run has its figure"
    if table.chart is not None:
        (picture,) = (tmp_path / "tables").glob("*.svg")
        assert picture.read_text().startswith("<svg xmlns")
