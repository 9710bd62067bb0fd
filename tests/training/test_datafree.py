"""A student that learns from images that are made for it: the stage; tests/run/test_datafree.py has whole runs."""

import pytest
import torch
from helpers.made_images import made_recipe
from helpers.tiny import built_stages

from fastkd.data.base import Batch
from fastkd.support.errors import UserError
from fastkd.training.datafree import DataFree, look_at_round
from fastkd.training.optimisation import build_optimizer


@pytest.fixture(params=("kd", "simkd"))
def stage(request) -> DataFree:
    _, stages = built_stages(made_recipe(method=request.param))
    found = stages["student"]
    assert isinstance(found, DataFree)
    return found


def test_the_synthesis_is_no_part_of_the_stage(stage):
    own = {id(parameter) for parameter in stage.parameters()}
    assert not own & {id(parameter) for parameter in stage.synthesis.networks.parameters()}
    assert not any(name.startswith(("generator", "head.")) for name in stage.state_dict())


def test_images_are_made_for_the_student_as_it_is_used(stage):
    assert stage.synthesis.made_for.student is stage.deployed
    assert not any(parameter.requires_grad for parameter in stage.synthesis.made_for.teacher.parameters())


def test_the_label_is_the_class_that_the_teacher_names(stage):
    zero = torch.zeros((), dtype=torch.int64)
    images = torch.randn(1, 6, 3, 8, 8)
    labels = torch.full((6,), 9)
    loss = stage.train()(Batch(images, labels, torch.arange(6), zero, zero))
    named = stage.teachers[0](images[0]).logits.argmax(1)
    other = stage.train()(Batch(images, named, torch.arange(6), zero, zero))
    assert torch.equal(loss.total, other.total) and torch.equal(loss.hits, other.hits)


def test_a_round_leaves_no_gradient_and_moves_no_statistic(stage):
    stage.train()
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    trained = [parameter.requires_grad for parameter in stage.parameters()]
    stage.begin_epoch(0)
    assert stage.synthesis.rounds == 1 and stage.training and stage.network.training
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    assert all(parameter.grad is None for parameter in stage.parameters())
    assert [parameter.requires_grad for parameter in stage.parameters()] == trained and any(trained)


def test_the_optimiser_has_the_students_parameters_alone(stage):
    training = made_recipe().stages[1].training
    assert training is not None
    optimizer = build_optimizer(stage, training, torch.device("cpu"))
    within = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert within == {id(parameter) for parameter in stage.parameters() if parameter.requires_grad}


def test_how_far_a_round_is(stage):
    look = look_at_round(stage.synthesis, "student: images", (1, 3), (50, 200), 10.0)
    assert (look.done, look.total, look.seconds_left) == (50, 200, 30.0) and look.rate == 8 * 5
    assert look_at_round(stage.synthesis, "student: images", (1, 3), (0, 200), 0.0).seconds_left == 0


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr("fastkd.support.distributed.world_size", lambda: 2)
    with pytest.raises(UserError, match="made in one process: start it without torchrun; the trainings of a table"):
        built_stages(made_recipe())
