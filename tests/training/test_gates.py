"""Losses behind gates: the gradient that a step leaves, by hand in float64."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.courses import taught_recipe
from helpers.recorders import RunAgain
from helpers.tiny import CPU, job_of
from helpers.walk import batch, distill

from fastkd.data.base import Mixed
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.training.gates import Gates
from fastkd.training.optimisation import build_optimizer
from fastkd.training.step import Step

TEMPERATURE = 4.0


def stage_of(name="sckd", **settings):
    return distill(name, "resnet8", "resnet14", **({"ce_weight": 1.0, "kl_weight": 1.0} | settings)).double().train()


def data(**changes):
    given = batch()
    return given._replace(images=given.images.double(), **changes)


def by_hand(stage, given):
    """The gradients of CE and of the divergence of all parameters of the student."""
    logits = stage.network(given.images[0]).logits
    with torch.no_grad():
        teacher = (stage.teachers[0](given.images[0]).logits / TEMPERATURE).log_softmax(1)
    own = (logits / TEMPERATURE).log_softmax(1)
    kl = TEMPERATURE**2 * (teacher.exp() * (teacher - own)).sum(1).mean()
    parameters = list(stage.network.parameters())
    losses = F.cross_entropy(logits, given.labels), kl
    return losses, [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]


def cosine(first, second):
    a, b = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (first, second))
    return (a @ b / a.norm() / b.norm()).item()


def opened(stage, given):
    gates = Gates(stage)
    gates.begin()
    loss = stage(given)
    gates.backward(loss, 1.0)
    return gates.open(loss._replace(gated={name: value.detach() for name, value in loss.gated.items()}))


@pytest.mark.parametrize("compared", ("all", "classifier"))
@pytest.mark.parametrize("above", (-1e-6, 1e-6))
def test_the_gate_is_the_cosine_of_the_two_gradients(compared, above):
    (ce, kl), (of_labels, of_teacher) = by_hand(stage_of(), data())
    last = slice(-2, None) if compared == "classifier" else slice(None)
    found = cosine(of_labels[last], of_teacher[last])
    stage = stage_of(compared=compared, least_cosine=found + above)
    loss = opened(stage, data())
    gate = float(above < 0)
    assert loss.terms["gate"].item() == gate
    torch.testing.assert_close(loss.total, (ce + gate * kl).detach())
    torch.testing.assert_close(loss.terms["ce"].double(), ce.detach())
    for parameter, a, b in zip(stage.network.parameters(), of_labels, of_teacher, strict=True):
        torch.testing.assert_close(parameter.grad, a + gate * b)


def test_by_default_it_is_open_from_a_right_angle_on():
    """A sure teacher that names the labels pulls with them; one that names another class pulls away."""
    stage = stage_of()
    with torch.no_grad():
        stage.teachers[0].head.classifier.weight.mul_(1e3)
        named = stage.teachers[0](data().images[0]).logits
    found = []
    for labels in (named.argmax(1), named.argmin(1)):
        given = data(labels=labels)
        _, gradients = by_hand(stage, given)
        stage.zero_grad()
        found.append(opened(stage, given).terms["gate"].item())
        assert found[-1] == float(cosine(*gradients) >= 0)
    assert found == [1.0, 0.0]


def test_methods_that_are_joined_have_gates_of_their_own_and_add_what_is_there():
    """AT does not reach the classifier: its gradient there is none, and what CE has is left alone."""
    stage = stage_of("sckd+at", sckd={"ce_weight": 1.0, "kl_weight": 1.0}, at={"weight": 100.0})
    given, gradients = data(), {}
    loss = stage(given)
    assert set(loss.gated) == {"sckd.gate", "at.gate"}
    parameters = list(stage.network.parameters())
    for name, total in {"": loss.total, **loss.gated}.items():
        gradients[name] = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    assert gradients["at.gate"][-1] is None
    zeros = {
        name: [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        for name, found in gradients.items()
    }
    expected = {name: float(cosine(zeros[""], zeros[name]) >= 0) for name in loss.gated}
    stage.zero_grad()
    found = opened(stage, given)
    assert {name: found.terms[name].item() for name in expected} == expected
    for place, parameter in enumerate(parameters):
        total = zeros[""][place] + sum(expected[name] * zeros[name][place] for name in expected)
        torch.testing.assert_close(parameter.grad, total)


def test_a_loss_that_reaches_nothing_that_is_compared_passes():
    stage = stage_of("sckd+at", sckd={"compared": "classifier"}, at={"weight": 100.0})
    assert opened(stage, data()).terms["at.gate"].item() == 1.0


def test_what_is_not_finite_is_not_hidden_by_a_closed_gate():
    stage = stage_of()
    stage.teachers[0].head.classifier.bias.data[0] = float("nan")
    opened(stage, data())
    assert not any(parameter.grad.isfinite().all() for parameter in stage.network.head.classifier.parameters())


def test_mixed_images_are_gated_by_the_gradient_of_both_labels():
    given, share = data(), 0.25
    mixed = Mixed(given.labels.roll(1), torch.full((len(given.labels),), share, dtype=torch.float64))
    stage = stage_of(least_cosine=-1.0)
    both = [by_hand(stage, given._replace(labels=labels))[1][0] for labels in (given.labels, mixed.labels)]
    _, (_, of_teacher) = by_hand(stage, given)
    stage = stage_of(least_cosine=-1.0)
    opened(stage, given._replace(mixed=mixed))
    for parameter, a, b, c in zip(stage.network.parameters(), *both, of_teacher, strict=True):
        torch.testing.assert_close(parameter.grad, share * a + (1 - share) * b + c)


def make_step(method, parts=1, **settings):
    given = taught_recipe(method, **settings)
    job = job_of(given)
    builder, earlier = Builder(job, 0), Earlier(job.course)
    teacher, planned = job.course
    earlier.add(teacher, builder.stage(teacher, earlier))
    training = replace(planned.training, accumulate=parts)
    planned = replace(planned, training=training)
    stage, source = builder.stage(planned, earlier), builder.train_source(planned)
    optimizer = build_optimizer(stage, training, CPU)
    step = Step(stage.train(), source.prepare, optimizer, training, source.loader.steps, CPU)
    return step, source.loader


@pytest.mark.parametrize("least, kl_weight", [(-1.0, 0.9), (1.0, 0.0)])
def test_a_training_with_the_gate_open_is_that_of_kd_and_closed_that_of_the_labels(least, kl_weight):
    gated, loader = make_step("sckd", least_cosine=least)
    plain, _ = make_step("kd", kl_weight=kl_weight)
    for raw in loader.epoch(0):
        gated(raw)
        plain(raw)
    for mine, theirs in zip(gated.stage.network.parameters(), plain.stage.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    means, expected = gated.meter.read().means(), plain.meter.read().means()
    assert means["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert means["gate"] == (1.0 if least < 0 else 0.0)


def test_parts_of_a_batch_are_gated_together():
    results = []
    for parts in (1, 4):
        step, loader = make_step("sckd", parts, least_cosine=0.05)
        for module in step.stage.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        for raw in loader.epoch(0):
            step(raw)
        results.append((step.meter.read().means(), [p.detach().clone() for p in step.stage.parameters()]))
    (whole, weights), (in_parts, others) = results
    assert in_parts == pytest.approx(whole, rel=1e-4)
    for mine, theirs in zip(weights, others, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_recorded_step_is_the_step():
    plain, loader = make_step("sckd")
    recorded, _ = make_step("sckd")
    recorded.warm_up(loader, RunAgain())
    assert recorded.replays is not None
    for step in (plain, recorded):
        list(step.epoch_of(loader, 0))
    for mine, theirs in zip(plain.stage.parameters(), recorded.stage.parameters(), strict=True):
        assert torch.equal(mine, theirs)
