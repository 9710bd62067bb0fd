"""Pruning ratios and costs: the reference's parameter counts, and what the paper prints."""

import json

import pytest
from helpers.golden import GOLDEN

from fastkd.analysis.pruning import pruning, pruning_of
from fastkd.methods.simkd import SimKDSettings
from fastkd.recipes import RECIPES

TOLD = json.loads((GOLDEN / "datafree" / "simkd_ratio.json").read_text())
QUICK = {("ResNet-8x4", "ResNet-32x4", 2), ("ShuffleNetV2", "ResNet-32x4", 8), ("VGG-8", "ResNet-32x4", 4)}
NAMES = {"MobileNetV2_1_0": "MobileNetV2x2"}
"""Ours for the reference's."""
MISPRINTED = {("VGG-8", "ResNet-32x4", r) for r in (8, 4, 1)}


def rows():
    for row in TOLD["rows"]:
        key = (row["student"], row["teacher"], row["r"])
        yield pytest.param(row, marks=() if key in QUICK else pytest.mark.slow, id=" ".join(map(str, key)))


@pytest.mark.parametrize("row", list(rows()))
def test_the_56_pairs_and_factors(row):
    names = [TOLD["networks"][row[one]]["constructor"] for one in ("teacher", "student")]
    found = pruning(*(NAMES.get(name, name) for name in names), SimKDSettings(factor=row["r"], source="final_map"))
    assert found.projector == row["projector_params"]
    for own, theirs in (("cost", "cost"), ("projector_share", "proj_over_student"), ("ratio", "pruning_ratio")):
        assert getattr(found, own) == pytest.approx(row[theirs], abs=1e-4), own
    assert found.own_ratio == pytest.approx(row["pruning_ratio_kd"], abs=1e-4)
    assert found.projector_share == pytest.approx(row["printed_proj_over_student"], abs=0.07)
    if (row["student"], row["teacher"], row["r"]) not in MISPRINTED:
        assert found.cost == pytest.approx(row["printed_cost"], abs=0.07)


def test_a_recipes_pair():
    simkd = pruning_of(RECIPES["cifar100-simkd"](teacher_net="resnet32x4", student="resnet8x4", method="simkd"))
    assert simkd.ratio == pytest.approx(80.5275, abs=1e-4), "printed as 80.52"
    plain = pruning_of(RECIPES["cifar100-simkd"](teacher_net="resnet32x4", student="resnet8x4", method="kd"))
    assert plain.ratio == plain.own_ratio == pytest.approx(83.40, abs=0.01) and plain.projector == 0
