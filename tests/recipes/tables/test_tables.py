"""The papers' tables: against a second reading, against what the papers print twice, and as runs."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from helpers.golden import GOLDEN

from fastkd.plan.measures import MEASURES
from fastkd.recipes.tables import ENTRIES, TABLES, modern, sftn_grids, simkd, tfkd
from fastkd.recipes.tables.grid import figure

READING = Path(__file__).with_name("second_reading.md").read_text()
NUMBER = re.compile(r"\d+\.\d+(?:±\d+\.\d+)?")


def second_reading(title: str) -> list[list[str]]:
    """The cells of a table's rows, without the heading and the rule below it."""
    part = READING.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line.strip().strip("|") for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def numbers(cells) -> list[tuple[float, float | None]]:
    """Of all cells in turn: mean and deviation."""
    found = [figure(token, "") for cell in cells for token in NUMBER.findall(cell)]
    return [(one.top1, one.std) for one in found]


def rows_of(*grids):
    """The rows of several grids, side by side."""
    return {name: [cell for grid in grids for cell in grid.rows[name]] for name in grids[0].rows}


class TestSecondReading:
    def test_sftn_all_pairs(self):
        own = rows_of(sftn_grids.TABLE_17, sftn_grids.TABLE_1, sftn_grids.TABLE_18)
        read = {row[0].replace("teacher acc", "teacher").replace("student w/o KD", "student"): row[1:]
                for row in second_reading("sftn 17 1 18")}  # fmt: skip
        assert own.keys() == read.keys()
        for name, cells in read.items():
            ordered = [*cells[:3], cells[4], cells[3], *cells[5:]]  # Table 1's pair stands before vgg13's there
            assert numbers(own[name]) == numbers(ordered), name

    def test_sftn_collaborative(self):
        read = {row[0]: numbers(row[1:]) for row in second_reading("sftn 4")}
        names = {"student": "student w/o KD", "RCO-1": "RCO-one-stage-EEI", "RCO-4": "RCO-EEI-4"}
        for name, cells in sftn_grids.TABLE_4.rows.items():
            assert numbers(cells) == read[names.get(name, name)], name

    def test_sftn_imagenet(self):
        own = [numbers(cells) for cells in sftn_grids.TABLE_3.rows.values()]
        assert own == [numbers(row[1:2]) for row in second_reading("sftn 3")]

    @pytest.mark.parametrize(
        "table, read, first",
        [("5", "5 6", 0), ("6", "5 6", 5), ("15", "15 16", 0), ("16", "15 16", 3), ("14", "14", 0)],
    )
    def test_sftn_sweeps(self, table, read, first):
        *swept, standard = sftn_grids.SWEEPS[f"Table {table}"][1].rows.values()
        rows = second_reading(f"sftn {read}")
        for row, cells in zip([*rows[first : first + len(swept)], rows[-1]], [*swept, standard], strict=True):
            teachers, students = (numbers(row[start : start + 5]) for start in (1, 6))
            assert numbers(cells) == [part for both in zip(teachers, students, strict=True) for part in both], row

    def test_sftns_top_5(self):
        own = [numbers(cells) for cells in sftn_grids.TABLE_3_TOP5.rows.values()]
        assert own == [numbers(row[2:]) for row in second_reading("sftn 3")]

    def test_sftns_averages_of_similarity(self):
        """Means of the printed columns, but for SP's KL of WRN-16-2, which is printed a tenth of what it must be."""
        for measure, grid in (*sftn_grids.SIMILARITY.values(), *sftn_grids.TABLE_8.items()):
            for column, pair in enumerate(grid.columns):
                cells = {row: numbers([cells[column]]) for row, cells in grid.rows.items()}
                average = cells.pop("AVG")
                for place in range(2):
                    values = [found[place][0] for found in cells.values()]
                    if (measure, pair, place) == ("kl", "wrn_40_2/wrn_16_2", 0):
                        values = [0.7 if value == 0.07 else value for value in values]
                    mean = sum(values) / len(values)
                    tolerance = 0.05 if measure == "agreement" else 0.012
                    assert average[place][0] == pytest.approx(mean, abs=tolerance), (measure, pair, place)

    def test_sftn_branches_and_mobilenet(self):
        rows = {row[0]: row[1:] for row in second_reading("sftn 9")[1:]}
        for place, grid in enumerate(sftn_grids.TABLE_9.values()):
            for name, cells in grid.rows.items():
                read = rows["Teacher accuracy" if name == "teacher" else name][3 * place : 3 * place + 3]
                assert numbers(cells) == numbers(read), (name, place)
        standard, aware = second_reading("sftn 13")[2:4]
        assert numbers(sftn_grids.TABLE_13.rows["KD"])[0::2] == numbers(standard[1:])
        assert numbers(sftn_grids.TABLE_13.rows["KD"])[1::2] == numbers(aware[1:])

    @pytest.mark.parametrize(
        "grids, title",
        [
            ((simkd._TABLE_1, simkd._TABLE_1_RIGHT), "simkd 1"),
            ((simkd._TABLE_2, simkd._TABLE_2_RIGHT), "simkd 2"),
            ((simkd._TABLE_S2,), "simkd S2"),
        ],
    )
    def test_simkd_cifar(self, grids, title):
        own, read = rows_of(*grids), {row[0]: row[1:] for row in second_reading(title)}
        for name in simkd._METHODS:
            assert numbers(own[name]) == numbers(read[name]), name

    def test_simkd_imagenet_and_sweeps(self):
        read = numbers(second_reading("simkd 3")[2][1:])
        assert [numbers(cells)[0] for cells in simkd._TABLE_3.rows.values()] == [read[-1], *read[:-1]]
        joint = second_reading("simkd S4 S5")[1:8]
        own = rows_of(*simkd._JOINT.values())
        assert [numbers(cells) for cells in own.values()] == [numbers(row[2::2]) for row in joint]
        for name, place in (("S8", 0), ("S9", 2)):
            own = rows_of(*(grid for _, grid in simkd._FACTORS[place : place + 2]))
            read = [[cell.partition("(")[0] for cell in row[1:]] for row in second_reading(f"simkd {name}")[:4]]
            assert [numbers(cells) for cells in own.values()] == [numbers(cells) for cells in read]

    def test_simkd_several_teachers(self):
        read = {row[0]: numbers(row[1:]) for row in second_reading("simkd 6")}
        for name, cells in simkd._TABLE_6.rows.items():
            if name != "teachers":
                assert numbers(cells) == read[{"student": "Student"}.get(name, name)], name

    def test_simkd_without_data(self):
        read = {row[0]: numbers(row[2:]) for row in second_reading("simkd 7")}
        own = {name: numbers(cells) for name, cells in simkd._TABLE_7.rows.items()}
        assert own.pop("teacher") == [(76.31, None)] * 2
        assert {name.replace("student", "Student"): cells for name, cells in own.items()} == read

    def test_tfkd(self):
        pairs = [cells for grid in tfkd._TABLES_1_TO_3.values() for cells in grid.rows.values()]
        assert [numbers(cells) for cells in pairs] == [numbers(row[1:]) for row in second_reading("tfkd 1 2 3")]
        for table, title, columns in ((tfkd._SELF, "tfkd self", (2, 3)), (tfkd._REG, "tfkd reg", (2, 3, 5))):
            own = [numbers(cells) for grid in table.values() for cells in grid.rows.values()]
            read = [numbers(NUMBER.findall(row[column])[0] for column in columns) for row in second_reading(title)]
            assert own == read
        read = Counter(
            part for row in second_reading("tfkd 4") for part in numbers(cell.partition("(")[0] for cell in row[2:])
        )
        own = Counter(numbers([cells[2] for grid in tfkd.TABLE_4.values() for cells in grid.rows.values()]))
        assert own - read == Counter([(71.52, None)]), "which the text has, 3.14 above 68.38"

    def test_tfkds_normal_kd(self):
        for title, tables in (("tfkd self", ("Figure 5(a)", "Table 5")), ("tfkd reg", ("Table 8", "Table 9"))):
            read = {}
            for data, model, baseline, _, cell, *_ in ([*row, ""] for row in second_reading(title)):
                if cell and data in ("CIFAR100", "TinyIN"):
                    value, gain = float(NUMBER.findall(cell)[0]), cell.startswith("+")
                    value += gain * float(NUMBER.findall(baseline)[0])
                    read[data, model.removesuffix("-8x64d")] = (cell.split("[")[1].split("]")[0], round(value, 2))
            own = {}
            for (table, recipe), grid in tfkd._NORMAL.items():
                if table in tables:
                    data = "CIFAR100" if recipe == "cifar100-tfkd" else "TinyIN"
                    own |= {(data, model): (teacher, float(value)) for model, (teacher, value) in grid.rows.items()}
            assert own == read

    def test_modern(self):
        read = {row[0]: row[1:] for row in second_reading("modern")}
        own = [
            {name: numbers(cells) for name, cells in grid.rows.items()} for grid in (modern._CIFAR, modern._IMAGENET)
        ]
        for place, table in enumerate(own):
            plain = {name: figures for name, figures in table.items() if "," not in name and "TTM" not in name}
            found = {name: numbers(cells[place : place + 1]) for name, cells in read.items()}
            assert plain == {name: figures for name, figures in found.items() if figures and name in plain}
            assert len(plain) == sum(bool(found[name]) for name in read if name not in ("LSKD", "TTM / WTTM"))
        assert numbers(read["TTM / WTTM"]) == [*own[0]["TTM"], *own[0]["WTTM"], *own[1]["WTTM"]]
        standardised = [own[0][f"{name}, standardised"][0] for name in ("KD", "DKD", "MLLD")]
        assert numbers(read["LSKD"]) == standardised


