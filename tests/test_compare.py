"""The comparison of methods: its arithmetic on made-up results, and a tiny one from end to end."""

import json

import pytest

from fastkd import compare
from fastkd.compare import ALONE, METHODS, TEACHERS, Options, measure, page, recipe_of, tables
from fastkd.support.errors import UserError


def made_up(top1: dict[str, list[int]]) -> list[dict]:
    """Results of as many seeds as there are values; every other network has 50 hits of 100."""
    seeds = len(next(iter(top1.values())))
    stages = ("teacher", ALONE, *METHODS)
    return [
        {
            "stages": {
                name: {"test": {name: {"top1": top1.get(name, [50] * seeds)[seed], "top5": 100, "samples": 100}}}
                for name in stages
            },
            "similarity": {
                name: {"kl": 0.5 + 0.1 * seed, "cka": 1.0, "agreement": 0.9} for name in stages if name != "teacher"
            },
        }
        for seed in range(seeds)
    ]


class TestTables:
    def test_figures_and_differences(self):
        measured = measure({"standard": made_up({"kd": [60, 61, 62]}), "sftn": made_up({"kd": [70, 71, 72]})})
        (_, (heads, figures)), (_, (_, differences)) = tables(measured).items()
        assert heads == ("method", "teacher", "top-1 %", "same top-1 as teacher %", "KL to teacher")
        assert ("kd", "sftn", "71.00 ± 1.00", "90.00 ± 0.00", "0.6000 ± 0.1000") in figures
        assert ("teacher", "standard", "50.00 ± 0.00", "", "") in figures
        assert differences[0] == ("kd", "+11.00", "+21.00", "+10.00", "≈ +0.00", "≈ +0.0000")
        assert [row[0] for row in differences] == list(METHODS)

    def test_with_one_seed_no_difference_is_called_noise(self):
        """Nobody knows it: not the smallest, and not one of forty points."""
        measured = measure({"standard": made_up({"kd": [60]}), "sftn": made_up({"kd": [20]})})
        (_, (_, differences)) = list(tables(measured).items())[1]
        assert differences[0] == ("kd", "+10.00", "-30.00", "-40.00", "+0.00", "+0.0000")
        shown = page(measured)
        assert "≈" not in shown and "how much of it is chance is not known" in shown and "standard errors" not in shown

    def test_the_page_has_a_plot_of_every_measure(self):
        shown = page(measure({kind: made_up({"kd": [50, 51]}) for kind in TEACHERS}))
        assert shown.count("<figure") == 3 and "two standard errors" in shown
        assert shown.count("<circle") == 3 * 2 * (1 + len(METHODS) + 1), "and one a series in the legend"


class TestRecipe:
    def test_all_students_begin_alike_and_differ_by_their_method(self):
        recipe = recipe_of(Options(), "sftn")
        assert [stage.name for stage in recipe.stages] == ["teacher", ALONE, *METHODS]
        assert len({(stage.network, stage.training) for stage in recipe.stages[1:]}) == 1
        assert recipe.stages[0].sftn is not None and recipe.seeds == 3

    def test_a_subset_of_cifar100(self):
        recipe = recipe_of(Options(data="cifar100:somewhere"), "standard")
        assert (recipe.limit_train, recipe.image_size, recipe.stages[0].network) == (10_000, 32, "resnet20")
        assert recipe.stages[-1].training.schedule == "cosine" and recipe.stages[0].sftn is None

    def test_the_methods_that_are_named(self):
        recipe = recipe_of(Options(methods="kd,dkd,kd+vkd"), "standard")
        assert [stage.name for stage in recipe.stages[1:]] == [ALONE, "kd", "dkd", "kd+vkd"]
        assert recipe.stages[3].settings["dkd"].warmup_epochs == 2
        for given, message in (("kd,kd", "each once"), ("kd,nonsense", "no method 'nonsense'"), ("", "no method ''")):
            with pytest.raises(UserError, match=message):
                recipe_of(Options(methods=given), "standard")

    def test_other_data(self):
        with pytest.raises(UserError, match="the comparison is of digits or cifar100:PATH"):
            recipe_of(Options(data="stl10:x"), "standard")


def test_a_tiny_comparison(tmp_path, capsys):
    short = ["--seeds", "2", "--epochs", "1", "--limit-train", "128", "--threads", "1", "--out", str(tmp_path)]
    assert compare.main(short) == 0
    shown = capsys.readouterr().out
    assert all(method in shown for method in METHODS) and "≈" in shown
    measured = json.loads((tmp_path / "comparison.json").read_text())
    for kind in TEACHERS:
        for seed in range(2):
            results = json.loads((tmp_path / kind / f"seed-{seed}" / "results.json").read_text())
            counts = results["stages"]["simkd"]["test"]["simkd"]
            assert measured["simkd"][kind]["top1"][seed] == 100 * counts["top1"] / counts["samples"]
            assert measured["kd"][kind]["kl"][seed] == results["similarity"]["kd"]["kl"]
    assert measured[ALONE]["standard"]["top1"] == measured[ALONE]["sftn"]["top1"]  # the same student either way
    assert "Methods and teachers" in (tmp_path / "report.html").read_text()
    assert compare.main(short) == 0  # everything is finished: nothing is trained again
    assert "finished before" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds a comparison with other settings"):
        compare.main([*short, "--epochs", "2"])
