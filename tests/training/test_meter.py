"""Running means stay on the device until somebody looks, survive a checkpoint, and are those of all ranks."""

import copy

import pytest
import torch
from helpers.tiny import CPU

from fastkd.training.meter import Meter, Totals
from fastkd.training.stages import StageLoss


def loss(total, hits=(0, 0), **terms):
    values = {name: torch.tensor(value) for name, value in terms.items()}
    return StageLoss(torch.tensor(total, requires_grad=True), values, torch.tensor(hits))


def filled():
    meter = Meter(CPU)
    for total, hits, images in ((1.0, (1, 3), 4), (2.0, (2, 4), 4), (6.0, (0, 1), 2)):
        meter.add(loss(total, hits, ce=total / 2))
        meter.count(images)
    return meter


def test_a_new_meter_has_nothing_to_say():
    assert Meter(CPU).read() == Totals({}, (0, 0), 0, 0)
    assert Meter(CPU).read().means() == {}


def test_terms_are_means_over_steps_and_hits_over_images():
    totals = filled().read()
    assert totals == Totals({"loss": 9.0, "ce": 4.5}, (3, 8), 3, 10)
    assert totals.means() == {"loss": 3.0, "ce": 1.5, "top1": 0.3, "top5": 0.8}


def test_several_steps_may_be_counted_at_once():
    meter = Meter(CPU)
    meter.count(40, steps=10)
    assert (meter.steps, meter.images) == (10, 40)


def test_adding_changes_the_same_tensors_and_keeps_no_graph():
    """A recorded step has their addresses."""
    meter = filled()
    before = [meter.hits, *meter.sums.values()]
    meter.add(loss(1.0, (1, 1), ce=1.0))
    meter.clear()
    meter.add(loss(5.0, (1, 2), ce=1.0))
    assert all(old is new for old, new in zip(before, (meter.hits, *meter.sums.values()), strict=True))
    assert not any(value.requires_grad for value in meter.sums.values())
    assert meter.sums["loss"] == 5.0 and meter.hits.tolist() == [1, 2]


def test_many_small_terms_are_summed_without_loss():
    meter = Meter(CPU)
    for _ in range(1000):
        meter.add(loss(1e8, ce=1e8 + 0.0))
        meter.add(loss(0.25, ce=0.25))
    assert meter.read().sums["loss"] == 1e11 + 250


def test_since_gives_what_came_after():
    meter = filled()
    earlier = meter.read()
    meter.add(loss(4.0, (1, 1), ce=1.0))
    meter.count(2)
    assert meter.read().since(earlier).means() == {"loss": 4.0, "ce": 1.0, "top1": 0.5, "top5": 0.5}
    assert meter.read().since(None) == meter.read()
    assert meter.read().since(meter.read()).means() == {}


def test_what_was_counted_goes_on_after_a_checkpoint():
    meter, again = filled(), Meter(CPU)
    again.load(copy.deepcopy(meter.state()))
    for each in (meter, again):
        each.add(loss(3.0, (1, 1), ce=0.5))
        each.count(4)
    assert again.read() == meter.read()


def test_what_a_checkpoint_keeps_is_on_the_host(monkeypatch):
    """Other ranks unpickle it. A meta tensor stands for one of a GPU."""
    monkeypatch.setattr(torch.Tensor, "cpu", lambda value: torch.empty_like(value, device="cpu"))
    meter = Meter(torch.device("meta"))
    meter.add(StageLoss(torch.ones((), device="meta"), {}, torch.ones(2, dtype=torch.int64, device="meta")))
    state = meter.state()
    assert [value.device for value in (state["hits"], *state["sums"].values())] == [CPU, CPU]


@pytest.mark.parametrize("among", (1, 2, 3))
@pytest.mark.parametrize("began", (1, 2, 4))
def test_another_number_of_ranks_counts_on_with_the_same_means_and_hits(began, among):
    """A rank's sums are its own, its steps and images those of all."""
    states = []
    for rank in range(began):
        meter = Meter(CPU)
        meter.add(loss(1.0 + rank, (rank, rank + 1), ce=2.0 * rank))
        meter.steps, meter.images = 1, 4 * began
        states.append(meter.state())
    shared = [Meter(CPU).load(state) for state in Meter.shared(states, among)]
    assert len(shared) == among
    mean_of_ranks = sum(meter.read().sums["loss"] for meter in shared) / among
    assert mean_of_ranks == pytest.approx(sum(1.0 + rank for rank in range(began)) / began)
    assert sum(meter.hits for meter in shared).tolist() == sum(state["hits"] for state in states).tolist()
    assert {(meter.steps, meter.images) for meter in shared} == {(1, 4 * began)}


def test_ranks_that_share_a_state_do_not_share_its_tensors():
    first, second = (Meter(CPU).load(state) for state in Meter.shared([filled().state()], 2))
    first.hits.add_(1)
    first.sums["loss"] = first.sums["loss"] + 1
    assert second.hits.tolist() == [0, 0] and second.sums["loss"] == 9.0
