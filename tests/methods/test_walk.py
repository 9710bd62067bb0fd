"""Every method of `METHODS` on several pairs of networks: who is trained, who is not, and what is kept."""

import copy

import pytest
import torch
from helpers.nondeterministic import NothingNondeterministic
from helpers.walk import (
    EACH,
    ON_LOGITS,
    PAIRS,
    REFUSED,
    TRUNCATED,
    UNEQUAL,
    VARIANTS,
    batch,
    build,
    context,
    distill,
    has_a_prestage,
    refused,
    step,
    trained,
    with_a_weight,
)
from torch.utils._python_dispatch import TorchDispatchMode

from fastkd.methods import METHODS
from fastkd.support.errors import UserError
from fastkd.training.stages import Mutual, Prestage


def walks():
    return [
        pytest.param(name, pair, id=f"{name}, {pair}", marks=pytest.mark.slow if pair == "mobile" else ())
        for name in METHODS
        for pair in PAIRS
        if not refused(name, pair) and (pair == "same depth" or name not in ON_LOGITS)
    ] + [pytest.param("fsp", ("resnet14", "resnet8"), id="fsp, same channels")]


@pytest.mark.parametrize("name, pair", walks())
def test_two_steps(name, pair):
    teacher_name, student_name = PAIRS.get(pair, pair)
    stage = distill(name, student_name, teacher_name)
    teachers = [copy.deepcopy(teacher.state_dict()) for teacher in stage.teachers]
    optimizer = torch.optim.SGD(trained(stage), lr=1e-3, momentum=0.9)
    for seed in (0, 1):
        assert step(stage, optimizer, batch(seed)) == []
    for teacher, before in zip(stage.teachers, teachers, strict=True):
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    if name != "simkd":
        assert stage.deployed is stage.network


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if not kind.is_logit_method])
def test_without_a_loss_on_the_logits_nothing_idle_is_trained(name):
    """`none+crd`: what the method does not reach is frozen."""
    settings = {name: VARIANTS.get(name, {})}
    pair = ("resnet14", "resnet8") if name == "fsp" else PAIRS["same depth"]
    stage = distill(f"none+{name}", pair[1], pair[0], **settings)
    assert step(stage, torch.optim.SGD(trained(stage), lr=1e-3), batch()) == []
    assert any(parameter.requires_grad for parameter in stage.network.stem.parameters())


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind.among_peers])
@pytest.mark.parametrize("pair", PAIRS)
def test_two_steps_of_peers(name, pair):
    teacher, student = (build(network) for network in PAIRS[pair])
    method = METHODS[name](METHODS[name].Settings(), context(student, teacher))
    stage = Mutual({"student": student, "teacher": teacher}, method, (1.0, 1.0))
    optimizer = torch.optim.SGD(stage.parameter_groups()[0]["params"], lr=1e-3, momentum=0.9)
    before = [parameter.clone() for parameter in teacher.parameters()]
    for seed in (0, 1):
        assert step(stage, optimizer, batch(seed)) == []
        stage.zero_grad()
    assert all(torch.equal(*both) for both in zip(teacher.parameters(), before, strict=True)), "it has its own group"


@pytest.mark.parametrize("name", METHODS)
def test_the_state_survives(name):
    pair = ("resnet14", "resnet8") if name == "fsp" else PAIRS["same depth"]
    stage, again = (distill(name, pair[1], pair[0], seed=seed) for seed in (0, 1))
    step(stage, torch.optim.SGD(trained(stage), lr=1e-3), batch())
    again.teachers = stage.teachers
    again.load_state_dict(stage.state_dict())
    torch.testing.assert_close(again(batch(2)).total, stage(batch(2)).total, rtol=0, atol=0)