class TestPrintedTwice:
    @pytest.mark.parametrize(
        "grid",
        (
            sftn_grids.TABLE_17,
            sftn_grids.TABLE_18,
            sftn_grids.TABLE_1,
            sftn_grids.TABLE_3,
            *sftn_grids.TABLE_9.values(),
        ),
    )
    def test_best_is_the_highest(self, grid):
        methods = [numbers(grid.rows[name]) for name in sftn_grids.METHODS if name in grid.rows]
        best = [max(column, key=lambda one: one[0])[0] for column in zip(*methods, strict=True)]
        assert best == [mean for mean, _ in numbers(grid.rows["Best"])]

    @pytest.mark.parametrize("grid", sftn_grids.TABLE_9.values())
    def test_averages_of_table_9(self, grid):
        methods = [numbers(grid.rows[name]) for name in sftn_grids.METHODS if name in grid.rows]
        means = [sum(one[0] for one in column) / len(column) for column in zip(*methods, strict=True)]
        assert [mean for mean, _ in numbers(grid.rows["Average"])] == pytest.approx(means, abs=0.011)

    def test_simkds_default_factor_is_its_main_result(self):
        main = [simkd._TABLE_1, simkd._TABLE_1_RIGHT, simkd._TABLE_2, simkd._TABLE_2_RIGHT]
        for (_, swept), grid in zip(simkd._FACTORS, main, strict=True):
            assert swept.columns == grid.columns and swept.rows["2"] == grid.rows["SimKD"]

    def test_a_network_has_one_accuracy_in_a_paper(self):
        """The same student alone, or the same standard teacher, in every table of a recipe; but for known misprints."""
        found: dict[tuple[str, str], set[float]] = {}
        for entry in ENTRIES:
            if entry.recipe.endswith("dekd"):
                continue
            for stage, network in (("teacher", entry.teacher), ("control", entry.student)):
                if (
                    "+" not in entry.teacher
                    and stage in entry.figures
                    and (stage, entry.teacher_training) != ("teacher", "sftn")
                ):
                    found.setdefault((entry.recipe, network), set()).add(entry.figures[stage].top1)
        several = {key: values for key, values in found.items() if len(values) > 1}
        assert several == {
            ("cifar100-simkd", "resnet38x2"): {76.31, 76.35},  # one teacher, and the mean over four students
            ("cifar100-tfkd", "tf_googlenet"): {78.72, 78.15},  # Figure 4(a), Table 8
        }


