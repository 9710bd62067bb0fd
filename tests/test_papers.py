"""The papers' tables: against a second reading, against what the papers print twice, and as runs."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from fastkd import networks, train
from fastkd.options import parse, recipe_of
from fastkd.recipes import RECIPES, cifar100_sftn, cifar100_tfkd, listing
from fastkd.recipes.published import beside_the_paper, run_of
from fastkd.recipes.tables import ENTRIES, sftn, simkd, tfkd
from fastkd.recipes.tables.grid import figure, read_grid
from fastkd.support.errors import UserError

READING = (Path(__file__).parent / "data" / "second_reading.md").read_text()
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
        own = rows_of(sftn._TABLE_17, sftn._TABLE_1, sftn._TABLE_18)
        read = {row[0].replace("teacher acc", "teacher").replace("student w/o KD", "student"): row[1:]
                for row in second_reading("sftn 17 1 18")}  # fmt: skip
        assert own.keys() == read.keys()
        for name, cells in read.items():
            ordered = [*cells[:3], cells[4], cells[3], *cells[5:]]  # Table 1's pair stands before vgg13's there
            assert numbers(own[name]) == numbers(ordered), name

    def test_sftn_collaborative(self):
        read = {row[0]: numbers(row[1:]) for row in second_reading("sftn 4")}
        names = {"student": "student w/o KD", "RCO-1": "RCO-one-stage-EEI", "RCO-4": "RCO-EEI-4"}
        for name, cells in sftn._TABLE_4.rows.items():
            assert numbers(cells) == read[names.get(name, name)], name

    def test_sftn_imagenet(self):
        own = [numbers(cells) for cells in sftn._TABLE_3.rows.values()]
        assert own == [numbers(row[1:2]) for row in second_reading("sftn 3")]

    @pytest.mark.parametrize(
        "table, read, first",
        [("5", "5 6", 1), ("6", "5 6", 5), ("15", "15 16", 1), ("16", "15 16", 4), ("14", "14", 0)],
    )
    def test_sftn_sweeps(self, table, read, first):
        rows = second_reading(f"sftn {read}")[first:]
        for row, cells in zip(rows, sftn._SWEEPS[f"Table {table}"][1].rows.values(), strict=False):
            teachers, students = (numbers(row[start : start + 4]) for start in (1, 6))
            assert numbers(cells) == [part for both in zip(teachers, students, strict=True) for part in both], row

    def test_sftn_branches_and_mobilenet(self):
        rows = {row[0]: row[1:] for row in second_reading("sftn 9")[1:]}
        for place, grid in enumerate(sftn._TABLE_9.values()):
            for name, cells in grid.rows.items():
                read = rows["Teacher accuracy" if name == "teacher" else name][3 * place : 3 * place + 3]
                assert numbers(cells) == numbers(read), (name, place)
        standard, aware = second_reading("sftn 13")[2:4]
        assert numbers(sftn._TABLE_13.rows["KD"])[0::2] == numbers(standard[1:])
        assert numbers(sftn._TABLE_13.rows["KD"])[1::2] == numbers(aware[1:])

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
        own = Counter(numbers([cells[2] for grid in tfkd._TABLE_4.values() for cells in grid.rows.values()]))
        assert own <= read


class TestTfKDWeights:
    """Weights of KL (batch mean, without τ²) as read from the code's runs on CIFAR-100 by themselves."""

    @pytest.mark.parametrize(
        "teacher, student, ce, kl",
        [
            ("ResNet18", "tf_mobilenet_v2", 0.05, 3.8),
            ("tf_densenet121", "tf_shufflenet_v2", 0.05, 3.8),
            ("tf_resnext29_8x64d", "ResNet18", 0.4, 2.4),
            ("tf_mobilenet_v2", "ResNet18", 0.4, 2.4),  # Re-KD
        ],
    )
    def test_kd(self, teacher, student, ce, kl):
        given = cifar100_tfkd(teacher_net=teacher, student=student).stages[1].settings["kd"]
        assert (given.ce_weight, given.kl_weight * given.temperature**2) == pytest.approx((ce, kl))

    def test_kd_on_cifar10(self):
        given = RECIPES["cifar10-tfkd"]().stages[1].settings["kd"]
        assert given.kl_weight * given.temperature**2 == pytest.approx(36)

    @pytest.mark.parametrize(
        "network, ce, kl",
        [
            ("tf_mobilenet_v2", 0.05, 3.8),
            ("tf_shufflenet_v2", 0.05, 3.8),
            ("ResNet18", 0.05, 17.1),
            ("tf_googlenet", 0.6, 80),
            ("tf_densenet121", 0.1, 180),
            ("tf_resnext29_8x64d", 0.1, 360),
        ],
    )
    def test_self(self, network, ce, kl):
        given = cifar100_tfkd(teacher_net=network, student=network, method="tfkd_self").stages[1].settings["tfkd_self"]
        assert given.arithmetic == "code"
        weight = given.alpha * given.multiplier * given.temperature**2 / 100
        assert (1 - given.alpha, weight) == pytest.approx((ce, kl))

    @pytest.mark.parametrize(
        "network, kl",
        [("tf_mobilenet_v2", 0.0095), ("tf_shufflenet_v2", 0.0095), ("ResNet18", 0.1), ("tf_googlenet", 0.05)],
    )
    def test_reg(self, network, kl):
        recipe = cifar100_tfkd(student=network, method="tfkd_reg")
        given = recipe.stages[0].settings["tfkd_reg"]
        assert [stage.name for stage in recipe.stages] == ["student"]
        assert given.alpha * given.multiplier / 100 == pytest.approx(kl)

    @pytest.mark.parametrize(
        "network, batch, lr",
        [("ResNet18", 128, 0.1), ("ResNet50", 64, 0.05), ("tf_densenet121", 100, 0.078), ("tf_googlenet", 64, 0.05)],
    )
    def test_batches_and_rates(self, network, batch, lr):
        training = cifar100_tfkd(student=network).stages[1].training
        assert (training.batch_size, training.lr, training.factor, training.warmup_epochs) == (batch, lr, 0.2, 1)