@pytest.mark.parametrize("name, pair", [walk for walk in walks() if has_a_prestage(walk.values[0])])
def test_the_trainings_before(name, pair):
    teacher_name, student_name = PAIRS.get(pair, pair)
    stage = distill(name, student_name, teacher_name)
    before = Prestage(stage.network, stage.teachers, dict(stage.methods.items()), "student", method=name).train()
    optimizer = torch.optim.SGD(trained(before), lr=1e-3, momentum=0.9)
    for seed in (0, 1):
        assert step(before, optimizer, batch(seed)) == []
    assert before.passed_on()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # inductor's own
@pytest.mark.parametrize("backend", ("eager", pytest.param("inductor", marks=pytest.mark.slow)))
@pytest.mark.parametrize("name", EACH)
def test_the_loss_traces_whole(name, backend):
    stage, data = with_a_weight(name), batch()
    method = stage.methods[name.split()[0]]
    images = data.images[: method.views.count].flatten(0, 1)
    outputs = [network(images, preacts=stage.preacts) for network in (stage.network, *stage.teachers)]
    torch._dynamo.reset()
    twin = copy.deepcopy(method)
    expected = method(outputs[0], tuple(outputs[1:]), data)
    actual = torch.compile(twin, backend=backend, fullgraph=True)(outputs[0], tuple(outputs[1:]), data)
    # Sums in another order: PKT's is a small difference of large terms.
    torch.testing.assert_close(actual.total, expected.total, rtol=1e-6 if backend == "eager" else 3e-3, atol=1e-6)


@pytest.mark.parametrize("name", EACH)
def test_the_loss_is_float32_under_autocast(name):
    stage = with_a_weight(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = stage(batch())
    assert loss.total.dtype == torch.float32 and loss.total.isfinite()
    assert all(value.dtype == torch.float32 for value in loss.terms.values())


class NothingIsReadOnTheHost(TorchDispatchMode):
    """A captured step neither waits for values nor depends on how many there are, nor brings numbers from the host."""

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name = operation.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "lift_fresh"), name
        return operation(*arguments, **(options or {}))


@pytest.mark.parametrize("name", [name for name in EACH if name != "crd"])  # its CPU twin is not what is captured
def test_nothing_is_read_on_the_host_and_nothing_is_nondeterministic(name):
    stage, data = with_a_weight(name), batch()
    with NothingIsReadOnTheHost(), NothingNondeterministic():
        stage(data).total.backward()


@pytest.mark.parametrize("name, pair", [(name, pair) for name, (pairs, _) in REFUSED.items() for pair in pairs])
def test_what_cannot_be_served_is_refused_with_the_reason(name, pair):
    with pytest.raises(UserError, match=f"^{name}: .*{REFUSED[name][1]}") as error:
        distill(name, *reversed(PAIRS[pair]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", TRUNCATED)
def test_blocks_that_are_left_out_are_told(name, pair):
    notes = distill(name, *reversed(PAIRS[pair])).notes
    assert len(notes) == (pair in UNEQUAL)
    if notes:
        assert "left out" in notes[0] and ("last 3" if name == "oh" else "first 3") in notes[0]


@pytest.mark.parametrize("name", EACH)
def test_what_a_method_reads_of_the_teacher_it_declares(name):
    """With everything else unusable, its loss is the same: from stored rows it learns as from the teacher."""
    stage, data = with_a_weight(name), batch()
    method = stage.methods[name.split()[0]]
    images = data.images[: method.views.count].flatten(0, 1)
    student, *teachers = (network(images, preacts=stage.preacts) for network in (stage.network, *stage.teachers))
    again, hidden = copy.deepcopy(method), tuple(teacher_without(teacher, method.reads) for teacher in teachers)
    assert torch.equal(method(student, tuple(teachers), data).total, again(student, hidden, data).total)


def teacher_without(output, reads):
    """The output with NaN in place of every tensor that is not named."""

    def unusable(value):
        return value if value is None else torch.full_like(value, torch.nan) if torch.is_tensor(value) else ()

    return output._replace(**{name: unusable(value) for name, value in output._asdict().items() if name not in reads})