def printed_at(table, **where) -> list[tuple[float, float | None]]:
    """What is printed in the places of a table with that row, column, stage or measure, in their order."""
    places = [one for one in table.places if all(getattr(one, name) == value for name, value in where.items())]
    return [tuple(one.printed) for one in places]


class TestMeasuredOfTrainedNetworks:
    """Tables of `sftn_analysis` and `simkd_rest`, whose second reading is of the papers' own lines."""

    def test_transfer(self):
        table, rows = TABLES["sftn"]["7"], second_reading("sftn 7")
        for row in rows[:-1]:
            name = {"Teacher accuracy": "teacher", "Student accuracy w/o KD": "student without a teacher"}
            found = numbers([row[1], row[2], row[4], row[5]])
            own = printed_at(table, row=name.get(row[0], row[0]))
            assert own == (found if len(found) == 4 else [found[0]] * 2 + [found[1]] * 2), row
        (average,) = table.summaries
        assert list(average.printed.values()) == [value for value, _ in numbers([*rows[-1][1:3], *rows[-1][4:6]])]
        assert TABLES["sftn"]["12"].places == table.places

    def test_corruptions(self):
        table, rows = TABLES["sftn"]["11"], second_reading("sftn 11")
        for row in rows:
            name = row[0].replace("=", " = ")
            for kind, start in (("standard", 1), ("sftn", 6)):
                assert printed_at(table, row=f"{name}, {kind}") == numbers(row[start : start + 4])
                assert table.summaries[0].printed[f"{name}, {kind}"] == float(row[start + 4])

    def test_entropies(self):
        read = [numbers(row[1:]) for row in second_reading("sftn 13")[:2]]
        own = printed_at(TABLES["sftn"]["13"], row="teacher: entropy of its training images")
        assert [own[0::2], own[1::2]] == read

    def test_sequential(self):
        read = second_reading("simkd 4")
        assert [printed_at(TABLES["simkd"]["4"], column=name) for name in ("Sequential", "SimKD")] == [
            numbers([row[column] for row in read]) for column in (1, 2)
        ]
        assert printed_at(TABLES["simkd"]["S.6"]) == numbers([row[1] for row in second_reading("simkd S6")])
        students = [one.entry.student for one in TABLES["simkd"]["4"].places[::2]]
        rates = [one.finding.settings.lr for one in TABLES["simkd"]["4"].places[::2]]
        assert rates == [0.01 if student.startswith("Shuffle") else 0.05 for student in students]

    def test_projectors_and_losses(self):
        for column, place in (("test loss", 1), ("accuracy", 2)):
            own = [one.printed for one in TABLES["simkd"]["5"].places if one.column == column][:4]
            assert own == numbers([row[place] for row in second_reading("simkd 5")])
        assert printed_at(TABLES["simkd"]["S.7"]) == numbers(second_reading("simkd S7")[0][1:])
        rows = {row[0]: numbers(row[1:]) for row in second_reading("simkd S10")}
        for name in ("SimKD", "SimKD+", "SimKD++"):
            assert printed_at(TABLES["simkd"]["S.10"], row=name) == rows[name]
        assert printed_at(TABLES["simkd"]["S.10"], row="student") == rows["Student"]

    def test_joint_training(self):
        for row in second_reading("simkd S4 S5"):
            read = [numbers([cell]) for cell in row[1:]]
            own = [printed_at(TABLES["simkd"][key], row=row[0]) for key in ("S.4", "S.5")]
            assert own[0] + own[1] == [one for cell in read for one in cell], row[0]

    def test_early_epochs(self):
        for row in second_reading("simkd 3")[:2]:
            name = f"{row[0].removesuffix(' Epoch')} of the epochs"
            own = {(one.stage, one.row): one.printed for one in TABLES["simkd"]["3"].places if one.column == name}
            methods = [own["student", method] for method in ("KD", "AT", "SP", "VID", "CRD", "SRRL", "SemCKD", "SimKD")]
            ends = [own[key] for key in (("control", "student without a teacher"), ("teacher", "teacher"))]
            assert [ends[0], *methods, ends[1]] == numbers(row[1:])

    def test_percentages_are_the_golden_collections(self):
        told = json.loads((GOLDEN / "datafree" / "simkd_ratio.json").read_text())
        assert len(told["rows"]) == 56
        for key in ("S.8", "S.9"):
            costs, shares = (
                [one.printed.value for one in TABLES["simkd"][key].places if one.measure == measure]
                for measure in ("cost", "projector")
            )
            rows = [row for row in told["rows"] if row["table"] == key]
            assert sorted(costs) == sorted(row["printed_cost"] for row in rows)
            assert sorted(shares) == sorted(row["printed_proj_over_student"] for row in rows)

    @pytest.mark.parametrize("paper", ("sftn", "simkd"))
    def test_every_place_is_measured_by_what_there_is(self, paper):
        for table in TABLES[paper].values():
            for place in table.places:
                assert place.measure in MEASURES, place
                needs = MEASURES[place.measure].finding
                assert (place.finding is not None) == needs, place
