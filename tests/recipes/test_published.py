"""Which figure stands beside a run, and in what the run differs from the paper's."""

from dataclasses import replace

import pytest

from fastkd import networks
from fastkd.options import parse, recipe_of
from fastkd.recipes import cifar100_sftn
from fastkd.recipes.published import beside_the_paper, run_of
from fastkd.recipes.tables import ENTRIES


@pytest.mark.parametrize(
    "pair, teacher_training, expected",
    [
        (("wrn_40_2", "wrn_16_2"), "standard", (76.30, 75.46)),
        (("wrn_40_2", "wrn_16_2"), "sftn", (78.20, 76.25)),
        (("vgg13", "vgg8"), "sftn", (76.76, 74.52)),
        (("ResNet50", "vgg8"), "standard", (78.70, 73.82)),
        (("resnet32x4", "ShuffleV2"), "sftn", (79.58, 78.07)),
    ],
)
def test_published_figures(pair, teacher_training, expected):
    recipe = beside_the_paper(cifar100_sftn(teacher_net=pair[0], student=pair[1], teacher_training=teacher_training))
    assert tuple(stage.published.top1 for stage in recipe.stages) == expected


def test_other_branches_are_a_deviation():
    recipe = beside_the_paper(cifar100_sftn(branch="wrn_16_1"))
    assert recipe.deviations[0] == "teacher sftn.network wrn_16_1 instead of wrn_16_2"


class TestRuns:
    @pytest.mark.parametrize("recipe", sorted({entry.recipe for entry in ENTRIES}))
    def test_every_cell_finds_itself(self, recipe):
        """Each cell's own run stands beside the cell, or beside the first one that the same run has."""
        allowed = ("does not print", "not published", "begins with random weights", "where the paper prints")
        first: dict[str, object] = {}
        for entry in (entry for entry in ENTRIES if entry.recipe == recipe):
            run = run_of(entry)
            first.setdefault(repr(replace(run, deviations=())), entry)
            beside = beside_the_paper(run)
            expected = first[repr(replace(run, deviations=()))]
            stages = {stage.name: stage.published for stage in beside.stages}
            assert stages["student"] == expected.figures.get("student"), entry
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
        assert [words.partition(":")[0] for words in recipe.deviations] == [
            "teacher sftn.kl forward where the paper prints reverse"
        ]
