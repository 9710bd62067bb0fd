"""Stages that methods bring along, compiled."""

import copy

import pytest
import torch
from test_course import recipe as course_recipe
from test_prestages import recipe as prestage_recipe
from test_step import close
from tiny import CPU

from fastkd.recipes.course import course
from fastkd.run.builder import Builder, open_data
from fastkd.training.compilation import compile_stage
from fastkd.training.step import PLAIN

STAGES = {
    "student-ab": lambda: prestage_recipe("ab"),
    "student-ft": lambda: prestage_recipe("kd+ft"),
    "student-sskd": lambda: prestage_recipe("kd+sskd"),
    "dml": lambda: course_recipe("dml"),
    "kdcl": lambda: course_recipe("kdcl", target="linear"),
    "rco": lambda: course_recipe("rco", anchors=2),
    "simkd": lambda: course_recipe("simkd"),
}


MODES = [(name, "whole") for name in STAGES] + [("student-sskd", "blocks"), ("dml", "blocks")]


@pytest.mark.parametrize("name, mode", MODES)
def test_compiled_it_is_the_same(name, mode):
    given = STAGES[name]()
    builder = Builder(given, open_data(given), 0, CPU, PLAIN)
    for planned in course(given):
        stage = builder.stage(planned)
        builder.keep(planned, stage)
        if planned.name == (name if name.startswith("student") else "student"):
            break
    stage.train().begin_epoch(0)
    source, zero = builder.train_source(planned, stage.views), torch.tensor(0)
    batch = source.prepare(next(iter(source.loader.epoch(0))), zero, zero)
    torch._dynamo.reset()
    twin = copy.deepcopy(stage)
    compile_stage(twin, mode, backend="eager")
    losses = [each(batch) for each in (stage, twin)]
    for loss in losses:
        loss.total.backward()
    torch.testing.assert_close(losses[1].total, losses[0].total)
    gradients = [{n: p.grad for n, p in each.named_parameters() if p.grad is not None} for each in (stage, twin)]
    close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