class TestPrintedTwice:
    @pytest.mark.parametrize(
        "grid", (sftn._TABLE_17, sftn._TABLE_18, sftn._TABLE_1, sftn._TABLE_3, *sftn._TABLE_9.values())
    )
    def test_best_is_the_highest(self, grid):
        methods = [numbers(grid.rows[name]) for name in sftn._METHODS if name in grid.rows]
        best = [max(column, key=lambda one: one[0])[0] for column in zip(*methods, strict=True)]
        assert best == [mean for mean, _ in numbers(grid.rows["Best"])]

    @pytest.mark.parametrize("grid", sftn._TABLE_9.values())
    def test_averages_of_table_9(self, grid):
        methods = [numbers(grid.rows[name]) for name in sftn._METHODS if name in grid.rows]
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


class TestRuns:
    @pytest.mark.parametrize("recipe", sorted({entry.recipe for entry in ENTRIES}))
    def test_every_cell_finds_itself(self, recipe):
        """Each cell's own run stands beside the cell, or beside the first one that the same run has."""
        allowed = ("does not print", "not published")
        first: dict[str, object] = {}
        for entry in (entry for entry in ENTRIES if entry.recipe == recipe):
            run = run_of(entry)
            first.setdefault(repr(replace(run, deviations=())), entry)
            beside = beside_the_paper(run)
            expected = first[repr(replace(run, deviations=()))]
            stages = {stage.name: stage.published for stage in beside.stages}
            assert stages["student"] == expected.figures["student"], entry
            assert stages.get("teacher") == expected.figures.get("teacher"), entry
            assert all(any(words in one for words in allowed) for one in beside.deviations), (entry, beside.deviations)
            assert {entry.student, *(entry.teacher or entry.student).split("+")} <= networks.NETWORKS.keys()

    @pytest.mark.parametrize(
        "entry",
        {entry.table + entry.recipe: entry for entry in ENTRIES}.values(),
        ids=lambda e: f"{e.paper} {e.table} {e.recipe}",
    )
    def test_every_tables_last_line_as_a_command(self, entry):
        typed = recipe_of(parse(entry.arguments()))
        meant = replace(beside_the_paper(run_of(entry)), reading=typed.reading)
        assert typed == meant

    def test_a_change_is_a_deviation_from_the_nearest_cell(self):
        arguments = ["cifar100-sftn", "--pair", "resnet32x4/ShuffleV1", "--sftn.kl-weight", "6", "--epochs", "2"]
        recipe = recipe_of(parse(arguments))
        assert recipe.stages[1].published.source == "SFTN, Table 6"
        assert recipe.deviations[0] == "teacher epochs 2 instead of 240"

    def test_a_method_that_the_paper_has_not_keeps_the_teachers_figure(self):
        recipe = recipe_of(parse(["cifar100-sftn", "--method", "dkd", "--control", "on"]))
        assert [stage.published and stage.published.top1 for stage in recipe.stages] == [78.20, None, 73.41]
        assert recipe.deviations == ()

    def test_kd_goes_with_the_methods_that_the_papers_join_it_to(self):
        methods = {
            ("cifar100-sftn", "at"): "kd+at",
            ("cifar100-sftn", "crd"): "crd",
            ("cifar100-sftn", "sskd"): "kd+sskd",
            ("cifar100-sftn", "ce+at"): "ce+at",
            ("cifar100-simkd", "crd"): "kd+crd",
            ("cifar100-simkd", "simkd"): "simkd",
            ("digits", "at"): "at",
        }
        for (recipe, method), expected in methods.items():
            assert RECIPES[recipe](method=method).stages[1].method == expected
        assert cifar100_sftn(method="at").stages[1].settings["kd"].ce_weight == 1.0
        assert cifar100_sftn(method="sskd").stages[1].settings["kd"].ce_weight == 0.1

    def test_de_kds_teachers_stop_early(self):
        assert [
            RECIPES["cifar100-dekd"](teacher_net=net).stages[0].training.epochs for net in ("ResNet18", "ResNet50")
        ] == [1, 50]

    def test_semckd_leaves_out_the_last_batch(self):
        stages = RECIPES["cifar100-simkd"](method="semckd").stages
        assert [stage.training.drop_last for stage in stages] == [False, True]


class TestList:
    def test_the_overview_names_every_table_and_what_is_not_run(self):
        shown = "\n".join(listing.overview())
        assert all(entry.table in shown and entry.recipe in shown for entry in ENTRIES)
        assert "Not run by fastkd" in shown and max(map(len, shown.splitlines())) < 240

    def test_lines_can_be_run(self, capsys):
        assert train.main(["cifar100-sftn", "--list", "--pair", "wrn_40_2/wrn_16_2", "--method", "at"]) == 0
        shown = capsys.readouterr().out
        lines = [line.split("  ")[1] for line in shown.splitlines() if "python -m" in line]
        assert len(lines) == 2 and "student 76.82 ± 0.24" in shown
        for line in lines:
            assert recipe_of(parse(line.split()[3:])).stages[1].published is not None

    def test_nothing_left(self):
        with pytest.raises(UserError, match="no such line of the recipe cifar100-sftn"):
            list(listing.lines("cifar100-sftn", method="dkd"))


def test_a_grid_with_a_missing_cell_is_refused():
    with pytest.raises(AssertionError, match="2 cells were expected"):
        read_grid("a  b\nrow  1.0")
