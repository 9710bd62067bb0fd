"""Weights that are cast all at once train as those that autocast casts one by one."""

import pytest
import torch
from helpers.dispatched import Launches
from helpers.inductor_code import calls, written_for_a_gpu
from helpers.steps import close, make_step, step_of_stage, steps_of, weights
from helpers.tiny import tiny_recipe
from torch import nn

from fastkd.methods import METHODS
from fastkd.recipes import digits
from fastkd.training.casting import CastWeights
from fastkd.training.compilation import compile_stage
from fastkd.training.execution import EVERYTHING_OFF

BFLOAT16 = EVERYTHING_OFF._replace(bfloat16=True)


def one_by_one(step):
    step._cast_weights = CastWeights([])
    return step


@pytest.mark.parametrize("name", ("teacher", "student"))
def test_a_training_is_that_of_autocast_bit_for_bit(name):
    (ours, _), (plain, _) = (step_of_stage(name, BFLOAT16, clip_norm=1.0) for _ in range(2))
    for step in (ours, one_by_one(plain)):
        steps_of(step)
    close(weights(ours), weights(plain), rtol=0, atol=0)
    assert ours.meter.read() == plain.meter.read()


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name == "catkd" else pytest.mark.slow) for name in METHODS]
)
def test_with_every_method(method):
    """CAT-KD uses the student's classifier by itself, SimKD another one."""
    name = {"none": "none+fitnet", "aekd_f": "aekd+aekd_f"}.get(method, method)
    recipe = digits(teacher_net="resnet8", student="resnet8", method=name)
    recipe = tiny_recipe(stages=tuple(recipe.stages), threads=1)
    (ours, raws), (plain, _) = (step_of_stage("student", BFLOAT16, recipe) for _ in range(2))
    one_by_one(plain)
    for raw in raws[:2]:
        ours(raw)
        plain(raw)
    close(weights(ours), weights(plain), rtol=0, atol=0)


def test_there_are_two_casts_for_a_part_however_many_layers_it_has():
    found = {}
    for which in ("ours", "autocast"):
        step, raws = make_step(BFLOAT16)
        step = step if which == "ours" else one_by_one(step)
        launches = Launches()
        with launches:
            step(raws[0])
        found[which] = [launches.names.count(name) for name in ("_foreach_copy_", "_to_copy")]
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in step.stage.modules())
    assert found["ours"][0] == 2 * 5, "stem, three blocks and head; weights and gradients"
    assert found["autocast"][0] == 0
    assert found["autocast"][1] - found["ours"][1] == 2 * (layers + 1), "the linear layer has a bias"


def test_the_weights_are_what_they_were_behind_it_also_after_an_error():
    layer, shared = nn.Linear(3, 2), nn.Linear(3, 2)
    shared.weight = layer.weight
    cast, before = CastWeights([layer, shared]), [layer.weight, layer.bias, shared.bias]
    with pytest.raises(ZeroDivisionError), cast():
        assert layer.weight is shared.weight and layer.weight.dtype == torch.bfloat16
        1 // 0  # noqa: B018
    assert [layer.weight, layer.bias, shared.bias] == before and layer.weight is shared.weight is before[0]


def test_a_weight_that_is_not_used_or_not_trained_has_no_gradient():
    used, unused, frozen = (nn.Linear(3, 2) for _ in range(3))
    frozen.requires_grad_(False)
    images = torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16), CastWeights([nn.ModuleList([used, unused, frozen])])():
        assert frozen.weight.dtype == torch.float32
        (used(images) + frozen(images)).float().square().sum().backward()
    assert used.weight.grad.dtype == torch.float32 and used.bias.grad is not None
    assert unused.weight.grad is None and frozen.weight.grad is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own
def test_what_inductor_writes_casts_every_layer_by_itself_unless_that_is_done_before():
    """And raises every BatchNorm's counter. The weights are in channels_last, as on a GPU."""
    found = {}
    for which in ("autocast", "ours"):
        step, raws = make_step(BFLOAT16._replace(compile="blocks", channels_last=True))
        step.stage.to(memory_format=torch.channels_last)
        if which == "ours":
            step.counters.passes = [1] * len(step.counters.norms)
        else:
            one_by_one(step)
        with written_for_a_gpu() as codes:
            compile_stage(step.stage, "blocks")
            step._accumulate(step.prepare(raws[0], step.done, step.epoch))
        kinds = calls(codes)
        found[which] = (kinds["triton_poi_fused__to_copy"], kinds["triton_poi_fused_add_copy_"], kinds.total())
    layers, norms, images = 10, 9, 1
    cast = (layers + 1) + layers  # the bias has a cast of its own, but its gradient is summed and cast in one kernel
    assert found["autocast"][:2] == (cast + images, norms)
    assert found["ours"] == (images, 0, found["autocast"][2] - cast - norms), "nothing else has come in their place"
