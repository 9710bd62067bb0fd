"""The table at the end of a run, on made-up results."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.courses import taught_recipe
from helpers.tiny import job_of, tiny_recipe

from fastkd.recipes.recipe import Published
from fastkd.run.figures import Figure, mean_and_std, print_dry_run, print_table, rows

FOLDER = Path("runs/one")


def stage(name, top1, best=0.9, **others):
    tests = {name: top1, **others}
    counts = {key: {"top1": hits, "top5": 900, "samples": 1000} for key, hits in tests.items()}
    return {"test": counts, "best": {"epoch": 1, "top1": best}}


def result(seed=0, stages=("teacher", "student", "control"), hits=800):
    """What a seed leaves; a branch where there is a teacher."""
    own = {name: stage(name, hits) for name in stages if name != "teacher"}
    if "teacher" in stages:
        own["teacher"] = stage("teacher", hits, **{"branch 1": hits - 100})
    alike = {"kl": 0.5, "cka": 0.75, "agreement": 0.9}
    return {"seed": seed, "stages": own, "similarity": {name: alike for name in stages if name != "teacher"}}


class TestMeanAndDeviation:
    def test_a_single_seed_has_no_deviation(self):
        assert mean_and_std([3.0]) == (3.0, None, (3.0,)) and mean_and_std([3.0]).show() == "3.00"

    def test_it_is_the_sample_deviation(self):
        values = [1.0, 2.0, 4.0]
        assert mean_and_std(values)[:2] == pytest.approx((7 / 3, statistics.stdev(values)))
        assert mean_and_std([5.0, 5.0, 5.0]).show() == "5.00 ± 0.00"

    @pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf))
    def test_a_seed_that_is_not_finite_leaves_no_figure(self, value):
        assert mean_and_std([1.0, value]).show() == "nan ± nan"

    def test_digits_and_unit_are_as_asked_for(self):
        assert Figure(1.23456, 0.5).show(3, " nats") == "1.235 nats ± 0.500" and Figure(2.0, None).show(0, "%") == "2%"

    @pytest.mark.parametrize("value", (math.nan, math.inf))
    def test_a_figure_that_is_not_finite_is_shown(self, value):
        """A student may diverge after its last step was trained on."""
        assert mean_and_std([value]).show() == str(value)


class TestRows:
    def test_percent_of_every_network_in_the_order_of_the_recipe(self):
        found = rows(tiny_recipe(), [result()])
        assert [(row.name, row.top1.show()) for row in found] == [
            ("teacher", "80.00"),
            ("branch 1", "70.00"),
            ("student", "80.00"),
            ("control", "80.00"),
        ]
        assert [row.network for row in found] == ["resnet8"] * 4

    def test_a_branch_is_of_the_students_network(self):
        recipe = tiny_recipe()
        teacher = replace(recipe.stages[0], network="wrn_16_2")
        found = rows(replace(recipe, stages=(teacher, *recipe.stages[1:])), [result()])
        assert [row.network for row in found[:2]] == ["wrn_16_2", "resnet8"]

    def test_the_best_epoch_stands_apart_and_is_the_networks_own(self):
        found = {row.name: row for row in rows(tiny_recipe(), [result()])}
        assert found["teacher"].best.show() == "90.00" and found["branch 1"].best is None

    def test_similarity_is_to_the_teacher_so_the_teacher_has_none(self):
        found = {row.name: row for row in rows(tiny_recipe(), [result()])}
        assert {key: figure.mean for key, figure in found["student"].similarity.items()} == {
            "kl": 0.5,
            "cka": 0.75,
            "agreement": 90.0,
        }
        assert found["teacher"].similarity == found["branch 1"].similarity == {}

    def test_seeds_are_averaged_stage_by_stage_over_those_that_finished_it(self):
        """A run of three seeds that was stopped in the second."""
        results = [result(0, hits=700), result(1, ("teacher",), hits=900), result(2, ())]
        found = {row.name: row for row in rows(tiny_recipe(seeds=3), results)}
        assert found["teacher"].top1.show() == "80.00 ± 14.14" and found["student"].top1.show() == "70.00"

    def test_without_results_there_are_no_rows(self):
        assert rows(tiny_recipe(), []) == [] and rows(tiny_recipe(), [result(stages=())]) == []

    def test_a_loaded_network_has_no_best_epoch(self):
        found = result()
        del found["stages"]["teacher"]["best"]
        assert rows(tiny_recipe(), [found])[0].best is None

    def test_a_network_that_learned_beside_the_student_has_an_empty_best(self):
        found = result()
        found["stages"]["teacher"]["best"] = {}
        assert rows(tiny_recipe(), [found])[0].best is None


def with_paper(deviations=()):
    recipe = tiny_recipe(deviations=deviations)
    figure = Published(top1=75.46, std=0.23, source="SFTN, Table 17")
    return replace(recipe, stages=(recipe.stages[0], replace(recipe.stages[1], published=figure), recipe.stages[2]))


class TestTable:
    def test_it_names_the_networks_and_where_they_are(self, capsys):
        print_table(tiny_recipe(), [result()], FOLDER)
        shown = capsys.readouterr().out
        assert "digits: top-1 on the test set after the last epoch, in %" in shown and "mean ± std" not in shown
        assert "weights  runs/one: teacher.safetensors, student.safetensors, control.safetensors\n" in shown
        assert "report   runs/one/report.html\n" in shown
        (heads,) = (line for line in shown.splitlines() if "top-1" in line and "┃" in line)
        titles = ["", "network", "top-1", "KL to teacher", "CKA", "same top-1 %", "best epoch"]
        assert [cell.strip() for cell in heads.strip("┃").split("┃")] == titles

    def test_several_seeds_are_a_mean_and_have_folders_of_their_own(self, capsys):
        print_table(tiny_recipe(seeds=2), [result(0, hits=700), result(1, hits=900)], FOLDER)
        shown = capsys.readouterr().out
        assert "mean ± std over 2 seeds" in shown and "80.00 ± 14.14" in shown
        assert "weights  runs/one/seed-*: teacher" in shown

    def test_the_papers_figure_stands_beside_a_run_that_is_the_papers(self, capsys):
        print_table(with_paper(), [result()], FOLDER)
        shown = capsys.readouterr().out
        assert "75.46 ± 0.23 " in shown and "paper, student: SFTN, Table 17" in shown
        assert "not the paper's recipe" not in shown

    def test_what_differs_from_the_paper_is_marked_and_said(self, capsys):
        print_table(with_paper(("seeds 1 instead of 3", "[lr] 2")), [result()], FOLDER)
        shown = capsys.readouterr().out
        assert "75.46 ± 0.23* " in shown
        assert "* not the paper's recipe: seeds 1 instead of 3; [lr] 2\n" in shown

    def test_in_a_file_nothing_is_cut(self, capsys, monkeypatch):
        """With a column more for the paper, deviations in every cell, and the longest name of a network."""
        monkeypatch.setenv("COLUMNS", "40")
        recipe = with_paper(("x",))
        stages = tuple(replace(stage, network="torchvision_resnext101_32x8d") for stage in recipe.stages)
        print_table(replace(recipe, stages=stages), [result(0, hits=700), result(1, hits=900)], FOLDER)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "student" in line and "│" in line)
        for cell in (
            "torchvision_resnext101_32x8d",
            "80.00 ± 14.14",
            "75.46 ± 0.23*",
            "0.5000 ± 0.0000",
            "0.750 ± 0.000",
            "90.00 ± 0.00",
        ):
            assert f" {cell} " in line, line

    def test_a_run_without_a_finished_stage_is_a_table_without_rows(self, capsys):
        print_table(tiny_recipe(), [result(stages=())], FOLDER)
        assert "top-1" in capsys.readouterr().out


def test_a_dry_run_shows_what_every_stage_takes(capsys):
    row = {
        "stage": "teacher",
        "network": "resnet8",
        "parameters": 1_234_567,
        "trained_parameters": 890,
        "loss": 2.30259,
        "images_per_second": 12_345.6,
        "peak_bytes": 3 * 2**30,
    }
    print_dry_run(job_of(taught_recipe("kd")), [row, row | {"stage": "student", "loss": math.nan}])
    shown = capsys.readouterr().out
    assert "digits: a few steps of every stage on cpu" in shown
    for cell in ("1,234,567", " 890 ", "2.3026", "12,346", "3,072 MiB", " nan "):
        assert cell in shown
