"""BatchNorm's counters, raised all at once, count what the layers would have counted."""

import pytest
import torch
from helpers.dispatched import Launches
from helpers.recorders import RunAgain
from helpers.steps import close, make_step, step_of_stage, steps_of, weights
from helpers.tiny import tiny_recipe
from torch import nn

from fastkd.recipes import digits
from fastkd.training.counters import BatchCounters
from fastkd.training.synchronised import synchronise


def counters(step):
    found = {name: value.item() for name, value in weights(step).items() if name.endswith("num_batches_tracked")}
    assert found
    return found


@pytest.mark.parametrize("settings", ({}, {"accumulate": 4}), ids=str)
def test_a_step_with_a_recorder_counts_as_one_without(settings):
    (plain, _), (ours, _) = (make_step(batch_size=8, **settings) for _ in range(2))
    ours.warm_up(ours.loader, RunAgain())
    assert set(counters(ours).values()) == {0}, "warming up is no training"
    for step in (plain, ours):
        steps_of(step)
    assert {*ours.counters.passes} == {1}
    close(weights(ours), weights(plain), rtol=0, atol=0)


@pytest.mark.parametrize("method", ("kd+fitnet", pytest.param("sskd", marks=pytest.mark.slow)))
def test_layers_of_methods_are_counted_too_and_those_that_are_not_used_are_not(method):
    recipe = digits(teacher_net="resnet8", student="resnet8", method=method)
    recipe = tiny_recipe(stages=tuple(recipe.stages), threads=1)
    (plain, _), (ours, _) = (step_of_stage("student", recipe=recipe) for _ in range(2))
    for step in (plain, ours):
        step.stage.register_module("unused", nn.BatchNorm2d(3))
    ours.counters = BatchCounters(ours.stage)
    ours.warm_up(ours.loader, RunAgain())
    for step in (plain, ours):
        steps_of(step)
    assert ours.counters.passes[-1] == 0
    close(weights(ours), weights(plain), rtol=0, atol=0)


def test_they_are_one_operation():
    step, raws = make_step()
    found = []
    for _ in range(2):
        launches = Launches()
        with launches, torch.no_grad(), step.counters():
            step.stage(step.prepare(raws[0], step.done, step.epoch))
        found.append([launches.names.count(name) for name in ("add_", "_foreach_add_")])
        step.counters.learn([count - 1 for count in step.counters.counts()], 1)
    layers = len(step.counters.norms)
    assert layers >= 9
    assert found[0][0] - found[1][0] == layers and (found[0][1], found[1][1]) == (0, 1)


def test_they_are_where_they_were_after_an_error_and_count_nothing():
    norm = nn.BatchNorm2d(3)
    found = BatchCounters(norm)
    found.learn([-2], 1)
    assert found.passes == [2], "as if it had been used twice"
    with pytest.raises(ZeroDivisionError), found():
        assert norm.num_batches_tracked is None
        1 // 0  # noqa: B018
    assert norm.num_batches_tracked == 0
    with found():
        norm(torch.randn(2, 3, 4, 4))
    assert norm.num_batches_tracked == 2 and norm.running_mean.any()


def test_layers_that_read_their_counter_keep_it():
    plain_mean, untracked = nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3, track_running_stats=False)
    synchronised, by_gloo = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    synchronise(synchronised, torch.device("cuda"))
    synchronise(by_gloo, torch.device("cpu"))
    norms = nn.ModuleList([plain_mean, untracked, nn.SyncBatchNorm(3), synchronised, by_gloo])
    assert BatchCounters(norms).norms == [by_gloo]
