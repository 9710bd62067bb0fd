"""Stages: who learns, who does not, and what is counted."""

import pytest
import torch
from helpers.golden import Case, close

from fastkd import networks
from fastkd.data import Batch
from fastkd.losses import SFTNLoss
from fastkd.methods import METHODS, Context
from fastkd.networks.base import output_shapes
from fastkd.networks.grafts import graft
from fastkd.training.stages import Distill, Supervised
from fastkd.training.student_aware import StudentAware

CLASSES = 5


def build(name="resnet8"):
    return networks.build(name, num_classes=CLASSES)


def batch(count=6):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, count, 3, 8, 8, generator=generator)
    zero = torch.tensor(0)
    return Batch(images, torch.arange(count) % CLASSES, torch.arange(count), zero, zero)


def distill(method="kd", **settings):
    torch.manual_seed(0)
    student, teacher = build(), build("wrn_16_1")
    context = Context(
        student=student,
        teachers=(teacher,),
        student_shapes=output_shapes(student, 8),
        teacher_shapes=(output_shapes(teacher, 8),),
        classes=CLASSES,
        samples=6,
        labels=batch().labels,
        batch_size=6,
        steps_per_epoch=1,
        seed=0,
    )
    kind = METHODS[method]
    return Distill(student, (teacher,), {method: kind(kind.Settings(**settings), context)}), teacher


def test_kd_through_the_stage_equals_the_golden_vectors():
    """The class that `METHODS` gives the engine, fed with golden logits in place of the networks'."""
    case = Case("kd", "c10")
    stage, _ = distill("kd", ce_weight=0.0, kl_weight=1.0, temperature=4.0)
    student, teacher = case.input("zs"), case["in/zt"]
    nothing = torch.empty(0)
    outputs = [networks.Output(logits, nothing, (), nothing, nothing) for logits in (student, teacher)]
    labels = torch.zeros(len(student), dtype=torch.int64)
    loss = stage.methods["kd"].double()(outputs[0], (outputs[1],), batch()._replace(labels=labels))
    loss.total.backward()
    close(loss.terms["kl"], case["loss/kl_T4"])
    close(student.grad, case["grad/kl_T4/zs"])


def test_sftn_trains_teacher_and_branches_and_both_influence_the_teacher():
    torch.manual_seed(0)
    teacher = build("wrn_16_1")
    stage = StudentAware(teacher, graft(teacher, build(), 8), SFTNLoss())
    loss = stage(batch())
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in stage.parameters())
    assert set(loss.terms) == {"teacher_ce", "kl", "branch_ce"}
    together = next(teacher.parameters()).grad.clone()
    stage.zero_grad()
    Supervised(teacher, "teacher")(batch()).total.backward()
    assert not torch.allclose(together, next(teacher.parameters()).grad)


def test_predictions_come_from_one_forward_pass():
    teacher = build("wrn_16_1")
    stage = StudentAware(teacher, graft(teacher, build(), 8), SFTNLoss()).eval()
    calls = []
    teacher.stem.register_forward_hook(lambda *_: calls.append(1))
    found = stage.predictions(batch().images[0])
    assert list(found) == ["teacher", "branch 1", "branch 2"] and len(calls) == 1
    torch.testing.assert_close(found["teacher"], teacher(batch().images[0]).logits)


class TestDistill:
    def test_a_frozen_teacher_stays_bit_identical(self):
        stage, teacher = distill()
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
        stage.train()
        for _ in range(2):
            stage(batch()).total.backward()
            optimizer.step()
        assert not teacher.training
        assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
        assert all(parameter.grad is None for parameter in teacher.parameters())

    def test_the_teacher_is_no_part_of_the_state(self):
        stage, _ = distill()
        assert not any("teacher" in name for name in stage.state_dict())
        student = {f"network.{name}" for name in stage.network.state_dict()}
        assert set(stage.state_dict()) == student

    def test_every_parameter_learns(self):
        stage, _ = distill()
        stage(batch()).total.backward()
        assert all(parameter.grad is not None for parameter in stage.parameters())

    def test_the_teacher_moves_with_the_stage(self):
        stage, teacher = distill()
        stage.double()
        assert next(teacher.parameters()).dtype == torch.float64

    def test_total_is_the_weighted_sum(self):
        stage, _ = distill("kd", ce_weight=0.3, kl_weight=0.6, temperature=2.0)
        loss = stage(batch())
        torch.testing.assert_close(loss.total, 0.3 * loss.terms["ce"] + 0.6 * loss.terms["kl"])
        assert not loss.terms["ce"].requires_grad

    def test_hits_are_the_students(self):
        stage, _ = distill()
        stage.eval()
        loss, logits = stage(batch()), stage.predictions(batch().images[0])["student"]
        assert loss.hits[0] == (logits.argmax(1) == batch().labels).sum()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_settings_with_defaults(name):
    settings = METHODS[name].Settings()
    assert settings == METHODS[name].Settings(**vars(settings))


def test_what_depends_on_the_batch_alone_is_begun_before_the_networks_run():
    stage, teacher = distill("kd")
    seen, (method,) = [], stage.methods.values()
    method.begin_step = lambda batch: seen.append(batch.index.tolist())
    for network in (teacher, stage.network):
        network.stem.register_forward_hook(lambda *_: seen.append("network"))
    stage(batch())
    assert seen == [[0, 1, 2, 3, 4, 5], "network", "network"]
